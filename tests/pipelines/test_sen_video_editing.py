"""The editing pipeline on tiny random base models: what an edit is made of, options, saving, and bad inputs."""

import json
import sys

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, write_clip
from PIL import Image
from random_editing import make_editing, make_unet, randomize
from random_sen import random_weights
from tiny_diffusion import make_base

import modeling_sen
from modeling_sen import SENTrackingOutput, SENVideoEditingPipeline

pytest.importorskip("diffusers")

from modeling_sen.editing.edit_mask import points_mask
from modeling_sen.editing.latents import decode_latents, encode_frames, encode_prompts
from modeling_sen.editing.tuning import TuningResult

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
BASES = {"epsilon": {"vae": "kl"}, "v_prediction": {"vae": "unshuffle"}}
FAST = {"num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Prediction -> folder of a base model."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: make_base(folder / name, prediction=name, **settings) for name, settings in BASES.items()}


@pytest.fixture
def make_pipe(make_sen, towers, bases):
    """A pipeline whose adapter does something; with words, its SEN reads prompts."""

    def make(prediction="v_prediction", words=False, **settings):
        neurons = [{"hub_id": towers["clip"], "num_frames": 2}]
        if words:
            neurons.append({"hub_id": towers["bert"], "name": "words"})
        model = make_editing(random_weights(make_sen(neurons=neurons)), bases[prediction], **settings)
        randomize(model.adapter, 0.1)
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for parameter in model.sen.modulation.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return SENVideoEditingPipeline.from_model(model)

    return make


@pytest.fixture
def shared_pipe(make_pipe, built_once):
    """One for all tests that leave it as it is."""
    if not built_once:
        built_once.append(make_pipe())
    return built_once[0]


@pytest.fixture(scope="module")
def built_once():
    return []


# --- what an edit is made of -----------------------------------------------------------------------------------------


def test_an_edit_by_hand_with_diffusers_schedulers(make_pipe):
    """DDIM inversion under the source's prompt and features, then sampling with guidance under the edit's."""
    from diffusers import DDIMInverseScheduler

    pipe = make_pipe("epsilon", words=True)
    found = pipe.edit(FRAMES, "a red dog", "a dog", num_inference_steps=4, guidance_scale=3.0, refinements=0)
    inverse = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    inverse.set_timesteps(4)
    pipe.scheduler.set_timesteps(4)
    without, source, target = encode_prompts(pipe.parts, ["a dog", "a red dog"], "").split(1)
    with torch.no_grad():
        latents = encode_frames(pipe.vae, FRAMES)
        features = [pipe.model.video_features(FRAMES, prompt) for prompt in ("a dog", "a red dog")]
        assert not torch.equal(*(each["image"] for each in features))
        for timestep in inverse.timesteps:
            noise = pipe.model.predict(latents, timestep, source, features[0])
            latents = inverse.step(noise, int(timestep), latents).prev_sample
        for timestep in pipe.scheduler.timesteps:
            away, towards = (pipe.model.predict(latents, timestep, text, features[1]) for text in (without, target))
            noise = away + 3.0 * (towards - away)
            latents = pipe.scheduler.step(noise, int(timestep), latents).prev_sample
    expected = decode_latents(pipe.vae, latents)
    assert np.abs(found.frames.astype(int) - expected).max() <= 1
    assert np.abs(found.frames.astype(int) - FRAMES).max() > 20


def test_the_source_prompt_without_guidance_reconstructs_the_video(shared_pipe):
    errors = [
        shared_pipe.edit(
            FRAMES, "a dog", "a dog", num_inference_steps=6, guidance_scale=1.0, refinements=refinements
        ).frames.astype(int)
        - FRAMES
        for refinements in (0, 20)
    ]
    assert np.abs(errors[1]).mean() < np.abs(errors[0]).mean()
    assert np.abs(errors[1]).max() <= 1
    exact = shared_pipe.edit(FRAMES, "a dog", "a dog", guidance_scale=1.0, inversion="none", num_inference_steps=5)
    assert np.array_equal(exact.frames, FRAMES)  # the autoencoder loses nothing


