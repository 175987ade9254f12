"""Requests for frames and their results: sampling rules, arrays, batches, spans, and real clips."""

import csv
import json
import logging

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, read_stamps, stamped_image, write_clip
from PIL import Image

from modeling_sen.audio_io import read_audio
from modeling_sen.frame_sampling import SAMPLING_RULES, FrameRequest, sample_indices
from modeling_sen.video_io import (
    ARRAY_FRAME_RATE,
    classify_video_input,
    given_frames,
    is_video_batch,
    read_frames,
    read_video,
    read_video_requests,
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", CLIP_KINDS["mp4"], range(90))


@pytest.fixture(scope="module")
def frames():
    """(20, 40, 112, 3) uint8"""
    return np.stack([stamped_image(number, 112, 40) for number in range(20)])


@pytest.mark.parametrize(
    ("sampling", "num_frames", "total", "expected"),
    [
        ("uniform", 4, 16, [2, 6, 10, 14]),
        ("uniform", 1, 9, [4]),
        ("uniform", 3, 10, [1, 5, 8]),
        ("uniform", 16, 16, list(range(16))),
        ("uniform", 4, 2, [0, 0, 1, 1]),
        ("linspace", 4, 16, [0, 5, 10, 15]),
        ("linspace", 8, 300, [int(i * 299 / 7) for i in range(8)]),
        ("linspace", 1, 16, [0]),
        ("linspace", 3, 1, [0, 0, 0]),
        ("stride:4", 3, 21, [6, 10, 14]),
        ("stride:16", 4, 10, [0, 9, 9, 9]),
        ("stride:1", 3, 3, [0, 1, 2]),
        ("fps:2", 4, 90, [0, 15, 30, 45]),
        ("fps:2", 8, 30, [0, 15, 29, 29, 29, 29, 29, 29]),
        ("fps:0.5", 2, 90, [0, 60]),
        ("fps:60", 5, 90, [0, 0, 1, 1, 2]),
    ],
)
def test_sampling_rules_give_the_expected_frames(sampling, num_frames, total, expected):
    indices = sample_indices(sampling, num_frames, total, np.arange(total) / 30)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


@pytest.mark.parametrize("rule", SAMPLING_RULES)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("num_frames", [1, 2, 8, 33])
def test_sampled_frames_are_ordered_and_inside_the_clip(rule, total, num_frames):
    sampling = rule + "3" if rule.endswith(":") else rule
    indices = sample_indices(sampling, num_frames, total, np.arange(total) / 25)
    assert indices.shape == (num_frames,)
    assert indices.min() >= 0
    assert indices.max() < total
    assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize(
    "sampling", ["random", "stride", "stride:", "stride:2.5", "stride:0", "fps:-1", "fps:x", "uniform:3"]
)
def test_unknown_sampling_is_refused(sampling):
    with pytest.raises(ValueError, match="sampling rule"):
        sample_indices(sampling, 4, 10, np.arange(10) / 25)


def test_a_request_for_no_frames_is_refused(clip):
    with pytest.raises(ValueError, match="num_frames: expected at least 1, found 0"):
        read_video(clip, 0)


def test_frames_are_repeated_if_a_clip_has_fewer_than_requested(tmp_path):
    short = write_clip(tmp_path / "short.mkv", CLIP_KINDS["mkv"], range(3))
    video = read_video_requests(short, [FrameRequest(8, "stride:1"), FrameRequest(5)])
    assert read_stamps(video[0].frames) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert read_stamps(video[1].frames) == [0, 0, 1, 2, 2]


def test_a_clip_of_one_frame_has_its_duration_as_span(tmp_path):
    video = read_video(write_clip(tmp_path / "one.mp4", CLIP_KINDS["mp4"], [7]), 2)
    assert read_stamps(video.frames) == [7, 7]
    assert video.times.tolist() == [0.0, 0.0]
    assert video.span == (0.0, video.duration)
    assert video.duration == pytest.approx(1 / 30, abs=1e-4)


def test_frame_numbers_outside_of_the_clip_are_refused(clip):
    for indices in ([0, 90], [-1]):
        with pytest.raises(ValueError, match=rf"expected 0..89 for .*clip.mp4, found {indices[-1]}"):
            read_frames(clip, indices)
    with pytest.raises(ValueError, match="at least one frame number"):
        read_frames(clip, [])


def test_the_span_covers_the_part_that_the_frames_represent(clip):
    whole, one, middle, head = read_video_requests(
        clip, [FrameRequest(9), FrameRequest(1), FrameRequest(4, "stride:10"), FrameRequest(3, "fps:2")]
    )
    assert whole.span == (0.0, whole.duration)
    assert one.span == (0.0, one.duration)
    assert middle.indices.tolist() == [29, 39, 49, 59]
    assert middle.span == pytest.approx(((29.5 - 5) / 30, (59.5 + 5) / 30))
    assert head.span == pytest.approx((0.0, 1.0 + 0.5 / 30 + 0.25), abs=1e-6)


def test_requests_for_the_same_frames_share_memory(clip):
    first, second = read_video_requests(clip, [FrameRequest(8), FrameRequest(8)])
    assert np.shares_memory(first.frames, second.frames)


def test_arrays_tensors_and_image_lists_are_read_as_one_video(frames):
    inputs = [
        frames,
        torch.from_numpy(frames),
        list(frames),
        [torch.from_numpy(frame) for frame in frames],
        [Image.fromarray(frame) for frame in frames],
    ]
    for video in inputs:
        read = read_video(video, 4)
        assert np.array_equal(read.frames, frames[[2, 7, 12, 17]])
        assert read.num_frames_total == 20
        np.testing.assert_allclose(read.times, np.array([2, 7, 12, 17]) / ARRAY_FRAME_RATE)
        assert np.array_equal(read_frames(video, [19, 0]).frames, frames[[19, 0]])


def test_a_single_image_is_a_clip_of_one_frame(frames):
    for image in (frames[7], torch.from_numpy(frames[7]), Image.fromarray(frames[7])):
        video = read_video(image, 2)
        assert np.array_equal(video.frames, frames[[7, 7]])
        assert video.num_frames_total == 1
        assert np.array_equal(read_frames(image, [0]).frames, frames[[7]])
        assert not is_video_batch(image)
        assert len(given_frames(image)) == 1
        assert read_audio(image, 16000).samples.shape == (round(16000 / ARRAY_FRAME_RATE),)
    assert classify_video_input(Image.fromarray(frames[7])) == "images"
    with pytest.raises(ValueError, match="times: expected 1 seconds, one per frame"):
        read_video(frames[7], 2, times=[0, 1])


def test_given_times_of_arrays_are_used(frames):
    times = 5 + np.arange(20) / 10
    read = read_video(frames, 3, "fps:5", times=times)
    np.testing.assert_allclose(read.times, [0, 0.2, 0.4])
    assert read.duration == pytest.approx(2.0)
    for wrong, message in (
        (times[:-1], r"expected 20 seconds, one per frame, found shape \(19,\)"),
        (times[::-1], "expected increasing seconds, found 19 of 19 steps that do not"),
        (np.where(times > 6, np.nan, times), "expected finite seconds, found nan"),
    ):
        with pytest.raises(ValueError, match=f"times: {message}"):
            read_video(frames, 3, times=wrong)


def test_times_of_an_array_that_do_not_increase_are_replaced_and_logged_once(frames, caplog):
    times = np.arange(20) / 10
    times[7] = times[6]
    times[12] = 0.3
    with caplog.at_level(logging.WARNING):
        reads = [read_frames_with(frames, times) for _ in range(2)]
    for read in reads:
        np.testing.assert_allclose(read.times, np.arange(20) / 10)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["times: 2 of 20 do not increase"]


def read_frames_with(frames, times):
    return read_video(frames, len(frames), times=times)


def test_times_for_a_file_are_refused(clip):
    with pytest.raises(ValueError, match="times: expected none for a video file"):
        read_video(clip, 3, times=[0, 1])


def test_pil_images_of_any_mode_are_converted_to_rgb():
    grey = [Image.new("L", (16, 12), level) for level in (0, 100, 200)]
    assert read_frames(grey, [1]).frames.tolist() == np.full((1, 12, 16, 3), 100).tolist()


@pytest.mark.parametrize(
    ("video", "found"),
    [
        (np.zeros((8, 3, 32, 32), np.uint8), r"\(8, 3, 32, 32\) uint8"),
        (np.zeros((8, 32, 32, 3), np.float32), "float32"),
        (torch.zeros(8, 32, 32, 3), "float32"),
        (np.zeros((3, 32, 32), np.uint8), r"\(3, 32, 32\)"),
        (np.zeros((32, 32), np.uint8), r"\(32, 32\)"),
        (np.zeros((32, 0, 3), np.uint8), r"\(32, 0, 3\)"),
        (np.zeros((2, 8, 32, 32, 3), np.uint8), r"\(2, 8, 32, 32, 3\)"),
        (np.zeros((8, 32, 32, 4), np.uint8), r"\(8, 32, 32, 4\)"),
        (np.zeros((8, 32, 32), np.uint8), r"\(8, 32, 32\)"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"\(0, 32, 32, 3\)"),
        ([np.zeros((3, 32, 32), np.uint8)], r"\(3, 32, 32\)"),
        ([np.zeros((32, 32, 3), np.uint8), np.zeros((30, 32, 3), np.uint8)], r"\(30, 32\), \(32, 32\)"),
        ([], "an empty list"),
        (["a.mp4"], "str in it"),
    ],
)
def test_ambiguous_layouts_are_named_in_the_error(video, found):
    with pytest.raises(ValueError, match=f"video: expected .*found.*{found}"):
        read_video(video, 2)


def test_inputs_that_are_not_videos_raise():
    with pytest.raises(TypeError, match=r"video: expected a path.*found int"):
        read_video(3, 2)


def test_a_list_of_images_is_one_video_and_any_other_list_a_batch(frames):
    images = [Image.fromarray(frame) for frame in frames]
    assert not is_video_batch(images)
    assert not is_video_batch(list(frames))
    assert not is_video_batch(frames)
    assert not is_video_batch("clip.mp4")
    assert is_video_batch(["clip.mp4"])
    assert is_video_batch([frames, frames])
    assert is_video_batch([images, "clip.mp4", b"bytes"])
    assert is_video_batch([])
    with pytest.raises(ValueError, match="found both in one list"):
        is_video_batch([images[0], "clip.mp4"])
    kinds = [classify_video_input(video) for video in ("a.mp4", b"x", frames, images)]
    assert kinds == ["file", "file", "array", "images"]


def _manifest_videos(shared_data, folder):
    with open(shared_data / "MANIFEST.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "video"]
    return [(shared_data / row["path"].removeprefix("shared/"), row) for row in rows if f"/{folder}/" in row["path"]]


@pytest.mark.parametrize("folder", ["recognition", "decode_edge", "gram", "languagebind"])
def test_real_clips_have_the_frames_and_times_of_the_manifest(shared_data, folder):
    clips = _manifest_videos(shared_data, folder)
    assert clips
    for path, row in clips:
        video = read_video(path, 8, "linspace")
        assert video.num_frames_total == int(row["frames"]), path
        assert sorted(video.frames.shape[1:3]) == sorted([int(row["width"]), int(row["height"])]), path
        assert (np.diff(video.times)[np.diff(video.indices) > 0] > 0).all(), path
        # The manifest gives the duration of the whole file; sound or other streams may be longer than the video.
        if path.name != "nasa_13013.mp4":
            assert video.duration == pytest.approx(float(row["duration_s"]), abs=0.06), path
        assert video.num_frames_total / video.duration == pytest.approx(float(row["fps"]), rel=0.015), path


def test_the_best_of_many_streams_is_read_with_its_times(shared_data):
    path = shared_data / "multimodal/decode_edge/nasa_13013.mp4"
    truth = json.loads(path.with_name(path.name + ".stream3.all_frames_info.json").read_text())
    video = read_frames(path, range(len(truth)))
    assert video.frames.shape[1:3] == (270, 480)
    np.testing.assert_allclose(video.times, [float(frame["pts_time"]) for frame in truth], atol=1e-6)
    assert video.duration == pytest.approx(sum(float(frame["duration_time"]) for frame in truth), abs=1e-3)


def test_phone_clips_are_rotated_upright(shared_data):
    folder = shared_data / "multimodal/decode_edge"
    shapes = {name: read_frames(folder / f"video_{name}.mov", [0]).frames.shape[1:3] for name in ("0", "90", "180")}
    assert shapes == {"0": (320, 568), "90": (568, 320), "180": (320, 568)}


def test_frames_of_real_clips_equal_those_of_a_sequential_decode(shared_data):
    import av

    for path, _ in _manifest_videos(shared_data, "recognition"):
        video = read_video(path, 3)
        with av.open(str(path)) as container:
            decoded = enumerate(container.decode(container.streams.best("video")))
            plain = {number: frame.to_ndarray(format="rgb24") for number, frame in decoded if number in video.indices}
        for number, frame in zip(video.indices, video.frames, strict=True):
            assert np.array_equal(frame, plain[number]), path
