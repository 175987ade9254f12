"""Scores of one edit: the same numbers as all measures together give, and NaN for those that lack something."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cv2")

from modeling_sen.evaluation import editing_scores as scores
from modeling_sen.evaluation.editing_alignment import ImageTextEncoder
from modeling_sen.evaluation.editing_metrics import NUMBERS, editing_metrics

SOURCE, EDITED = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 20, 3), dtype=np.uint8)
MASK = np.zeros((3, 16, 20), dtype=bool)
MASK[:, 12:] = True
PROMPTS = ("a red circle", "a blue circle")
ENCODER = ImageTextEncoder("means", lambda images, texts: (images.mean(axis=(1, 2)), [[1, 0, 0], [1, 1, 0]]))
FIDELITY = ("psnr_outside_mask", "ssim_outside_mask")


def still(frames, queries):
    tracks = np.tile(queries[:, 1:], (len(frames), 1, 1))
    return SimpleNamespace(tracks=tracks, visibility=np.ones(tracks.shape[:2], dtype=bool))


def measured(numbers):
    assert tuple(numbers) == NUMBERS
    return {name for name, number in numbers.items() if not np.isnan(number)}


def test_with_all_inputs_the_scores_equal_the_metrics():
    found = scores.editing_scores(SOURCE, EDITED, *PROMPTS, MASK, ENCODER, still)
    expected = editing_metrics(SOURCE, EDITED, *PROMPTS, ENCODER, still, MASK)
    assert found == pytest.approx({name: expected[name] for name in NUMBERS}, nan_ok=True)
    assert measured(found) == set(NUMBERS)


def test_metrics_without_encoder_or_tracker_are_nan():
    fidelity = {*FIDELITY, "warp_error", "source_warp_error"}
    assert measured(scores.editing_scores(SOURCE, EDITED, *PROMPTS)) == fidelity
    found = scores.editing_scores(SOURCE, EDITED, *PROMPTS, track=still)
    assert measured(found) == fidelity | {"motion_fidelity", "motion_distance"}


def test_without_opencv_pixels_are_compared(monkeypatch):
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    assert measured(scores.editing_scores(SOURCE, EDITED, *PROMPTS, MASK)) == set(FIDELITY)
