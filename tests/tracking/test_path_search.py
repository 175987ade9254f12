"""The search against an enumeration of all paths, and its candidates against motions that are known."""

import itertools

import numpy as np
import pytest

from modeling_sen.tracking.path_search import (
    CHAINED,
    NUM_CANDIDATES,
    NUM_PEAKS,
    FrameStates,
    PathCosts,
    advance,
    trace_back,
)

SIZE = (40, 50)
POINTS = np.array([[10.0, 12.0], [30.0, 20.0]], dtype=np.float32)


def still(shift=(0.0, 0.0)) -> np.ndarray:
    return np.broadcast_to(np.float32(shift), (*SIZE, 2)).copy()


def run(num_frames, flow, peaks, score, costs=PathCosts(), wrong=None):  # noqa: B008 (frozen)
    """States of queries in frame 0, and the scores that were asked for in each frame."""
    first = FrameStates.unreached(POINTS)
    first.start(np.array([True, True]))
    states, asked = [first], []
    for number in range(1, num_frames):

        def recorded(places, poses, number=number):
            asked.append(score(number, places))
            return asked[-1].copy()

        past = {gap: states[-gap] for gap in (1, 2, 4, 8) if gap <= len(states)}
        flows = {gap: flow * gap for gap in past}
        none = np.zeros((2, NUM_PEAKS), dtype=bool)
        states.append(
            advance(past, flows, peaks[:, number], none if wrong is None else wrong, np.arange(2), recorded, costs)
        )
    return states, asked


@pytest.mark.parametrize("seed", range(3))
def test_the_best_path_is_that_of_an_enumeration(seed):
    random = np.random.default_rng(seed)
    flow, costs = still((1.5, -0.5)), PathCosts(shift=0.4, jump=3.0, reappear=0.9, hidden=1.1)
    peaks = random.uniform(5, 35, (2, 4, NUM_PEAKS, 2)).astype(np.float32)
    states, asked = run(4, flow, peaks, lambda number, places: random.normal(0, 3, places.shape[:2]), costs)
    places, _ = trace_back(states)
    for row in range(2):
        best, chosen = -np.inf, ()
        for path in itertools.product(range(NUM_CANDIDATES), repeat=3):
            total, before, seen = 0.0, 0, True
            for number, state in enumerate(path, start=1):
                expected = states[number - 1].places[row, before] + (1.5, -0.5)
                missed = np.linalg.norm(states[number].places[row, state] - expected)
                total -= min(costs.shift * missed, costs.jump if seen else costs.reappear)
                score, before = asked[number - 1][row, state], state
                seen = score > -costs.hidden
                total += score if seen else -costs.hidden
            if total > best:
                best, chosen = total, path
        assert states[-1].totals[row].max() == pytest.approx(best, abs=1e-4)
        for number, state in enumerate(chosen, start=1):
            np.testing.assert_array_equal(places[number, row], states[number].places[row, state])


def test_flow_moves_the_places_and_a_peak_that_scores_better_wins():
    peaks = np.full((2, 6, NUM_PEAKS, 2), 45.0, dtype=np.float32)
    states, _ = run(6, still((2.0, 1.0)), peaks, lambda number, places: np.ones(places.shape[:2]))
    places, poses = trace_back(states)
    expected = POINTS + np.arange(6)[:, None, None] * np.float32([2.0, 1.0])
    np.testing.assert_allclose(places, expected, atol=1e-4)
    np.testing.assert_allclose(poses, np.broadcast_to([1.0, 0.0], poses.shape), atol=1e-6)
    assert all(each.seen[:, 0].all() for each in states)

    def at_the_peak(number, places):
        scores = np.full(places.shape[:2], -4.0)
        scores[:, -NUM_PEAKS] = 20.0
        return scores

    peaks[:, :, 0] = (33.0, 7.0)
    places, _ = trace_back(run(6, still(), peaks, at_the_peak)[0])
    np.testing.assert_array_equal(places[1:], np.broadcast_to(np.float32([33.0, 7.0]), (5, 2, 2)))


def test_points_without_a_match_are_hidden_at_the_place_given_by_the_flow():
    peaks = np.full((2, 6, NUM_PEAKS, 2), 45.0, dtype=np.float32)
    low = [2, 3, 4]
    states, _ = run(
        6, still((1.0, 0.0)), peaks, lambda number, at: np.full(at.shape[:2], -9.0 if number in low else 3.0)
    )
    assert [bool(each.seen[0, 0]) for each in states] == [True, True, False, False, False, True]
    np.testing.assert_allclose(trace_back(states)[0][:, 0, 0], 10 + np.arange(6), atol=1e-4)


def test_poses_follow_a_flow_that_turns_and_grows():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    angle, scale = 0.1, 1.05
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32)
    positions = np.stack([x, y], axis=-1) - 20
    flow = positions @ matrix.T - positions
    first = FrameStates.unreached(POINTS)
    first.start(np.array([True, True]))
    peaks = np.zeros((2, NUM_PEAKS, 2), dtype=np.float32)
    ones = np.zeros((2, NUM_PEAKS), dtype=bool)
    after = advance({1: first}, {1: flow}, peaks, ones, np.arange(2), lambda p, q: np.ones(p.shape[:2]), PathCosts())
    expected = scale * np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(after.poses[:, :CHAINED], np.broadcast_to(expected, (2, CHAINED, 2)), atol=1e-4)
    np.testing.assert_array_equal(after.poses[:, -NUM_PEAKS:], np.broadcast_to([1.0, 0.0], (2, NUM_PEAKS, 2)))
    np.testing.assert_allclose(after.places[:, 0], (POINTS - 20) @ matrix.T + 20, atol=1e-3)


def test_places_outside_of_the_frame_are_hidden():
    peaks = np.full((2, 8, NUM_PEAKS, 2), -9.0, dtype=np.float32)
    states, _ = run(8, still((6.0, 0.0)), peaks, lambda number, places: np.full(places.shape[:2], 5.0))
    assert [bool(each.seen[0, 0]) for each in states] == [10 + 6 * t <= SIZE[1] - 0.5 for t in range(8)]
    assert not any(each.seen[:, -NUM_PEAKS:].any() for each in states)


def test_a_query_that_starts_later_is_at_its_point_before():
    first, second = FrameStates.unreached(POINTS), FrameStates.unreached(POINTS)
    first.start(np.array([True, False]))
    peaks = np.zeros((2, NUM_PEAKS, 2), dtype=np.float32)
    wrong = np.zeros((2, NUM_PEAKS), dtype=bool)
    second = advance(
        {1: first}, {1: still()}, peaks, wrong, np.array([0]), lambda p, q: np.ones(p.shape[:2]), PathCosts()
    )
    second.start(np.array([False, True]))
    places, _ = trace_back([first, second])
    assert first.seen.any(axis=1).tolist() == [True, False]
    assert second.seen.any(axis=1).tolist() == [True, True]
    np.testing.assert_array_equal(places[:, 1], POINTS[[1, 1]])


def test_rows_are_added_and_removed():
    states = FrameStates.unreached(POINTS)
    states.append(FrameStates.unreached(np.float32([[1, 2]])))
    states.keep(np.array([2, 0]))
    np.testing.assert_array_equal(states.places[:, 0], np.float32([[1, 2], [10, 12]]))
    assert states.totals.shape == (2, NUM_CANDIDATES)
