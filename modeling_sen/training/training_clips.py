# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training clips for point tracking: generated scenes with random settings, and augmentation by a moving camera."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_sen.world.tracking_clips import draw_tracking_scene
from modeling_sen.world.tracking_scene import ONE, SIZE, TURN, TrackingKnobs, TrackingScene, scene_with_knobs

FIRST_SEED = 10**7  # of training scenes; smaller seeds are for validation and tests
LEAST_SEEN = 3  # smallest number of frames in which a point must be visible


@dataclass
class TrainingClip:
    """A clip of T frames and N points; all values refer to the augmented frames.

    Attributes:
        frames: (T, 256, 256, 3) uint8.
        tracks: (T, N, 2) x, y.
        visibility: (T, N) bool.
        poses: (T, N, 2), scale and rotation of each point's surroundings relative to its query frame, as scale times cosine
            and sine.
        query_points: (N, 3) t, x, y.
        initial_tracks, initial_poses: (T, N, 2), with errors, from which refinement starts.
    """

    frames: Tensor
    tracks: Tensor
    visibility: Tensor
    poses: Tensor
    query_points: Tensor
    initial_tracks: Tensor
    initial_poses: Tensor


def training_clip(number: int, most_points: int = 48) -> TrainingClip:
    """The clip with a number. It is deterministic, and every number has a different scene."""
    random = np.random.default_rng([FIRST_SEED, number])
    clip = draw_tracking_scene(scene_with_knobs(_drawn_knobs(random), FIRST_SEED + number, "training"))
    frames = torch.from_numpy(clip.frames).movedim(-1, 1).float()
    tracks, visible = clip.tracks.astype(np.float64), clip.visibility
    turned = _surface_poses(clip.scene)[:, clip.surface]  # (T, N, 2, 2)
    if random.random() < 0.4:
        frames, tracks, visible, turned = _seen_by_moving_camera(frames, tracks, visible, turned, random)
    frames, tracks, visible, turned = _mirrored(frames, tracks, visible, turned, random)
    if random.random() < 0.5:
        gains, shifts = random.uniform(0.6, 1.3, 3), random.uniform(-30, 30, 3)
        frames = frames * torch.tensor(gains).float()[:, None, None] + torch.tensor(shifts).float()[:, None, None]
    kept = np.flatnonzero(visible.sum(0) >= LEAST_SEEN)
    kept = random.permutation(kept)[:most_points]
    tracks, visible, turned = tracks[:, kept], visible[:, kept], turned[:, kept]
    numbers = np.arange(len(kept))
    at_first = random.random() < 0.4
    drawn = [np.flatnonzero(seen)[0] if at_first else random.choice(np.flatnonzero(seen)) for seen in visible.T]
    times = np.array(drawn, dtype=np.int64)
    poses = _nearest_similarity(turned @ np.linalg.inv(turned[times, numbers]))
    queries = np.concatenate([times[:, None], tracks[times, numbers]], axis=1)
    initial_tracks, initial_poses = _wrong_start(tracks, visible, poses, times, random)
    return TrainingClip(
        frames.clamp(0, 255).round().to(torch.uint8).movedim(1, -1).contiguous(),
        torch.from_numpy(tracks).float(),
        torch.from_numpy(visible.copy()),
        torch.from_numpy(poses).float(),
        torch.from_numpy(queries).float(),
        torch.from_numpy(initial_tracks).float(),
        torch.from_numpy(initial_poses).float(),
    )


def _drawn_knobs(random: np.random.Generator) -> TrackingKnobs:
    def maybe(share: float, low: int, high: int) -> int:
        """A random integer in low..high with probability `share`, else 0; always draws the same number of values."""
        value = int(random.integers(low, high + 1))
        return value if random.random() < share else 0

    texture = TrackingKnobs().texture
    if random.random() < 0.4:
        drawn = tuple(int(contrast) for contrast in random.integers(0, 81, 4))
        texture = drawn if random.random() < 0.7 else (24, 6, 0, 0)
    return TrackingKnobs(
        speed=int(random.integers(60, 201)),
        rotation=maybe(0.5, 1, 7),
        zoom=maybe(0.4, 1, 44),
        bend=maybe(0.4, 1, 5),
        texture=texture,
        period=maybe(0.08, 32, 32) or None,
        light=maybe(0.35, 1, 34),
        blur=maybe(0.3, 1, 6),
        noise=maybe(0.35, 1, 10),
        jpeg=maybe(0.3, 30, 79) or None,
        shake=maybe(0.3, 1, 5),
        occluders=maybe(0.4, 1, 2),
        lookalike=random.random() < 0.08,
    )


