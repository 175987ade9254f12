# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Writes frames as an mp4 file while they are made, at the times of the clip that they come from and with its sound.

H.264 in 4:2:0, which every player shows, takes even sizes only: frames of an odd height or width get one more row or column,
a copy of the last one.
"""

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from modeling_sen.media_source import MediaSource
from modeling_sen.sound_track import sound_packets
from modeling_sen.video_decoder import granted_threads
from modeling_sen.whole_file import whole_file


def write_video(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    frame_size: tuple[int, int],
    ticks: Sequence[int],
    tick: Fraction,
    source: MediaSource | None = None,
    stretch: tuple[float, float] | None = None,
) -> None:
    """Writes an mp4 file, complete or not at all.

    Args:
        frames: T of (H, W, 3) uint8 RGB; taken one by one.
        frame_size: (H, W).
        ticks: T + 1 times in units of `tick` seconds, when each frame is first shown, and when the last one ends; from 0 on,
            strictly increasing.
        source: a video file, whose sound is written too.
        stretch: (start, end) seconds of the source that the frames are of, where they are not of all of it.
    """
    rate = Fraction(1 / (tick * Fraction(ticks[-1], len(ticks) - 1))).limit_denominator(1001)
    with whole_file(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        video.height, video.width = (length + length % 2 for length in frame_size)
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = tick
        video.thread_count = granted_threads()
        # Compressed sound is small: it is held and written between the frames that it belongs to.
        sound = [] if source is None else sound_packets(source, container, stretch)
        sound.reverse()  # taken from its end
        for (start, end), frame in zip(pairwise(ticks), frames, strict=True):
            while sound and sound[-1][0] <= start * tick:
                container.mux(sound.pop()[1])
            picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
            picture.pts, picture.duration, picture.time_base = start, end - start, tick
            container.mux(video.encode(picture))
        container.mux(video.encode())
        for _, packet in reversed(sound):
            container.mux(packet)


def check_video_path(path: str | os.PathLike) -> None:
    """
    Raises:
        ValueError: the path does not end in .mp4.
        FileNotFoundError: no such folder.
    """
    if Path(path).suffix.lower() != ".mp4":
        raise ValueError(f"{path}: expected a file ending in .mp4, found {Path(path).suffix!r}")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path}: no folder {Path(path).parent}")


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


__all__ = ["check_video_path", "write_video"]
