import numpy as np
import pytest

from modeling_sen.world import HELD_OUT_PAIRS, MOTIONS, SPLITS, make_scene, positions
from modeling_sen.world.scene import UNIT, IntegerStream, motion_path


def pairs_of(split: str, count: int) -> set[tuple[str, str]]:
    scenes = [make_scene(split, 0, index, num_objects=3) for index in range(count)]
    return {(sprite.colour, sprite.shape) for scene in scenes for sprite in scene.sprites}


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as published (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    low = 2**64 - 1
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [second >> 64 ^ counter[1] ^ key[0], second & low, first >> 64 ^ counter[3] ^ key[1], first & low]
        key = [key[0] + 0x9E3779B97F4A7C15 & low, key[1] + 0xBB67AE8584CAA73B & low]
    return counter


def test_the_stream_is_philox_as_published():
    assert philox([0, 0, 0, 0], [0, 0])[0] == 0x16554D9ECA36314C, "known answer of the Random123 library"
    stream = IntegerStream((2**63 + 5, 7), counter=(3, 2))
    words = [stream.word() for _ in range(8)]
    key = [2**63 + 5, 7]
    assert words == philox([1, 0, 3, 2], key) + philox([2, 0, 3, 2], key)


def test_draws_below_a_bound_are_even():
    draws = IntegerStream((1, 2))
    counts = np.bincount([draws.below(5) for _ in range(5000)], minlength=6)
    assert counts[5] == 0
    assert counts[:5].min() > 900


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_held_out_pairs_never_occur_where_models_train_or_are_tested(split):
    pairs = pairs_of(split, 400)
    assert pairs.isdisjoint(HELD_OUT_PAIRS)
    assert len(pairs) == 56


def test_unseen_pairs_are_the_held_out_ones():
    assert pairs_of("unseen_pairs", 60) == set(HELD_OUT_PAIRS)


def test_splits_seeds_and_indices_give_different_clips():
    textures = [
        make_scene(split, seed, index).background.texture for split in SPLITS for seed in (0, 1) for index in range(50)
    ]
    assert len(set(textures)) == len(textures)


@pytest.mark.parametrize("split", SPLITS)
def test_colour_shape_and_motion_each_identify_an_object(split):
    for index in range(50):
        sprites = make_scene(split, 0, index, num_objects=(2, 8)).sprites
        for attribute in ("colour", "shape", "motion", "name"):
            assert len({getattr(sprite, attribute) for sprite in sprites}) == len(sprites)


def test_every_number_of_objects_occurs():
    assert {len(make_scene("train", 0, index, num_objects=(1, 8)).sprites) for index in range(100)} == set(range(1, 9))


def test_sprites_stay_visible():
    for index in range(100):
        scene = make_scene("train", 0, index)
        for sprite in scene.sprites:
            centres = positions(sprite, scene.num_frames)
            last = 63 * UNIT
            assert centres.min() >= sprite.radius // 2
            assert centres.max() <= last - sprite.radius // 2
            assert centres[8].min() >= sprite.radius
            assert centres[8].max() <= last - sprite.radius


def test_a_clip_for_a_chain_always_sounds_and_others_are_sometimes_silent():
    assert all(make_scene("train", 0, index, hops=2).sounding is not None for index in range(100))
    silent = sum(make_scene("train", 0, index).sounding is None for index in range(400))
    assert 25 < silent < 80


def test_the_chain_length_does_not_change_the_clip():
    one, two = make_scene("test", 0, 5, hops=1), make_scene("test", 0, 5, hops=2)
    assert one.sprites == two.sprites
    assert one.sounding == two.sounding


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_match_their_names(motion):
    path = motion_path(motion, 10 * UNIT, 4 if motion == "shaking" else 8, 100, 16) / UNIT
    ways = {"left": (-10, 0), "right": (10, 0), "up": (0, -10), "down": (0, 10), "still": (0, 0)}
    if motion in ways:
        np.testing.assert_allclose(path[-1] - path[0], ways[motion], atol=0.1)
        assert (np.abs(np.diff(path, axis=0)).sum() - 10 * (motion != "still")) == pytest.approx(0, abs=0.1)
    elif motion == "circling":
        centre = path[:8].mean(0)
        np.testing.assert_allclose(np.linalg.norm(path - centre, axis=1), 10, atol=0.1)
    elif motion == "shaking":
        assert not path[:, 1].any()
        assert np.ptp(path[::2, 0]) > 6, "one sees it in every second frame too"
        assert (np.diff(np.sign(np.diff(path[:, 0]))) != 0).sum() >= 6
    else:
        assert not path[:, 0].any()
        assert 8 < np.ptp(path[:, 1]) <= 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "training"}, "unknown split 'training': expected one of train, validation"),
        ({"seed": -1}, "seed is -1"),
        ({"index": 2**64}, "index is"),
        ({"num_objects": 9}, "num_objects is 9: expected 1 to 8"),
        ({"num_objects": (3, 2)}, "num_objects"),
        ({"num_objects": 1, "hops": 1}, "expected 2 to 8"),
        ({"size": 16}, "size is 16 pixels"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"hops": 4}, "hops is 4"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        make_scene(**{"split": "train", "seed": 0, "index": 0, **options})