@pytest.mark.parametrize("inversion", ["ddim", "none"])
@pytest.mark.parametrize("prediction", BASES)
def test_several_prompts_give_the_edits_of_single_prompts(make_pipe, prediction, inversion):
    pipe = make_pipe(prediction, words=True)
    both = pipe.edit(FRAMES, ["a red dog", "snow"], "a dog", inversion=inversion, **FAST)
    assert not np.array_equal(both[0].frames, both[1].frames)
    for output, prompt in zip(both, ["a red dog", "snow"], strict=True):
        single = pipe.edit(FRAMES, prompt, "a dog", inversion=inversion, **FAST)
        assert np.array_equal(output.frames, single.frames)
        assert (output.frames.shape, output.frames.dtype) == (FRAMES.shape, np.uint8)
        assert output.settings == single.settings
        assert json.loads(json.dumps(output.settings))["prompt"] == prompt


def test_the_sen_changes_the_edit(make_pipe):
    pipe, plain = make_pipe(), make_pipe()
    plain.model.video_features = lambda frames, prompt: {}
    found = [each.edit(FRAMES, "a red dog", "a dog", **FAST).frames for each in (pipe, plain)]
    assert not np.array_equal(*found)


def test_features_are_computed_once_where_they_do_not_depend_on_the_prompt(make_pipe):
    for words, expected in ((False, [None]), (True, ["a dog", "a red dog", "snow"])):
        pipe, asked = make_pipe(words=words), []
        compute = pipe.model.video_features
        pipe.model.video_features = lambda frames, prompt, c=compute, a=asked: a.append(prompt) or c(frames, prompt)
        pipe.edit(FRAMES, ["a red dog", "snow", "a dog"], "a dog", **FAST)
        assert asked == expected


def test_negative_prompt_and_seed(shared_pipe):
    plain = shared_pipe.edit(FRAMES, "a red dog", "a dog", inversion="none", **FAST).frames
    for changes in ({"seed": 1}, {"negative_prompt": "a cat"}, {"skip": 0.5}):
        again = [
            shared_pipe.edit(FRAMES, "a red dog", "a dog", inversion="none", **FAST, **changes).frames
            for _ in range(2)
        ]
        assert np.array_equal(*again)
        assert not np.array_equal(again[0], plain)


# --- stretches, sizes, windows ---------------------------------------------------------------------------------------


def test_a_part_of_a_file_is_read_in_the_size_of_the_base_model(shared_pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(12), rate=10)  # 112 x 80
    found = shared_pipe.edit(clip, "a red dog", "a dog", start=0.2, end=1.0, fps=5, **FAST)
    assert found.source_frames.shape == found.frames.shape == (4, 24, 32, 3)
    assert np.allclose(found.times, [0.2, 0.4, 0.6, 0.8], atol=1e-3)
    assert found.fps == pytest.approx(5, rel=0.01)


def test_one_frame(shared_pipe):
    found = shared_pipe.edit(FRAMES[0], "a red dog", "a dog", **FAST)
    assert found.frames.shape == (1, 32, 32, 3)


def test_long_videos_go_through_the_unet_in_windows(make_pipe):
    pipe, frames = make_pipe(), np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    seen, predict = [], pipe.model.predict
    pipe.model.predict = lambda latents, *rest: seen.append(latents.shape[2]) or predict(latents, *rest)
    in_windows = pipe.edit(frames, "a red dog", "a dog", window=5, overlap=2, **FAST)
    assert set(seen) == {5}
    assert in_windows.frames.shape == frames.shape
    short = [pipe.edit(frames, "a red dog", "a dog", window=size, overlap=0, **FAST).frames for size in (9, 24)]
    assert np.array_equal(*short)


