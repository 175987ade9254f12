"""Estimated depth maps for clips without depth."""

import numpy as np
import pytest
import torch
from transformers import DepthAnythingForDepthEstimation, GLPNConfig, GLPNForDepthEstimation

from modeling_sen import SENConfig, SENProcessor
from modeling_sen.depth_estimation import DepthEstimator
from modeling_sen.neuron_loading import resolve_spec


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), dtype=np.uint8)


def test_maps_equal_the_models_output_scaled_over_the_clip(towers, frames):
    depth = DepthEstimator(towers["depth_anything"])(frames)
    assert depth.dtype == np.uint8
    assert depth.shape[0] == 3
    assert (depth.min(), depth.max()) == (0, 255)

    model = DepthAnythingForDepthEstimation.from_pretrained(towers["depth_anything"]).eval()
    estimator = DepthEstimator(towers["depth_anything"])
    estimator(frames)
    with torch.no_grad():
        own = model(pixel_values=estimator._transform(frames)).predicted_depth
    scaled = (own - own.min()) / (own.max() - own.min()) * 255
    assert np.abs(scaled.numpy() - depth).max() <= 0.51


def test_distances_are_inverted_so_that_near_is_bright(tmp_path, frames):
    config = GLPNConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8
    )
    torch.manual_seed(0)
    model = GLPNForDepthEstimation(config).eval()
    model.save_pretrained(tmp_path)
    estimator = DepthEstimator(str(tmp_path))
    depth = estimator(frames)
    with torch.no_grad():
        distance = model(pixel_values=estimator._transform(frames)).predicted_depth.numpy()
    assert depth.flat[distance.argmin()] == 255
    assert depth.flat[distance.argmax()] == 0


def test_the_depth_of_a_clip_is_estimated_once(towers, frames):
    estimator = DepthEstimator(towers["depth_anything"])
    first = estimator(frames)
    estimator._model.forward = None  # calling it again would fail
    assert estimator(frames.copy()) is first


def test_the_processor_estimates_depth_only_for_clips_without_depth(towers, frames):
    neurons = [
        resolve_spec({"hub_id": towers["clip"], "num_frames": 2}).to_dict(),
        resolve_spec({"hub_id": towers["depth_anything"], "modality": "depth", "num_frames": 2}).to_dict(),
    ]
    plain = SENProcessor(SENConfig(neurons=neurons))
    assert plain(videos=frames)["neuron_mask"].tolist() == [[True, False]]
    estimating = SENProcessor(SENConfig(neurons=neurons, depth_estimator=towers["depth_anything"]))
    inputs = estimating(videos=frames)
    assert inputs["neuron_mask"].tolist() == [[True, True]]
    assert inputs["depth_pixel_values"].shape == (1, 2, 3, 16, 16)
    given = np.zeros((3, 40, 56), dtype=np.uint8)
    black = estimating(videos={"video": frames, "depth": given})["depth_pixel_values"]
    assert torch.equal(black, plain(videos={"video": frames, "depth": given})["depth_pixel_values"])
    assert not torch.equal(black, inputs["depth_pixel_values"])


def test_a_missing_model_is_named_in_the_error(frames):
    with pytest.raises(OSError, match="depth_estimator"):
        DepthEstimator("nobody/no-such-depth-model")(frames)
