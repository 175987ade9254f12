"""Windows over long clips: which frames they hold, how their predictions are joined."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")

from modeling_sen.editing.frame_windows import frame_windows, windowed


def latents(frames):
    return torch.randn(1, 2, frames, 3, 4, generator=torch.Generator().manual_seed(0))


def test_windows_written_out():
    assert frame_windows(9, 5, 2) == [[0, 1, 2, 3, 4], [0, 3, 4, 5, 6], [0, 5, 6, 7, 8]]
    # The last one is as long as the others, so that it overlaps by more.
    assert frame_windows(8, 5, 2) == [[0, 1, 2, 3, 4], [0, 3, 4, 5, 6], [0, 4, 5, 6, 7]]
    assert frame_windows(7, 4, 0) == [[0, 1, 2, 3], [0, 4, 5, 6]]


@pytest.mark.parametrize(("num_frames", "window", "overlap"), [(1, 1, 0), (1, 24, 8), (24, 24, 8), (3, 4, 100)])
def test_a_short_clip_is_one_window(num_frames, window, overlap):
    assert frame_windows(num_frames, window, overlap) == [list(range(num_frames))]


@pytest.mark.parametrize(("window", "overlap"), [(2, 0), (5, 0), (5, 3), (24, 8)])
def test_all_frames_are_in_a_window_and_all_windows_are_full(window, overlap):
    for num_frames in range(window + 1, 3 * window + 2):
        windows = frame_windows(num_frames, window, overlap)
        assert {frame for frames in windows for frame in frames} == set(range(num_frames))
        assert all(len(frames) == window for frames in windows)
        for before, after in pairwise(windows):
            assert after[0] == 0
            assert after[1:] == list(range(after[1], after[1] + window - 1))
            assert len(set(before) & set(after[1:])) >= overlap


def test_one_window_equals_no_windows_bit_for_bit():
    def predict_window(values, timestep, frames):
        assert frames == [0, 1, 2, 3, 4]
        return torch.sin(values) * timestep

    predict = windowed(predict_window, 5, window=5, overlap=2)
    assert torch.equal(predict(latents(5), 3), torch.sin(latents(5)) * 3)


def test_equal_predictions_of_all_windows_are_kept():
    predict = windowed(lambda values, timestep, frames: torch.sin(values) + timestep, 11, window=5, overlap=2)
    assert torch.allclose(predict(latents(11), 2), torch.sin(latents(11)) + 2, atol=1e-6)


def test_different_predictions_are_averaged_with_weights_that_fall_towards_the_ends():
    """Each window predicts its own number, and the first frame of a later one something that must not count."""
    windows = [[0, 1, 2, 3, 4], [0, 3, 4, 5, 6], [0, 5, 6, 7, 8]]

    def predict_window(values, timestep, frames):
        output = torch.full_like(values, 10.0 ** windows.index(frames))
        if frames[1] > 1:
            output[:, :, 0] = float("nan")
        return output

    found = windowed(predict_window, 9, window=5, overlap=2)(latents(9), 0)
    # Frame 3: weight 2 in the first window (1 2 3 2 1), 1 in the second (1 2 2 1).
    expected = [1, 1, 1, (2 + 10) / 3, (1 + 20) / 3, (20 + 100) / 3, (10 + 200) / 3, 100, 100]
    assert torch.allclose(found[0, 0, :, 0, 0], torch.tensor(expected))
    assert torch.equal(found, found[:, :1, :, :1, :1].expand_as(found))


@pytest.mark.parametrize(
    ("num_frames", "window", "overlap", "message"),
    [
        (5, 0, 0, "window: expected at least 1 frame, found 0"),
        (5, 4, -1, "overlap: expected at least 0 frames, found -1"),
        (5, 4, 3, "overlap: expected at most 2 frames for windows of 4.*found 3"),
        (5, 1, 0, "window: expected at least 2 frames for a clip of 5, found 1"),
    ],
)
def test_invalid_windows(num_frames, window, overlap, message):
    with pytest.raises(ValueError, match=message):
        frame_windows(num_frames, window, overlap)
