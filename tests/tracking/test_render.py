"""Drawn points: discs, rings and trails in the right places and colours. Files: test_write_video.py."""

import numpy as np
import pytest

from modeling_sen import SENTrackingOutput
from modeling_sen.tracking.render import draw_points, query_colours

GREY = 90


def tracked(tracks, visibility, size=(48, 64), rows=None) -> SENTrackingOutput:
    """Of tracks (T, N, 2), whose queries are at their first positions, or in these rows."""
    tracks = np.array(tracks, dtype=np.float32)
    queries = np.concatenate([np.zeros((tracks.shape[1], 1)), tracks[0]], axis=1).astype(np.float32)
    if rows is not None:
        queries[:, 2] = rows
    visibility = np.array(visibility, dtype=bool).reshape(tracks.shape[:2])
    return SENTrackingOutput(tracks, visibility, visibility.astype(np.float32), queries, size)


def grey(num_frames: int, size=(48, 64)) -> np.ndarray:
    return np.full((num_frames, *size, 3), GREY, dtype=np.uint8)


def changed(frame: np.ndarray) -> list[tuple[int, int]]:
    """(x, y) of pixels that are not grey any more."""
    return [(int(x), int(y)) for y, x in np.argwhere((frame != GREY).any(axis=-1))]


def colour_of(row: float, height: int = 48) -> list[int]:
    """The colour of a query, from plasma's anchors as matplotlib lists them."""
    anchors = [(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)]
    place = row / (height - 1) * 4
    low = min(int(place), 3)
    return [round(a + (b - a) * (place - low)) for a, b in zip(anchors[low], anchors[low + 1], strict=True)]


def test_a_visible_point_is_a_disc_of_its_querys_colour():
    frame = tracked([[[20, 30]]], [True]).render(grey(1))[0]
    assert frame[30, 20].tolist() == pytest.approx(colour_of(30), abs=1)
    assert frame[30, 21].tolist() == pytest.approx(colour_of(30), abs=1)
    assert all(np.hypot(x - 20, y - 30) < 3.5 for x, y in changed(frame))
    assert len(changed(frame)) > 12


def test_a_hidden_point_is_a_ring_around_the_frames_own_colour():
    size = (500, 600)  # a radius of 6, a line of 2.4
    frame = tracked([[[20, 30]]], [False], size).render(grey(1, size))[0]
    for x, y in [(20, 30), (21, 30), (22, 32)]:
        assert frame[y, x].tolist() == [GREY] * 3
    for x, y in [(25, 30), (15, 30), (20, 35), (23, 34)]:
        assert frame[y, x].tolist() == pytest.approx(colour_of(30, 500), abs=1)
    assert all(2.9 <= np.hypot(x - 20, y - 30) < 7.7 for x, y in changed(frame))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, 0.5), (-0.4, 0.1)])
def test_discs_are_where_the_point_is_between_pixels_too(shift):
    """The centre of the disc's opacity is the point: edges are anti-aliased."""
    picture = grey(1)[0]
    where = np.array([[[20.0, 30.0]]]) + shift
    seen = np.ones((1, 1), dtype=bool)
    draw_points(picture, where, seen, seen, np.full((1, 3), 255.0, dtype=np.float32))
    opacity = picture[..., 0].astype(float) - GREY
    rows, columns = np.mgrid[:48, :64]
    centre = [(opacity * columns).sum() / opacity.sum(), (opacity * rows).sum() / opacity.sum()]
    assert centre == pytest.approx(where[0, 0], abs=0.05)


def test_points_outside_of_the_frame_are_not_drawn_and_those_at_0_are():
    outside = [[-0.6, 20], [63.6, 20], [20, -0.6], [20, 47.6], [1e9, -1e9], [np.nan, 3]]
    assert changed(tracked([outside], [False, True] * 3).render(grey(1))[0]) == []
    for x, y in [(0, 20), (20, 0), (0, 0), (63, 47)]:
        frame = tracked([[[x, y]]], [True]).render(grey(1))[0]
        assert frame[y, x].tolist() == pytest.approx(colour_of(y), abs=1)
        assert changed(tracked([[[x, y]]], [False]).render(grey(1))[0])


