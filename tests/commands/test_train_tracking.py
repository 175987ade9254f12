"""`sen train --task tracking`: what reads a SEN is trained on drawn clips, and nothing else."""

import shutil
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytest.importorskip("accelerate")

import sen_cli
from modeling_sen import SENForVideoTracking
from modeling_sen.commands.train import read_arguments
from modeling_sen.modeling_sen_tracking import SEMANTIC
from modeling_sen.training import train_tracking as module
from modeling_sen.training import trainer
from modeling_sen.training.train_settings import TrainSettings
from modeling_sen.training.train_tracking import load_tracker, train_tracking
from modeling_sen.training.trainer import SENTrainingArguments
from modeling_sen.training.training_clips import TrainingClip


def small_clip(number):
    """Six random frames of 48 pixels that move to the right by two pixels each, and four points."""
    draw = torch.Generator().manual_seed(number)
    picture = torch.randint(0, 256, (48, 64, 3), generator=draw, dtype=torch.uint8)
    frames = torch.stack([picture[:, 12 - 2 * step :][:, :48] for step in range(6)])
    tracks = (torch.rand(4, 2, generator=draw) * 30 + 4).repeat(6, 1, 1)
    tracks[..., 0] += 2.0 * torch.arange(6)[:, None]
    poses = torch.tensor([1.0, 0.0]).repeat(6, 4, 1)
    queries = torch.cat([torch.zeros(4, 1), tracks[0]], dim=1)
    return TrainingClip(frames, tracks, torch.ones(6, 4, dtype=torch.bool), poses, queries, tracks + 1, poses)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: picture.touch())
    monkeypatch.setattr(module, "training_clip", small_clip)


@pytest.fixture
def pixels(pixel_tracker, tmp_path, monkeypatch):
    """The tracker inside the package."""
    pixel_tracker.save_pretrained(tmp_path / "pixels")
    monkeypatch.setattr(module, "SEN_TINY_TRACKING", str(tmp_path / "pixels"))
    return pixel_tracker


@pytest.fixture
def sen(make_sen, tmp_path):
    make_sen().save_pretrained(tmp_path / "sen")
    return str(tmp_path / "sen")


def arguments(output, steps=2, **changes):
    short = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 1}
    return SENTrainingArguments(str(output), max_steps=steps, disable_tqdm=True, **{**short, **changes})


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_sen_gets_a_tracker_of_which_only_the_features_are_trained(sen, pixels, tmp_path):
    run = tmp_path / "run"
    before = load_tracker(sen).state_dict()
    assert train_tracking(TrainSettings(task="tracking", model=sen), arguments(run, 3)) == run / "last"
    after = SENForVideoTracking.from_pretrained(run / "last").state_dict()
    changed = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    pixel_names = {f"network.{name}" for name in pixels.network.state_dict() if not name.startswith(SEMANTIC)}
    assert not changed & pixel_names
    parts = ("network.semantic_scale", "network.semantic_score", "network.sharpening", "sen.modulation", "sen.blocks")
    for part in parts:
        assert any(name.startswith(part) for name in changed), part
    saved = yaml.safe_load((run / "train.yaml").read_text())
    assert (saved["task"], saved["train"], saved["max_steps"]) == ("tracking", "world:tracking", 3)


def test_an_interrupted_run_resumes_bit_for_bit(sen, pixels, tmp_path):
    whole, again, settings = tmp_path / "whole", tmp_path / "again", TrainSettings(task="tracking", model=sen)
    train_tracking(settings, arguments(whole))
    shutil.copytree(whole, again)
    shutil.rmtree(again / "last")
    shutil.rmtree(again / "checkpoint-2")
    train_tracking(settings, arguments(again))
    expected, found = weights(whole / "last"), weights(again / "last")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ValueError, match=r"the run was started with learning_rate = 0\.01"):
        train_tracking(settings, arguments(again, learning_rate=1e-3))


def test_a_trackers_training_starts_from_its_weights(tiny_tracker, tmp_path):
    tiny_tracker.network.semantic_scale.data.fill_(0.5)
    tiny_tracker.save_pretrained(tmp_path / "tracker")
    loaded = load_tracker(str(tmp_path / "tracker"))
    assert loaded.network.semantic_scale == 0.5
    trained = {name for name, weight in loaded.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in tiny_tracker.named_parameters() if weight.requires_grad}
    train_tracking(TrainSettings(task="tracking", model=str(tmp_path / "tracker")), arguments(tmp_path / "run"))
    assert weights(tmp_path / "run" / "last")["network.semantic_scale"] != 0.5


def test_a_tracker_without_neurons_has_nothing_to_train(pixels, tmp_path):
    with pytest.raises(ValueError, match="pixels: the tracker reads no neuron"):
        load_tracker(str(tmp_path / "pixels"))


def test_clips_of_two_seeds_differ_and_are_not_those_of_the_pixel_networks(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "training_clip", lambda number: seen.append(number) or small_clip(number))
    for seed in (0, 1):
        module.DrawnClips(seed)([0, 5])
    assert seen == [10**6, 10**6 + 5, 2 * 10**6, 2 * 10**6 + 5]


def test_a_batch_has_the_mean_loss_of_its_clips(tiny_tracker):
    batch = module.DrawnClips(0)([3, 4])
    torch.manual_seed(0)
    both = module.tracking_step(tiny_tracker, batch)
    torch.manual_seed(0)
    each = [module.tracking_step(tiny_tracker, {"clips": [clip]}) for clip in batch["clips"]]
    for name in ("loss", "matching", "scoring"):
        torch.testing.assert_close(both[name], (each[0][name] + each[1][name]) / 2)
    torch.testing.assert_close(both["loss"], 0.3 * both["matching"] + 0.5 * both["scoring"])


def test_defaults_are_those_of_the_task_and_flags_win(tmp_path):
    output = ["--output_dir", str(tmp_path)]
    settings, training = read_arguments(["--task", "tracking", *output])
    assert settings.train == "world:tracking"
    assert (training.per_device_train_batch_size, training.max_steps, training.learning_rate) == (1, 300, 2e-3)
    _, training = read_arguments(["--task", "tracking", "--max_steps", "7", *output])
    assert (training.per_device_train_batch_size, training.max_steps) == (1, 7)
    _, training = read_arguments(["--train", "x", *output])
    assert (training.per_device_train_batch_size, training.max_steps) == (32, -1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "clips.csv"}, "train: found 'clips.csv', expected 'world:tracking' for the task 'tracking'"),
        ({"validation": "x", "cache": "y"}, "the task 'tracking' does not take validation, cache"),
    ],
)
def test_settings_of_other_tasks_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(task="tracking", **given)


def test_a_number_of_steps_is_needed(tmp_path):
    with pytest.raises(ValueError, match="max_steps is -1, expected at least 1"):
        train_tracking(TrainSettings(task="tracking"), arguments(tmp_path, steps=-1))


def test_the_command_prints_the_path_of_the_tracker(sen, pixels, tmp_path, monkeypatch, capsys):
    flags = ["--task", "tracking", "--model", sen, "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["sen", "train", *flags])
    sen_cli.main()
    expected = (
        f"{tmp_path}/run/last: load it with SENForVideoTracking.from_pretrained, or pass it to sen track --model"
    )
    assert expected in capsys.readouterr().out
