# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads the frames of a video to edit: a part of it, at a frame rate, in the size of the base model."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from modeling_sen.frame_index import index_frames
from modeling_sen.frame_sampling import TIME_TOLERANCE, FrameRequest
from modeling_sen.media_source import MediaSource, open_media_source
from modeling_sen.video_io import (
    ARRAY_FRAME_RATE,
    classify_video_input,
    given_frames,
    read_frames,
    read_video_requests,
)

LARGEST_CLIP = 8 << 30  # largest size in bytes of the frames of a file, which are held in memory


@dataclass(frozen=True)
class EditFrames:
    """
    Attributes:
        frames: (T, H, W, 3) uint8 RGB, upright.
        times: (T,) float64 seconds from the video's first frame.
        fps: frames per second.
    """

    frames: np.ndarray
    times: np.ndarray
    fps: float


def read_stretch(video: Any, start: float = 0.0, end: float | None = None, fps: float | None = None) -> EditFrames:
    """Reads the frames of a video between `start` and `end`, without those that cannot be decoded.

    Args:
        video: an input of `read_video`. Frames of arrays and lists are 1 / 24 seconds apart.
        start, end: seconds from the video's first frame; by default to the end of the video.
        fps: frames per second; by default, and if the video has fewer, every frame.

    Raises:
        ValueError: no frames between `start` and `end`; a rate that is not positive; more than `LARGEST_CLIP` bytes; and see
            `read_video`.
        FileNotFoundError, ConnectionError, TypeError: see `read_video`.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps: expected a positive number of frames per second, found {fps}")
    is_file = classify_video_input(video) == "file"
    with open_media_source(video) if is_file else nullcontext(video) as source:
        if is_file:
            index = index_frames(source)
            times, duration = index.times, index.duration
        else:
            times = np.arange(len(given_frames(source))) / ARRAY_FRAME_RATE
            duration = len(times) / ARRAY_FRAME_RATE
        stop = duration if end is None else min(end, duration)
        if not 0 <= start < stop:
            raise ValueError(f"start, end: expected 0 <= start < end <= {duration:g} seconds, found {start} and {end}")
        wanted = int(np.diff(np.searchsorted(times, np.array([start, stop]) - TIME_TOLERANCE))[0])
        wanted, rule = max(wanted, 1), "linspace"
        if fps is not None and (fewer := math.ceil((stop - start) * fps)) < wanted:
            wanted, rule = fewer, f"fps:{fps}"
        if is_file:
            _check_bytes(source, wanted)
        found = read_video_requests(source, [FrameRequest(wanted, rule, (start, stop))])[0]
    kept = np.unique(found.indices, return_index=True)[1]  # frames that cannot be decoded were replaced by others
    frames, times = found.frames[kept], found.times[kept]
    step = np.median(np.diff(times)) if len(times) > 1 else duration / found.num_frames_total
    return EditFrames(frames, times, 1 / float(step))


def _check_bytes(source: MediaSource, wanted: int) -> None:
    height, width = read_frames(source, [0]).frames.shape[1:3]
    if (needed := wanted * height * width * 3) > LARGEST_CLIP:
        raise ValueError(
            f"{source.name}: expected at most {LARGEST_CLIP / 2**30:.3g} GiB of frames, found {wanted} frames of {width} x "
            f"{height}, {needed / 2**30:.3g} GiB; set start and end to read a part, or a smaller fps"
        )


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes frames (T, H, W, 3) uint8 to (height, width) `size` with Pillow's Lanczos filter."""
    if frames.shape[1:3] == tuple(size):
        return frames
    images = [Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS) for frame in frames]
    return np.stack([np.asarray(image) for image in images])


__all__ = ["LARGEST_CLIP", "EditFrames", "read_stretch", "resized"]
