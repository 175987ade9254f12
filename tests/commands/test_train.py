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

import sen_cli
from modeling_sen import SENModel, SENProcessor
from modeling_sen.commands.train import read_arguments
from modeling_sen.processing_sen import SENProcessor as Processor
from modeling_sen.training import trainer
from modeling_sen.training.train_sen import TrainSettings, load_sen, train_sen
from modeling_sen.training.trainer import SENTrainingArguments

TRAIN = "world:train?num=12&num_objects=1&size=32&num_frames=8"
VALIDATION = "world:validation?num=6&num_objects=1&size=32&num_frames=8"


def settings(model, **changes):
    values = {"train": TRAIN, "validation": VALIDATION, "model": str(model), **changes}
    if values.get("task", "recognition") == "recognition" and values["train"] == TRAIN:
        values.setdefault("target_column", "shape")
    return TrainSettings(**values)


def arguments(output, **changes):
    short = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "disable_tqdm": True,
    }
    return SENTrainingArguments(str(output), **{**short, **changes})


def log(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def losses(folder):
    return [line["loss"] for line in log(folder) if "loss" in line]


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(weight, weights(second)[name]) for name, weight in weights(first).items())


@pytest.fixture(scope="module")
def sen(towers, tmp_path_factory):
    """A saved SEN whose towers stay where they are, so that a checkpoint is the association alone."""
    torch.manual_seed(1)
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"]]
    sizes = {"hidden_size": 24, "num_prompt_tokens": 2, "bottleneck_size": 4}
    model = SENModel.from_neurons(neurons, text_tower=towers["clip"], **sizes)
    model.gate.data.fill_(0.8)
    folder = tmp_path_factory.mktemp("checkpoints") / "sen"
    model.save_pretrained(folder)
    SENProcessor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    """Drawing takes longer than a run of these."""
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: picture.touch())


@pytest.fixture(scope="module")
def whole(sen, tmp_path_factory):
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_curve", lambda log, picture: picture.touch())
        assert train_sen(settings(sen), arguments(run)) == run / "best"
    return run


def check_run(run, sen, task, metric):
    """Checkpoints that load, settings, log and curve."""
    before, processor = SENModel.from_pretrained(sen), SENProcessor.from_pretrained(run / "best")
    inputs = processor(videos=[torch.zeros(4, 24, 24, 3, dtype=torch.uint8)])
    for name in ("best", "last"):
        model = SENModel.from_pretrained(run / name)
        assert any(not torch.equal(weight, before.state_dict()[key]) for key, weight in model.state_dict().items())
        with torch.no_grad():
            assert model(**inputs).fused_embeds.isfinite().all()
    assert len(losses(run)) == 4
    measured = [line[metric] for line in log(run) if metric in line]
    assert len(measured) == 2  # after each epoch, of which the second is cut short
    assert json.loads((run / "trainer_state.json").read_text())["best_metric"] == max(measured)
    saved = yaml.safe_load((run / "train.yaml").read_text())
    assert (saved["task"], saved["learning_rate"], saved["per_device_train_batch_size"]) == (task, 1e-3, 4)
    assert (run / "curve.png").exists()


def test_a_run_leaves_checkpoints_settings_log_and_curve(sen, whole):
    check_run(whole, sen, "recognition", "eval_top1")


@pytest.mark.slow
def test_retrieval_too_and_the_settings_that_were_saved_give_the_same_run(sen, tmp_path):
    given = settings(sen, task="retrieval", loss="sigmoid")  # whose bias comes with the run
    train_sen(given, arguments(tmp_path / "first", lr_scheduler_kwargs={"num_cycles": 0.4}))
    check_run(tmp_path / "first", sen, "retrieval", "eval_R@1")
    again = read_arguments(["--config", f"{tmp_path}/first/train.yaml", "--output_dir", f"{tmp_path}/second"])
    assert train_sen(*again) == tmp_path / "second" / "best"
    assert same(tmp_path / "first" / "last", tmp_path / "second" / "last")
    assert weights(tmp_path / "second" / "last")["logit_bias"].item() != -10


