"""The knobs of the tracking presets: each changes what its name says and nothing else."""

import numpy as np
import pytest

from modeling_sen.world.scene import UNIT
from modeling_sen.world.tracking_drawing import surface_picture
from modeling_sen.world.tracking_scene import TRACKING_PRESETS, make_tracking_scene, place

SEEDS = range(10)
SQUARE = np.array([[0, 0], [20, 0], [0, 20], [-20, 0], [0, -20]]) * UNIT  # a centre and four points about it


def sprites(preset: str, seed: int):
    return make_tracking_scene(preset, seed).surfaces[1:]


def spokes(sprite) -> tuple[np.ndarray, np.ndarray]:
    """Lengths in pixels and directions in degrees, each (T, 4), from a sprite's centre to four of its points."""
    points = place(sprite, SQUARE) / UNIT
    x, y = np.moveaxis(points[:, 1:] - points[:, :1], -1, 0)
    return np.hypot(x, y), np.degrees(np.unwrap(np.arctan2(y, x), axis=0))


def test_the_same_seed_gives_the_same_scene_and_another_seed_another():
    first, again, other = (make_tracking_scene("all", seed) for seed in (4, 4, 5))
    for one, two in zip(first.surfaces, again.surfaces, strict=True):
        assert repr(one) == repr(two)
    assert first.surfaces[1].texture != other.surfaces[1].texture


def test_scenes_have_three_to_six_sprites():
    counts = {len(sprites("base", seed)) for seed in range(40)}
    assert counts == {3, 4, 5, 6}


@pytest.mark.parametrize("seed", SEEDS)
def test_sprites_of_the_base_preset_only_move(seed):
    for sprite in sprites("base", seed):
        assert (place(sprite, SQUARE) - sprite.path[:, None] == SQUARE).all()
    background = make_tracking_scene("base", seed).surfaces[0]
    assert (place(background, SQUARE) - background.path[:, None] == SQUARE).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_rotation_turns_by_three_to_six_degrees_a_frame(seed):
    for sprite in sprites("rotation", seed):
        lengths, directions = spokes(sprite)
        np.testing.assert_allclose(lengths, 20, atol=0.01)
        turned = np.diff(directions, axis=0)
        assert (turned * np.sign(turned[0, 0]) > 2.9).all()
        assert (abs(turned) < 6.1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_scale_grows_and_shrinks_without_turning(seed):
    for sprite in sprites("scale", seed):
        lengths, directions = spokes(sprite)
        np.testing.assert_allclose(directions - directions[0], 0, atol=0.05)
        assert 20 * 0.6 - 0.01 <= lengths.min() < 20 < lengths.max() <= 20 * 1.4 + 0.01
        np.testing.assert_allclose(lengths, lengths[:, :1].repeat(4, 1), atol=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_deform_displaces_each_point_by_at_most_five_pixels_an_axis(seed):
    for sprite in sprites("deform", seed):
        off = (place(sprite, SQUARE) - sprite.path[:, None] - SQUARE) / UNIT
        assert 1 < abs(off).max() <= 5
        assert np.ptp(off, axis=1).max() > 0.5, "points of one sprite move differently"


@pytest.mark.parametrize("seed", SEEDS)
def test_fast_is_the_same_path_at_twice_the_speed(seed):
    base, fast = make_tracking_scene("base", seed), make_tracking_scene("fast", seed)
    for slow, quick in zip(base.surfaces, fast.surfaces, strict=True):
        np.testing.assert_array_equal(quick.path[:12], slow.path[::2])


@pytest.mark.parametrize("seed", SEEDS)
def test_shake_moves_all_surfaces_together_by_at_most_five_pixels(seed):
    base, shaken = make_tracking_scene("base", seed), make_tracking_scene("shake", seed)
    offs = [two.path - one.path for one, two in zip(base.surfaces, shaken.surfaces, strict=True)]
    assert all((off == offs[0]).all() for off in offs)
    assert 3 * UNIT < abs(offs[0]).max() <= 5 * UNIT


@pytest.mark.parametrize("seed", SEEDS)
def test_long_begins_as_base_and_lasts_three_times_as_long(seed):
    base, long = make_tracking_scene("base", seed), make_tracking_scene("long", seed)
    for short, longer in zip(base.surfaces, long.surfaces, strict=True):
        assert len(longer.path) == 72
        np.testing.assert_array_equal(longer.path[:24], short.path)


@pytest.mark.parametrize("seed", SEEDS)
def test_occluders_are_two_big_sprites_in_front_of_those_of_base(seed):
    base, found = sprites("base", seed), sprites("occluder", seed)
    assert [one.texture for one in found[:-2]] == [one.texture for one in base]
    assert min(one.radius for one in found[-2:]) >= 56 * UNIT > 44 * UNIT >= max(one.radius for one in base)


def test_lookalikes_look_the_same_and_move_differently():
    scene = make_tracking_scene("lookalike", 0)
    first, *others = scene.surfaces[1:]
    for other in others:
        np.testing.assert_array_equal(surface_picture(other, scene.knobs), surface_picture(first, scene.knobs))
        assert (other.path != first.path).any()


def test_repetitive_textures_repeat_after_32_pixels_and_no_sooner():
    scene = make_tracking_scene("repetitive", 0)
    for surface in scene.surfaces:
        colours = surface_picture(surface, scene.knobs)[:, :, :3].astype(int)
        for axis in (0, 1):
            np.testing.assert_array_equal(np.roll(colours, 32, axis), colours)
            assert abs(np.roll(colours, 16, axis) - colours).mean() > 10


def test_smooth_textures_have_a_fraction_of_the_detail():
    def detail(preset: str) -> float:
        scene = make_tracking_scene(preset, 0)
        colours = [surface_picture(surface, scene.knobs)[:, :, :3].astype(int) for surface in scene.surfaces]
        return float(np.mean([abs(np.diff(colour, axis=1)).mean() for colour in colours]))

    assert detail("smooth") < 0.25 * detail("base")


def test_all_turns_the_knobs_of_motion_and_camera():
    knobs = TRACKING_PRESETS["all"]
    names = ("rotation", "zoom", "bend", "light", "blur", "noise", "jpeg", "shake", "occluders")
    assert all(getattr(knobs, name) for name in names)
    assert knobs.speed > 100


def test_unknown_presets_and_seeds_are_refused():
    with pytest.raises(ValueError, match="unknown tracking preset 'spin': expected one of base, rotation"):
        make_tracking_scene("spin", 0)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=f"seed is {seed}: expected 0"):
            make_tracking_scene("base", seed)
