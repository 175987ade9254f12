# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Masks of an edit: regions that the edit may change, and blending with the source outside them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor, nn

from modeling_sen.editing.edit_frames import read_stretch

HALF = 128  # smallest grey value inside the mask in a JPEG or video, where compression makes black pixels inexact


# --- reading ---------------------------------------------------------------------------------------------------------


def read_mask(source: Any, num_frames: int, size: tuple[int, int]) -> np.ndarray:
    """Reads a mask.

    Args:
        source: path of an image (for all frames), of a folder of images in order of their names, or of a video; or an array
            (H, W) or (T, H, W), bool or uint8. The inside is every pixel that is not black in arrays and PNGs, as in DAVIS,
            and every pixel brighter than middle grey in other images and videos.
        num_frames: number of frames T of the clip.
        size: (height, width) of its frames.

    Returns:
        (T, H, W) bool.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a size other than `size`; a number of frames other than 1 and `num_frames`; images of several sizes; an
            empty folder; a file that cannot be read; an array of another shape or dtype.
    """
    if isinstance(source, str | os.PathLike):
        name, mask = f"{source}", _read_files(Path(source))
    else:
        name, mask = "array", np.asarray(source)
        if mask.ndim not in (2, 3) or mask.dtype not in (np.bool_, np.uint8):
            raise ValueError(f"mask: expected (H, W) or (T, H, W) bool or uint8, found {mask.shape} {mask.dtype}")
        mask = mask.reshape(-1, *mask.shape[-2:]) != 0
    height, width = mask.shape[1:]
    if (height, width) != tuple(size):
        raise ValueError(f"mask: {name}: expected height x width {size[0]} x {size[1]}, found {height} x {width}")
    if len(mask) not in (1, num_frames):
        raise ValueError(f"mask: {name}: expected one image or {num_frames}, one for each frame, found {len(mask)}")
    return np.broadcast_to(mask, (num_frames, height, width))


def _read_files(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"mask: {path}: no such file")
    if not path.is_dir():
        image = _read_image(path)
        return read_stretch(path).frames.mean(axis=-1) >= HALF if image is None else image[None]
    masks = {each: _read_image(each) for each in sorted(path.iterdir())}
    for each, mask in masks.items():
        if mask is None:
            raise ValueError(f"mask: {each}: expected only images in the folder, found another file")
    if len(sizes := {mask.shape for mask in masks.values() if mask is not None}) != 1:
        raise ValueError(f"mask: {path}: expected images of one size, found {sorted(sizes) or 'an empty folder'}")
    return np.stack(list(masks.values()))  # type: ignore[arg-type]  # checked above


def _read_image(path: Path) -> np.ndarray | None:
    """(H, W) bool, or `None` if the file is not an image or is animated."""
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                return None
            if image.format != "PNG":
                return np.asarray(ImageOps.exif_transpose(image).convert("L")) >= HALF
            # Palette images are read as palette indices; transparency is ignored.
            values = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "PA") else image)
    except (OSError, SyntaxError):  # Pillow raises either for damaged files
        return None
    return (values if values.ndim == 2 else values.any(axis=-1)) != 0


# --- drawing ---------------------------------------------------------------------------------------------------------


def points_mask(
    tracks: np.ndarray, visibility: np.ndarray, size: tuple[int, int], margin: float | None = None
) -> np.ndarray:
    """The convex hull of the visible points in each frame, for example of tracked points of an object.

    Args:
        tracks: (T, N, 2) x, y in pixels, pixel centres at whole numbers.
        visibility: (T, N) bool.
        size: (height, width) of the frames.
        margin: pixels by which the hull is widened; by default the median distance of a point to its nearest neighbour in the
            first frame, because the object's edge lies less than one such distance outside its outermost points.

    Returns:
        (T, height, width) bool; false everywhere in frames without visible points.

    Raises:
        ValueError: arrays of other shapes; a negative margin.
    """
    if tracks.ndim != 3 or tracks.shape[2] != 2 or visibility.shape != tracks.shape[:2]:
        raise ValueError(
            f"expected tracks (T, N, 2) and visibility (T, N), found {tracks.shape} and {visibility.shape}"
        )
    if margin is None:
        margin = _spacing(tracks[0])
    if margin < 0:
        raise ValueError(f"margin: expected at least 0 pixels, found {margin}")
    masks = []
    for points, seen in zip(tracks, visibility.astype(bool), strict=True):
        canvas = Image.new("1", size[::-1])
        draw, corners = ImageDraw.Draw(canvas), _convex_hull(points[seen])
        draw.point(corners, fill=1)
        if len(corners) > 1:
            draw.polygon(corners, fill=1, outline=1)
            draw.line([*corners, corners[0]], fill=1, width=max(1, round(2 * margin)))
        for x, y in corners:
            draw.ellipse([x - margin, y - margin, x + margin, y + margin], fill=1)
        masks.append(np.asarray(canvas))
    return np.stack(masks)


def _spacing(points: np.ndarray) -> float:
    """Median distance of (N, 2) points to their nearest neighbour; 0 for a single point."""
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    nearest = np.where(np.eye(len(points), dtype=bool), np.inf, distances).min(axis=1, initial=np.inf)
    return float(np.median(nearest)) if len(points) > 1 else 0.0


def _convex_hull(points: np.ndarray) -> list[tuple[float, float]]:
    """Corners in order, by Andrew's monotone chain; fewer than three points are returned unchanged."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) < 3:
        return ordered
    halves = [_chain(ordered), _chain(ordered[::-1])]
    return halves[0][:-1] + halves[1][:-1]


def _chain(ordered: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    kept: list[tuple[float, float]] = []
    for x, y in ordered:
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                break
            kept.pop()
        kept.append((x, y))
    return kept


# --- blending --------------------------------------------------------------------------------------------------------


def resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask (T, H, W) bool to (height, width) `size`; a pixel is inside if at least half of its area is."""
    images = [Image.fromarray(each.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BOX) for each in mask]
    return np.stack([np.asarray(image) for image in images]) >= HALF


def latent_mask(mask: np.ndarray, size: Sequence[int]) -> Tensor:
    """Converts a mask (T, H, W) bool to (1, 1, T, h, w) float32: 1 where any pixel of a latent position is inside."""
    pixels = torch.from_numpy(mask.astype(np.float32)).unsqueeze(1)
    return nn.functional.adaptive_max_pool2d(pixels, tuple(size)).squeeze(1)[None, None]


def blend_latents(mask: Tensor, trajectory: Sequence[Tensor]) -> Callable[[Tensor, int], Tensor]:
    """A function that replaces latents outside the mask by the source's latents of the same level.

    Args:
        mask: output of [`latent_mask`].
        trajectory: latents (1, C, T, h, w) of the source at each level: the result of `invert`, or the clean latents at all
            levels for editing without inversion.
    """
    inside = mask.to(trajectory[0].device).bool()
    return lambda latents, level: torch.where(inside, latents, trajectory[level])


def blend_pixels(mask: np.ndarray, frames: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) inside the mask (T, H, W), `source` (T, H, W, 3) outside."""
    return np.where(mask[..., None], frames, source)


__all__ = ["blend_latents", "blend_pixels", "latent_mask", "points_mask", "read_mask", "resized_mask"]
