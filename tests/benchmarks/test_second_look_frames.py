"""The study of a second look on real frames: loss and measure against plain loops, and its rows on a tiny tower."""

import math

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from benchmarks.association import second_look_frames
from benchmarks.association.second_look_frames import ROWS, mean_average_precision, run_row, same_clip_loss

CLIPS = torch.tensor([0, 0, 1, 1, 1])


@pytest.fixture
def embeds():
    return torch.nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_the_loss_is_each_right_frames_share_among_the_others(embeds):
    losses = []
    for query in range(5):
        scores = {
            other: math.exp((embeds[query] @ embeds[other]).item() / 0.1) for other in range(5) if other != query
        }
        right = [other for other in scores if CLIPS[other] == CLIPS[query]]
        losses.append(-np.mean([math.log(scores[other] / sum(scores.values())) for other in right]))
    assert same_clip_loss(embeds, CLIPS).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_precision_is_averaged_over_the_frames_of_the_clips_asked_for(embeds):
    found = []
    for query in (2, 3, 4):
        order = sorted(set(range(5)) - {query}, key=lambda other: -(embeds[query] @ embeds[other]).item())
        places = [place for place, other in enumerate(order, start=1) if CLIPS[other] == 1]
        found.append(np.mean([number / place for number, place in enumerate(places, start=1)]))
    assert mean_average_precision(embeds, CLIPS, torch.tensor([1])) == pytest.approx(np.mean(found))
    assert mean_average_precision(torch.eye(5)[CLIPS], CLIPS, torch.arange(2)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs(row, tmp_path, monkeypatch):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    ViTModel(ViTConfig(num_hidden_layers=8, **sizes)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    monkeypatch.setattr(second_look_frames, "TRAINING_BATCHES", 2)
    generator = np.random.default_rng(0)
    colours = generator.integers(40, 200, (6, 1, 1, 1, 3))
    train, test = (
        [np.uint8(colour + generator.integers(0, 40, (count, 32, 32, 3))) for colour in colours] for count in (8, 4)
    )
    untrained, trained, seconds = run_row(str(tmp_path), row, (train, test), seeds=2, steps=2)
    assert 0 < untrained <= 1
    assert len(trained) == 2
    assert all(0 < share <= 1 for share in trained)
    assert seconds > 0
