from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from modeling_sen.world import COLOURS, SHAPES, make_scene, positions, render
from modeling_sen.world.drawing import shape_coverage, shift
from modeling_sen.world.scene import UNIT

LUMA = {"BT.601": (0.299, 0.587, 0.114), "BT.709": (0.2126, 0.7152, 0.0722)}


def test_shapes_and_types():
    clip = render(make_scene("train", 0, 0, size=48, num_frames=5))
    assert (clip.frames.shape, clip.frames.dtype) == ((5, 48, 48, 3), np.uint8)
    assert (clip.masks.shape, clip.masks.dtype) == ((5, 48, 48), np.uint8)
    assert (clip.depth.shape, clip.depth.dtype) == ((5, 48, 48), np.uint8)


@pytest.mark.parametrize("indices", [[0, 5, 15], range(0, 16, 2), [8], []])
def test_single_frames_equal_those_of_the_whole_clip(indices):
    for index in range(6):
        scene = make_scene("train", 1, index)
        whole, part = render(scene), render(scene, indices)
        np.testing.assert_array_equal(part.frames, whole.frames[list(indices)])
        np.testing.assert_array_equal(part.masks, whole.masks[list(indices)])
        np.testing.assert_array_equal(part.depth, whole.depth[list(indices)])


def test_a_frame_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        render(make_scene("train", 0, 0), [16])


def test_shift_equals_bilinear_interpolation():
    picture = np.random.default_rng(0).integers(0, 256, (9, 12 * 3))
    right, down = np.array([0, 64, 255]), np.array([0, 128, 3])
    shifted = shift(picture.astype(np.uint16), right, down, 3)
    for time in range(3):
        x, y = right[time] / 256, down[time] / 256
        across = picture[:, 3:] * (1 - x) + picture[:, :-3] * x
        expected = across[1:] * (1 - y) + across[:-1] * y
        assert np.abs(shifted[time] - expected).max() <= 1
    np.testing.assert_array_equal(shifted[0], picture[1:, 3:])


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_smooth_centred_and_has_the_given_width(shape):
    coverage = shape_coverage(shape, 8 * UNIT)[1:, 1:] / 255
    middle = coverage.shape[0] // 2
    np.testing.assert_allclose(coverage, coverage[:, ::-1], atol=0.05)
    rows, columns = np.nonzero(coverage > 0.5)
    assert 6 <= columns.max() - middle <= 8
    assert 6 <= max(rows.max() - middle, middle - rows.min()) <= 8
    assert ((coverage > 0) & (coverage < 1)).any()


def test_shapes_differ_at_the_smallest_radius():
    drawn = {shape: shape_coverage(shape, 6 * UNIT) > 127 for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            if one != other:
                common = (drawn[one] & drawn[other]).sum() / (drawn[one] | drawn[other]).sum()
                assert common < 0.85, (one, other)


def test_pixels_in_a_mask_have_the_colour_of_the_sprite():
    for index in range(60):
        scene = make_scene("train", 2, index, num_objects=4)
        clip = render(scene, [scene.num_frames // 2])
        for number, sprite in enumerate(scene.sprites):
            pixels = clip.frames[clip.masks == number + 1].astype(float)
            chroma = np.median(pixels / pixels.sum(1, keepdims=True), axis=0)
            nearest = min(
                COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) / sum(COLOURS[name]) - chroma).sum()
            )
            assert nearest == sprite.colour, (index, number)


def test_every_sprite_is_visible_in_the_middle_frame_and_in_most_others():
    for split, num_objects in (("train", 4), ("unseen_pairs", 8)):
        for index in range(60):
            scene = make_scene(split, 3, index, num_objects=num_objects)
            masks = render(scene).masks
            for number, sprite in enumerate(scene.sprites):
                area = (shape_coverage(sprite.shape, sprite.radius) > 127).sum()
                seen = (masks == number + 1).sum((1, 2)) / area
                assert seen[8] > 0.5
                assert (seen > 0.3).mean() >= 0.6


def test_masks_lie_where_the_sprites_are():
    scene = make_scene("train", 0, 3, num_objects=1)
    masks = render(scene).masks
    centres = positions(scene.sprites[0], 16) / UNIT
    for mask, centre in zip(masks, centres, strict=True):
        rows, columns = np.nonzero(mask)
        assert np.abs([columns.min(), rows.min()] - centre).max() <= scene.sprites[0].radius / UNIT + 1


def test_the_nearer_sprite_covers_the_farther_and_is_nearer_in_the_depth_map():
    overlaps = 0
    for index in range(40):
        scene = make_scene("train", 4, index, num_objects=4)
        clip = render(scene)
        seen = np.zeros_like(clip.masks)
        for number, sprite in enumerate(scene.sprites):
            mask = render(replace(scene, sprites=(sprite,))).masks == 1
            overlaps += (seen[mask] > 0).sum()
            seen[mask] = number + 1
        np.testing.assert_array_equal(clip.masks, seen)
        depths = [clip.depth[clip.masks == label] for label in range(5)]
        for far, near in pairwise(depths):
            assert far.max() < near.min()
    assert overlaps > 1000


def test_a_still_sprite_on_a_still_background_gives_equal_frames():
    scenes = (make_scene("train", 5, index, num_objects=1) for index in range(200))
    still = [s for s in scenes if s.sprites[0].motion == "still" and not (s.background.pan_x or s.background.pan_y)]
    assert still
    for scene in still:
        assert (np.diff(render(scene).frames.astype(int), axis=0) == 0).all()


@pytest.fixture(scope="module")
def mean_colours():
    """Of 2400 sprites: the mean colour (2400, 3) that each shows in the middle, and which it is called."""
    means, labels = [], []
    for index in range(800):
        scene = make_scene("train", 6, index, num_objects=3)
        clip = render(scene, [8])
        means += [clip.frames[clip.masks == number + 1].mean(0) for number in range(3)]
        labels += [list(COLOURS).index(sprite.colour) for sprite in scene.sprites]
    return np.array(means), np.array(labels)


@pytest.mark.parametrize("weighting", LUMA)
def test_grey_values_do_not_depend_on_the_colour(mean_colours, weighting):
    values, colours = mean_colours[0] @ np.array(LUMA[weighting]), mean_colours[1]
    half = len(values) // 2
    centres = np.array([values[:half][colours[:half] == colour].mean() for colour in range(8)])
    guesses = np.abs(values[half:, None] - centres).argmin(1)
    chance = 1 / 8
    assert (guesses == colours[half:]).mean() < {"BT.601": chance + 0.04, "BT.709": chance + 0.09}[weighting]
    assert centres.std() < {"BT.601": 2, "BT.709": 9}[weighting], "brightness alone spreads over 50"
