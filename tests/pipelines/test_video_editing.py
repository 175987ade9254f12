"""`pipeline("video-editing")`: tuning once, edits by several prompts, adapters of results. Forms of input:
test_video_pipeline.py."""

import json

import av
import numpy as np
import pytest
import torch
from PIL import Image
from random_editing import make_editing, make_unet, randomize
from random_sen import random_weights
from tiny_diffusion import make_base
from transformers import AutoModel, pipeline

pytest.importorskip("diffusers")

from modeling_sen import SENEditingOutput, VideoEditingPipeline
from modeling_sen.editing.tuning import TuningSettings
from modeling_sen.evaluation.editing_metrics import NUMBERS
from modeling_sen.pipelines import sen_video_editing

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
SOURCE, EDIT = "a dog", "a red dog"
FAST = {"num_inference_steps": 2, "guidance_scale": 2.0}
TUNING = TuningSettings(steps=2, learning_rate=1e-2, validation_every=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("bases") / "base", vae="unshuffle", prediction="v_prediction")


@pytest.fixture
def make_model(make_sen, towers, base):
    def make():
        sen = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}])
        model = make_editing(random_weights(sen), base)
        randomize(model.adapter, 0.1)
        return model

    return make


@pytest.fixture
def edit(make_model) -> VideoEditingPipeline:
    return pipeline("video-editing", model=make_model(), device="cpu", progress=False, tuning=TUNING, **FAST)


@pytest.fixture
def count_tunings(monkeypatch):
    """The clips and prompts that were tuned on."""
    found, tune = [], sen_video_editing.tune_adapter

    def tune_and_count(model, parts, frames, prompt, *arguments):
        found.append((frames.shape, prompt))
        return tune(model, parts, frames, prompt, *arguments)

    monkeypatch.setattr(sen_video_editing, "tune_adapter", tune_and_count)
    return found


def weights(adapter):
    return {name: weight.clone() for name, weight in adapter.state_dict().items()}


def same(first, second):
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_clip_is_edited_after_tuning(edit, count_tunings):
    before = weights(edit.model.adapter)
    found = edit(FRAMES, SOURCE, EDIT)
    assert isinstance(found, SENEditingOutput)
    assert (found.frames.shape, found.frames.dtype) == ((5, 32, 32, 3), np.uint8)
    assert np.array_equal(found.source_frames, FRAMES)
    assert not np.array_equal(found.frames, FRAMES)
    assert found.times.tolist() == pytest.approx([0, 1 / 24, 2 / 24, 3 / 24, 4 / 24])
    assert found["fps"] == pytest.approx(24)
    assert (found.source_prompt, found.edit_prompt) == (SOURCE, EDIT)
    assert count_tunings == [((5, 32, 32, 3), SOURCE)]
    assert found.adapter is edit.model.adapter
    assert not same(before, weights(found.adapter))
    record = found.settings["tuning"]
    assert (record["video"], record["prompt"], record["frames"], record["seed"]) == ("frames", SOURCE, 5, 0)
    assert (record["frame_size"], record["learning_rate"]) == ([32, 32], 1e-2)
    assert 1 <= record["best_step"] <= record["steps"] <= 2


def test_frames_equal_those_of_the_diffusers_pipeline(edit, make_model):
    found = edit(FRAMES, SOURCE, EDIT, tune=False)
    expected = sen_video_editing.SENVideoEditingPipeline.from_model(make_model()).edit(FRAMES, EDIT, SOURCE, **FAST)
    assert np.array_equal(found.frames, expected.frames)
    assert found.settings["tuning"] is None


def test_several_prompts_share_one_tuning_and_an_adapter_needs_none(edit, count_tunings):
    first = edit(FRAMES, SOURCE, [EDIT, "a blue dog"])
    assert [each.edit_prompt for each in first] == [EDIT, "a blue dog"]
    assert not np.array_equal(first[0].frames, first[1].frames)
    assert len(count_tunings) == 1
    kept = weights(first[0].adapter)
    second = edit(FRAMES[::-1].copy(), "a cat", EDIT)
    assert len(count_tunings) == 2
    assert second.adapter is not first[0].adapter
    assert same(kept, weights(first[0].adapter))
    again = edit(FRAMES, SOURCE, EDIT, adapter=first[0].adapter)
    assert len(count_tunings) == 2
    assert np.array_equal(again.frames, first[0].frames)
    assert edit(FRAMES, SOURCE, [EDIT], adapter=first[0].adapter)[0].adapter is first[0].adapter


