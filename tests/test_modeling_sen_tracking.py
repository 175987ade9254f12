"""The tracking head: construction from a SEN, features of windows of frames, trained weights, and its files."""

import json

import numpy as np
import pytest
import torch
from random_sen import random_weights
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from modeling_sen import SENForVideoTracking, SENModel, SENTrackingConfig
from modeling_sen.modeling_sen_tracking import SEMANTIC

QUERIES = torch.tensor([[0, 10.0, 12.0], [2, 30.0, 20.0], [5, 3.0, 28.0]])


def moving_frames(count=6, height=32, width=48):
    """A random image that moves to the right by two pixels per frame."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width + 2 * count, 3), dtype=np.uint8)
    return np.stack([picture[:, 2 * number :][:, :width] for number in range(count)])


def tracks_of(model, frames=None, queries=QUERIES):
    with torch.no_grad():
        return model(torch.from_numpy(moving_frames() if frames is None else frames), queries)


def with_semantics(tracker):
    """Gives association, modulation and the semantic weights non-zero values, as after training."""
    random_weights(tracker.sen)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in tracker.network.named_parameters():
            if name.startswith("semantic_"):
                parameter.fill_(0.7)
            elif name.startswith(SEMANTIC):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return tracker


# --- construction from a SEN -----------------------------------------------------------------------------------------


def test_neurons_read_windows_of_whole_frames_in_order(make_sen, tiny_tracker):
    image, video = (tiny_tracker.sen.specs[name] for name in ("image", "video"))
    assert tiny_tracker.read_neurons == ["image", "video"]
    assert (image.num_frames, image.sampling, image.preprocessing) == (
        4,
        "uniform",
        {"size": [16, 16], "crop": [16, 16]},
    )
    assert (video.num_frames, video.preprocessing) == (4, {"size": [16, 16], "crop": [16, 16]})
    assert make_sen().specs["image"].num_frames == 2  # the SEN's specification is unchanged
    frames = np.zeros((4, 40, 80, 3), dtype=np.uint8)
    frames[:, :, :] = np.arange(4, dtype=np.uint8)[:, None, None, None] * 50
    frames[:, :5, :5], frames[:, -5:, -5:] = 250, 250  # corners that a center crop would remove
    pixels = tiny_tracker.processor(videos=frames)["image_pixel_values"][0]  # (4, 3, 16, 16)
    steps = pixels[:, 0, 8, 8].diff()
    torch.testing.assert_close(steps, torch.full((3,), 50 / 255 / 0.2))
    assert (pixels[:, 0, 0, 0] > pixels[:, 0, 8, 8] + 0.1).all()
    assert (pixels[:, 0, -1, -1] > pixels[:, 0, 8, 8] + 0.1).all()


def test_model_neurons_and_configuration_have_the_same_specifications(tiny_tracker, tmp_path):
    tiny_tracker.save_pretrained(tmp_path)
    for model in (tiny_tracker, SENForVideoTracking.from_pretrained(tmp_path)):
        for name, spec in model.sen.specs.items():
            in_config = {each.name: each for each in model.config.sen_config.neuron_specs}[name]
            assert spec == model.sen.neurons[name].spec == model.sen.neurons.specs[name]
            assert spec.num_frames == in_config.num_frames
            assert spec.preprocessing == in_config.preprocessing
        assert model.sen.config.dense_neurons == model.config.sen_config.dense_neurons == ["image", "video"]


def test_the_association_is_copied_the_towers_are_shared_and_the_sen_is_not_modified(make_sen, pixel_tracker):
    sen = random_weights(make_sen())
    tracker = SENForVideoTracking.from_sen(sen, pixel_tracker, ["image"], window=5, longest_side=64)
    for name, weight in sen.state_dict().items():
        assert torch.equal(weight, tracker.sen.state_dict()[name]), name
    assert tracker.sen.neurons["image"].tower is sen.neurons["image"].tower
    assert set(tracker.sen.modulation) == {"image"}
    assert not sen.modulation
    assert sen.config.dense_neurons is None
    assert (tracker.config.window, tracker.config.longest_side, tracker.config.refinement_steps) == (5, 64, 2)


def test_pixel_networks_and_towers_are_frozen(tiny_tracker, pixel_tracker):
    pixels = dict(pixel_tracker.network.named_parameters())
    for name, parameter in tiny_tracker.network.named_parameters():
        assert parameter.requires_grad == (name not in pixels), name
        assert name not in pixels or torch.equal(parameter, pixels[name])
    assert not any(weight.requires_grad for each in tiny_tracker.sen.neurons.values() for weight in each.parameters())
    own = [name for name, _ in tiny_tracker.sen.named_parameters() if not name.startswith("neurons.")]
    assert all(tiny_tracker.sen.get_parameter(name).requires_grad for name in own)


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        (["sound"], "no neuron 'sound', expected one of image, video, audio"),
        (["audio"], "'audio' reads audio, expected images or video"),
        ([], "expected a neuron of images or video, found image, video, audio"),
    ],
)
def test_neurons_other_than_image_and_video_are_refused(make_sen, pixel_tracker, neurons, message):
    with pytest.raises(ValueError, match=message):
        SENForVideoTracking.from_sen(make_sen(), pixel_tracker, neurons)


def test_a_tracker_needs_a_sen():
    with pytest.raises(ValueError, match="a SEN needs at least one neuron"):
        SENForVideoTracking(SENTrackingConfig())


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_untrained_features_do_not_change_the_tracks(tiny_tracker, pixel_tracker):
    before, after = tracks_of(pixel_tracker), tracks_of(tiny_tracker)
    for name in ("tracks", "visibility_logits", "confidence_logits"):
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before.tracks, tracks_of(with_semantics(tiny_tracker)).tracks)


def test_tokens_equal_those_of_each_window_with_the_last_one_padded(tiny_tracker):
    tracker, frames = with_semantics(tiny_tracker), moving_frames()
    with torch.no_grad():
        tokens = tracker.read_tokens(frames)
        windows = [frames[:4], np.concatenate([frames[4:], frames[-1:], frames[-1:]])]
        for number, name in enumerate(tracker.read_neurons):
            expected = []
            for window in windows:
                output = tracker.sen(**tracker.processor(videos=window))
                features = tracker.sen.dense_features(name, output)
                grid = features.tokens[0].unflatten(0, features.grid)
                expected.append(grid.repeat_interleave(4 // features.grid[0], dim=0))
            assert tokens[number].shape[0] == 6
            torch.testing.assert_close(tokens[number], torch.cat(expected)[:6], atol=1e-5, rtol=1e-4)
    assert tracker.sen.neurons["video"].tower.config.tubelet_size == 2  # each step covers two frames
    assert torch.equal(tokens[1][0], tokens[1][1])
    assert not torch.equal(tokens[0][0], tokens[0][1])


def test_a_single_frame_is_padded_to_a_window(tiny_tracker):
    frames = moving_frames(1)
    with torch.no_grad():
        image, video = tiny_tracker.read_tokens(frames)
        filled = tiny_tracker.read_tokens(np.repeat(frames, 4, axis=0))
    assert len(image) == len(video) == 1
    torch.testing.assert_close(image, filled[0][:1])
    torch.testing.assert_close(video, filled[1][:1])
    assert tracks_of(tiny_tracker, frames, QUERIES[:1]).tracks.shape == (1, 1, 2)


def test_a_tracker_without_neurons_reads_no_tokens(pixel_tracker):
    assert pixel_tracker.read_tokens(moving_frames()) == []


def test_gradients_reach_sharpening_modulation_and_association_but_no_pixel_network(tiny_tracker):
    tracker = with_semantics(tiny_tracker)
    frames = moving_frames()
    encoded = tracker.network.encode_frames(torch.from_numpy(frames), tracker.read_tokens(frames))
    cost = tracker.network.match(encoded, tracker.network.encode_queries(encoded, QUERIES))
    cost.square().mean().backward()
    reached = {name for name, weight in tracker.named_parameters() if weight.grad is not None and weight.grad.any()}
    parts = ("network.sharpening.norms.0", "network.sharpening.enter.1", "network.sharpening.sharpen.0")
    parts += ("network.semantic_scale", "sen.modulation.image", "sen.modulation.video", "sen.fusion")
    parts += ("sen.blocks.0", "sen.blocks.2")
    for part in parts:
        assert any(name.startswith(part) for name in reached), part
    frozen = ("network.pyramid", "network.comparison", "network.refiner", "network.match_scale", "sen.neurons")
    assert not any(name.startswith(frozen) for name in reached)


def test_features_in_half_precision_give_close_matches_and_scores(tiny_tracker):
    tracker, frames = with_semantics(tiny_tracker), moving_frames()
    found = []
    with torch.no_grad():
        whole = tracker.network.encode_frames(torch.from_numpy(frames), tracker.read_tokens(frames))
        for encoded in (whole, whole.to(torch.float16)):
            queries = tracker.network.encode_queries(encoded, QUERIES)
            places, poses = QUERIES[:, 1:].expand(6, 3, 2), torch.tensor([1.0, 0.0]).expand(6, 3, 2)
            found.append(
                (tracker.network.match(encoded, queries), tracker.network.score(encoded, queries, places, poses))
            )
    for single, half in zip(*found, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, single, atol=2e-2, rtol=0)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["tiny_tracker", "pixel_tracker"])
def test_a_saved_tracker_gives_bit_identical_tracks(fixture, request, tmp_path):
    tracker = request.getfixturevalue(fixture)
    if fixture == "tiny_tracker":
        with_semantics(tracker)
    expected = tracks_of(tracker)
    tracker.save_pretrained(tmp_path)
    for loader in (SENForVideoTracking, AutoModel):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is SENForVideoTracking
        found = tracks_of(loaded)
        for name, value in expected.items():
            assert torch.equal(value, found[name]), name


def test_a_checkpoint_contains_association_and_networks_but_no_tower(tiny_tracker, tmp_path):
    tiny_tracker.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert not any(name.startswith("sen.neurons") for name in names)
    assert {name.partition(".")[0] for name in names} == {"sen", "network"}
    sen = SENModel.from_pretrained(tmp_path)  # only the SEN
    assert sen.specs["image"].num_frames == 4


def test_towers_saved_with_the_checkpoint_are_loaded(tiny_tracker, tmp_path):
    expected = tracks_of(with_semantics(tiny_tracker))
    tiny_tracker.save_pretrained(tmp_path / "first", include_neurons=True)
    (tmp_path / "first").rename(tmp_path / "moved")
    moved = SENForVideoTracking.from_pretrained(tmp_path / "moved")
    assert moved.config.sen_config.neuron_specs[0].hub_id == "./neuron_image"
    assert torch.equal(tracks_of(moved).tracks, expected.tracks)


def test_the_configuration_is_unchanged_after_saving_and_loading(tiny_tracker, tmp_path):
    tiny_tracker.config.calibration = (0.8, -0.25)
    tiny_tracker.config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SENTrackingConfig
    found, expected = loaded.to_dict(), tiny_tracker.config.to_dict()
    found.pop("_name_or_path"), expected.pop("_name_or_path")
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(expected))
    assert tuple(loaded.calibration) == (0.8, -0.25)


@pytest.mark.parametrize(
    "missing", ["network.pyramid.down.weight", "network.semantic_scale", "sen.modulation.image.weight"]
)
def test_missing_weights_raise(tiny_tracker, tmp_path, missing):
    tiny_tracker.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=f"1 weights of SENForVideoTracking are missing.*{missing}"):
        SENForVideoTracking.from_pretrained(tmp_path)
