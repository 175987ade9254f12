# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Query points from user input: points, a file of points, the size of a grid, or a mask."""

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GRID_SIZE = 10
# Approximate number of points inside a mask.
MASK_POINTS = 100


def resolve_query_points(
    num_frames: int,
    frame_size: tuple[int, int],
    query_points: Any = None,
    grid_size: int | None = None,
    mask: Any = None,
    query_frame: int = 0,
) -> np.ndarray:
    """Query points of a clip. At most one of `query_points`, `grid_size` and `mask` is given; the default is a grid of 10.

    Args:
        num_frames: number of frames of the clip.
        frame_size: (height, width) of the clip.
        query_points: (N, 2) x, y on frame 0, or (N, 3) t, x, y; or the path of a file, see `read_query_points`.
        grid_size: points at the centres of `grid_size` x `grid_size` equal parts of frame `query_frame`, row by row.
        mask: (H, W) bool or uint8, or the path of a png, see `read_mask`. Points are placed on every s-th pixel of every s-th
            row of the mask's bounding box, if it is in the mask (not 0), on frame `query_frame`. s is
            floor(sqrt(pixels / 100)), at least 1, which gives about 100 points; if none of them is in the mask, s is the next
            smaller number that gives a point.
        query_frame: the frame of a grid or mask.

    Returns:
        (N, 3) float32 t, x, y in pixels of the frames, pixel centres at whole numbers. N is 0 for empty `query_points`.

    Raises:
        ValueError: more than one of the three; an array of another shape or type; NaN or infinity; a frame outside the clip;
            a point outside the frames (which reach from -0.5 to width - 0.5); an empty mask or one of another size; or a
            malformed file.
        FileNotFoundError: no such file.
    """
    check_one_kind(query_points, grid_size, mask, query_frame)
    if query_points is not None:
        return _checked_points(as_query_points(query_points), num_frames, frame_size)
    if not 0 <= query_frame < num_frames:
        raise ValueError(f"query_frame: expected a frame of the clip, 0..{num_frames - 1}, found {query_frame}")
    positions = _grid(GRID_SIZE if grid_size is None else grid_size, frame_size)
    if mask is not None:
        positions = _inside(as_mask(mask), frame_size)
    times = np.full((len(positions), 1), query_frame)
    return np.concatenate([times, positions], axis=1).astype(np.float32)


def check_one_kind(query_points: Any, grid_size: int | None, mask: Any, query_frame: int) -> None:
    """Checks arguments of `resolve_query_points` before the clip is read.

    Raises:
        ValueError: more than one kind of points; a `query_frame` together with `query_points`; or a number that is not whole.
    """
    kinds = {"query_points": query_points, "grid_size": grid_size, "mask": mask}
    found = [name for name, value in kinds.items() if value is not None]
    if len(found) > 1:
        raise ValueError(f"expected one of query_points, grid_size and mask, found {' and '.join(found)}")
    if grid_size is not None and (not _is_whole(grid_size) or grid_size < 1):
        raise ValueError(f"grid_size: expected a whole number of at least 1, found {grid_size!r}")
    if not _is_whole(query_frame) or query_frame < 0:
        raise ValueError(f"query_frame: expected a whole number of at least 0, found {query_frame!r}")
    if query_frame and query_points is not None:
        raise ValueError(
            f"query_frame: applies to grid_size and mask, found {query_frame} with query_points; pass points as t, x, y"
        )


def as_query_points(query_points: Any) -> np.ndarray:
    """Converts points from an array, a list, a tensor or the path of a file to (N, 2) or (N, 3) float64.

    Raises:
        ValueError, FileNotFoundError: see `resolve_query_points`; errors that depend on the clip are not raised here.
    """
    if isinstance(query_points, str | os.PathLike):
        return read_query_points(query_points)
    return _as_points("query_points", query_points)


