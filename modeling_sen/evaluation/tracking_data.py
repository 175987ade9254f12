# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads clips with true tracks or masks: TAP-Vid, BADJA, DAVIS and the generated world. The package contains no data sets.

Positions are x, y in pixels of the stored frames, with pixel centres at whole numbers. TAP-Vid stores positions as fractions
of
width and height from the corner of the first pixel: x = fraction * width - 0.5. TAP-Vid's script for Kinetics stores points
half a pixel closer to that corner; as in TAP-Vid's own evaluation, this is not corrected.
"""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from modeling_sen.evaluation.array_pickle import load_array_pickle
from modeling_sen.evaluation.tracking_calibration import calibration_bins
from modeling_sen.evaluation.tracking_metrics import (
    evaluated_frames,
    found_points,
    sample_queries,
    tracking_metrics,
)
from modeling_sen.video_io import read_frames, read_video
from modeling_sen.world.tracking_clips import tracking_clip

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
BADJA_SIZE = (1080, 1920)  # height and width of the frames in which BADJA's joints were annotated

# An array (T, H, W, 3) uint8, encoded images, paths of images, or the path of a video file.
FrameSource: TypeAlias = np.ndarray | Sequence[bytes | Path] | Path


@dataclass(frozen=True, eq=False)
class TrackedClip:
    """A clip with queries and their true tracks.

    Attributes:
        name: name of the clip in its data set.
        queries: (N, 3) float32 t, x, y.
        tracks: (T, N, 2) float32 x, y, NaN where unknown.
        visibility: (T, N) bool.
        frame_size: (height, width).
        query_mode: "first" or "strided", the mode in which the queries were sampled.
        annotated: (T,) bool, true for frames with a truth; `None` if all have one.
        source: source of the frames.
    """

    name: str
    queries: np.ndarray = field(repr=False)
    tracks: np.ndarray = field(repr=False)
    visibility: np.ndarray = field(repr=False)
    frame_size: tuple[int, int]
    query_mode: str
    annotated: np.ndarray | None = field(repr=False)
    source: FrameSource = field(repr=False)

    def read_frames(self) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, decoded at each call; read-only if the data set stores arrays.

        Raises:
            ValueError: a frame cannot be decoded, or the video and the tracks differ in the number of frames.
        """
        return _read_frames(self.name, self.source, len(self.tracks))

    def metrics(self, tracks: np.ndarray, visibility: np.ndarray) -> dict[str, float]:
        """`tracking_metrics` of predicted tracks (T, N, 2) and visibility (T, N) bool of the queries."""
        return tracking_metrics(
            tracks,
            visibility,
            self.tracks,
            self.visibility,
            self.queries,
            self.frame_size,
            self.query_mode,
            self.annotated,
        )

    def calibration(self, tracks: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """`calibration_bins`, over the evaluated frames, of the confidence (T, N) that a point is visible and less than 4
        pixels, at 256 x 256, from the predicted position (T, N, 2).

        Raises:
            ValueError: confidence of another shape or outside 0..1.
        """
        if confidence.shape != self.visibility.shape:
            raise ValueError(f"confidence: expected shape {self.visibility.shape}, found {confidence.shape}")
        evaluated = evaluated_frames(self.queries, len(self.tracks), self.query_mode, self.annotated)
        found = found_points(tracks, self.tracks, self.visibility, self.frame_size)
        return calibration_bins(confidence[evaluated], found[evaluated])


@dataclass(frozen=True, eq=False)
class MaskedClip:
    """A clip with a mask for each frame. `masks` (T, H, W) uint8: 0 is background, other values are objects."""

    name: str
    masks: np.ndarray = field(repr=False)
    source: FrameSource = field(repr=False)

    def read_frames(self) -> np.ndarray:
        """See [`TrackedClip.read_frames`]."""
        return _read_frames(self.name, self.source, len(self.masks))


def read_tapvid(path: str | os.PathLike, query_mode: str) -> list[TrackedClip]:
    """Reads the clips of a TAP-Vid pickle: a dict of clips by name (DAVIS, RoboTAP) or a list (RGB-Stacking, a Kinetics
    shard).

    A clip has `points` (N, T, 2) x, y in 0..1, `occluded` (N, T) bool, and `video`: (T, H, W, 3) uint8 or T encoded images.
    Reading runs no code from the pickle; `TrackedClip.read_frames` decodes encoded frames.

    Args:
        path: the pickle.
        query_mode: "first" or "strided", see `sample_queries`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the pickle contains other objects than arrays, or other arrays; a clip has no query; an unknown query
            mode.
    """
    content = load_array_pickle(path)
    if not isinstance(content, dict | list) or not content:
        raise ValueError(f"{path}: expected a dict or a list of clips, found {_kind(content)}")
    named = content.items() if isinstance(content, dict) else enumerate(content)
    return [_tapvid_clip(str(name), f"{path}, clip {name}", clip, query_mode) for name, clip in named]


def _tapvid_clip(name: str, place: str, clip: Any, query_mode: str) -> TrackedClip:
    if not isinstance(clip, dict) or not {"points", "occluded", "video"} <= clip.keys():
        raise ValueError(f"{place}: expected a dict with points, occluded and video, found {_kind(clip)}")
    points, occluded, video = clip["points"], clip["occluded"], clip["video"]
    if not isinstance(points, np.ndarray) or points.ndim != 3 or points.shape[2] != 2 or points.dtype.kind != "f":
        raise ValueError(f"{place}: points: expected floats of shape (points, frames, 2), found {_kind(points)}")
    if not points.size:
        raise ValueError(f"{place}: points: expected at least one point and one frame, found {_kind(points)}")
    if not isinstance(occluded, np.ndarray) or occluded.dtype != bool or occluded.shape != points.shape[:2]:
        raise ValueError(f"{place}: occluded: expected bool of shape {points.shape[:2]}, found {_kind(occluded)}")
    source: FrameSource
    if isinstance(video, np.ndarray) and video.ndim == 4 and video.shape[3] == 3 and video.dtype == np.uint8:
        source = video
    elif isinstance(video, list | tuple | np.ndarray) and all(isinstance(image, bytes) for image in video):
        source = [bytes(image) for image in video]
    else:
        raise ValueError(f"{place}: video: expected (T, H, W, 3) uint8 or encoded images, found {_kind(video)}")
    if len(source) != points.shape[1]:
        raise ValueError(f"{place}: expected a frame for each of {points.shape[1]} positions, found {len(source)}")
    size = _frame_size(place, source)
    tracks = points.transpose(1, 0, 2) * size[::-1] - 0.5
    return _with_queries(name, place, source, size, tracks, ~occluded.T, query_mode)


def read_badja(
    joints: str | os.PathLike,
    frames: str | os.PathLike,
    query_mode: str,
    joints_size: tuple[int, int] = BADJA_SIZE,
) -> TrackedClip:
    """Reads a clip of BADJA: joints of an animal, annotated manually in some frames of a DAVIS clip.

    Args:
        joints: BADJA's json file, with an entry per annotated frame: `image_path`, `joints` as row and column, `visibility`.
        frames: folder of the clip's frames, of any size, named as in `image_path`.
        query_mode: "first" or "strided". Joints without a query are left out.
        joints_size: (height, width) of the frames in which the joints were annotated.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a json of another layout, an annotated frame without its image, or no query.
    """
    try:
        entries = json.loads(Path(joints).read_text())
        stems = [Path(entry["image_path"]).stem for entry in entries]
        marked = np.array([entry["joints"] for entry in entries], dtype=np.float64)
        seen = np.array([entry["visibility"] for entry in entries], dtype=bool)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{joints}: expected entries with image_path, joints and visibility: {error!r}") from error
    if marked.ndim != 3 or marked.shape[2] != 2 or seen.shape != marked.shape[:2]:
        raise ValueError(
            f"{joints}: expected row, column and visibility of each joint, found {marked.shape} {seen.shape}"
        )
    images = _images(Path(frames))
    numbers = {image.stem: number for number, image in enumerate(images)}
    for stem in stems:
        if stem not in numbers:
            raise ValueError(f"{frames}: expected frame {stem}, marked in {joints}, found no image of that name")
    size = _frame_size(str(frames), images)
    at = [numbers[stem] for stem in stems]
    scale = np.divide(size, joints_size)[::-1]
    positions = (marked[..., ::-1] + 0.5) * scale - 0.5
    positions[~seen & (marked == 0).all(axis=-1)] = np.nan  # joints without annotation are stored as 0, 0
    tracks = np.full((len(images), *positions.shape[1:]), np.nan)
    visibility, annotated = np.zeros(tracks.shape[:2], dtype=bool), np.zeros(len(images), dtype=bool)
    tracks[at], visibility[at], annotated[at] = positions, seen, True
    return _with_queries(Path(joints).stem, str(joints), images, size, tracks, visibility, query_mode, annotated)


def read_davis(frames: str | os.PathLike, masks: str | os.PathLike) -> MaskedClip:
    """Reads a clip of DAVIS.

    Args:
        frames: folder of the clip's frames, or a video file.
        masks: folder with a png for each frame, with a palette (indices are objects) or grey with 0 and 255 (one object).

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: masks and frames differ in names or size, or a mask is another kind of image.
    """
    place = Path(masks)
    images = _images(place)
    stacked = np.stack([_read_mask(image) for image in images])
    source = _images(Path(frames)) if Path(frames).is_dir() else Path(frames)
    if isinstance(source, list) and [image.stem for image in source] != [image.stem for image in images]:
        raise ValueError(
            f"{place}: expected a mask for each of {len(source)} frames, found {len(images)} or other names"
        )
    size = _frame_size(str(frames), source)
    if stacked.shape[1:] != size:
        raise ValueError(f"{place}: expected masks of the frames' size {size}, found {stacked.shape[1:]}")
    return MaskedClip(Path(frames).stem, stacked, source)


def draw_tracked_clip(preset: str, seed: int, query_mode: str) -> TrackedClip:
    """Generates a clip of the world for point tracking, with exact frames.

    Args:
        preset: one of `TRACKING_PRESETS`.
        seed: 0 .. 2**64 - 1.
        query_mode: "first" or "strided", see `sample_queries`.

    Raises:
        ValueError: an unknown preset or query mode, or a seed out of range.
    """
    clip = tracking_clip(preset, seed)
    place, size = f"{preset}, seed {seed}", (clip.frames.shape[1], clip.frames.shape[2])
    return _with_queries(place, place, clip.frames, size, clip.tracks, clip.visibility, query_mode)


def read_world(folder: str | os.PathLike, query_mode: str) -> list[TrackedClip]:
    """Reads the clips of a folder written by `sen world`. Tracks are exact; frames are those of the compressed mp4 files.

    [`draw_tracked_clip`] generates clips of a tracking preset with exact frames.

    Raises:
        FileNotFoundError: no metadata.jsonl, or a listed file is missing.
        ValueError: rows without truth, a clip without a query, or an unknown query mode.
    """
    folder = Path(folder)
    clips = []
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        if not {"file_name", "truth_path"} <= row.keys():
            raise ValueError(f"{folder / 'metadata.jsonl'}: expected file_name and truth_path, found {sorted(row)}")
        source = folder / row["file_name"]
        with np.load(folder / row["truth_path"]) as truth:
            points, visibility = truth["points"], truth["visibility"]
        size = _frame_size(str(source), source)
        clips.append(_with_queries(source.stem, str(source), source, size, points, visibility, query_mode))
    return clips


def _with_queries(
    name: str,
    place: str,
    source: FrameSource,
    size: tuple[int, int],
    tracks: np.ndarray,
    visibility: np.ndarray,
    query_mode: str,
    annotated: np.ndarray | None = None,
) -> TrackedClip:
    queries, of = sample_queries(tracks.astype(np.float32), visibility, query_mode)
    if not len(of):
        raise ValueError(f"{place}: expected a visible point for a query of mode {query_mode!r}, found none")
    return TrackedClip(
        name, queries, tracks[:, of].astype(np.float32), visibility[:, of], size, query_mode, annotated, source
    )


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: expected jpg or png images, found none")
    return found


def _decode(place: str, image: bytes | Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises either for damaged files
        raise ValueError(f"{place}: expected an image, found {error}") from error


def _read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8."""
    try:
        with Image.open(path) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: expected a mask, found {error}") from error
    if mode == "P":
        return values
    if mode == "L" and np.isin(values, (0, 255)).all():
        return (values == 255).astype(np.uint8)
    raise ValueError(f"{path}: expected a palette, or grey values 0 and 255, found an image of mode {mode}")


def _frame_size(place: str, source: FrameSource) -> tuple[int, int]:
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[2]
    first = read_frames(source, [0]).frames[0] if isinstance(source, Path) else _decode(f"{place}, frame 0", source[0])
    return first.shape[0], first.shape[1]


def _read_frames(name: str, source: FrameSource, num_frames: int) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Path):
        video = read_video(source, num_frames)
        if video.num_frames_total != num_frames:
            raise ValueError(
                f"{source}: expected {num_frames} frames, as in the truth, found {video.num_frames_total}"
            )
        return video.frames
    frames = [_decode(f"{name}, frame {number}", image) for number, image in enumerate(source)]
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise ValueError(f"{name}: expected frames of one size, found (height, width) {sizes}")
    return np.stack(frames)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{sorted(value)}" if isinstance(value, dict) else f"{type(value).__name__}"
