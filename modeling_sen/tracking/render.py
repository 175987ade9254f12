# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Draws tracked points on the frames of a clip, anti-aliased with NumPy, and writes mp4 files."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from modeling_sen.tracking.clip_frames import FrameStream, stream_frames
from modeling_sen.write_video import check_video_path, write_video

# Length of a trail in frames.
TRAIL = 12
# Five colours of matplotlib's map "plasma" from dark to bright, interpolated linearly. Their lightness increases steadily,
# which also distinguishes them for colour-blind readers.
COLOURS = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], dtype=np.float32)
# Outline of discs and rings, for frames of the same colour.
RIM = np.array([255, 255, 255], dtype=np.float32)
# Opacity of the newest segment of a trail.
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
    """(N, 3) float32 RGB in 0..255: `COLOURS` interpolated by the queries' rows, the first colour at the top."""
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
        raise ValueError(f"{stream.name}: expected {len(tracks)} frames, found another number on reading it again")


def draw_points(
    frame: np.ndarray, tracks: np.ndarray, visibility: np.ndarray, inside: np.ndarray, colours: np.ndarray
) -> None:
    """Draws points on a frame in place: first trails, then rings for hidden points, then discs for visible points.

    Args:
        frame: (H, W, 3) uint8.
        tracks: (1 + trail, N, 2) x, y; the last row belongs to this frame, earlier rows are drawn as trails.
        visibility, inside: (1 + trail, N) bool; trails connect visible points inside the frame.
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
    """Draws a disc, or a ring if `hole` is not 0."""
    box = _box(frame, centre, centre, radius)
    distance = _distance(box, centre, centre)
    alpha = np.clip(radius + 0.5 - distance, 0, 1)
    if hole:
        alpha *= np.clip(distance - hole + 0.5, 0, 1)
    _blend(frame, box, alpha, colour)


def _draw_trail(frame: np.ndarray, path: np.ndarray, shown: np.ndarray, line: float, colour: np.ndarray) -> None:
    """Draws the path (1 + trail, 2) of a point; overlapping segments are not blended, the more opaque one is drawn."""
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
    """The rectangle between two corners, widened by `radius` and clipped to the frame: top, bottom, left, right."""
    left, top = np.maximum(np.floor(low - radius - 0.5).astype(int), 0)
    right, bottom = np.ceil(high + radius + 0.5).astype(int) + 1
    return top, min(bottom, frame.shape[0]), left, min(right, frame.shape[1])


def _distance(box: tuple[int, int, int, int], start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(rows, columns) float32 distances from each pixel of a box to a line segment."""
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
    patch[:] = patch + alpha[..., None] * (colour - patch) + 0.5  # the cast to uint8 truncates; + 0.5 rounds


__all__ = ["draw_points", "query_colours", "render_tracks"]