def read_query_points(path: str | os.PathLike) -> np.ndarray:
    """Reads points from a file as (N, 2) float64 x, y on frame 0 or (N, 3) t, x, y.

    Args:
        path: `.csv` with columns x, y or t, x, y, with a header of these names in any order or without a header; `.json`, a
            list of lists of two or three numbers; `.npy`, an array of shape (N, 2) or (N, 3).

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file ending, a malformed file, or a file without points.
    """
    readers = {".csv": _read_csv, ".json": _read_json, ".npy": _read_npy}
    suffix = Path(path).suffix.lower()
    name = f"query_points: {path}"
    if suffix not in readers:
        raise ValueError(f"{name}: expected a file ending in {', '.join(readers)}, found {suffix!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        content = readers[suffix](Path(path))
    except ValueError as error:  # includes the readers' UnicodeDecodeError and JSONDecodeError
        raise ValueError(f"{name}: expected points as x, y or t, x, y, found a malformed file ({error})") from error
    points = _as_points(name, content)
    if not len(points):
        raise ValueError(f"{name}: expected at least one point, found none")
    return points


def as_mask(mask: Any) -> np.ndarray:
    """Converts a mask from (H, W) bool or uint8, or from the path of a png, to (H, W) bool.

    Raises:
        ValueError, FileNotFoundError: see `resolve_query_points`; errors that depend on the clip are not raised here.
    """
    if isinstance(mask, str | os.PathLike):
        return read_mask(mask)
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"mask: expected (H, W) bool or uint8, found {array.shape} {array.dtype}")
    return array != 0


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Reads a mask (H, W) bool: true where a grey png is not black, or where the palette index is not 0, as in DAVIS.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a png, or one with colours or alpha.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, values = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"mask: {path}: no such file") from error
    except (OSError, SyntaxError) as error:  # Pillow raises either for damaged files
        raise ValueError(f"mask: {path}: expected a png, found a file that cannot be read as one") from error
    if values.ndim != 2:
        raise ValueError(f"mask: {path}: expected a grey png or one with a palette, found one of mode {mode}")
    return values != 0


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _grid(size: int, frame_size: tuple[int, int]) -> np.ndarray:
    """(size * size, 2) x, y."""
    height, width = frame_size
    centres = (np.arange(size) + 0.5) / size
    rows, columns = np.meshgrid(centres * height - 0.5, centres * width - 0.5, indexing="ij")
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _inside(mask: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """(N, 2) x, y of sampled pixels in a mask."""
    if mask.shape != tuple(frame_size):
        raise ValueError(f"mask: expected the frames' (height, width) {tuple(frame_size)}, found {mask.shape}")
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise ValueError("mask: expected at least one pixel that is not 0, found none")
    top, left = rows.min(), columns.min()
    box = mask[top : rows.max() + 1, left : columns.max() + 1]
    for spacing in range(max(1, math.isqrt(len(rows) // MASK_POINTS)), 0, -1):  # spacing 1 finds every pixel
        # The samples are centred in the box.
        first = [(length - 1) % spacing // 2 for length in box.shape]
        found = np.argwhere(box[first[0] :: spacing, first[1] :: spacing]) * spacing + first  # row, column
        if len(found):
            break
    return found[:, ::-1] + np.array([left, top])


def _as_points(name: str, content: Any) -> np.ndarray:
    """(N, 2) or (N, 3) float64."""
    try:
        points = np.asarray(content)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name}: expected x, y or t, x, y of each point, found rows of different lengths") from error
    if points.size == 0 and points.ndim == 1:  # an empty list
        points = points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or points.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected numbers of shape (N, 2) x, y or (N, 3) t, x, y, found {points.shape} {points.dtype}"
        )
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(f"{name}: expected finite numbers, found {_shown(points[row])} as point {row}")
    return points


def _checked_points(points: np.ndarray, num_frames: int, frame_size: tuple[int, int]) -> np.ndarray:
    """(N, 3) float32, checked to be inside the clip."""
    height, width = frame_size
    if points.shape[1] == 2:
        points = np.concatenate([np.zeros((len(points), 1)), points], axis=1)
    for row in np.flatnonzero(~np.isin(points[:, 0], np.arange(num_frames)))[:1]:
        raise ValueError(
            f"query_points: expected t as the whole number of a frame, 0..{num_frames - 1}, found {points[row, 0]:g} as t of "
            f"point {row}"
        )
    x, y = points[:, 1], points[:, 2]
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    for row in np.flatnonzero(~inside)[:1]:
        raise ValueError(
            f"query_points: expected x in -0.5..{width - 0.5:g} and y in -0.5..{height - 0.5:g}, the frames of {width} x "
            f"{height} pixels, found x, y = {_shown(points[row, 1:])} as point {row}"
        )
    return points.astype(np.float32)


def _shown(numbers: np.ndarray) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _read_csv(path: Path) -> np.ndarray:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if not rows:
        return np.empty((0, 3))
    names = [cell.lower() for cell in rows[0]]
    order = list(range(len(names)))
    if any(not _is_number(name) for name in names):
        if sorted(names) not in (["x", "y"], ["t", "x", "y"]):
            raise ValueError(f"header {','.join(rows[0])}")
        order, rows = sorted(order, key=lambda column: names[column]), rows[1:]
    for line in rows:
        if len(line) != len(order):
            raise ValueError(f"row {','.join(line)}")
    # Columns sorted by name are in the order t, x, y.
    return np.array([[float(line[column]) for column in order] for line in rows]).reshape(-1, len(order))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_json(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise ValueError(f"a {type(content).__name__}, not a list")
    return content


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except EOFError as error:
        raise ValueError(str(error)) from error


__all__ = [
    "as_mask",
    "as_query_points",
    "check_one_kind",
    "read_mask",
    "read_query_points",
    "resolve_query_points",
]