def _surface_poses(scene: TrackingScene) -> np.ndarray:
    """(T, surfaces, 2, 2), rotation and scale of each surface, without its bending."""
    angle = np.stack([surface.angle for surface in scene.surfaces], axis=1) * (2 * np.pi / TURN)
    scale = np.stack([surface.zoom for surface in scene.surfaces], axis=1) / ONE
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(*angle.shape, 2, 2)


def _nearest_similarity(matrices: np.ndarray) -> np.ndarray:
    """The nearest similarity transform of (..., 2, 2) matrices: (..., 2), scale times cosine and sine."""
    cosine = (matrices[..., 0, 0] + matrices[..., 1, 1]) / 2
    sine = (matrices[..., 1, 0] - matrices[..., 0, 1]) / 2
    return np.stack([cosine, sine], axis=-1)


def _seen_by_moving_camera(
    frames: Tensor, tracks: np.ndarray, visible: np.ndarray, turned: np.ndarray, random: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Rotates, scales, shears and shifts the frames; each parameter follows its own oscillation."""
    time = np.linspace(0, 1, len(frames))

    def swing(most: float) -> np.ndarray:
        amplitude = random.uniform(0, most)
        return amplitude * np.sin(2 * np.pi * (random.random() + time * random.uniform(0.2, 1.2)))

    angle, zoom, shear = swing(0.35), np.exp(swing(0.25)), swing(0.15)
    shift = np.stack([swing(25), swing(25)], axis=1)
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.stack([cosine, shear - sine, sine, cosine], axis=-1).reshape(-1, 2, 2)  # (T, 2, 2)
    centre = (SIZE - 1) / 2
    shift = centre + shift - linear @ np.array([centre, centre])
    moved = np.einsum("tij,tnj->tni", linear, tracks) + shift[:, None]
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 2)
    sources = np.einsum("tij,tpj->tpi", np.linalg.inv(linear), pixels - shift[:, None])
    grid = torch.from_numpy((sources + 0.5) * (2 / SIZE) - 1).float().unflatten(1, (SIZE, SIZE))
    frames = F.grid_sample(frames, grid, padding_mode="reflection", align_corners=False)
    inside = ((moved >= -0.5) & (moved <= SIZE - 0.5)).all(axis=-1)
    return frames, moved, visible & inside, linear[:, None] @ turned


def _mirrored(
    frames: Tensor, tracks: np.ndarray, visible: np.ndarray, turned: np.ndarray, random: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Mirrors along x, y, the diagonal and time, each with probability 0.5."""
    for axis in (0, 1):
        if random.random() < 0.5:
            frames, tracks = frames.flip(-1 - axis), tracks.copy()
            tracks[..., axis] = SIZE - 1 - tracks[..., axis]
            turned = turned * np.array([[1, -1], [-1, 1]])  # conjugation by the reflection
    if random.random() < 0.5:
        frames, tracks, turned = frames.transpose(-1, -2), tracks[..., ::-1], turned[..., ::-1, ::-1]
    if random.random() < 0.5:
        frames, tracks, visible, turned = frames.flip(0), tracks[::-1], visible[::-1], turned[::-1]
    return frames, tracks, visible, turned


def _wrong_start(
    tracks: np.ndarray, visible: np.ndarray, poses: np.ndarray, times: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Initial tracks with drift, temporary jumps or no motion; initial poses with errors, or those of the query frame."""
    count, frames = len(tracks), np.arange(len(tracks))
    start, start_poses = tracks.copy(), poses.copy()
    for point, time in enumerate(times):
        seen = np.flatnonzero(visible[:, point])
        if random.random() < 0.7:  # interpolate while the point is hidden
            for axis in (0, 1):
                start[:, point, axis] = np.interp(frames, seen, tracks[seen, point, axis])
        drift = np.cumsum(random.normal(0, 10 ** random.uniform(-1.5, 0.3), (count, 2)), axis=0)
        error = drift - drift[time] + random.normal(0, 10 ** random.uniform(-1, 0.5), (count, 2))
        if random.random() < 0.35:
            first = random.integers(count)
            last = first + random.integers(1, count)
            error[first:last] += random.normal(0, 10 ** random.uniform(0.3, 1.5), 2)
        if random.random() < 0.08:
            start[:, point] = start[time, point]
        start[:, point] += error
        if random.random() < 0.35:
            start_poses[:, point] = (1, 0)
        wrong = np.cumsum(random.normal(0, 10 ** random.uniform(-2.5, -1), (count, 2)), axis=0)
        start_poses[:, point] += wrong - wrong[time] + random.normal(0, 10 ** random.uniform(-2.5, -0.7), (count, 2))
    return start.clip(-20, SIZE + 20), start_poses
