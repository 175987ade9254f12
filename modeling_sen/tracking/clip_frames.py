# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads all frames of a clip: at once for the tracker, or one by one for rendering tracks."""

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

# Largest size in bytes of a file's decoded frames, which the tracker holds in memory.
LARGEST_CLIP = 8 << 30
# Default tick in seconds, for files without a time base; at all usual frame rates, a frame lasts a whole number of ticks.
TICK = Fraction(1, 90_000)


def read_all_frames(video: Any) -> np.ndarray:
    """Reads every frame of a clip, (T, H, W, 3) uint8 RGB, upright, without frames that cannot be decoded.

    Args:
        video: an input of `read_video`.

    Raises:
        ValueError: the frames of a file exceed `LARGEST_CLIP` bytes; and see `read_video`.
        FileNotFoundError, ConnectionError, TypeError: see `read_video`.
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
                f"{size.width} x {size.height}, {needed / 2**30:.3g} GiB; cut the clip, or pass smaller frames as an array"
            )
        found = read_video(source, total, "linspace")
        if found.num_frames_total == total:
            return found.frames
        # `read_video` repeats other frames in place of those that cannot be decoded.
        return found.frames[np.unique(found.indices, return_index=True)[1]]


def clip_shape(source: MediaSource) -> tuple[int, int, int]:
    """Number of frames, height and width of a file's clip, upright. The number includes frames that cannot be decoded.

    Raises:
        ValueError: see `read_video`.
    """
    height, width = read_frames(source, [0]).frames.shape[1:3]
    return len(index_frames(source).times), height, width


@dataclass(frozen=True)
class FrameStream:
    """The frames of a clip as an iterator.

    Attributes:
        name: name of the clip in error messages.
        frames: (H, W, 3) uint8 RGB frames, upright, all of equal size.
        ticks: (T + 1,) int64, the start of each frame and the end of the last one in ticks; starts at 0, strictly increasing.
        tick: duration of a tick in seconds.
        source: the file; `None` for other inputs.
    """

    name: str
    frames: Iterator[np.ndarray]
    ticks: np.ndarray
    tick: Fraction
    source: MediaSource | None


@contextmanager
def stream_frames(video: Any, num_frames: int, fps: float | None = None) -> Iterator[FrameStream]:
    """Streams the frames of `read_all_frames`, decoded one at a time.

    Args:
        video: an input of `read_video`.
        num_frames: expected number of frames.
        fps: frame rate of an array or of images, by default 24.

    Raises:
        ValueError: another number of frames; `fps` for a file, or not positive; and see `read_video`.
        FileNotFoundError, ConnectionError, TypeError: see `read_video`.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps: expected a positive number of frames per second, found {fps}")
    if classify_video_input(video) != "file":
        items = given_frames(video)
        _check_number("video", len(items), num_frames)
        images = (read_video(image, 1).frames[0] for image in items)
        times = np.arange(num_frames + 1) / (fps or ARRAY_FRAME_RATE)
        yield FrameStream("video", images, _ticks(times, TICK), TICK, None)
        return
    if fps is not None:
        raise ValueError(f"fps: expected none for a video file, which has its own times, found {fps:g}")
    with open_media_source(video) as source:
        index = index_frames(source)
        if len(index.times) != num_frames:  # some indexed frames cannot be decoded
            index = index_frames(source, by_decoding=True)
        _check_number(source.name, len(index.times), num_frames)
        with source.container() as container:
            tick = video_stream(container, source.name).time_base or TICK
        times = np.append(index.times, index.duration)
        if (
            np.diff(_ticks(times, tick)) <= 0
        ).any():  # times derived from frame numbers, as in AVI, may not fit the time base
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
        use_threads(stream.codec_context, 1)  # with more, the number of frames of damaged files varies between runs
        for frame, _ in decoded_frames(container, stream):
            if frame is None or (shown is not None and frame.pts not in shown):
                continue
            size = size or (frame.width, frame.height)  # the size may change within a stream
            yield upright(frame, frame.to_ndarray(format="rgb24", width=size[0], height=size[1]))


__all__ = ["FrameStream", "read_all_frames", "stream_frames"]