def test_progress_counts_predictions(shared_pipe):
    for settings, total in (
        ({"inversion": "ddim", "refinements": 2}, 3 * (1 + 2 + 2)),
        ({"inversion": "none", "skip": 0.4}, 2 * 2 * (3 - 1)),
    ):
        calls = []
        prompts = ["a red dog", "snow"]
        shared_pipe.edit(FRAMES, prompts, "a dog", progress=lambda *call, c=calls: c.append(call), **FAST, **settings)
        assert calls == [(done, total) for done in range(1, total + 1)]


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inversion", ["ddim", "none"])
def test_outside_a_mask_the_video_is_unchanged(shared_pipe, tmp_path, inversion):
    mask = np.zeros((5, 32, 32), dtype=bool)
    for frame in range(5):
        mask[frame, 6:20, 3 * frame : 3 * frame + 12] = True
        Image.fromarray(mask[frame]).save(tmp_path / f"{frame}.png")
    found = shared_pipe.edit(FRAMES, "a red dog", "a dog", mask=tmp_path, inversion=inversion, **FAST)
    assert np.array_equal(found.mask, mask)
    assert np.array_equal(found.frames[~mask], FRAMES[~mask])
    assert np.abs(found.frames[mask].astype(int) - FRAMES[mask]).max() > 10
    free = shared_pipe.edit(FRAMES, "a red dog", "a dog", inversion=inversion, **FAST)
    assert free.mask is None
    assert not np.array_equal(found.frames[mask], free.frames[mask])  # latents were blended on the way


def test_a_mask_has_the_size_of_the_video_not_of_the_edit(shared_pipe):
    frames = FRAMES.repeat(2, axis=1).repeat(2, axis=2)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32] = True
    found = shared_pipe.edit(frames, "a red dog", "a dog", mask=mask, **FAST)
    assert found.mask.shape == (5, 32, 32)
    assert found.mask[:, :16].all()
    assert not found.mask[:, 16:].any()


def test_a_mask_of_tracked_points(shared_pipe):
    rows, columns = np.mgrid[8:20:4, 6:18:4]
    start = np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(np.float32)
    tracks = np.stack([start + np.array([frame, 0]) for frame in range(5)]).astype(np.float32)
    visibility = np.ones(tracks.shape[:2], dtype=bool)
    tracked = SENTrackingOutput(tracks=tracks, visibility=visibility, frame_size=(32, 32))
    found = shared_pipe.edit(FRAMES, "a red dog", "a dog", mask=tracked, **FAST)
    assert np.array_equal(found.mask, points_mask(tracks, visibility, (32, 32)))
    assert 0.1 < found.mask.mean() < 0.5


# --- tuning, saving, loading -----------------------------------------------------------------------------------------


def test_tuning_changes_the_edit_and_is_saved_without_the_base_model(make_pipe, tmp_path):
    from modeling_sen.editing.tuning import TuningSettings

    pipe = make_pipe()
    before = pipe.edit(FRAMES, "a red dog", "a dog", **FAST).frames
    settings = TuningSettings(steps=4, learning_rate=1e-2, validation_every=2)
    result = pipe.tune(FRAMES, "a dog", settings, progress=False)
    assert result.steps == 4
    after = pipe.edit(FRAMES, "a red dog", "a dog", **FAST).frames
    assert not np.array_equal(before, after)
    pipe.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert "adapter" in names
    assert not names & {"unet", "vae", "text_encoder", "model_index.json"}
    loaded = SENVideoEditingPipeline.from_pretrained(tmp_path / "saved")
    assert np.array_equal(loaded.edit(FRAMES, "a red dog", "a dog", **FAST).frames, after)


