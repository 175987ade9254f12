# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""All frames of a clip: at once for the tracker, one by one for the pictures of its tracks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from modeling_sen.frame_index import FrameIndex, index_frames
from modeling_sen.media_source import MediaSource, open_media_source
from modeling_sen.video_decoder import decoded_frames, upright, use_threads, video_stream
from modeling_sen.video_io import ARRAY_FRAME_RATE, classify_video_input, given_frames, read_frames, read_video

# Bytes of decoded frames that a file may come to: a tracker holds all of them.
LARGEST_CLIP = 8 << 30
# Seconds between ticks where a file has no clock of its own; frames of all usual rates are whole numbers of ticks apart.
TICK = Fraction(1, 90_000)


def read_all_frames(video: Any) -> np.ndarray:
    """Every frame of a clip, (T, H, W, 3) uint8 RGB, upright; those that cannot be decoded are left out.

    Args:
        video: as `read_video` takes it.

    Raises:
        ValueError: the frames of a file come to more than `LARGEST_CLIP` bytes; and as `read_video`.
        FileNotFoundError, ConnectionError, TypeError: as `read_video`.
    """
    if classify_video_input(video) != "file":
        return read_video(video, len(given_frames(video)), "linspace").frames
    with open_media_source(video) as source:
        total = len(index_frames(source).times)
        with source.container() as container:
            size = video_stream(container, source.name).codec_context
            needed = total * size.width * size.height * 3
        if needed > LARGEST_CLIP:
            raise ValueError(
                f"{source.name}: expected at most {LARGEST_CLIP / 2**30:.3g} GiB of frames, found {total} frames of "
                f"{size.width} x {size.height}, {needed / 2**30:.3g} GiB; cut the clip, or give smaller frames as an array"
            )
        found = read_video(source, total, "linspace")
        if found.num_frames_total == total:
            return found.frames
        # Others were repeated in the place of those that cannot be decoded.
        return found.frames[np.unique(found.indices, return_index=True)[1]]


def clip_shape(source: MediaSource) -> tuple[int, int, int]:
    """Frames, height and width of a file's clip, upright. Frames that cannot be decoded are counted.

    Raises:
        ValueError: as `read_video`.
    """
    height, width = read_frames(source, [0]).frames.shape[1:3]
    return len(index_frames(source).times), height, width


@dataclass(frozen=True)
class FrameStream:
    """Frames one by one.

    Attributes:
        name: what error messages call the clip.
        frames: each (H, W, 3) uint8 RGB, upright, all of one size.
        ticks: (T + 1,) int64, when each frame is first shown, and when the last one ends, in units of `tick` seconds; from 0
            on, strictly increasing.
        source: the file, None where there is none.
    """

    name: str
    frames: Iterator[np.ndarray]
    ticks: np.ndarray
    tick: Fraction
    source: MediaSource | None


@contextmanager
def stream_frames(video: Any, num_frames: int, fps: float | None = None) -> Iterator[FrameStream]:
    """The frames that `read_all_frames` returns, decoded as they are taken.

    Args:
        num_frames: how many there are.
        fps: of an array or of images, by default 24.

    Raises:
        ValueError: another number of frames, `fps` for a file, or not positive; and as `read_video`.
        FileNotFoundError, ConnectionError, TypeError: as `read_video`.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps: expected a positive number of frames per second, found {fps}")
    if classify_video_input(video) != "file":
        given = given_frames(video)
        _check_number("video", len(given), num_frames)
        images = (read_video(image, 1).frames[0] for image in given)
        times = np.arange(num_frames + 1) / (fps or ARRAY_FRAME_RATE)
        yield FrameStream("video", images, _ticks(times, TICK), TICK, None)
        return
    if fps is not None:
        raise ValueError(f"fps: expected none for a video file, which has its own times, found {fps:g}")
    with open_media_source(video) as source:
        index = index_frames(source)
        if len(index.times) != num_frames:  # some frames that the file promises cannot be decoded
            index = index_frames(source, by_decoding=True)
        _check_number(source.name, len(index.times), num_frames)
        with source.container() as container:
            tick = video_stream(container, source.name).time_base or TICK
        times = np.append(index.times, index.duration)
        if (
            np.diff(_ticks(times, tick)) <= 0
        ).any():  # times that were counted, as of AVI, need not fit the file's clock
            tick = TICK
        yield FrameStream(source.name, _decoded(source, index), _ticks(times, tick), tick, source)


def _ticks(times: np.ndarray, tick: Fraction) -> np.ndarray:
    return np.round(times / float(tick)).astype(np.int64)


def _check_number(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name}: expected the clip that was tracked, of {expected} frames, found {found} frames")


def _decoded(source: MediaSource, index: FrameIndex) -> Iterator[np.ndarray]:
    shown = None if index.packets is None else set(index.packets.pts[index.packets.of_frame].tolist())
    size = None
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1)  # with more, damaged files give another number of frames in each run
        for frame, _ in decoded_frames(container, stream):
            if frame is None or (shown is not None and frame.pts not in shown):
                continue
            size = size or (frame.width, frame.height)  # a stream may change its size on the way
            yield upright(frame, frame.to_ndarray(format="rgb24", width=size[0], height=size[1]))


__all__ = ["FrameStream", "read_all_frames", "stream_frames"]
