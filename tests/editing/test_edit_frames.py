"""The frames of a stretch of a video, at its own or a lower rate."""

import numpy as np
import pytest
from frame_stamps import CLIP_KINDS, read_stamps, write_clip
from PIL import Image

pytest.importorskip("diffusers")

from modeling_sen.editing import edit_frames
from modeling_sen.editing.edit_frames import read_stretch, resized


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 frames, 10 a second."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", CLIP_KINDS["mp4"], range(20), rate=10)


@pytest.mark.parametrize(
    ("stretch", "expected"),
    [
        ({}, range(20)),
        ({"start": 0.5}, range(5, 20)),
        ({"end": 0.5}, range(5)),
        ({"start": 0.3, "end": 0.6}, [3, 4, 5]),
        ({"start": 0.3004, "end": 0.6004}, [3, 4, 5]),  # as rounded to milliseconds by others
        ({"start": 0.32, "end": 0.36}, [3]),  # the frame on show
        ({"start": 1.9, "end": 99.0}, [19]),
    ],
)
def test_frames_between_start_and_end(video, stretch, expected):
    found = read_stretch(video, **stretch)
    assert read_stamps(found.frames) == list(expected)
    assert np.allclose(found.times, np.array(list(expected)) / 10, atol=1e-3)
    assert found.fps == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(
    ("fps", "expected", "rate"), [(5, range(4, 20, 2), 5), (2.5, [4, 8, 12, 16], 2.5), (24, range(4, 20), 10)]
)
def test_a_rate_selects_fewer_frames_and_none_twice(video, fps, expected, rate):
    found = read_stretch(video, start=0.4, fps=fps)
    assert read_stamps(found.frames) == list(expected)
    assert found.fps == pytest.approx(rate, rel=0.01)


def test_arrays_and_images_have_24_frames_a_second():
    frames = np.random.default_rng(0).integers(0, 256, (13, 6, 8, 3), dtype=np.uint8)
    for video in (frames, [Image.fromarray(frame) for frame in frames]):
        found = read_stretch(video)
        assert np.array_equal(found.frames, frames)
        assert found.fps == pytest.approx(24)
        assert np.array_equal(read_stretch(video, end=0.25).frames, frames[:6])
    single = read_stretch(frames[0])
    assert (single.frames.shape, single.times.tolist(), single.fps) == ((1, 6, 8, 3), [0.0], pytest.approx(24))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 2.0}, "expected 0 <= start < end <= 2 seconds, found 2.0 and None"),
        ({"start": -0.1}, "found -0.1 and None"),
        ({"start": 1.0, "end": 1.0}, "found 1.0 and 1.0"),
        ({"fps": 0}, "fps: expected a positive number"),
        ({"fps": float("nan")}, "fps: expected a positive number"),
    ],
)
def test_invalid_start_and_end(video, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_stretch(video, **arguments)


def test_too_many_frames(video, monkeypatch):
    monkeypatch.setattr(edit_frames, "LARGEST_CLIP", 10 * 112 * 80 * 3)
    assert len(read_stretch(video, end=1.0).frames) == 10
    with pytest.raises(ValueError, match=r"20 frames of 112 x 80.*set start and end to read a part"):
        read_stretch(video)


def test_resizing_keeps_frames_of_the_right_size():
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    assert resized(frames, (6, 8)) is frames
    expected = [Image.fromarray(frame).resize((4, 3), Image.Resampling.LANCZOS) for frame in frames]
    assert np.array_equal(resized(frames, (3, 4)), np.stack(expected))
