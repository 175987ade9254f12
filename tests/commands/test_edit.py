"""`sen edit` and `sen tune`: files, scores and records of edits, a tuning that is kept, and errors in one line."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tiny_editing import save_tiny_editing

import sen_cli

pytest.importorskip("diffusers")

from modeling_sen.commands.edit import edit, output_paths
from modeling_sen.commands.tune import tune
from modeling_sen.editing import edit_files
from modeling_sen.evaluation.editing_metrics import NUMBERS
from modeling_sen.video_io import read_video

SOURCE, EDIT = "a dog", "a red dog"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, sen_folder) -> str:
    return save_tiny_editing(tmp_path_factory.mktemp("editing") / "checkpoint", sen_folder)


@pytest.fixture(scope="module")
def tuned(checkpoint, clips, tmp_path_factory) -> str:
    """What `sen tune` writes for the first half second of a clip."""
    folder = tmp_path_factory.mktemp("editing") / "tuned"
    tune(str(clips[0]), SOURCE, folder, model=checkpoint, end=0.5)
    return str(folder)


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["sen", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    return stop.value.code


def test_an_edit_a_record_and_a_comparison_are_written(checkpoint, clips, tmp_path, capsys):
    edit(str(clips[0]), SOURCE, [EDIT], tmp_path / "out.mp4", tmp_path / "compare.mp4", model=checkpoint, end=0.5)
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.json", "compare.mp4"}
    for name, size in (("out.mp4", (32, 32)), ("compare.mp4", None)):
        with av.open(str(tmp_path / name)) as container:
            (video,), (sound,) = container.streams.video, container.streams.audio
            assert (video.codec_context.name, video.frames, sound.codec_context.name) == ("h264", 4, "aac")
            assert size is None or (video.height, video.width) == size
            assert video.width == (32 if size else 2 * 8 * 32)
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["source_prompt"], record["edit_prompt"]) == (SOURCE, EDIT)
    assert (record["tuning"]["prompt"], record["tuning"]["frames"]) == (SOURCE, 4)
    assert record["settings"]["num_inference_steps"] == 2  # as the checkpoint recommends
    assert tuple(record["scores"]) == NUMBERS
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("encoder -, tracker ")
    assert "PSNR" in lines[1]
    assert lines[2].split()[:5] == ["a", "red", "dog", "-", "-"]
    assert f"{record['scores']['psnr_outside_mask']:.2f}" in lines[2]
    assert lines[3:] == [str(tmp_path / "out.mp4"), str(tmp_path / "compare.mp4")]


def test_a_saved_tuning_is_used_for_several_prompts(tuned, checkpoint, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("modeling_sen.pipelines.sen_video_editing.tune_adapter", pytest.fail)
    options = {"model": tuned, "end": 0.5, "as_json": True, "steps": 3, "inversion": "none", "seed": 4}
    edit(str(clips[0]), SOURCE, [EDIT, "a cat"], tmp_path / "out.mp4", **options)
    found = json.loads(capsys.readouterr().out)
    assert found["compare"] is None
    assert [each["output"] for each in found["edits"]] == [str(tmp_path / f"out-{number}.mp4") for number in (1, 2)]
    assert [each["edit_prompt"] for each in found["edits"]] == [EDIT, "a cat"]
    settings = found["edits"][0]["settings"]
    assert (settings["num_inference_steps"], settings["inversion"], settings["seed"]) == (3, "none", 4)
    assert found["edits"][0]["tuning"]["video"] == clips[0].name
    assert {path.name for path in tmp_path.iterdir()} == {f"out-{n}.{end}" for n in (1, 2) for end in ("mp4", "json")}
    frames = read_video(tmp_path / "out-1.mp4", 4).frames
    edit(str(clips[0]), SOURCE, [EDIT], tmp_path / "out.mp4", adapter=tuned, **{**options, "model": checkpoint})
    assert np.array_equal(read_video(tmp_path / "out.mp4", 4).frames, frames)


def test_a_tuned_checkpoint_is_complete_and_nothing_else_remains(tuned, tmp_path, capsys, clips, checkpoint):
    names = {path.relative_to(tuned).as_posix() for path in Path(tuned).rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "adapter/config.json", "base/unet/config.json"} <= names
    assert not any(name.startswith("tuning") for name in names)
    tune(str(clips[0]), SOURCE, tmp_path / "again", model=checkpoint, end=0.5, steps=1, seed=3, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["video"], found["frames"]) == (str(tmp_path / "again"), clips[0].name, 4)
    assert (found["steps"], found["best_step"], found["seed"]) == (1, 1, 3)
    assert list(found["validation_losses"]) == ["1"]


def test_a_mask_keeps_the_outside_unchanged(tuned, clips, tmp_path):
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit(str(clips[0]), SOURCE, [EDIT], tmp_path / "out.mp4", mask=tmp_path / "mask.png", model=tuned, end=0.5)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["has_mask"]
    assert record["scores"]["psnr_outside_mask"] == 100


def test_alignment_is_scored_if_a_scorer_is_given(tuned, clips, tmp_path, capsys, sen_folder):
    edit(str(clips[0]), SOURCE, [EDIT], tmp_path / "out.mp4", scorer=str(sen_folder), model=tuned, end=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"encoder {sen_folder}, ")
    assert lines[2].split()[3] != "-"


def test_names_of_several_prompts_are_numbered(tmp_path):
    assert output_paths(tmp_path / "a.mp4", 1) == [tmp_path / "a.mp4"]
    assert [path.name for path in output_paths(tmp_path / "a.b.mp4", 2)] == ["a.b-1.mp4", "a.b-2.mp4"]


def test_a_failure_while_writing_leaves_nothing_half_written(tuned, clips, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(edit_files, "compared", fail)
    with pytest.raises(OSError, match="no space left"):
        edit(str(clips[0]), SOURCE, [EDIT], tmp_path / "out.mp4", tmp_path / "both.mp4", model=tuned, end=0.5)
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.json"}


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", EDIT], "Missing option '--source'"),
        (["--source", SOURCE], "Missing option '--prompt'"),
        (["--source", SOURCE, "-p", EDIT, "-o", "out.avi"], "out.avi: expected a file ending in .mp4, found '.avi'"),
        (["--source", SOURCE, "-p", EDIT, "-o", "no/out.mp4"], "no/out.mp4: no folder no"),
        (["--source", SOURCE, "-p", EDIT, "--compare", "c.gif"], "c.gif: expected a file ending in .mp4"),
        (
            ["--source", SOURCE, "-p", EDIT, "--adapter", "x", "--tune-steps", "3"],
            "--adapter, --tune-steps: expected one",
        ),
        (["--source", SOURCE, "-p", EDIT], "gone.mp4: no such file"),
    ],
)
def test_user_errors_are_one_line_before_any_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "edit", "gone.mp4", "--model", "nobody/nothing", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("sen edit: ")
    assert message in shown.err
    assert list(tmp_path.iterdir()) == []


def errors(capsys, verb) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"sen {verb}: ")]
    return line


def test_bad_input_is_refused_in_one_line_and_leaves_no_file(
    checkpoint, clips, tmp_path, monkeypatch, capsys, sen_folder
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(clips[0].read_bytes()[:200])
    Image.fromarray(np.zeros((8, 16), dtype=np.uint8)).save("mask.png")
    other = save_tiny_other_adapter(tmp_path / "other")
    before = {path.name for path in tmp_path.iterdir()}
    clip, long = clips[0], "dog " * 80
    for video, options, message in [
        (clip, ["--source", SOURCE, "-p", ""], "prompt: expected some words, found ''"),
        (clip, ["--source", " ", "-p", EDIT], "prompt: expected some words, found ' '"),
        (
            clip,
            ["--source", SOURCE, "-p", EDIT, "-p", long],
            "expected at most 77 tokens with start and end, found 242",
        ),
        (
            clip,
            ["--source", SOURCE, "-p", EDIT, "--mask", "mask.png"],
            "expected height x width 32 x 32, found 8 x 16",
        ),
        (clip, ["--source", SOURCE, "-p", EDIT, "--adapter", other], "adapter of another base model"),
        (clip, ["--source", SOURCE, "-p", EDIT, "--adapter", "nowhere/x/y"], "nowhere/x/y: no such checkpoint folder"),
        (clip, ["--source", SOURCE, "-p", EDIT, "--inversion", "null"], "inversion is 'null', expected one of ddim"),
        (clip, ["--source", SOURCE, "-p", EDIT, "--start", "7"], "start, end: expected 0 <= start < end <= 2 seconds"),
        ("broken.mp4", ["--source", SOURCE, "-p", EDIT], "broken.mp4: "),
        (clip, ["--source", SOURCE, "-p", EDIT, "--model", sen_folder], "expected a SEN with an editing adapter"),
    ]:
        assert run(monkeypatch, "edit", video, "--model", checkpoint, *options) == 2
        assert message in errors(capsys, "edit")
    for video, options, message in [
        (clip, ["--prompt", ""], "prompt: expected some words, found ''"),
        (clip, ["--prompt", long], "expected at most 77 tokens"),
        ("broken.mp4", ["--prompt", SOURCE], "broken.mp4: "),
        (clip, ["--prompt", SOURCE, "--learning-rate", "0"], "learning_rate is 0.0, expected more than 0"),
        (clip, ["--prompt", SOURCE, "-o", "mask.png"], "mask.png: found a file, expected a folder to save to"),
    ]:
        assert run(monkeypatch, "tune", video, "--model", checkpoint, "-o", "tuned", *options) == 2
        assert message in errors(capsys, "tune")
    assert {path.name for path in tmp_path.iterdir()} == before


def save_tiny_other_adapter(folder) -> str:
    from random_editing import make_unet

    from modeling_sen import SENEditAdapter

    SENEditAdapter.from_unet(make_unet(block_out_channels=(4, 8))).save_pretrained(folder)
    return str(folder)


def test_without_diffusers_the_extra_is_named(checkpoint, clips, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("modeling_sen.editing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.chdir(tmp_path)
    arguments = ["--source", SOURCE, "-p", EDIT, "--model", checkpoint]
    assert run(monkeypatch, "edit", clips[0], *arguments) == 2
    assert "pip install 'modeling-sen[editing]'" in errors(capsys, "edit")
    assert run(monkeypatch, "tune", clips[0], "-p", SOURCE, "-o", "tuned", "--model", checkpoint) == 2
    assert "pip install 'modeling-sen[editing]'" in errors(capsys, "tune")


def test_an_interrupted_tuning_resumes(checkpoint, clips, tmp_path, monkeypatch, tuned):
    """Interrupted behind its first step, it ends with the weights of one that was not."""
    from safetensors.torch import load_file

    from modeling_sen.editing import tuning

    measured, measure = [], tuning.validation_loss

    def interrupt(*arguments):
        measured.append(None)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "validation_loss", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(str(clips[0]), SOURCE, tmp_path / "tuned", model=checkpoint, end=0.5)
    assert not (tmp_path / "tuned" / "config.json").exists()
    tune(str(clips[0]), SOURCE, tmp_path / "tuned", model=checkpoint, end=0.5)
    name = "adapter/diffusion_pytorch_model.safetensors"
    found, expected = load_file(tmp_path / "tuned" / name), load_file(f"{tuned}/{name}")
    assert all(weight.equal(found[key]) for key, weight in expected.items())


def test_each_video_of_a_folder_is_tuned_and_edited(checkpoint, clips, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(clips[0].read_bytes())
    options = {"model": checkpoint, "end": 0.5, "as_json": True}
    edit(str(folder), SOURCE, [EDIT], tmp_path / "out.mp4", tune_steps=0, **options)
    found = json.loads(capsys.readouterr().out)
    assert [Path(each["edits"][0]["output"]).name for each in found] == ["out-a.mp4", "out-b.mp4"]
    tune(str(folder), SOURCE, tmp_path / "tuned", steps=1, **options)
    found = json.loads(capsys.readouterr().out)
    assert [each["folder"] for each in found] == [str(tmp_path / "tuned" / name) for name in "ab"]
    assert all(Path(each["folder"], "adapter/config.json").is_file() for each in found)
