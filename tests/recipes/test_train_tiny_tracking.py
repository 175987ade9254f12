"""Sen-tiny's tracker end to end in miniature: features over an image tower, calibration, and the shipped checkpoint."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

pytest.importorskip("accelerate")

from modeling_sen import SENForVideoTracking
from modeling_sen.training import train_tracking, trainer
from modeling_sen.training.training_clips import TrainingClip
from recipes.sen_tiny import tracking_calibration
from recipes.sen_tiny import train_tiny_tracking as recipe
from recipes.sen_tiny.tiny_towers import picture_config, picture_processor, save_tower
from recipes.sen_tiny.tracking_calibration import fit_calibration, measured_points


def small_clip(number):
    """Four random frames of 32 pixels that do not move, and three points."""
    draw = torch.Generator().manual_seed(number)
    frames = torch.randint(0, 256, (1, 32, 32, 3), generator=draw, dtype=torch.uint8).repeat(4, 1, 1, 1)
    tracks = (torch.rand(3, 2, generator=draw) * 20 + 4).repeat(4, 1, 1)
    poses = torch.tensor([1.0, 0.0]).repeat(4, 3, 1)
    queries = torch.cat([torch.zeros(3, 1), tracks[0]], dim=1)
    return TrainingClip(frames, tracks, torch.ones(4, 3, dtype=torch.bool), poses, queries, tracks, poses)


@pytest.fixture
def tower(tmp_path):
    """What the stage `image_128` leaves, with one layer."""
    torch.manual_seed(0)
    image = CLIPVisionModelWithProjection(picture_config(width=128, layers=1, heads=4, size=128))
    save_tower(image, tmp_path / "image_128", {}, picture_processor("CLIPImageProcessor", 128))
    for name in ("image_128_settings.json", "image_128_log.jsonl"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_the_stages_leave_a_checkpoint_in_half_precision_that_stands_alone(tower, monkeypatch):
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: None)
    monkeypatch.setattr(recipe, "training_clip", small_clip)
    monkeypatch.setattr(train_tracking, "training_clip", small_clip)
    few = {"warmup_steps": 1, "dataloader_num_workers": 0, "dataloader_prefetch_factor": None, "disable_tqdm": True}
    network = recipe.train_points(tower, recipe.points_arguments(tower, 1, **few))
    config = recipe.tracking_sen_config(str(tower / "image_128"))
    tracker = recipe.train_tokens(tower, network, config, recipe.tokens_arguments(tower, 2, **few))
    for name, weight in network.state_dict().items():
        assert torch.equal(tracker.network.state_dict()[name], weight), name
    assert tracker.sen.config.num_rounds == 3
    assert (tracker.sen.specs["image"].num_frames, tracker.config.window) == (8, 8)
    measured = np.linspace(0.1, 0.9, 50), np.random.default_rng(0).random(50) < 0.5
    monkeypatch.setattr(recipe, "measured_points", lambda tracker, clips: measured)
    recipe.calibrate(tower, tracker, [("base", 1)])
    recipe.export(tower, tracker, tower / "shipped")
    (tower / "shipped").rename(tower / "moved")
    (tower / "image_128").rename(tower / "away")

    loaded = SENForVideoTracking.from_pretrained(tower / "moved")
    assert {weight.dtype for weight in load_file(tower / "moved" / "model.safetensors").values()} == {torch.float16}
    assert loaded.dtype == loaded.sen.neurons["image"].dtype == torch.float32
    for name, weight in tracker.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.half().float()), name
    kept = json.loads((tower / "moved" / "calibration.json").read_text())
    assert tuple(loaded.config.calibration) == (kept["scale"], kept["shift"])
    records = {
        f"{stage}_{what}" for stage in ("points", "image_128", "tokens") for what in ("settings.json", "log.jsonl")
    }
    assert records <= {path.name for path in (tower / "moved").iterdir()}
    clip = small_clip(9)
    with torch.no_grad():
        expected, found = (model(clip.frames, clip.query_points).tracks for model in (tracker, loaded))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_a_finished_calibration_is_not_done_again(pixel_tracker, tmp_path):
    (tmp_path / "calibration.json").write_text('{"scale": 0.5, "shift": 0.25}')
    recipe.calibrate(tmp_path, pixel_tracker, [("no such preset", 1)])
    assert pixel_tracker.config.calibration == (0.5, 0.25)


def test_calibration_is_the_logistic_regression_of_the_logits():
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, 4000)
    is_right = random.random(4000) < 1 / (1 + np.exp(-(0.6 * logits - 0.8)))
    found = fit_calibration(1 / (1 + np.exp(-logits)), is_right)
    assert (found["scale"], found["shift"]) == pytest.approx((0.6, -0.8), abs=0.1)  # what the labels were drawn with

    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)  # by another method
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    inputs, labels = torch.tensor(logits), torch.tensor(is_right).double()

    def loss():
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(weights[0] * inputs + weights[1], labels)
        value.backward()
        return value

    before = loss().item()
    optimiser.step(loss)
    assert (found["scale"], found["shift"]) == pytest.approx(tuple(weights.tolist()), abs=1e-4)
    assert found["log_loss_before"] == pytest.approx(before, abs=1e-6)
    assert found["log_loss_after"] == pytest.approx(loss().item(), abs=1e-6)
    assert found["points"] == 4000


def test_points_count_in_all_frames_but_the_querys(monkeypatch):
    class Clip:
        frames = np.zeros((3, 8, 8, 3), dtype=np.uint8)
        queries = np.array([[0, 1.0, 1.0], [2, 5.0, 5.0]], dtype=np.float32)
        tracks = np.array([[[1, 1], [5, 5]], [[1, 1], [5, 5]], [[1, 1], [5, 5]]], dtype=np.float32)
        visibility = np.array([[True, True], [True, False], [True, True]])

    class Tracker:
        def track(self, frames, queries):
            self.tracks = Clip.tracks.copy()
            self.tracks[2, 0] += (3, 3)  # 4.24 pixels
            self.confidence = np.array([[1.0, 0.2], [0.3, 0.4], [0.5, 1.0]], dtype=np.float32)
            return self

    monkeypatch.setattr(tracking_calibration, "tracking_clip", lambda preset, seed: Clip)
    probability, is_right = measured_points(Tracker(), [("base", 0)])
    assert probability.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert is_right.tolist() == [True, True, False, False]
