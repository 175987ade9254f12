# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics for edits of the generated world, where the exact edit is available: attributes shown, and pixel error."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from modeling_sen.evaluation.editing_fidelity import psnr_outside_mask, ssim_outside_mask
from modeling_sen.evaluation.tracking_metrics import share_of
from modeling_sen.world.drawing import render, shape_coverage
from modeling_sen.world.edits import Edit
from modeling_sen.world.scene import UNIT, Scene, positions

SEEN = 0.5  # smallest visible share of a sprite's area for which its attributes are evaluated
SPRITE_ATTRIBUTES = ("colour", "shape")


class AttributeReader(Protocol):
    """Recognises the attributes shown in frames of the world, for example a trained network."""

    def read_sprites(self, frames: np.ndarray, centres: np.ndarray) -> Mapping[str, Sequence[str]]:
        """`colour` and `shape`, N names each, of the sprites at x, y `centres` (N, 2) in frames (N, H, W, 3) uint8."""

    def read_backgrounds(self, frames: np.ndarray) -> Sequence[str]:
        """N names of the backgrounds in frames (N, H, W, 3) uint8."""


def world_edit_metrics(
    edited: np.ndarray,
    source: Scene,
    change: Edit,
    reader: AttributeReader,
    frame_indices: Sequence[int] | None = None,
) -> dict[str, float]:
    """Compares an edited clip with the exact edit.

    Args:
        edited: (T, H, W, 3) uint8.
        source: the source scene.
        change: the requested edit.
        reader: recognises attributes in frames.
        frame_indices: frames of the scene that `edited` has; by default all.

    Returns:
        Shares of attributes for which the reader finds the correct value. A sprite is evaluated in frames where at least half
        of it is visible in the exact edit, at its position there:
        - `edit_accuracy`: share of frames in which every attribute that should change has its new value; NaN if the sprite is
          not visible.
        - `kept_accuracy`: share of correct attributes among those that should not change, of all sprites and the background.
        - `colour_accuracy`, `shape_accuracy`, `background_accuracy`: share of correct attributes, changed or not.

        `exact_psnr` and `exact_ssim` compare whole frames with the exact edit.

    Raises:
        ValueError: another number or size of frames.
        IndexError: a frame index outside the scene.
    """
    exact = render(change.scene, frame_indices)
    numbers = {
        "exact_psnr": psnr_outside_mask(exact.frames, edited),
        "exact_ssim": ssim_outside_mask(exact.frames, edited),
    }
    times = np.arange(source.num_frames)[frame_indices if frame_indices is None else list(frame_indices)].reshape(-1)
    right: dict[str, list[np.ndarray]] = {"colour": [], "shape": [], "background": []}
    changed: list[np.ndarray] = []  # one per changed attribute
    kept: list[np.ndarray] = []
    for number, (before, after) in enumerate(zip(source.sprites, change.scene.sprites, strict=True)):
        area = (shape_coverage(after.shape, after.radius) >= 128).sum()
        seen = (exact.masks == number + 1).sum(axis=(1, 2)) >= SEEN * area
        if not seen.any():
            continue
        centres = positions(after, source.num_frames)[times[seen]] / UNIT
        found = reader.read_sprites(edited[seen], centres)
        for attribute in SPRITE_ATTRIBUTES:
            wanted = getattr(after, attribute)
            hits = np.array([value == wanted for value in found[attribute]])
            right[attribute].append(hits)
            (kept if wanted == getattr(before, attribute) else changed).append(hits)
    wanted = change.scene.background.kind
    hits = np.array([kind == wanted for kind in reader.read_backgrounds(edited)])
    right["background"].append(hits)
    (kept if wanted == source.background.kind else changed).append(hits)
    return {
        "edit_accuracy": float(np.logical_and.reduce(changed).mean()) if changed else float("nan"),
        "kept_accuracy": _share(kept),
        **{f"{attribute}_accuracy": _share(parts) for attribute, parts in right.items()},
        **numbers,
    }


def _share(parts: list[np.ndarray]) -> float:
    values = np.concatenate([np.zeros(0, dtype=bool), *parts])
    return share_of(values, np.ones_like(values))


__all__ = ["AttributeReader", "world_edit_metrics"]
