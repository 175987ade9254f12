"""Clips for point tracking with exact truth: frames, masks, and tracks of up to 64 points."""

from dataclasses import dataclass

import numpy as np

from modeling_sen.world.drawing import shape_coverage
from modeling_sen.world.scene import UNIT, IntegerStream
from modeling_sen.world.tracking_drawing import draw_layers
from modeling_sen.world.tracking_effects import add_effects
from modeling_sen.world.tracking_scene import SIZE, Surface, TrackingScene, make_tracking_scene, place
from modeling_sen.world.tracks import visibility_of

POINTS = 64
LEAST_SEEN = 4  # smallest number of frames in which a point is visible


@dataclass(frozen=True, eq=False)
class TrackingClip:
    """A drawn clip and its truth. Points are x, y in pixels with pixel centres at whole numbers.

    Attributes:
        frames: (T, 256, 256, 3) uint8 RGB.
        masks: (T, 256, 256) uint8, index in `scene.surfaces` of the visible surface, 0 for the background.
        queries: (N, 3) float32: frame, x, y where each point is first visible.
        tracks: (T, N, 2) float32, also where a point is hidden or outside the picture.
        visibility: (T, N) bool, true if the nearest pixel shows the point's surface.
        surface: (N,) int64, index of each point's surface.
        scene: the scene.
    """

    frames: np.ndarray
    masks: np.ndarray
    queries: np.ndarray
    tracks: np.ndarray
    visibility: np.ndarray
    surface: np.ndarray
    scene: TrackingScene


def tracking_clip(preset: str, seed: int) -> TrackingClip:
    """Draws a clip, the same on every machine.

    Tracks are the exact positions of the points, rounded to 1/256 pixel. Half of the points are on the background, half on
    the sprites, none on the occluders. Each is visible in at least four frames. There are 64 points, or fewer if most
    candidates are hidden.

    Args:
        preset: one of `TRACKING_PRESETS`.
        seed: 0 .. 2**64 - 1. Another preset with the same seed gives the same scene with other knobs.

    Raises:
        ValueError: an unknown preset, or a seed out of range.
    """
    return draw_tracking_scene(make_tracking_scene(preset, seed))


def draw_tracking_scene(scene: TrackingScene) -> TrackingClip:
    """Draws the clip of a scene; see `tracking_clip`."""
    frames, masks = draw_layers(scene)
    paths, surface = _candidates(scene, masks)
    visibility = visibility_of(paths, surface, masks)
    kept = np.flatnonzero(visibility.sum(0) >= LEAST_SEEN)[:POINTS]
    tracks = (paths[:, kept] / UNIT).astype(np.float32)
    visibility = visibility[:, kept]
    first = visibility.argmax(0)
    queries = np.concatenate([first[:, None], tracks[first, np.arange(len(kept))]], axis=1).astype(np.float32)
    frames = add_effects(frames, scene.knobs, scene.noise)
    return TrackingClip(frames, masks, queries, tracks, visibility, surface[kept], scene)


def _candidates(scene: TrackingScene, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice the needed number of points: paths (T, n, 2) int64 in 1/256 pixel, and the surface (n,) int64 of each."""
    draws = IntegerStream((scene.noise, 11))
    count = 2 * POINTS
    last = len(scene.surfaces) - 1 - scene.knobs.occluders
    surface = np.array([draws.below(2) and draws.between(1, last) for _ in range(count)])
    paths = np.empty((len(masks), count, 2), dtype=np.int64)
    for label, one in enumerate(scene.surfaces):
        chosen = np.flatnonzero(surface == label)
        points = _inside(draws, one, len(chosen)) if label else _on_background(draws, one, masks, len(chosen))
        paths[:, chosen] = place(one, points)
    return paths, surface


def _inside(draws: IntegerStream, sprite: Surface, count: int) -> np.ndarray:
    """Points (count, 2) int64 of a sprite, in 1/256 pixel from its centre, at least one and a half pixels inside its edge."""
    assert sprite.shape is not None
    inner = shape_coverage(sprite.shape, sprite.radius) == 255
    for axis in (0, 1):
        inner = inner & np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
        inner = inner & np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
    places = np.argwhere(inner)[:, ::-1] - inner.shape[0] // 2
    chosen = places[[draws.below(len(places)) for _ in range(count)]].reshape(count, 2)
    return chosen * UNIT + draws.bytes(count, 2).astype(np.int64) - 128


def _on_background(draws: IntegerStream, background: Surface, masks: np.ndarray, count: int) -> np.ndarray:
    """Points (count, 2) int64 of the background, each visible in a randomly drawn frame."""
    points = np.empty((count, 2), dtype=np.int64)
    for number in range(count):
        time = draws.below(len(masks))
        free = np.flatnonzero(masks[time] == 0)
        row, column = divmod(int(free[draws.below(len(free))]), SIZE)
        points[number] = np.array([column, row]) * UNIT - background.path[time]
    return points + draws.bytes(count, 2).astype(np.int64) - 128
