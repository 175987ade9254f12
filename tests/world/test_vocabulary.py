import colorsys
from itertools import pairwise

import pytest

from modeling_sen.world import COLOURS, HELD_OUT_PAIRS, MOTIONS, PITCHES, SHAPES, all_descriptions, describe


def test_there_are_eight_of_each_and_512_descriptions():
    assert len(COLOURS) == len(SHAPES) == len(MOTIONS) == 8
    assert len(set(all_descriptions())) == 512
    assert "a red circle moving left" in all_descriptions()


def test_size_is_named_on_request():
    item = {"colour": "red", "shape": "circle", "size": "big", "motion": "still"}
    assert describe(item, size=True) == "a big red circle staying still"


def test_every_colour_and_shape_is_held_out_once():
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(COLOURS)
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert len(HELD_OUT_PAIRS) == 8


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_equally_bright(colour):
    red, green, blue = COLOURS[colour]
    assert 0.299 * red + 0.587 * green + 0.114 * blue == pytest.approx(100, abs=0.6)


def test_hues_lie_apart():
    hues = sorted(colorsys.rgb_to_hsv(*rgb)[0] * 360 for name, rgb in COLOURS.items() if name != "grey")
    assert min(after - before for before, after in zip(hues, [*hues[1:], hues[0] + 360], strict=True)) > 25


def test_pitches_are_apart_and_not_octaves():
    pitches = sorted(PITCHES.values())
    assert all(high / low > 1.35 for low, high in pairwise(pitches))
    assert not any(abs(high / low / 2 - 1) < 0.01 for low in pitches for high in pitches)
