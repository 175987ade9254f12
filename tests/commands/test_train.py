"""`sen train`: from clips and a starting point to a checkpoint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytest.importorskip("accelerate")
pytest.importorskip("yaml")

import sen_cli
from modeling_sen import SENModel, SENProcessor
from modeling_sen.commands.train import TrainSettings, load_sen, read_settings, train_sen
from modeling_sen.processing_sen import SENProcessor as Processor

TRAIN = "world:train?num=12&num_objects=1&size=32&num_frames=8"
VALIDATION = "world:validation?num=6&num_objects=1&size=32&num_frames=8"


def settings(output, model, **changes):
    values = {"steps": 4, "batch_size": 4, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2, **changes}
    if values.get("task", "recognition") == "recognition":
        values.setdefault("target_column", "shape")
    return TrainSettings(output=str(output), train=TRAIN, model=str(model), **values)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("task", ["recognition", "retrieval"])
def test_a_run_leaves_checkpoints_settings_log_and_curve(sen_folder, tmp_path, task):
    chosen = train_sen(settings(tmp_path / "run", sen_folder, task=task, validation=VALIDATION, templates=["a {}"]))
    assert chosen == tmp_path / "run" / "best"
    before, processor = SENModel.from_pretrained(sen_folder), SENProcessor.from_pretrained(chosen)
    inputs = processor(videos=[torch.zeros(4, 24, 24, 3, dtype=torch.uint8)])
    for name in ("best", "last"):
        model = SENModel.from_pretrained(tmp_path / "run" / name)
        assert any(not torch.equal(weight, before.state_dict()[key]) for key, weight in model.state_dict().items())
        with torch.no_grad():
            assert model(**inputs).fused_embeds.isfinite().all()
    assert len(losses(tmp_path / "run")) == 4
    saved = yaml.safe_load((tmp_path / "run" / "train.yaml").read_text())
    assert saved["task"] == task
    assert saved["learning_rate"] == 1e-3
    assert (tmp_path / "run" / "curve.png").exists() or "matplotlib" not in sys.modules


def test_the_settings_that_were_saved_give_the_same_run(sen_folder, tmp_path):
    train_sen(settings(tmp_path / "first", sen_folder))
    again = read_settings(tmp_path / "first" / "train.yaml", {"output": str(tmp_path / "second")})
    assert train_sen(again) == tmp_path / "second" / "last"
    weights = [load_file(tmp_path / name / "last" / "model.safetensors") for name in ("first", "second")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_with_a_cache_training_decodes_no_video_and_learns_the_same(sen_folder, tmp_path, monkeypatch):
    changes = {"validation": VALIDATION, "cache_dtype": "float32"}
    train_sen(settings(tmp_path / "plain", sen_folder, **changes))
    train_sen(settings(tmp_path / "cached", sen_folder, **changes, cache=str(tmp_path / "cache")))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    monkeypatch.setattr(Processor, "read_clip", lambda *_: pytest.fail("a clip was decoded"))
    train_sen(settings(tmp_path / "again", sen_folder, **changes, cache=str(tmp_path / "cache")))
    assert losses(tmp_path / "again") == losses(tmp_path / "cached")


def test_a_run_that_was_stopped_early_resumes_bit_for_bit(sen_folder, tmp_path, monkeypatch):
    whole, parts = settings(tmp_path / "whole", sen_folder), settings(tmp_path / "parts", sen_folder)
    train_sen(whole)
    read, seen = Processor.read_clip, []

    def failing(self, clip, *rest):
        seen.append(clip)
        if len(seen) == 4 * 3 + 1:  # the third step is done, the second was saved
            raise OSError("the disk is gone")
        return read(self, clip, *rest)

    monkeypatch.setattr(Processor, "read_clip", failing)
    with pytest.raises(OSError, match=r"world:train.*row \d+: the disk is gone"):
        train_sen(parts)
    train_sen(parts)
    assert len(seen) == 12 + 1 + 2 * 4
    for name, weight in load_file(tmp_path / "whole" / "last" / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "parts" / "last" / "model.safetensors")[name], weight)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_run_is_not_resumed_with_other_settings_or_other_clips(sen_folder, clips, tmp_path):
    train_sen(settings(tmp_path / "run", sen_folder, steps=1))
    with pytest.raises(ValueError, match=r"train\.yaml: the run was started with target_column = 'shape'.*'colour'"):
        train_sen(settings(tmp_path / "run", sen_folder, steps=1, target_column="colour"))
    for number, clip in enumerate(clips):
        (tmp_path / "clips" / f"{number}").mkdir(parents=True)
        shutil.copy(clip, tmp_path / "clips" / f"{number}" / "clip.mp4")
    found = {"output": str(tmp_path / "other"), "model": str(sen_folder), "train": str(tmp_path / "clips")}
    train_sen(TrainSettings(**found, steps=1, batch_size=3))
    (tmp_path / "clips" / "0" / "clip.mp4").rename(tmp_path / "clips" / "1" / "another.mp4")
    with pytest.raises(ValueError, match="started with train_sha256 = "):
        train_sen(TrainSettings(**found, steps=1, batch_size=3))


def broken_videos(clips, folder):
    for number, clip in enumerate(clips):
        (folder / f"{number}").mkdir(parents=True)
        shutil.copy(clip, folder / f"{number}" / "clip.mp4")
    (folder / "1" / "clip.mp4").write_bytes(clips[1].read_bytes()[:300])
    return str(folder)


def test_a_broken_video_stops_training_with_one_clear_error(sen_folder, clips, tmp_path):
    given = TrainSettings(
        str(tmp_path / "run"), broken_videos(clips, tmp_path / "clips"), model=str(sen_folder), batch_size=3, steps=1
    )
    with pytest.raises(ValueError, match=r"clips, row 1: .*1/clip\.mp4: expected a video or sound file"):
        train_sen(given)


@pytest.mark.parametrize("cached", [False, True])
def test_a_broken_video_is_left_out_and_counted_where_that_is_asked_for(sen_folder, clips, tmp_path, capsys, cached):
    data = broken_videos(clips, tmp_path / "clips")
    cache = str(tmp_path / "cache") if cached else None
    given = {"model": str(sen_folder), "steps": 3, "skip_unreadable": True, "cache": cache, "log_every": 1}
    train_sen(TrainSettings(str(tmp_path / "run"), data, batch_size=2, **given))
    assert len(losses(tmp_path / "run")) == 3
    assert f"1 clips could not be read and were left out: {tmp_path}/run/unreadable.txt" in capsys.readouterr().out
    assert "1/clip.mp4" in (tmp_path / "run" / "unreadable.txt").read_text()


def test_it_starts_from_sen_tiny_a_checkpoint_or_a_preset(sen_folder, monkeypatch):
    from modeling_sen.presets import PRESETS, SENPreset

    tiny, processor = load_sen("sen-tiny")
    assert processor.config.neurons == tiny.config.neurons
    assert {p.dtype for p in tiny.parameters() if p.requires_grad} == {torch.float32}
    saved, _ = load_sen(str(sen_folder))
    assert saved.gate.item() == pytest.approx(0.8)
    config = saved.config.to_dict()
    for spec in (*config["neurons"], config["text_tower"]):
        spec["hub_id"] = f"{sen_folder}/{spec['hub_id']}"
    preset = SENPreset(
        "of a test", config["neurons"], config["text_tower"], {"projection_dim": 12}, parameters={}, peak_memory=0
    )
    monkeypatch.setitem(PRESETS, "tiny-preset", preset)
    new, _ = load_sen("tiny-preset")
    assert new.gate.item() == 0
    assert len(new.neurons) == 4


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("output: run\ntrain: clips.csv\nsteps: 7\nlearning_rate: 1\ntemplates: ['a {}']\n")
    found = read_settings(path, {"steps": 9, "templates": [], "task": None})
    assert (found.steps, found.learning_rate, found.templates, found.task) == (9, 1.0, ["a {}"], "recognition")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: run\ntrain: x\nstep: 3", r"train\.yaml: unknown settings step; known are output"),
        ("output: run\ntrain: x\nsteps: many", r"train\.yaml: steps is 'many', expected int \| None"),
        ("output: run\ntrain: x\nbatch_size: true", r"batch_size is True, expected int"),
        ("output: run", r"expected --train, or train in the file"),
        ("- output", r"expected settings by name, found list"),
        ("output: [", r"train\.yaml: expected YAML"),
        ("output: run\ntrain: x\ntask: tracking", r"task is 'tracking', expected one of recognition, retrieval"),
        ("output: run\ntrain: x\nwarmup: 1.5", r"warmup is 1.5"),
        ("output: run\ntrain: x\npatience: 2", r"patience needs validation clips"),
        ("output: run\ntrain: x\ntemplates: [a video]", r"templates: expected texts with {} for the label"),
    ],
)
def test_wrong_settings_are_named(tmp_path, text, message):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path, {})


def test_the_command_trains_and_says_where_the_checkpoint_is(sen_folder, tmp_path, monkeypatch, capsys):
    flags = ["--train", TRAIN, "--target-column", "shape", "--model", str(sen_folder), "--steps", "1"]
    arguments = ["sen", "train", "--output", str(tmp_path / "run"), *flags, "--batch-size", "4", "--templates", "a {}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert not stop.value.code
    assert f"{tmp_path}/run/last: load it with SENModel.from_pretrained" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["sen", "train", "--output", str(tmp_path / "run"), "--train", "none.csv"])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "sen train: none.csv: no such file or folder\n"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])])
def test_killed_at_any_moment_it_goes_on_bit_for_bit(sen_folder, tmp_path, kills):
    """SIGKILL while caching, training and saving; no file with its final name is ever half written."""
    command = [sys.executable, str(Path(__file__).with_name("killed_training.py")), str(sen_folder), str(tmp_path)]
    done = subprocess.run([*command, str(kills)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["killed_while"]) == kills
    assert seen["compared"] >= 1
    assert kills < 20 or {"caching", "training", "saving"} == set(seen["killed_while"]), seen
