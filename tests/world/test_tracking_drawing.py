"""Drawn layers against a reference in floating point, one pixel at a time."""

import math

import numpy as np
import pytest

from modeling_sen.world.tracking_drawing import draw_layers, surface_picture
from modeling_sen.world.tracking_scene import make_tracking_scene


def on_surface(surface, time: int, x: float, y: float) -> tuple[float, float]:
    """Undo move, turn, scale and wave: pixels from the centre of the surface."""
    angle = 2 * math.pi * surface.angle[time] / 16384
    x, y = x - surface.path[time, 0] / 256, y - surface.path[time, 1] / 256
    x, y = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    x, y = (65536 * each / surface.zoom[time] for each in (x, y))
    bend, turn = surface.bend / 256, 2 * math.pi / 16384
    y -= bend * math.sin(turn * (surface.pitch * x + surface.phases[time, 1]))
    x -= bend * math.sin(turn * (surface.pitch * y + surface.phases[time, 0]))
    return x, y


def texel(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear, (4,) float; the picture repeats."""
    side = len(picture)
    column, row = math.floor(x), math.floor(y)
    right, down = x - column, y - row
    value = np.zeros(4)
    for i, weight_y in ((0, 1 - down), (1, down)):
        for j, weight_x in ((0, 1 - right), (1, right)):
            value += weight_x * weight_y * picture[(row + i + side // 2) % side, (column + j + side // 2) % side]
    return value


@pytest.mark.parametrize("preset", ["base", "all"])
@pytest.mark.parametrize("seed", [0, 1])
def test_pixels_are_those_of_a_reference_in_floating_point(preset, seed):
    scene = make_tracking_scene(preset, seed)
    frames, masks = draw_layers(scene)
    pictures = [surface_picture(surface, scene.knobs).astype(float) for surface in scene.surfaces]
    places = np.random.default_rng(seed).integers(0, [24, 256, 256], size=(1500, 3))
    labels = np.zeros(len(scene.surfaces), dtype=int)
    for time, y, x in places.tolist():
        colour, label, sure = np.zeros(3), 0, True
        for number, (surface, picture) in enumerate(zip(scene.surfaces, pictures, strict=True)):
            u, v = on_surface(surface, time, x, y)
            if number and max(abs(u), abs(v)) > 127:  # beyond the picture of a sprite
                continue
            value = texel(picture, u, v)
            share = value[3] / 255
            colour = colour * (1 - share) + share * value[:3]
            sure &= not 0.4 < share < 0.6  # the edge itself may be rounded to either side
            label = number if share >= 0.5 else label
        assert abs(frames[time, y, x] - colour).max() <= 4, (time, y, x)
        assert masks[time, y, x] == label or not sure
        labels[label] += 1
    assert (labels > 0).sum() >= len(scene.surfaces) - 1, "the places cover the surfaces"