def test_with_a_cache_training_decodes_no_video_and_learns_the_same(sen, whole, tmp_path, monkeypatch):
    with_cache = settings(sen, cache_dtype="float32", cache=str(tmp_path / "cache"))
    train_sen(with_cache, arguments(tmp_path / "cached"))
    assert losses(tmp_path / "cached") == pytest.approx(losses(whole), rel=1e-3)
    monkeypatch.setattr(Processor, "read_clip", lambda *_: pytest.fail("a clip was decoded"))
    train_sen(with_cache, arguments(tmp_path / "again"))
    assert losses(tmp_path / "again") == losses(tmp_path / "cached")


def test_a_run_that_was_stopped_early_resumes_bit_for_bit(sen, whole, tmp_path, monkeypatch):
    read, seen = Processor.read_clip, []

    def failing(self, clip, *rest):
        seen.append(clip)
        if len(seen) == 12 + 6 + 2:  # in the second epoch; the end of the first was saved
            raise OSError("the disk is gone")
        return read(self, clip, *rest)

    monkeypatch.setattr(Processor, "read_clip", failing)
    with pytest.raises(OSError, match=r"world:train.*row \d+: the disk is gone"):
        train_sen(settings(sen), arguments(tmp_path))
    train_sen(settings(sen), arguments(tmp_path))
    assert same(whole / "last", tmp_path / "last")
    assert same(whole / "best", tmp_path / "best")
    assert losses(whole) == losses(tmp_path)
    decoded = len(seen)
    train_sen(settings(sen), arguments(tmp_path))  # a finished run is left as it is
    assert len(seen) == decoded


def test_a_run_is_not_resumed_with_other_settings_or_other_clips(sen, whole, clips, tmp_path):
    with pytest.raises(ValueError, match=r"train\.yaml: the run was started with target_column = 'shape'.*'colour'"):
        train_sen(settings(sen, target_column="colour"), arguments(whole))
    with pytest.raises(ValueError, match=r"started with weight_decay = 0\.01 and cannot be resumed with 0\.02"):
        train_sen(settings(sen), arguments(whole, weight_decay=0.02))
    train_sen(settings(sen), arguments(whole, logging_steps=3, save_steps=7))  # which change no number
    data = tmp_path / "clips"
    for number, clip in enumerate(clips):
        (data / f"{number}").mkdir(parents=True)
        shutil.copy(clip, data / f"{number}" / "clip.mp4")
    given, short = settings(sen, train=str(data), validation=None), {"max_steps": 1, "per_device_train_batch_size": 3}
    assert train_sen(given, arguments(tmp_path / "run", **short)) == tmp_path / "run" / "last"
    (data / "0" / "clip.mp4").rename(data / "1" / "another.mp4")
    with pytest.raises(ValueError, match="started with train_sha256 = "):
        train_sen(given, arguments(tmp_path / "run", **short))


def broken_videos(clips, folder):
    for number, clip in enumerate(clips):
        (folder / f"{number}").mkdir(parents=True)
        shutil.copy(clip, folder / f"{number}" / "clip.mp4")
    (folder / "1" / "clip.mp4").write_bytes(clips[1].read_bytes()[:300])
    return str(folder)


def test_a_broken_video_stops_training_with_one_clear_error(sen, clips, tmp_path):
    given = settings(sen, train=broken_videos(clips, tmp_path / "clips"), validation=None)
    with pytest.raises(ValueError, match=r"clips, row 1: .*1/clip\.mp4: expected a video or sound file"):
        train_sen(given, arguments(tmp_path / "run", per_device_train_batch_size=3))


@pytest.mark.parametrize("cached", [False, True])
def test_a_broken_video_is_left_out_and_counted_on_request(sen, clips, tmp_path, capsys, cached):
    cache = str(tmp_path / "cache") if cached else None
    data = broken_videos(clips, tmp_path / "clips")
    given = settings(sen, train=data, validation=None, skip_unreadable=True, cache=cache)
    train_sen(given, arguments(tmp_path / "run", max_steps=3, per_device_train_batch_size=2))
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
    assert len(new.neurons) == 5  # and the text tower


