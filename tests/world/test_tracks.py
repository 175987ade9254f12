import numpy as np
import pytest

from modeling_sen.world import make_scene, positions, render, tracks
from modeling_sen.world.scene import UNIT

SCENES = [make_scene("train", 8, index, num_objects=3) for index in range(30)]


def surfaces(scene, points_per_sprite, background_points):
    return np.repeat([*range(1, len(scene.sprites) + 1), 0], [points_per_sprite] * 3 + [background_points])


def test_shapes_and_types():
    points, visibility = tracks(SCENES[0], points_per_sprite=5, background_points=7)
    assert (points.shape, points.dtype) == ((16, 22, 2), np.float32)
    assert (visibility.shape, visibility.dtype) == ((16, 22), bool)


@pytest.mark.parametrize("scene", SCENES[:10])
def test_a_visible_point_lies_in_the_mask_of_its_surface(scene):
    masks = render(scene).masks
    points, visibility = tracks(scene)
    x, y = np.floor(points + 0.5).astype(int).transpose(2, 0, 1)
    for time in range(16):
        seen = visibility[time]
        found = masks[time, y[time, seen], x[time, seen]]
        np.testing.assert_array_equal(found, surfaces(scene, 16, 16)[seen])


def test_points_are_visible_unless_covered_or_outside():
    for scene in SCENES:
        masks = render(scene).masks
        points, visibility = tracks(scene)
        owner = surfaces(scene, 16, 16)
        for time, number in zip(*np.nonzero(~visibility), strict=True):
            x, y = np.floor(points[time, number] + 0.5).astype(int)
            if 0 <= x < 64 and 0 <= y < 64:
                # sprites are listed from the farthest: only a nearer one covers
                assert masks[time, y, x] > owner[number]


def test_points_move_with_their_sprite():
    scene = SCENES[0]
    points, _ = tracks(scene, points_per_sprite=4)
    for number, sprite in enumerate(scene.sprites):
        centres = positions(sprite, 16) / UNIT
        moved = points[:, 4 * number : 4 * number + 4] - centres[:, None]
        assert np.abs(moved - moved[0]).max() < 1e-5


def test_background_points_follow_the_texture():
    panning = next(s for s in SCENES if min(abs(s.background.pan_x), abs(s.background.pan_y)) > 40)
    frames = render(panning).frames.astype(float)
    points, visibility = tracks(panning, points_per_sprite=1, background_points=64)
    points, visibility = points[:, 3:], visibility[:, 3:]

    def sample(time, at):  # bilinear
        whole = np.floor(at).astype(int)
        part = (at - whole)[..., None]
        x, y = whole[..., 0], whole[..., 1]
        top = frames[time, y, x] * (1 - part[:, 0]) + frames[time, y, x + 1] * part[:, 0]
        low = frames[time, y + 1, x] * (1 - part[:, 0]) + frames[time, y + 1, x + 1] * part[:, 0]
        return top * (1 - part[:, 1]) + low * part[:, 1]

    inside = ((points[[4, 12]] >= 0) & (points[[4, 12]] < 62)).all((0, 2)) & visibility[4] & visibility[12]
    followed = np.abs(sample(4, points[4, inside]) - sample(12, points[12, inside])).mean()
    left_behind = np.abs(sample(4, points[4, inside]) - sample(12, points[4, inside])).mean()
    assert inside.sum() > 10
    assert followed < 0.5 * left_behind


def test_sprite_points_keep_their_colour():
    scene = SCENES[1]
    frames = render(scene).frames.astype(float)
    points, visibility = tracks(scene, background_points=0)
    x, y = np.floor(points + 0.5).astype(int).transpose(2, 0, 1).clip(0, 63)
    for number in range(points.shape[1]):
        seen = np.flatnonzero(visibility[:, number])
        colours = frames[seen, y[seen, number], x[seen, number]]
        assert np.abs(colours - np.median(colours, axis=0)).mean() < 12
