"""The accepted forms of a clip's parts; every function that takes a clip treats a form in the same way."""

import io

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, write_clip
from PIL import Image

import modeling_sen
from modeling_sen.clip_inputs import as_frames, clip_entries, is_clip_batch, is_file, opened_clip
from modeling_sen.media_source import MediaSource
from modeling_sen.pipelines.zero_shot_video_classification import ZeroShotVideoClassificationPipeline
from modeling_sen.video_io import read_frames

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
FORMS = {"array": IMAGE, "tensor": torch.from_numpy(IMAGE), "PIL": Image.fromarray(IMAGE)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["video", "image", "depth", "thermal"])
def test_a_single_image_is_one_frame_of_any_modality(name, form):
    (entry,) = clip_entries({name: FORMS[form]}).values()
    assert np.array_equal(read_frames(as_frames(entry), [0]).frames, IMAGE[None])
    with pytest.raises(ValueError, match=r"expected 0..0"):
        read_frames(as_frames(entry), [1])
    assert not is_file(FORMS[form])
    assert not is_clip_batch(FORMS[form])


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_maps_of_one_channel_become_frames_of_three_equal_channels(make):
    maps = IMAGE.transpose(2, 0, 1).copy()  # three maps of 24 x 40
    read = read_frames(as_frames(make(maps)), [2, 0])
    assert np.array_equal(read.frames, np.repeat(maps[[2, 0]][..., None], 3, axis=-1))
    assert read.num_frames_total == 3


@pytest.mark.parametrize("form", FORMS)
def test_a_single_image_and_a_list_of_it_give_the_same_inputs_and_scores(sen_folder, form):
    model, processor = (
        modeling_sen.SENModel.from_pretrained(sen_folder),
        modeling_sen.SENProcessor.from_pretrained(sen_folder),
    )
    expected = processor(videos=[FORMS["PIL"]])
    found = processor(videos=FORMS[form])
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    encoder = modeling_sen.SENEncoder(model, processor)
    assert np.array_equal(encoder.encode(FORMS[form]), encoder.encode([[IMAGE]]))
    pipeline = ZeroShotVideoClassificationPipeline(
        model=model, processor=processor, task="zero-shot-video-classification", candidate_labels=["a", "b"]
    )
    assert pipeline(FORMS[form]) == pipeline([IMAGE])


def test_the_files_of_a_clip_are_opened_once(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(3))
    with opened_clip({"video": clip, "times": None}) as entries:
        assert isinstance(entries["video"], MediaSource)
        with opened_clip(entries) as again:
            assert again == entries
    with opened_clip(io.BytesIO(clip.read_bytes())) as entries:
        assert read_frames(entries["video"], [0]).num_frames_total == 3


def test_unknown_and_contradictory_entries_raise():
    with pytest.raises(ValueError, match=r"unknown entries \['vidoe'\]"):
        clip_entries({"vidoe": IMAGE})
    with pytest.raises(ValueError, match="found both"):
        clip_entries({"video": IMAGE, "image": IMAGE})