def test_flags_take_precedence_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "output_dir: run\ntrain: clips.csv\nmax_steps: 7\nlearning_rate: 1\ntemplates: ['a {}', 'the {}']\nbf16: true\n"
        "lr_scheduler_kwargs: {num_cycles: 2}\nlogging_nan_inf_filter: false\nvalidation: null\ntrain_sha256: 12ab\n"
    )
    settings, arguments = read_arguments(["--config", str(path), "--max-steps", "9"])
    assert (arguments.max_steps, arguments.learning_rate, arguments.bf16) == (9, 1.0, True)
    assert arguments.lr_scheduler_kwargs == {"num_cycles": 2}
    assert (settings.templates, settings.task, settings.validation) == (["a {}", "the {}"], "recognition", None)
    assert (arguments.weight_decay, arguments.report_to) == (0.01, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: x\nmax_step: 3", r"train\.yaml: unknown setting 'max_step'; did you mean max_steps\?"),
        ("train: x\nmax_steps: many", r"train\.yaml: argument --max_steps.*: invalid int value: 'many'"),
        (
            "train: x\nper_device_train_batch_size: true",
            r"train\.yaml: argument --per_device_train_batch_size.*'True'",
        ),
        ("max_steps: 3", r"expected --train, or train in the file"),
        ("- train", r"train\.yaml: expected settings by name, found list"),
        ("train: [", r"train\.yaml: expected YAML"),
        ("train: x\ntask: chatting", r"argument --task: invalid choice: 'chatting' \(choose from"),
        ("train: x\ntask: tracking", r"train: found 'x', expected 'world:tracking' for the task 'tracking'"),
        ("train: x\nwarmup_steps: -1", r"warmup_steps >= 0"),
        ("train: x\nearly_stopping_patience: 2", r"early_stopping_patience needs validation clips"),
        ("train: x\ntemplates: [a video]", r"templates: expected texts with {} for the label"),
    ],
)
def test_wrong_settings_are_named(tmp_path, text, message):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_arguments(["--config", str(path)])


def sen_train(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["sen", "train", *flags])
    sen_cli.main()


def test_the_command_trains_and_prints_the_path_of_the_checkpoint(sen, tmp_path, monkeypatch, capsys):
    data = ["--train", TRAIN, "--validation", VALIDATION, "--target_column", "shape", "--model", str(sen)]
    short = ["--max_steps", "9", "--per_device_train_batch_size", "4", "--early_stopping_patience", "1", "--bf16"]
    frozen = ["--learning_rate", "0", "--output_dir", f"{tmp_path}/run"]  # no validation is better than the first
    sen_train(monkeypatch, *data, *short, *frozen)
    assert f"{tmp_path}/run/best: load it with SENModel.from_pretrained" in capsys.readouterr().out
    assert len([line for line in log(tmp_path / "run") if "eval_top1" in line]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", "none.csv"], "none.csv: no such file or folder"),
        ([], "expected --train, or train in the file given as --config"),
        (["--train", "x", "--steps", "3"], "unknown arguments --steps 3; `sen train --help-all` lists all"),
        (["--train", "x", "--max_steps"], "argument --max_steps/--max-steps: expected one argument"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        sen_train(monkeypatch, *flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"sen train: {message}\n"


slow = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize(("kills", "workers"), [pytest.param(21, 0, marks=slow), pytest.param(20, 2, marks=slow)])
def test_a_run_killed_while_caching_training_or_saving_resumes_bit_for_bit(sen, tmp_path, kills, workers):
    """SIGKILL; no folder or file with its final name is ever half written."""
    script = str(Path(__file__).with_name("killed_training.py"))
    command = [sys.executable, script, str(sen), str(tmp_path), str(kills), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    expected = {"training", "saving"} if workers else {"caching", "saving", "training"}
    assert set(seen["killed_while"]) == expected if kills > 2 else seen["killed_while"] == ["caching", "saving"]
    assert seen["compared"] >= 1
