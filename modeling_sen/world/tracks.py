"""Dense point tracks of a scene: positions of points on the sprites and on the background in every frame."""

import numpy as np

from modeling_sen.world.drawing import background_offsets, render, shape_coverage
from modeling_sen.world.scene import UNIT, IntegerStream, Scene, Sprite, positions


def tracks(
    scene: Scene, points_per_sprite: int = 16, background_points: int = 16, masks: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Exact tracks of random points through all frames.

    Args:
        scene: the scene.
        points_per_sprite: points inside each sprite, at least a pixel from its edge if it is wide enough.
        background_points: points of the background that are visible in the middle frame.
        masks: (num_frames, H, W) uint8 from `render(scene)`, drawn here if not given.

    Returns:
        points: (num_frames, N, 2) float32, x and y in pixels with pixel centres at whole numbers, exact; first the
            points of sprite 0, then of sprite 1 and so on, the background last. They may lie outside the picture.
        visibility: (num_frames, N) bool, true if the pixel nearest to the point shows the point's surface.
    """
    if masks is None:
        masks = render(scene).masks
    paths = []  # each (num_frames, n, 2), in 1/256 pixel
    for sprite in scene.sprites:
        offsets = _points_inside(sprite, points_per_sprite)
        paths.append(positions(sprite, scene.num_frames)[:, None] + offsets)
    paths.append(_background_paths(scene, background_points, masks[scene.num_frames // 2]))
    points = np.concatenate(paths, axis=1)
    surfaces = np.repeat(
        [*range(1, len(scene.sprites) + 1), 0], [points_per_sprite] * len(scene.sprites) + [background_points]
    )
    return (points / UNIT).astype(np.float32), visibility_of(points, surfaces, masks)


def visibility_of(points: np.ndarray, surfaces: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(T, N) bool: whether the pixel nearest to each point shows the point's surface.

    Args:
        points: (T, N, 2) int64 x, y, in 1/256 pixel.
        surfaces: (N,) int, the value in `masks` of each point's surface.
        masks: (T, size, size) uint8.
    """
    size = masks.shape[-1]
    pixels = (points + UNIT // 2) >> 8
    inside = ((pixels >= 0) & (pixels < size)).all(-1)
    x, y = np.moveaxis(pixels.clip(0, size - 1), -1, 0)
    return inside & (masks[np.arange(len(masks))[:, None], y, x] == surfaces)


def _points_inside(sprite: Sprite, count: int) -> np.ndarray:
    """Offsets (count, 2) int64 from the centre, in 1/256 pixel."""
    full = shape_coverage(sprite.shape, sprite.radius)[1:, 1:] == 255
    inner = full.copy()
    for axis in (0, 1):
        inner &= np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
    candidates = np.argwhere(inner if inner.any() else full)[:, ::-1] - full.shape[0] // 2
    draws = IntegerStream((sprite.texture, 5))
    order = np.argsort(draws.bytes(len(candidates), 4).view("<u4").ravel(), kind="stable")
    chosen = candidates[order[np.arange(count) % len(order)]]
    return chosen * UNIT + (draws.bytes(count, 2).astype(np.int64) - 128) // 2  # up to 1/4 pixel off


def _background_paths(scene: Scene, count: int, mask: np.ndarray) -> np.ndarray:
    """Paths (num_frames, count, 2) int64, in 1/256 pixel, of points that are visible in the middle frame."""
    offsets = background_offsets(scene.background, scene.num_frames)
    draws = IntegerStream((scene.background.texture, 6))
    free = np.argwhere(mask == 0)[:, ::-1]
    chosen = free[[draws.below(len(free)) for _ in range(count)]].reshape(count, 2)
    middle = chosen * UNIT + (draws.bytes(count, 2).astype(np.int64) - 128) // 2
    return middle - (offsets - offsets[scene.num_frames // 2])[:, None]
