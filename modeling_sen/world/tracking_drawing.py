"""Draws a tracking scene in integer arithmetic: textures, their warp into each frame, and the layers.

For each pixel of a frame, the position on the surface is computed by inverting rotation, scale and wave, and the texture is
interpolated there from its four nearest texels. Textures have no detail finer than about eight pixels, so that the colour of
a point does not depend on its position between pixels.
"""

import numpy as np

from modeling_sen.world.drawing import shape_coverage
from modeling_sen.world.scene import UNIT, IntegerStream
from modeling_sen.world.tracking_scene import ONE, SINES, SIZE, TURN, Surface, TrackingKnobs, TrackingScene, wave

COARSEST = 32  # pixels, the largest cells of a texture
BACKGROUND_SIDE = 512  # side of the background in texels, after which it repeats
SPRITE_SIDE = 256  # side of a sprite in texels, with an empty border wide enough that wrapped reads are empty


def draw_layers(scene: TrackingScene) -> tuple[np.ndarray, np.ndarray]:
    """Draws the surfaces, without the effects.

    Returns:
        frames: (T, 256, 256, 3) uint8 RGB.
        masks: (T, 256, 256) uint8, index of the visible surface.
    """
    times = scene.knobs.num_frames
    canvas = np.empty((times, SIZE, SIZE, 3), dtype=np.uint16)
    masks = np.zeros((times, SIZE, SIZE), dtype=np.uint8)
    for label, surface in enumerate(scene.surfaces):
        picture = surface_picture(surface, scene.knobs)
        for time in range(times):
            rows, columns = _window(surface, time)
            seen = _sample(picture, surface, time, rows, columns)
            if label == 0:
                canvas[time] = seen[:, :, :3]
                continue
            alpha = seen[:, :, 3:] + (seen[:, :, 3:] >> 7)  # 0..255 -> 0..256
            view = canvas[time, rows, columns]
            view *= UNIT - alpha
            view += seen[:, :, :3] * alpha
            view += 128
            view >>= 8
            np.copyto(masks[time, rows, columns], label, where=alpha[:, :, 0] >= 128)
    return canvas.astype(np.uint8), masks


def surface_picture(surface: Surface, knobs: TrackingKnobs) -> np.ndarray:
    """Colours and coverage of a surface, (side, side, 4) uint8; its centre is texel [side // 2, side // 2]."""
    side = BACKGROUND_SIDE if surface.shape is None else SPRITE_SIDE
    picture = np.empty((side, side, 4), dtype=np.uint8)
    pattern = _pattern(surface.texture, knobs.period or side, knobs.texture)
    repeats = side // pattern.shape[0]
    colours = np.tile(pattern, (repeats, repeats, 1)) + np.array(surface.tone, dtype=np.int32)
    picture[:, :, :3] = colours.clip(0, 255)
    if surface.shape is None:
        picture[:, :, 3] = 255
        return picture
    coverage = shape_coverage(surface.shape, surface.radius)
    first = side // 2 - coverage.shape[0] // 2
    inner = slice(first, first + coverage.shape[0])
    picture[:, :, 3] = 0
    picture[inner, inner, 3] = coverage
    return picture


def _pattern(key: int, side: int, contrasts: tuple[int, ...]) -> np.ndarray:
    """A periodic texture of zero mean, (side, side, 3) int32, in grey levels.

    It is the sum of random cells of each size, interpolated by cubic splines. Half of it is common to the three colours.
    """
    draws = IntegerStream((key, 7))
    cells = side // COARSEST
    pattern = np.zeros((cells, cells, 4), dtype=np.int32)  # in 1/128 grey level
    for level, contrast in enumerate(contrasts):
        if level:
            pattern = _doubled(pattern)
        pattern += (draws.bytes(*pattern.shape).astype(np.int32) - 128) * contrast
    while pattern.shape[0] < side:
        pattern = _doubled(pattern)
    return (pattern[:, :, 3:] * 2 + pattern[:, :, :3]) >> 8


def _doubled(pattern: np.ndarray) -> np.ndarray:
    """The pattern with twice the number of cells along both axes, by one subdivision step of a cubic spline."""
    for axis in (0, 1):
        after = np.roll(pattern, -1, axis)
        even = np.roll(pattern, 1, axis) + 6 * pattern + after
        odd = 4 * (pattern + after)
        shape = list(pattern.shape)
        shape[axis] *= 2
        pattern = (np.stack([even, odd], axis + 1).reshape(shape) + 4) >> 3
    return pattern


def _window(surface: Surface, time: int) -> tuple[slice, slice]:
    """The rows and columns of the frame in which the surface may be visible."""
    if surface.shape is None:
        return slice(0, SIZE), slice(0, SIZE)
    # A shape extends at most to the corners of its square.
    reach = ((surface.radius + 2 * UNIT) * 3 // 2 + surface.bend) * int(surface.zoom[time]) // ONE
    low = ((surface.path[time] - reach) >> 8).clip(0, SIZE).tolist()
    high = (((surface.path[time] + reach) >> 8) + 1).clip(0, SIZE).tolist()
    return slice(low[1], high[1]), slice(low[0], high[0])


def _sample(picture: np.ndarray, surface: Surface, time: int, rows: slice, columns: slice) -> np.ndarray:
    """The picture as seen in the window: (rows, columns, 4) uint16 of 0..255."""
    x, y = _on_surface(surface, time, rows, columns)
    side = picture.shape[0]
    texels = picture.reshape(-1, 4)
    right, down = ((place & (UNIT - 1)).astype(np.uint16)[:, :, None] for place in (x, y))
    left_column, top_row = ((place >> 8) + side // 2 & side - 1 for place in (x, y))
    right_column = left_column + 1 & side - 1
    lines = []
    for row in (top_row * side, (top_row + 1 & side - 1) * side):
        line = texels[row + left_column] * (UNIT - right)
        line += texels[row + right_column] * right
        line += 128
        line >>= 8
        lines.append(line)
    upper, lower = lines
    upper *= UNIT - down
    lower *= down
    upper += lower
    upper += 128
    upper >>= 8
    return upper


def _on_surface(surface: Surface, time: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `place` for the pixels of a window: x and y, each (rows, columns) int32, in 1/256 pixel."""
    angle, zoom = int(surface.angle[time]), int(surface.zoom[time])
    cosine = (int(SINES[(angle + TURN // 4) % TURN]) << 17) // zoom  # 65536 means 1
    sine = (int(SINES[angle % TURN]) << 17) // zoom
    centre_x, centre_y = surface.path[time].tolist()
    across = np.arange(columns.start, columns.stop, dtype=np.int32)[None, :]
    along = np.arange(rows.start, rows.stop, dtype=np.int32)[:, None]
    half = 1 << 7
    x = (across * cosine + along * sine + (half - (cosine * centre_x + sine * centre_y >> 8))) >> 8
    y = (along * cosine - across * sine + (half - (cosine * centre_y - sine * centre_x >> 8))) >> 8
    if surface.bend:
        y = y - wave(surface, x, int(surface.phases[time, 1]))
        x = x - wave(surface, y, int(surface.phases[time, 0]))
    return x, y
