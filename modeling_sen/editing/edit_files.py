# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Writes edits to mp4 files: an edit with the sound of the edited part, and source and edits side by side."""

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modeling_sen.media_source import open_media_source
from modeling_sen.video_io import classify_video_input
from modeling_sen.write_video import check_video_path, write_video

TICK = Fraction(1, 90_000)  # seconds; at all usual frame rates, a frame lasts a whole number of ticks
COLUMN = 256  # frames are enlarged to at most this many pixels on the short side, so that labels are readable
FONT_SIZE, MARGIN, LABEL_LINES = 14, 6, 3


def write_frames(
    path: str | os.PathLike,
    frames: Sequence[np.ndarray] | np.ndarray,
    times: np.ndarray,
    fps: float,
    video: Any = None,
) -> None:
    """Writes an mp4 file (H.264) atomically. Odd sizes are padded by a row or column.

    Args:
        path: the file.
        frames: T frames (H, W, 3) uint8.
        times: (T,) increasing times of the frames in the video, in seconds.
        fps: frames per second; the last frame is shown for 1 / fps seconds.
        video: the source of the frames, an input of `read_video`; if it is a file, the sound of the same part is copied.

    Raises:
        ValueError, FileNotFoundError: see `check_video_path` and `read_video`.
    """
    check_video_path(path)
    edges = np.append(times, times[-1] + 1 / fps)
    ticks = np.round((edges - edges[0]) * int(1 / TICK)).astype(np.int64).tolist()
    is_file = video is not None and classify_video_input(video) == "file"
    with open_media_source(video) if is_file else nullcontext() as source:
        span = (float(edges[0]), float(edges[-1]))
        write_video(path, frames, frames[0].shape[:2], ticks, TICK, source, span)


def write_comparison(
    path: str | os.PathLike,
    columns: Sequence[tuple[str, np.ndarray]],
    times: np.ndarray,
    fps: float,
    video: Any = None,
) -> None:
    """Writes clips of equal size side by side, each below its label; see [`write_frames`].

    Args:
        path, times, fps, video: see [`write_frames`].
        columns: pairs of label and frames (T, H, W, 3) uint8.
    """
    write_frames(path, list(compared(columns)), times, fps, video)


def compared(columns: Sequence[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
    """Yields frames with the columns side by side, each below its label. Small frames are enlarged by a whole factor."""
    height, width = columns[0][1].shape[1:3]
    factor = max(1, COLUMN // min(height, width))
    labels = _labels([label for label, _ in columns], factor * width)
    for row in zip(*(frames for _, frames in columns), strict=True):
        pictures = [frame.repeat(factor, axis=0).repeat(factor, axis=1) for frame in row]
        yield np.concatenate([labels, np.concatenate(pictures, axis=1)])


def _labels(texts: Sequence[str], width: int) -> np.ndarray:
    """A white bar (height, columns * width, 3) uint8 with a text above each column."""
    font = ImageFont.load_default(FONT_SIZE)
    wrapped = [_wrapped(text, width - 2 * MARGIN, font) for text in texts]
    line = round(1.3 * FONT_SIZE)
    bar = Image.new("RGB", (len(texts) * width, 2 * MARGIN + line * max(map(len, wrapped))), "white")
    draw = ImageDraw.Draw(bar)
    for column, lines in enumerate(wrapped):
        for row, text in enumerate(lines):
            draw.text((column * width + MARGIN, MARGIN + row * line), text, fill="black", font=font)
    return np.asarray(bar)


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    """Wraps a text to lines of at most `width` pixels, cut after `LABEL_LINES` lines."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    shown, is_cut = lines[:LABEL_LINES], len(lines) > LABEL_LINES
    return [_shortened(line, width, font, is_cut and number == LABEL_LINES - 1) for number, line in enumerate(shown)]


def _shortened(line: str, width: int, font: Any, is_cut: bool) -> str:
    if not is_cut and font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."


__all__ = ["compared", "write_comparison", "write_frames"]
