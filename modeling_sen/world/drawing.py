"""Draws a scene: frames, masks and depth, in integer arithmetic, so that the result is the same on every machine.

A sprite is a small picture with soft edges. It is shifted in steps of 1/256 pixel (bilinear, in 16-bit integers) and blended
into its bounding box in the frame. The background is a larger picture, of which a window is shifted in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modeling_sen.world.scene import UNIT, Background, IntegerStream, Scene, Sprite, positions
from modeling_sen.world.vocabulary import COLOURS

SUBSAMPLES = 8  # samples per pixel and direction for the edge of a shape


@dataclass(frozen=True)
class Clip:
    """A drawn scene.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        masks: (T, H, W) uint8, 0 for the background, i + 1 where sprite i is visible.
        depth: (T, H, W) uint8, larger is nearer.
    """

    frames: np.ndarray
    masks: np.ndarray
    depth: np.ndarray


def render(scene: Scene, frame_indices: Sequence[int] | None = None) -> Clip:
    """Draws the frames of a scene.

    Args:
        scene: the scene.
        frame_indices: frames to draw; by default all.

    Raises:
        IndexError: a frame index outside 0 .. num_frames - 1.
    """
    times = np.arange(scene.num_frames)[frame_indices if frame_indices is None else list(frame_indices)].reshape(-1)
    canvas = _draw_background(scene.background, scene.size, scene.num_frames, times)  # (T, H, W * 3) uint16
    masks = np.zeros((len(times), scene.size, scene.size), dtype=np.uint8)
    depth = np.empty_like(masks)
    depth[:] = (np.arange(scene.size) * 48 // scene.size).astype(np.uint8)[
        :, None
    ]  # the ground is nearer at the bottom
    for number, sprite in enumerate(scene.sprites):
        _draw_sprite(canvas, masks, depth, sprite, number + 1, positions(sprite, scene.num_frames)[times])
    frames = canvas.astype(np.uint8).reshape(len(times), scene.size, scene.size, 3)
    return Clip(frames=frames, masks=masks, depth=depth)


def shift(picture: np.ndarray, right: np.ndarray, down: np.ndarray, channels: int) -> np.ndarray:
    """Shifts a picture by fractions of a pixel, bilinearly and exactly in 16 bits.

    Args:
        picture: (..., H + 1, (W + 1) * channels) uint16 of 0..255, one picture or one per frame.
        right, down: (T,) in 0..255, in 1/256 pixel.
        channels: 1 or 3, interleaved.

    Returns:
        (T, H, W * channels) uint16. With shift 0, row and column 0 equal row and column 1 of the picture.
    """
    x = right.astype(np.uint16)[:, None, None]
    y = down.astype(np.uint16)[:, None, None]
    across = picture[..., channels:] * (UNIT - x)
    across += picture[..., :-channels] * x
    across += 128
    across >>= 8
    result = across[:, 1:] * (UNIT - y)
    result += across[:, :-1] * y
    result += 128
    result >>= 8
    return result


def _draw_sprite(
    canvas: np.ndarray, masks: np.ndarray, depth: np.ndarray, sprite: Sprite, label: int, centres: np.ndarray
) -> None:
    coverage, colours, relief = _sprite_pictures(sprite)
    size = masks.shape[1]
    side = relief.shape[0]
    whole, fraction = centres >> 8, centres & (UNIT - 1)
    alpha = shift(coverage, fraction[:, 0], fraction[:, 1], 3)
    alpha += alpha >> 7  # 0..255 -> 0..256
    paint = shift(colours, fraction[:, 0], fraction[:, 1], 3)
    paint *= alpha
    paint += 128
    solid = alpha[:, :, ::3] >= 128  # (T, side, side)
    np.subtract(UNIT, alpha, out=alpha)
    corners = whole - (side - 1) // 2
    for time, (x, y) in enumerate(corners.tolist()):
        left, top = max(-x, 0), max(-y, 0)
        right, bottom = min(size - x, side), min(size - y, side)
        rows = slice(y + top, y + bottom)
        view = canvas[time, rows, 3 * (x + left) : 3 * (x + right)]
        view *= alpha[time, top:bottom, 3 * left : 3 * right]
        view += paint[time, top:bottom, 3 * left : 3 * right]
        view >>= 8
        here = solid[time, top:bottom, left:right]
        np.copyto(masks[time, rows, x + left : x + right], label, where=here)
        np.copyto(depth[time, rows, x + left : x + right], relief[top:bottom, left:right], where=here)


def _sprite_pictures(sprite: Sprite) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage and colours (side + 1, (side + 1) * 3) uint16, depth (side, side) uint8."""
    coverage = shape_coverage(sprite.shape, sprite.radius)
    side = coverage.shape[0]
    stream = IntegerStream((sprite.texture, 0))
    cells = -(-side // 3)
    coarse = stream.bytes(cells, cells).repeat(3, 0).repeat(3, 1)[:side, :side].astype(np.int32)
    fine = stream.bytes(side, side).astype(np.int32)
    texture = 1024 + ((coarse - 128) * 5 >> 2) + ((fine - 128) * 3 >> 3)  # 1024 means 1; the range is 0.8 to 1.2
    # In percent of brightness; together with the texture, 1024 * 100 means 1.
    colour = np.array(COLOURS[sprite.colour], dtype=np.int32) * sprite.brightness
    colours = np.minimum(texture[:, :, None] * colour // 102400, 255).astype(np.uint16)
    relief = (sprite.depth + (coarse[1:, 1:] >> 6)).astype(np.uint8)
    return np.repeat(coverage, 3, axis=1), colours.reshape(side, 3 * side), relief


@lru_cache(maxsize=1024)
def shape_coverage(shape: str, radius: int) -> np.ndarray:
    """Coverage of each pixel by a shape, (side + 1, side + 1) uint16 of 0..255, with an empty border.

    `side` is odd, and the shape's centre is the centre of pixel [(side + 1) // 2, (side + 1) // 2].
    """
    reach = radius // UNIT + 2
    steps = np.arange((2 * reach + 1) * SUBSAMPLES, dtype=np.int64)
    # Odd multiples of half a subsample, in 1/256 pixel.
    places = steps * (UNIT // SUBSAMPLES) + UNIT // SUBSAMPLES // 2 - reach * UNIT - UNIT // 2
    inside = _inside_shape(shape, places[None, :] * 1024 // radius, places[:, None] * 1024 // radius)
    covered = inside.reshape(2 * reach + 1, SUBSAMPLES, 2 * reach + 1, SUBSAMPLES).sum((1, 3))
    coverage = np.zeros((2 * reach + 2, 2 * reach + 2), dtype=np.uint16)
    coverage[1:, 1:] = covered * 255 // SUBSAMPLES**2
    coverage.flags.writeable = False
    return coverage


# Corners of a five-pointed star, clockwise from the top, in 1/1024 of its radius.
STAR = (
    (0, -1024), (253, -348), (974, -316), (409, 133), (602, 828),
    (0, 430), (-602, 828), (-409, 133), (-974, -316), (-253, -348),
)  # fmt: skip


def _inside_shape(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are inside the shape; x (1, n) right, y (n, 1) down, in 1/1024 of the shape's radius."""
    if shape == "circle":
        return x * x + y * y <= 980**2
    if shape == "square":
        return (abs(x) <= 850) & (abs(y) <= 850)
    if shape == "triangle":
        return (y <= 800) & (2 * abs(x) <= 2048 * (y + 960) // 1760)
    if shape == "diamond":
        return 8 * abs(x) + 7 * abs(y) <= 7168
    if shape == "cross":
        return ((abs(x) <= 330) & (abs(y) <= 1000)) | ((abs(y) <= 330) & (abs(x) <= 1000))
    if shape == "ring":
        square = x * x + y * y
        return (square <= 1024**2) & (square >= 520**2)
    if shape == "star":
        inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
        for (x1, y1), (x2, y2) in zip(STAR, STAR[1:] + STAR[:1], strict=True):
            crosses = (y1 > y) != (y2 > y)
            side = (x - x1) * (y2 - y1) - (x2 - x1) * (y - y1)
            inside ^= crosses & (side < 0 if y2 > y1 else side > 0)
        return inside
    # A heart: two discs above a triangle.
    discs = (abs(x) - 500) ** 2 + (y + 380) ** 2 <= 520**2
    return discs | ((y >= -380) & (100 * abs(x) <= 76 * (960 - y)))


def _draw_background(background: Background, size: int, num_frames: int, times: np.ndarray) -> np.ndarray:
    """The background of the frames at `times`: (T, H, W * 3) uint16 of 0..255."""
    picture = background_picture(background, size, num_frames)
    offsets = background_offsets(background, num_frames)[times]  # (T, 2), positions of the window's corner
    if not (background.pan_x or background.pan_y):
        still = picture[1 : size + 1, 3 : 3 * (size + 1)].astype(np.uint16)
        return np.repeat(still[None], len(times), axis=0)
    # The window at w + f/256 is the picture from pixel w + 1 shifted right by 1 - f/256.
    whole = -(-offsets >> 8)
    fraction = whole * UNIT - offsets
    windows = np.empty((len(times), size + 1, 3 * (size + 1)), dtype=np.uint16)
    for time, (x, y) in enumerate(whole.tolist()):
        windows[time] = picture[y : y + size + 1, 3 * x : 3 * (x + size + 1)]
    return shift(windows, fraction[:, 0], fraction[:, 1], 3)


def background_offsets(background: Background, num_frames: int) -> np.ndarray:
    """Position of the window's corner in the picture: (num_frames, 2) int64 x, y in 1/256 pixel, never negative."""
    pan = np.array([background.pan_x, background.pan_y])
    path = np.arange(num_frames)[:, None] * pan
    return path - path.min(0)


def background_picture(background: Background, size: int, num_frames: int) -> np.ndarray:
    """The picture over which the window pans, (height, width * 3) uint8; it starts one row and column before the corner."""
    farthest = background_offsets(background, num_frames).max(0)
    width, height = (size + 2 + (farthest >> 8) + 1).tolist()
    stream = IntegerStream((background.texture, 1))
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    cell = max(size // 8, 4)
    if background.kind == "cloudy":
        pattern = _clouds(stream, width, height, cell)
    elif background.kind == "grainy":
        grain = max(cell // 4, 1)
        pattern = stream.bytes(height // grain + 1, width // grain + 1).repeat(grain, 0).repeat(grain, 1)
        pattern = pattern[:height, :width].astype(np.int16)
    elif background.kind == "striped":
        slopes = stream.bytes(2).astype(np.int64) % 5 - 2
        steep = int(slopes[0]) if slopes.any() else 2
        pattern = (((x * steep + y * int(slopes[1])) // cell & 1) * 255).astype(np.int16)
    else:
        pattern = (((x // cell + y // cell) & 1) * 255).astype(np.int16)
    shade = ((pattern - 128) * background.contrast >> 7) + (stream.bytes(height, width).astype(np.int16) >> 4) - 8
    tone = np.array(background.tone, dtype=np.int16)
    return np.clip(shade[:, :, None] + tone, 0, 255).astype(np.uint8).reshape(height, 3 * width)


def _clouds(stream: IntegerStream, width: int, height: int, cell: int) -> np.ndarray:
    """Smooth noise: random values every `cell` pixels, interpolated bilinearly; (height, width) int16."""
    knots = stream.bytes(height // cell + 2, width // cell + 2).astype(np.int32)
    rows, row_part = np.divmod(np.arange(height), cell)
    columns, column_part = np.divmod(np.arange(width), cell)
    tall = knots[rows] * (cell - row_part)[:, None] + knots[rows + 1] * row_part[:, None]
    wide = tall[:, columns] * (cell - column_part) + tall[:, columns + 1] * column_part
    return (wide // cell**2).astype(np.int16)