def test_tuning_reads_the_edited_part(make_pipe, monkeypatch, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(12), rate=10)
    pipe, given = make_pipe(), {}

    def tune_adapter(model, parts, frames, prompt, *rest):
        given.update(frames=frames, prompt=prompt)
        return TuningResult(steps=9, best_step=6, losses={}, validation_losses={})

    monkeypatch.setattr("modeling_sen.pipelines.sen_video_editing.tune_adapter", tune_adapter)
    pipe.tune(clip, "a dog", start=0.3, fps=5)
    edited = pipe.edit(clip, "snow", "a dog", start=0.3, fps=5, **FAST)
    assert given["prompt"] == "a dog"
    assert np.array_equal(given["frames"], edited.source_frames)
    record = pipe.model.adapter.config.tuning
    assert (record["video"], record["prompt"], record["steps"], record["best_step"]) == ("clip.mp4", "a dog", 9, 6)


def test_the_dtype_of_the_base_model(make_sen, towers, bases):
    sen = random_weights(make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}]))
    model = make_editing(sen, bases["v_prediction"], base_kwargs={"torch_dtype": torch.bfloat16})
    pipe = SENVideoEditingPipeline.from_model(model)
    assert {part.dtype for part in (pipe.model.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}
    found = pipe.edit(FRAMES, "a red dog", "a dog", **FAST)
    assert found.frames.shape == FRAMES.shape


def test_nothing_needs_gradients_and_diffusers_registers_the_parts(make_pipe):
    pipe = make_pipe()
    assert set(pipe.components) == {"model", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert pipe.to("cpu") is pipe
    pipe.edit(FRAMES, "a red dog", "a dog", **FAST)
    assert not any(parameter.grad is not None for parameter in pipe.model.parameters())


# --- bad inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "  "}, "prompt: expected some words, found '  '"),
        ({"source_prompt": ""}, "prompt: expected some words, found ''"),
        ({"prompt": []}, "prompt: expected at least one, found an empty list"),
        ({"prompt": ["a dog", "dog " * 90]}, "prompt 'dog dog .*expected at most 77 tokens.*found"),
        ({"inversion": "null-text"}, "inversion is 'null-text', expected one of ddim, none"),
        ({"guidance_scale": -1.0}, "guidance_scale: expected at least 0, found -1.0"),
        ({"num_inference_steps": 0}, "num_steps: expected 1 to 1000"),
        ({"mask": np.ones((31, 32), dtype=bool)}, "mask: array: expected height x width 32 x 32, found 31 x 32"),
        ({"mask": np.ones((4, 32, 32), dtype=bool)}, "expected one image or 5, one for each frame, found 4"),
        ({"window": 4, "overlap": 3}, "overlap: expected at most 2 frames for windows of 4"),
        ({"refinements": -1}, "refinements: expected at least 0"),
        ({"inversion": "none", "skip": 1.0}, "skip: expected a share"),
        ({"start": 3.0}, "expected 0 <= start < end"),
        ({"video": FRAMES[:, :3, :3]}, "frames: expected at least 8 pixels a side"),
    ],
)
def test_bad_inputs(shared_pipe, arguments, message):
    given = {"video": FRAMES, "prompt": "a red dog", "source_prompt": "a dog", **FAST, **arguments}
    with pytest.raises(ValueError, match=message):
        shared_pipe.edit(given.pop("video"), given.pop("prompt"), given.pop("source_prompt"), **given)


def test_a_model_whose_base_was_given_as_a_unet(make_sen, towers):
    model = make_editing(make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}]), make_unet())
    with pytest.raises(ValueError, match=r"model: its base was given as a UNet.*SENVideoEditingPipeline\(model, vae"):
        SENVideoEditingPipeline.from_model(model)


def test_without_diffusers_there_is_one_error(monkeypatch):
    gone = ("modeling_sen.editing", "modeling_sen.pipelines.sen_video_editing")
    for name in [name for name in sys.modules if name.startswith(gone)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(modeling_sen, "editing", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"^video editing needs Diffusers: pip install 'modeling-sen\[editing\]'$"):
        _ = modeling_sen.SENVideoEditingPipeline