def test_colours_go_from_top_to_bottom():
    colours = query_colours(np.array([[0, 5, 0], [3, 9, 23.5], [0, 0, 47]], dtype=np.float32), 48)
    assert colours.tolist() == [[13, 8, 135], [204, 71, 120], [240, 249, 33]]
    assert query_colours(np.array([[0, 0, 0]], dtype=np.float32), 1).tolist() == [[13, 8, 135]]
    # By the query's row and not by where the point is now.
    frame = tracked([[[20, 30]]], [True], rows=[47]).render(grey(1))[0]
    assert frame[30, 20].tolist() == [240, 249, 33]


def test_a_trail_fades_towards_the_past():
    steps = [[[10 + 4 * step, 24]] for step in range(10)]
    last = tracked(steps, [True] * 10).render(grey(10), trail=6)[9]
    difference = np.abs(last[24].astype(int) - GREY).sum(axis=-1)  # along the way
    assert difference[[42, 38, 34, 30, 26]].tolist() == sorted(difference[[42, 38, 34, 30, 26]], reverse=True)
    assert difference[24] > 0
    assert difference[:20].tolist() == [0] * 20  # six frames back is x = 22
    assert len(changed(tracked(steps, [True] * 10).render(grey(10), trail=0)[9])) < 45


def test_trails_are_drawn_between_visible_points_inside_only():
    steps = [[[10 + 10 * step, 24]] for step in range(4)]
    frame = tracked(steps, [True, False, True, True]).render(grey(4))[3]
    touched = {x for x, _ in changed(frame)}
    assert not touched & set(range(0, 27))
    assert set(range(30, 41)) <= touched
    leaving = tracked([[[50, 24]], [[80, 24]]], [True, True]).render(grey(2))[1]
    assert changed(leaving) == []


def test_where_a_trail_bends_nothing_is_drawn_twice():
    """Pieces that overlap are no darker than the newest of them."""
    there_and_back = [[[10, 24]], [[40, 24]], [[10, 24]]]
    frame = tracked(there_and_back, [True] * 3, rows=[47]).render(grey(3), trail=2)[2]
    expected = GREY + 0.8 * (np.array([240, 249, 33]) - GREY)
    assert frame[24, 28].tolist() == pytest.approx(expected, abs=1)


def test_points_grow_with_the_frame():
    small, large = (
        len(changed(tracked([[[size // 2, size // 2]]], [True], (size, size)).render(grey(1, (size, size)))[0]))
        for size in (128, 512)
    )
    assert 5 < large / small < 13  # of areas: twice or three times the radius


def test_the_video_is_left_as_it_was_and_every_frame_is_returned():
    video = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    before = video.copy()
    found = tracked(np.full((3, 2, 2), 20.0), [True] * 6).render(video)
    assert np.array_equal(video, before)
    assert (found.shape, found.dtype) == (video.shape, np.uint8)
    assert np.array_equal(found[:, 30:], video[:, 30:])


def test_without_points_the_frames_are_returned_as_they_are():
    video = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    assert np.array_equal(tracked(np.empty((3, 0, 2)), []).render(video), video)


def test_another_video_or_trail_is_refused():
    output = tracked([[[20, 30]]] * 2, [True] * 2)
    with pytest.raises(ValueError, match="of 2 frames, found 3"):
        output.render(grey(3))
    with pytest.raises(ValueError, match=r"\(height, width\) \(48, 64\), found \(64, 48\)"):
        output.render(grey(2, (64, 48)))
    with pytest.raises(ValueError, match="trail: expected a number of frames of at least 0, found -1"):
        output.render(grey(2), trail=-1)
    with pytest.raises(TypeError, match="found int"):
        output.render(5)