def test_a_checkpoint_that_was_tuned_is_not_tuned_again(edit, count_tunings, tmp_path):
    first = edit(FRAMES, SOURCE, EDIT)
    edit.save_pretrained(tmp_path / "tuned", include_neurons=True)
    settled = pipeline("video-editing", model=str(tmp_path / "tuned"), progress=False, tuning=TUNING, **FAST)
    assert np.array_equal(settled(FRAMES, SOURCE, EDIT).frames, first.frames)
    assert len(count_tunings) == 1
    settled(FRAMES, SOURCE, EDIT, tune=True)
    assert len(count_tunings) == 2
    for folder in (tmp_path / "tuned", tmp_path / "tuned" / "adapter"):
        other = edit(FRAMES, SOURCE, EDIT, adapter=folder)
        assert np.array_equal(other.frames, first.frames)
        assert other.settings["tuning"] == first.settings["tuning"]
    assert len(count_tunings) == 2


def test_the_settings_that_a_checkpoint_recommends_are_defaults(make_model, count_tunings):
    model = make_model()
    model.config.tuning_settings = {"steps": 1, "learning_rate": 0.5, "validation_every": 1}
    model.config.edit_settings = {**FAST, "inversion": "none"}
    edit = VideoEditingPipeline(model=model, device="cpu")
    found = edit(FRAMES, SOURCE, EDIT, progress=False)
    assert found.settings["tuning"]["learning_rate"] == 0.5
    assert found.settings["settings"]["inversion"] == "none"
    assert (
        edit(FRAMES, SOURCE, EDIT, inversion="ddim", tune=False, progress=False).settings["settings"]["inversion"]
        == "ddim"
    )


def test_a_mask_and_a_part_are_edited(edit, clips, tmp_path):
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = edit(clips[0], SOURCE, EDIT, tune=False, start=0.5, end=1.0, mask=tmp_path / "mask.png")
    assert found.times.tolist() == pytest.approx([0.5, 0.625, 0.75, 0.875])
    assert np.array_equal(found.frames[:, :, 16:], found.source_frames[:, :, 16:])
    assert found.scores["psnr_outside_mask"] == 100
    assert found.settings["has_mask"]


def test_one_frame_is_edited(edit):
    found = edit(FRAMES[:1], SOURCE, EDIT)
    assert found.frames.shape == (1, 32, 32, 3)
    assert found.settings["tuning"]["frames"] == 1
    assert np.isnan(found.scores["warp_error"])


def test_scores_are_all_there_and_alignment_needs_a_scorer(edit, sen_folder):
    pytest.importorskip("cv2")
    still = FRAMES[:1].repeat(3, axis=0)
    found = edit(still, SOURCE, EDIT, tune=False)
    assert tuple(found.scores) == NUMBERS
    alignment = NUMBERS[:5]
    assert all(np.isnan(found.scores[name]) for name in alignment)
    assert not any(np.isnan(found.scores[name]) for name in NUMBERS[5:])
    scored = edit(still, SOURCE, EDIT, tune=False, scorer=str(sen_folder))
    assert not any(np.isnan(scored.scores[name]) for name in NUMBERS)
    assert scored.settings["scorer"] == str(sen_folder)


def test_batches_and_streams_are_edited_one_by_one(edit, clips, count_tunings):
    expected = [edit(clip, SOURCE, EDIT, tune=False).frames for clip in clips[:2]]
    found = edit([str(clip) for clip in clips[:2]], SOURCE, [EDIT, EDIT], tune=False)
    assert [len(each) for each in found] == [2, 2]
    assert all(np.array_equal(pair[1].frames, frames) for pair, frames in zip(found, expected, strict=True))
    stream = edit(({"video": clip} for clip in clips[:2]), SOURCE, EDIT, tune=False)
    assert all(np.array_equal(each.frames, frames) for each, frames in zip(stream, expected, strict=True))
    assert edit([], SOURCE, EDIT) == []
    assert not count_tunings


