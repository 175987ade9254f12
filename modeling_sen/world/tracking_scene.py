"""Draws the scene of a clip for point tracking at random: textured surfaces, their motion and deformation, and difficulties.

A preset is a set of knobs. The random draws do not depend on the knobs, so a seed gives the same scene under every preset
apart from the effect of the knobs. Every number is an integer from the world's generator; sines come from a table.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from modeling_sen.world.scene import UNIT, IntegerStream
from modeling_sen.world.vocabulary import COLOURS, SHAPES

SIZE = 256  # pixels, height and width
TURN = 16384  # steps per turn of an angle
ONE = 65536  # scale factors are integers, 65536 means 1

# One period of a sine, where 32768 means 1; rounding removes differences between mathematics libraries.
SINES = np.array([round(32768 * math.sin(2 * math.pi * step / TURN)) for step in range(TURN)], dtype=np.int32)


@dataclass(frozen=True)
class TrackingKnobs:
    """Settings of a clip. The defaults are the preset "base"."""

    num_frames: int = 24
    speed: int = 100  # percent
    rotation: int = 0  # maximum rotation of a sprite in degrees per frame
    zoom: int = 0  # maximum change of a sprite's size in percent
    bend: int = 0  # maximum displacement of a sprite's points by a travelling wave, in pixels
    texture: tuple[int, ...] = (40, 40, 48, 72)  # contrast of the cells of 32, 16, 8 and 4 pixels, in grey levels
    period: int | None = None  # period of textures in pixels, a power of two from 32 on
    light: int = 0  # change of brightness over time and place in percent
    blur: int = 0  # maximum number of passes of a 1-2-1 filter
    noise: int = 0  # standard deviation in grey levels
    jpeg: int | None = None  # quality
    shake: int = 0  # maximum camera jump in pixels
    occluders: int = 0  # number of big sprites in front of all others
    lookalike: bool = False  # whether all sprites look the same


TRACKING_PRESETS: dict[str, TrackingKnobs] = {
    "base": TrackingKnobs(),
    "rotation": TrackingKnobs(rotation=6),
    "scale": TrackingKnobs(zoom=40),
    "deform": TrackingKnobs(bend=5),
    "lighting": TrackingKnobs(light=30),
    "blur": TrackingKnobs(blur=6),
    "noise": TrackingKnobs(noise=10, jpeg=30),
    "fast": TrackingKnobs(speed=200),
    "smooth": TrackingKnobs(texture=(24, 6, 0, 0)),
    "repetitive": TrackingKnobs(period=32),
    "occluder": TrackingKnobs(occluders=2),
    "shake": TrackingKnobs(shake=5),
    "lookalike": TrackingKnobs(lookalike=True),
    "long": TrackingKnobs(num_frames=72),
    "all": TrackingKnobs(
        speed=130, rotation=4, zoom=25, bend=3, light=20, blur=3, noise=5, jpeg=60, shake=2, occluders=1
    ),
}


@dataclass(frozen=True, eq=False)
class Surface:
    """A textured plane: the background or a sprite. Lengths are in 1/256 pixel, phases in 1/16384 turn.

    Its points are (x, y) relative to its centre; `place` maps them to each frame.
    """

    shape: str | None  # None for the background, which covers everything
    radius: int
    tone: tuple[int, int, int]
    texture: int  # key of its texture
    path: np.ndarray  # (T, 2) int64, the centre in the frame
    angle: np.ndarray  # (T,) int64, clockwise on the screen
    zoom: np.ndarray  # (T,) int64, 65536 means 1
    bend: int  # amplitude of the wave
    pitch: int  # change of the wave's phase per pixel
    phases: np.ndarray  # (T, 2) int64, phases of the waves that displace x and y


@dataclass(frozen=True, eq=False)
class TrackingScene:
    """The complete description of a clip. Surfaces are listed from the farthest, the background, to the nearest."""

    preset: str
    seed: int
    knobs: TrackingKnobs
    surfaces: tuple[Surface, ...]
    noise: int  # key of the effects' random draws


def make_tracking_scene(preset: str, seed: int) -> TrackingScene:
    """Draws the scene of a clip.

    Args:
        preset: one of `TRACKING_PRESETS`.
        seed: 0 .. 2**64 - 1.

    Raises:
        ValueError: an unknown preset, or a seed out of range.
    """
    if preset not in TRACKING_PRESETS:
        raise ValueError(f"unknown tracking preset {preset!r}: expected one of {', '.join(TRACKING_PRESETS)}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}: expected 0 .. 2**64 - 1")
    return scene_with_knobs(TRACKING_PRESETS[preset], seed, preset)


def scene_with_knobs(knobs: TrackingKnobs, seed: int, preset: str) -> TrackingScene:
    """As `make_tracking_scene`, with custom knobs under the name `preset`."""
    # The world's splits use counters below 64. Each part has its own stream, so that knobs do not affect other parts' draws.
    draws, shaking, *apart = (IntegerStream((seed, 0), counter=(part, 64)) for part in range(10))
    noise = draws.word()
    shake = (shaking.bytes(knobs.num_frames, 2).astype(np.int64) - 128) * 2 * knobs.shake
    background = _background(draws, knobs, shake)
    sprites = [_sprite(own, knobs, shake) for own in apart[: draws.between(3, 6)]]
    if knobs.lookalike:
        first = sprites[0]
        sprites = [
            replace(one, shape=first.shape, radius=first.radius, tone=first.tone, texture=first.texture)
            for one in sprites
        ]
    sprites += [_occluder(own, knobs, shake) for own in apart[6 : 6 + knobs.occluders]]
    return TrackingScene(preset, seed, knobs, (background, *sprites), noise)


def place(surface: Surface, points: np.ndarray) -> np.ndarray:
    """Positions of a surface's points in each frame.

    The wave shifts x by a sine of y, and then y by a sine of the new x, which is exactly invertible for drawing; then the
    surface is rotated, scaled and moved.

    Args:
        surface: the surface.
        points: (N, 2) int64, relative to the centre of the surface, in 1/256 pixel.

    Returns:
        (T, N, 2) int64, x and y in the frame in 1/256 pixel, with pixel centres at whole pixels.
    """
    x, y = points.T  # (N,)
    x = x + wave(surface, y, surface.phases[:, :1])  # (T, N)
    y = y + wave(surface, x, surface.phases[:, 1:])
    cosine = (surface.zoom * SINES[(surface.angle + TURN // 4) % TURN] >> 15)[:, None]
    sine = (surface.zoom * SINES[surface.angle % TURN] >> 15)[:, None]
    turned = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
    return (turned + ONE // 2 >> 16) + surface.path[:, None]


def wave(surface: Surface, along: np.ndarray, phase: np.ndarray | int) -> np.ndarray:
    """Displacement by the wave, in 1/256 pixel, of points with coordinate `along` on one axis, along the other axis."""
    return surface.bend * SINES[((along * surface.pitch >> 8) + phase) % TURN] >> 15


def _background(draws: IntegerStream, knobs: TrackingKnobs, shake: np.ndarray) -> Surface:
    still = np.zeros(knobs.num_frames, dtype=np.int64)
    path = _sway(draws, knobs, (16, 56), (60, 120))
    centre = SIZE * UNIT // 2
    tone = draws.between(90, 130)
    return Surface(
        shape=None,
        radius=0,
        tone=(tone + draws.between(-24, 24), tone + draws.between(-24, 24), tone + draws.between(-24, 24)),
        texture=draws.word(),
        path=path + centre + shake,
        angle=still,
        zoom=still + ONE,
        bend=0,
        pitch=0,
        phases=np.zeros((knobs.num_frames, 2), dtype=np.int64),
    )


def _sprite(draws: IntegerStream, knobs: TrackingKnobs, shake: np.ndarray) -> Surface:
    time = np.arange(knobs.num_frames, dtype=np.int64)
    colour = list(COLOURS.values())[draws.below(len(COLOURS))]
    brightness = draws.between(80, 130)
    path = _sway(draws, knobs, (20, 72), (48, 96))
    middle = np.array([draws.between(40 * UNIT, (SIZE - 40) * UNIT) for _ in range(2)])
    turning = draws.between(50, 100) * (1 if draws.below(2) else -1)  # percent of the maximum
    growing = draws.between(50, 100)
    bending = draws.between(50, 100)
    phases = np.array([draws.below(TURN) for _ in range(3)])
    travel = np.array([draws.between(-TURN // 12, TURN // 12) for _ in range(2)])  # phase change of the wave per frame
    swing = SINES[(phases[2] + time * TURN // 40) % TURN].astype(np.int64)
    return Surface(
        shape=SHAPES[draws.below(len(SHAPES))],
        radius=draws.between(22 * UNIT, 44 * UNIT),
        tone=(colour[0] * brightness // 100, colour[1] * brightness // 100, colour[2] * brightness // 100),
        texture=draws.word(),
        path=path + middle + shake,
        angle=(time - knobs.num_frames // 2) * turning * knobs.rotation * TURN // 36000,
        zoom=ONE + (swing * knobs.zoom * growing * 2 // 10000),
        bend=knobs.bend * UNIT * bending // 100,
        pitch=TURN // draws.between(48, 80),
        phases=phases[:2] + time[:, None] * travel,
    )


def _occluder(draws: IntegerStream, knobs: TrackingKnobs, shake: np.ndarray) -> Surface:
    """A sprite of about twice the size."""
    sprite = _sprite(draws, knobs, shake)
    return replace(sprite, radius=draws.between(56 * UNIT, 70 * UNIT))


def _sway(draws: IntegerStream, knobs: TrackingKnobs, reach: tuple[int, int], period: tuple[int, int]) -> np.ndarray:
    """Offsets (T, 2) int64 of a path that oscillates along both axes with random amplitude (pixels) and period (frames)."""
    time = np.arange(knobs.num_frames, dtype=np.int64)
    path = np.empty((knobs.num_frames, 2), dtype=np.int64)
    for axis in (0, 1):
        amplitude = draws.between(reach[0] * UNIT, reach[1] * UNIT)
        turn = draws.below(TURN) + time * TURN * knobs.speed // (100 * draws.between(*period))
        path[:, axis] = amplitude * SINES[turn % TURN].astype(np.int64) >> 15
    return path
