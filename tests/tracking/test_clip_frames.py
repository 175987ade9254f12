"""All frames of a clip, at once and one by one: the same ones, whatever the clip is given as."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, flip_bits, read_stamps, set_display_matrix, write_clip
from PIL import Image

from modeling_sen.tracking import clip_frames
from modeling_sen.tracking.clip_frames import read_all_frames, stream_frames

KINDS = ["mp4", "mkv", "webm of VP9 with hidden frames", "avi with B-frames", "transport stream", "odd size"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_give_every_frame_in_order(tmp_path, kind):
    path = write_clip(tmp_path / f"clip{CLIP_KINDS[kind].suffix}", CLIP_KINDS[kind], range(30))
    frames = read_all_frames(path)
    assert read_stamps(frames) == list(range(30))
    with stream_frames(path, 30) as stream:
        assert np.array_equal(np.stack(list(stream.frames)), frames)
        assert (stream.ticks * float(stream.tick)).tolist() == pytest.approx(np.arange(31) / 30, abs=1.1e-3)
        assert (np.diff(stream.ticks) > 0).all()
        assert stream.source is not None


def test_times_are_those_of_the_file(tmp_path):
    times = np.cumsum([0, 0.02, 0.5, 0.03, 0.03])
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(5), times)
    with stream_frames(path, 5) as stream:
        assert (stream.ticks[:5] * float(stream.tick)).tolist() == pytest.approx(times, abs=1e-6)


def test_turned_files_are_upright(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(3))
    upright = read_all_frames(path)
    set_display_matrix(path, 0, 1, -1, 0)
    turned = read_all_frames(path)
    assert np.array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))
    with stream_frames(path, 3) as stream:
        assert np.array_equal(np.stack(list(stream.frames)), turned)


def test_arrays_tensors_and_images_are_taken_as_they_are():
    array = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    images = [Image.fromarray(frame) for frame in array]
    for video in (array, torch.tensor(array), list(array), images):
        assert np.array_equal(read_all_frames(video), array)
        with stream_frames(video, 4, fps=12.5) as stream:
            assert np.array_equal(np.stack(list(stream.frames)), array)
            assert (stream.ticks * stream.tick).tolist() == [Fraction(2 * number, 25) for number in range(5)]
            assert stream.source is None
    with stream_frames(array, 4) as stream:
        assert stream.ticks[-1] * stream.tick == Fraction(4, 24)
    assert read_all_frames(array) is array or np.shares_memory(read_all_frames(array), array)


def test_one_frame_is_a_clip(tmp_path):
    array = np.zeros((8, 6, 3), dtype=np.uint8)
    assert read_all_frames(array).shape == (1, 8, 6, 3)
    assert read_all_frames(Image.fromarray(array)).shape == (1, 8, 6, 3)
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], [5])
    assert read_stamps(read_all_frames(path)) == [5]
    with stream_frames(path, 1) as stream:
        assert len(stream.ticks) == 2
        assert read_stamps(list(stream.frames)) == [5]


def test_file_objects_and_bytes_are_read(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(6))
    with open(path, "rb") as file:
        for video in (file, path.read_bytes(), str(path)):
            assert read_stamps(read_all_frames(video)) == list(range(6))
            with stream_frames(video, 6) as stream:
                assert read_stamps(list(stream.frames)) == list(range(6))


def test_damaged_files_give_the_same_frames_both_ways(tmp_path, caplog):
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(40))
    damaged = flip_bits(path, tmp_path / "damaged.mp4", [3, 17], seed=3)
    cut = tmp_path / "cut.ts"
    whole = write_clip(tmp_path / "whole.ts", CLIP_KINDS["transport stream"], range(40)).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for video in (damaged, cut):
        frames = read_all_frames(video)
        assert 5 < len(frames) <= 40
        with stream_frames(video, len(frames)) as stream:
            assert len(list(stream.frames)) == len(frames)


def test_frames_that_cannot_be_decoded_are_left_out(tmp_path, monkeypatch):
    """By the fallback of `read_video`, which repeats others in their place."""
    array = np.arange(4 * 3, dtype=np.uint8).reshape(4, 1, 1, 3)
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(6))
    read_video = clip_frames.read_video
    monkeypatch.setattr(clip_frames, "read_video", lambda video, *rest: read_video(array, *rest))
    assert np.array_equal(read_all_frames(path), array)


def test_another_clip_is_refused(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(6))
    with (
        pytest.raises(ValueError, match=r"clip\.mp4: expected the clip that was tracked, of 7 frames, found 6"),
        stream_frames(path, 7),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"video: expected .* of 2 frames, found 3"),
        stream_frames([np.zeros((2, 2, 3), np.uint8)] * 3, 2),
    ):
        pass


@pytest.mark.parametrize("fps", [0, -1.0, float("inf"), float("nan")])
def test_other_rates_are_refused(fps):
    with (
        pytest.raises(ValueError, match="fps: expected a positive number"),
        stream_frames(np.zeros((1, 2, 2, 3), np.uint8), 1, fps),
    ):
        pass


def test_a_file_has_its_own_rate(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(2))
    with pytest.raises(ValueError, match="fps: expected none for a video file"), stream_frames(path, 2, 24):
        pass


def test_a_clip_larger_than_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(9))  # of 112 x 80
    monkeypatch.setattr(clip_frames, "LARGEST_CLIP", 9 * 112 * 80 * 3)
    assert len(read_all_frames(path)) == 9
    monkeypatch.setattr(clip_frames, "LARGEST_CLIP", 9 * 112 * 80 * 3 - 1)
    monkeypatch.setattr(clip_frames, "read_video", None)
    with pytest.raises(ValueError, match=r"clip\.mp4: expected at most .* GiB of frames, found 9 frames of 112 x 80"):
        read_all_frames(path)