def test_files_have_the_sound_of_the_clip_and_a_record(edit, clips, tmp_path):
    found = edit(clips[0], SOURCE, EDIT, tune=False, end=1.0)
    found.save(tmp_path / "edited.mp4")
    found.save_record(tmp_path / "edited.json")
    with av.open(str(tmp_path / "edited.mp4")) as container:
        assert container.streams.video[0].frames == 8
        assert container.streams.audio
    record = json.loads((tmp_path / "edited.json").read_text(), parse_constant=pytest.fail)
    assert (record["video"], record["frames"], record["fps"], record["start"]) == (clips[0].name, 8, 8, 0)
    assert record["settings"]["num_inference_steps"] == 2
    assert record["scores"]["loveu_text_alignment"] is None
    assert {"modeling-sen", "torch", "transformers", "diffusers"} == set(record["versions"])


# --- what is refused -------------------------------------------------------------------------------------------------


def test_invalid_inputs_are_refused_before_tuning(edit, count_tunings, tmp_path):
    (tmp_path / "empty.mp4").touch()
    long = "dog " * 80
    for clip, source, prompt, options, message in [
        (FRAMES, None, EDIT, {}, "source_prompt: expected a description of the source, found None"),
        (FRAMES, SOURCE, None, {}, "edit_prompt: expected a description of the edit, found None"),
        (FRAMES, SOURCE, " ", {}, "prompt: expected some words, found ' '"),
        (FRAMES, SOURCE, [EDIT, long], {}, "expected at most 77 tokens"),
        (FRAMES, SOURCE, [], {}, "edit_prompt: expected at least one, found an empty list"),
        (
            FRAMES,
            SOURCE,
            EDIT,
            {"mask": np.ones((16, 32), dtype=bool)},
            "mask: array: expected height x width 32 x 32",
        ),
        (FRAMES, SOURCE, EDIT, {"inversion": "null"}, "inversion is 'null', expected one of ddim, none"),
        (FRAMES, SOURCE, EDIT, {"num_inference_steps": 0}, "num_steps: expected 1 to 1000"),
        (FRAMES, SOURCE, EDIT, {"window": 3, "overlap": 2}, "overlap: expected at most 1"),
        (FRAMES, SOURCE, EDIT, {"start": 9.0}, "start, end: expected 0 <= start < end"),
        (tmp_path / "empty.mp4", SOURCE, EDIT, {}, r"empty\.mp4"),
        (tmp_path / "gone.mp4", SOURCE, EDIT, {}, r"gone\.mp4"),
        ({"audio": FRAMES}, SOURCE, EDIT, {}, "audio"),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            edit(clip, source, prompt, **options)
    with pytest.raises(ValueError, match="adapter, tune: expected at most one of them"):
        edit(FRAMES, SOURCE, EDIT, adapter=edit.model.adapter, tune=True)
    with pytest.raises(TypeError, match="unknown options guidanse"):
        edit(FRAMES, SOURCE, EDIT, guidanse=2)
    assert not count_tunings


def test_an_adapter_of_another_base_is_refused(edit):
    from modeling_sen import SENEditAdapter

    other = make_unet(block_out_channels=(4, 8))
    with pytest.raises(ValueError, match="adapter of another base model"):
        edit(FRAMES, SOURCE, EDIT, adapter=SENEditAdapter.from_unet(other))
    assert edit(FRAMES, SOURCE, EDIT, tune=False).frames.shape == FRAMES.shape  # the model has its own again


def test_other_models_are_refused(sen_folder, make_sen):
    with pytest.raises(ValueError, match=r"model: expected a SEN with an editing adapter, .* found SENModel"):
        VideoEditingPipeline(model=AutoModel.from_pretrained(sen_folder))
    with pytest.raises(ValueError, match="its base was given as a UNet"):
        VideoEditingPipeline(model=make_editing(make_sen()))
