# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Draws tracked points on the frames of a clip, anti-aliased by NumPy, and writes them as mp4."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from modeling_sen.tracking.clip_frames import FrameStream, stream_frames
from modeling_sen.write_video import check_video_path, write_video

# Frames that a trail reaches back.
TRAIL = 12
# Five points of matplotlib's colour map "plasma", from its dark end to its bright one, mixed linearly between. Its lightness
# rises steadily, so that colour-blind people tell the colours apart.
COLOURS = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], dtype=np.float32)
# Around discs and rings, so that they are seen on frames of their own colour.
RIM = np.array([255, 255, 255], dtype=np.float32)
# Opacity of a trail's newest piece.
TRAIL_OPACITY = 0.8


def render_tracks(
    video: Any,
    tracks: np.ndarray,
    visibility: np.ndarray,
    query_points: np.ndarray,
    frame_size: tuple[int, int],
    path: str | os.PathLike | None = None,
    *,
    trail: int = TRAIL,
    fps: float | None = None,
) -> np.ndarray | None:
    """Draws tracks (T, N, 2) with visibility (T, N); see `SENTrackingOutput.render`."""
    if trail < 0:
        raise ValueError(f"trail: expected a number of frames of at least 0, found {trail}")
    if path is not None:
        check_video_path(path)
    colours = query_colours(query_points, frame_size[0])
    with stream_frames(video, len(tracks), fps) as stream:
        drawn = _drawn(stream, tracks, visibility, colours, frame_size, trail)
        if path is not None:
            write_video(path, drawn, frame_size, stream.ticks.tolist(), stream.tick, stream.source)
            return None
        frames = np.empty((len(tracks), *frame_size, 3), dtype=np.uint8)
        for number, frame in enumerate(drawn):
            frames[number] = frame
        return frames


def query_colours(query_points: np.ndarray, height: int) -> np.ndarray:
    """(N, 3) float32 RGB in 0..255: of `COLOURS` by the row of each query, the first at the top of the frame."""
    places = np.clip(query_points[:, 2] / max(height - 1, 1), 0, 1) * (len(COLOURS) - 1)
    channels = [np.interp(places, np.arange(len(COLOURS)), channel) for channel in COLOURS.T]
    return np.stack(channels, axis=1).astype(np.float32)


def _drawn(
    stream: FrameStream,
    tracks: np.ndarray,
    visibility: np.ndarray,
    colours: np.ndarray,
    frame_size: tuple[int, int],
    trail: int,
) -> Iterator[np.ndarray]:
    height, width = frame_size
    edge = np.array([width, height]) - 0.5
    inside = np.asarray(((tracks >= -0.5) & (tracks < edge)).all(axis=-1))  # (T, N)
    number = -1
    for number, frame in enumerate(stream.frames):
        if number == len(tracks):
            break
        if frame.shape[:2] != (height, width):
            raise ValueError(
                f"{stream.name}: expected the clip that was tracked, of (height, width) {(height, width)}, found "
                f"{frame.shape[:2]}"
            )
        picture = frame.copy()
        past = slice(max(0, number - trail), number + 1)
        draw_points(picture, tracks[past], visibility[past], inside[past], colours)
        yield picture
    if number + 1 != len(tracks):
        raise ValueError(f"{stream.name}: expected {len(tracks)} frames, found another number when it was read again")


