"""Draws the scene of a clip of the generated world at random: its sprites, their positions and their motions.

Every number is an integer from the raw stream of a counter-based generator, keyed by (seed, index) and with the split in its
counter. Therefore a clip is the same on every machine and with every numpy version, and splits have no clip in common.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_sen.world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    MOTIONS,
    NAMES,
    SHAPES,
    SIZES,
    SPLITS,
)

FRAMES_PER_SECOND = 8
MAX_OBJECTS = 8
UNIT = 256  # positions are integers in 1/256 pixel
CANDIDATES = 24  # places tried for a sprite before the whole scene is drawn again

# One period of a sine in 1024 steps, amplitude 32767; rounding removes differences between mathematics libraries.
SINE = np.array([round(32767 * math.sin(2 * math.pi * step / 1024)) for step in range(1024)], dtype=np.int64)


class IntegerStream:
    """Random integers from the raw 64-bit words of Philox, which depend only on the key."""

    def __init__(self, key: tuple[int, int], counter: tuple[int, int] = (0, 0)) -> None:
        words = np.array(key, dtype=np.uint64)
        start = np.array([0, 0, *counter], dtype=np.uint64)
        self._generator = np.random.Philox(key=words, counter=start)
        self._waiting: list[int] = []

    def word(self) -> int:
        """One integer in 0 .. 2**64 - 1."""
        if not self._waiting:
            self._waiting = self._generator.random_raw(64).tolist()[::-1]
        return self._waiting.pop()

    def below(self, bound: int) -> int:
        """One integer in 0 .. bound - 1."""
        return ((self.word() >> 32) * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """One integer in low .. high, both included."""
        return low + self.below(high - low + 1)

    def shuffled(self, items: Any) -> list:
        """The items in random order."""
        items = list(items)
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items

    def bytes(self, *shape: int) -> np.ndarray:
        """Random uint8 values in an array of this shape."""
        count = math.prod(shape)
        raw = self._generator.random_raw((count + 7) // 8)
        return raw.astype("<u8").view(np.uint8)[:count].reshape(shape)


@dataclass(frozen=True)
class Sprite:
    """An object. Lengths are in 1/256 pixel, times in frames."""

    colour: str
    shape: str
    size: str
    motion: str
    name: str
    radius: int  # half the width
    x: int  # centre in the middle frame
    y: int
    reach: int  # distance travelled over the clip, radius of the circle, amplitude, or height of the bounce
    period: int  # frames per turn, shake or bounce
    phase: int  # in 1/1024 turn; its lowest bit is also the direction of a circle
    brightness: int  # mean luma of the sprite, 0..255
    texture: int  # key of its texture
    depth: int  # value in the depth map, larger is nearer


@dataclass(frozen=True)
class Background:
    """A distant textured plane, possibly panning. Lengths are in 1/256 pixel."""

    kind: str
    tone: tuple[int, int, int]
    contrast: int
    pan_x: int  # per frame
    pan_y: int
    texture: int


@dataclass(frozen=True)
class Scene:
    """The complete description of a clip. Sprites are listed from the farthest to the nearest."""

    split: str
    seed: int
    index: int
    size: int  # pixels, height and width
    num_frames: int
    sprites: tuple[Sprite, ...]
    background: Background
    sounding: int | None  # index into sprites
    sound: int  # key of the sound's random draws
    hops: int | None

    @property
    def sounding_sprite(self) -> Sprite | None:
        return None if self.sounding is None else self.sprites[self.sounding]


def motion_path(motion: str, reach: int, period: int, phase: int, num_frames: int) -> np.ndarray:
    """Offsets (num_frames, 2) int64, x right and y down, in 1/256 pixel from the position in the middle frame."""
    time = np.arange(num_frames, dtype=np.int64)
    path = np.zeros((num_frames, 2), dtype=np.int64)
    travel = reach * time // max(num_frames - 1, 1)
    turn = 1024 * time // period + phase
    if motion in ("left", "right"):
        path[:, 0] = travel if motion == "right" else -travel
    elif motion in ("up", "down"):
        path[:, 1] = travel if motion == "down" else -travel
    elif motion == "circling":
        path[:, 0] = reach * SINE[(turn + 256) % 1024] >> 15
        path[:, 1] = (reach * SINE[turn % 1024] >> 15) * (1 if phase % 2 else -1)
    elif motion == "shaking":
        path[:, 0] = reach * SINE[turn % 1024] >> 15
    elif motion == "bouncing":
        height = turn % 1024
        path[:, 1] = -(4 * reach * height * (1024 - height) >> 20)
    return path - path[num_frames // 2]


def positions(sprite: Sprite, num_frames: int) -> np.ndarray:
    """Centres (num_frames, 2) int64, x and y in 1/256 pixel, with pixel centres at whole pixels."""
    path = motion_path(sprite.motion, sprite.reach, sprite.period, sprite.phase, num_frames)
    return path + np.array([sprite.x, sprite.y])


def make_scene(
    split: str,
    seed: int,
    index: int,
    *,
    num_objects: int | tuple[int, int] | None = None,
    size: int = 64,
    num_frames: int = 16,
    hops: int | None = None,
) -> Scene:
    """Draws the scene of clip number `index` of a split.

    The sprites of a clip all have different colours, shapes and motions, so each of these identifies an object. In the middle
    frame (`num_frames // 2`), every sprite is inside the picture and occluded only slightly. In other frames, sprites may
    cover each other and touch the border.

    Args:
        split: one of `SPLITS`.
        seed: 0 .. 2**64 - 1.
        index: 0 .. 2**64 - 1.
        num_objects: number of sprites, or the minimum and maximum, from 1 to 8. Default: 1 to 4, or 3 with `hops`.
        size: height and width in pixels, at least 32.
        num_frames: number of frames at 8 frames per second, at least 1.
        hops: 1, 2 or 3 for a clip with a chain of this length starting at the sound; one sprite always sounds. Without it,
            one clip in eight is silent.

    Raises:
        ValueError: a value outside these ranges.
    """
    low, high = _object_range(num_objects, hops)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}: expected 0 .. 2**64 - 1")
    if size < 32:
        raise ValueError(f"size is {size} pixels: expected at least 32")
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}: expected at least 1")
    attempt = 0
    while True:
        draws = IntegerStream((seed, index), counter=(attempt, SPLITS.index(split)))
        count = draws.between(low, high)
        sprites = _draw_sprites(draws, split, count, size, num_frames)
        if sprites is not None:
            break
        attempt += 1
    sounding = draws.below(count)
    silent = draws.below(8) == 0 and hops is None
    return Scene(
        split=split,
        seed=seed,
        index=index,
        size=size,
        num_frames=num_frames,
        sprites=sprites,
        background=_draw_background(draws, size, num_frames),
        sounding=None if silent else sounding,
        sound=draws.word(),
        hops=hops,
    )


def _object_range(num_objects: int | tuple[int, int] | None, hops: int | None) -> tuple[int, int]:
    if hops not in (None, 1, 2, 3):
        raise ValueError(f"hops is {hops!r}: expected 1, 2, 3 or None")
    if num_objects is None:
        num_objects = (1, 4) if hops is None else 3
    low, high = (num_objects, num_objects) if isinstance(num_objects, int) else num_objects
    least = 1 if hops is None else 2
    if not least <= low <= high <= MAX_OBJECTS:
        raise ValueError(f"num_objects is {num_objects!r}: expected {least} to {MAX_OBJECTS} objects")
    return low, high


def _draw_looks(draws: IntegerStream, split: str, count: int) -> list[tuple[str, str]]:
    """Colour-shape pairs with distinct colours and shapes: only held-out pairs in `unseen_pairs`, none of them elsewhere."""
    colours = draws.shuffled(COLOURS)[:count]
    if split == "unseen_pairs":
        shape_of = dict(HELD_OUT_PAIRS)
        return [(colour, shape_of[colour]) for colour in colours]
    while True:
        pairs = list(zip(colours, draws.shuffled(SHAPES), strict=False))
        if HELD_OUT_PAIRS.isdisjoint(pairs):
            return pairs


def _draw_motion(draws: IntegerStream, motion: str, size: int) -> tuple[int, int, int]:
    """Reach in 1/256 pixel, period in frames, phase in 1/1024 turn."""
    pixel = UNIT * size // 64  # the lengths below refer to pictures of 64 pixels
    phase = draws.below(1024)
    if motion == "circling":
        return draws.between(6 * pixel, 9 * pixel), draws.between(10, 14), phase
    if motion == "shaking":
        # With a period of 4 frames and a phase away from the zero crossings, shaking is visible in every second frame too.
        return draws.between(3 * pixel, 4 * pixel), 4, 64 + draws.below(128)
    if motion == "bouncing":
        return draws.between(10 * pixel, 14 * pixel), draws.between(7, 9), phase
    return draws.between(17 * pixel, 27 * pixel), 1, phase


def _draw_sprites(
    draws: IntegerStream, split: str, count: int, size: int, num_frames: int
) -> tuple[Sprite, ...] | None:
    """The sprites, or `None` if there was no place for one of them."""
    pixel = UNIT * size // 64
    motions = draws.shuffled(MOTIONS)
    names = draws.shuffled(NAMES)
    paths = np.zeros((count, num_frames, 2), dtype=np.int64)
    radii = np.zeros(count, dtype=np.int64)
    sprites: list[Sprite] = []
    for number, (colour, shape) in enumerate(_draw_looks(draws, split, count)):
        big = draws.below(2)
        quarters = draws.between(36, 40) if big else draws.between(24, 28)  # 9 to 10 or 6 to 7 pixels
        radius = quarters * pixel // 4
        reach, period, phase = _draw_motion(draws, motions[number], size)
        path = motion_path(motions[number], reach, period, phase, num_frames)
        place = _find_place(draws, path, radius, paths[:number], radii[:number], size)
        if place is None:
            return None
        paths[number] = path + place
        radii[number] = radius
        spacing = 160 // count
        sprites.append(
            Sprite(
                colour=colour,
                shape=shape,
                size=SIZES[big],
                motion=motions[number],
                name=names[number],
                radius=radius,
                x=int(place[0]),
                y=int(place[1]),
                reach=reach,
                period=period,
                phase=phase,
                brightness=draws.between(72, 122),
                texture=draws.word(),
                depth=80 + number * spacing + draws.below(spacing // 2 + 1),
            )
        )
    return tuple(sprites)


def _find_place(
    draws: IntegerStream, path: np.ndarray, radius: int, paths: np.ndarray, radii: np.ndarray, size: int
) -> np.ndarray | None:
    """A centre (2,) for the middle frame at which the sprite stays visible, or `None`."""
    last = (size - 1) * UNIT
    # The whole sprite is inside the middle frame, and its centre at least half a radius inside all others.
    low = np.maximum(radius, radius // 2 - path.min(0)).tolist()
    high = np.minimum(last - radius, last - radius // 2 - path.max(0)).tolist()
    tries = np.array([[draws.between(low[axis], high[axis]) for axis in (0, 1)] for _ in range(CANDIDATES)])
    if not len(paths):
        return tries[0]
    gaps = tries[:, None, None] + path - paths  # (candidates, placed, frames, 2)
    distances = (gaps * gaps).sum(-1)
    reaches = (radii + radius) ** 2  # (placed,)
    apart = 100 * distances[:, :, path.shape[0] // 2] >= 72 * reaches  # 0.85 of the touching distance
    covered = (100 * distances < 25 * reaches[:, None]).sum(-1) * 4 > path.shape[
        0
    ]  # half hidden in a quarter of frames
    fits = np.flatnonzero((apart & ~covered).all(-1))
    return tries[fits[0]] if len(fits) else None


def _draw_background(draws: IntegerStream, size: int, num_frames: int) -> Background:
    tone = draws.between(26, 42)  # darker than all sprites, so that small towers learn shapes quickly
    pans = draws.below(2)
    fastest = UNIT * size // 64
    pan_x = draws.between(-fastest, fastest)
    pan_y = draws.between(-fastest, fastest)
    return Background(
        kind=BACKGROUNDS[draws.below(len(BACKGROUNDS))],
        tone=(tone + draws.between(-10, 10), tone + draws.between(-10, 10), tone + draws.between(-10, 10)),
        contrast=draws.between(8, 14),
        pan_x=pan_x if pans else 0,
        pan_y=pan_y if pans else 0,
        texture=draws.word(),
    )