def draw_points(
    frame: np.ndarray, tracks: np.ndarray, visibility: np.ndarray, inside: np.ndarray, colours: np.ndarray
) -> None:
    """Draws points on a frame, in place: trails first, rings of hidden points next, discs of visible points on top.

    Args:
        frame: (H, W, 3) uint8.
        tracks: (1 + trail, N, 2) x, y; the last row is of this frame, those before it are drawn as trails.
        visibility, inside: (1 + trail, N) bool; trails are drawn between visible points that are inside of the frame.
        colours: (N, 3) float32.
    """
    radius = max(2.0, 0.012 * min(frame.shape[:2]))
    line = max(1.0, 0.4 * radius)
    rim = 0.4 * line
    shown = visibility & inside
    for point in np.flatnonzero(shown[-1] | shown[:-1].any(axis=0)):
        _draw_trail(frame, tracks[:, point], shown[:, point], line, colours[point])
    for point in np.flatnonzero(inside[-1] & ~visibility[-1]):
        _draw_disc(frame, tracks[-1, point], radius + rim, RIM, hole=radius - line)
        _draw_disc(frame, tracks[-1, point], radius, colours[point], hole=radius - line)
    for point in np.flatnonzero(shown[-1]):
        _draw_disc(frame, tracks[-1, point], radius + rim, RIM)
        _draw_disc(frame, tracks[-1, point], radius, colours[point])


def _draw_disc(frame: np.ndarray, centre: np.ndarray, radius: float, colour: np.ndarray, hole: float = 0.0) -> None:
    """A disc, or a ring around a hole."""
    box = _box(frame, centre, centre, radius)
    distance = _distance(box, centre, centre)
    alpha = np.clip(radius + 0.5 - distance, 0, 1)
    if hole:
        alpha *= np.clip(distance - hole + 0.5, 0, 1)
    _blend(frame, box, alpha, colour)


def _draw_trail(frame: np.ndarray, path: np.ndarray, shown: np.ndarray, line: float, colour: np.ndarray) -> None:
    """The way (1 + trail, 2) of one point; where pieces of it meet, the more opaque one is drawn and not both."""
    moves = np.flatnonzero(shown[1:] & shown[:-1] & (path[1:] != path[:-1]).any(axis=-1))
    if not len(moves):
        return
    ends = path[np.concatenate([moves, moves + 1])]
    whole = _box(frame, ends.min(axis=0), ends.max(axis=0), line / 2)
    alpha = np.zeros((whole[1] - whole[0], whole[3] - whole[2]), dtype=np.float32)
    for move in moves:
        start, end = path[move], path[move + 1]
        top, bottom, left, right = box = _box(frame, np.minimum(start, end), np.maximum(start, end), line / 2)
        piece = np.clip(line / 2 + 0.5 - _distance(box, start, end), 0, 1) * (
            TRAIL_OPACITY * (move + 1) / len(path[1:])
        )
        place = alpha[top - whole[0] : bottom - whole[0], left - whole[2] : right - whole[2]]
        np.maximum(place, piece, out=place)
    _blend(frame, whole, alpha, colour)


def _box(frame: np.ndarray, low: np.ndarray, high: np.ndarray, radius: float) -> tuple[int, int, int, int]:
    """First and last + 1 row, first and last + 1 column of the pixels within a radius of what lies between two corners."""
    left, top = np.maximum(np.floor(low - radius - 0.5).astype(int), 0)
    right, bottom = np.ceil(high + radius + 0.5).astype(int) + 1
    return top, min(bottom, frame.shape[0]), left, min(right, frame.shape[1])


def _distance(box: tuple[int, int, int, int], start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(rows, columns) float32, from each pixel of a box to the nearest point of a line."""
    top, bottom, left, right = box
    x = np.arange(left, right, dtype=np.float32) - start[0]
    y = (np.arange(top, bottom, dtype=np.float32) - start[1])[:, None]
    way = end - start
    length = float(way @ way)
    if length:
        along = np.clip((x * way[0] + y * way[1]) / length, 0, 1)
        x, y = x - along * way[0], y - along * way[1]
    return np.sqrt(x * x + y * y)


def _blend(frame: np.ndarray, box: tuple[int, int, int, int], alpha: np.ndarray, colour: np.ndarray) -> None:
    top, bottom, left, right = box
    patch = frame[top:bottom, left:right]
    patch[:] = patch + alpha[..., None] * (colour - patch) + 0.5  # cut to whole numbers, so rounded


__all__ = ["draw_points", "query_colours", "render_tracks"]
