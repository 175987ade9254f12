"""`SENTrackingOutput`: the forms of CoTracker and TAP-Vid, and files that restore what was saved."""

import csv
import json

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from modeling_sen import SENTrackingOutput

NAMES = ["tracks", "visibility", "confidence", "query_points", "frame_size"]


def output_of(num_frames: int = 5, num_points: int = 3, seed: int = 0) -> SENTrackingOutput:
    """Random tracks, some outside of the 40 x 60 frames."""
    draws = np.random.default_rng(seed)
    shape = (num_frames, num_points)
    frames = draws.integers(0, num_frames, num_points)
    return SENTrackingOutput(
        tracks=draws.normal(30, 20, (*shape, 2)).astype(np.float32),
        visibility=draws.random(shape) > 0.4,
        confidence=draws.random(shape).astype(np.float32),
        query_points=np.stack([frames, *draws.uniform(0, 39, (2, num_points))], axis=1).astype(np.float32),
        frame_size=(40, 60),
    )


def test_it_is_a_model_output():
    output = output_of()
    assert isinstance(output, ModelOutput)
    assert list(output) == NAMES
    assert output["tracks"] is output.tracks
    assert output[1] is output.visibility
    assert output.to_tuple()[4] == (40, 60)


def test_cotracker_has_a_batch_and_the_same_pixels():
    output = output_of()
    tracks, visibility = output.to_cotracker()
    assert (tracks.shape, tracks.dtype) == ((1, 5, 3, 2), torch.float32)
    assert (visibility.shape, visibility.dtype) == ((1, 5, 3), torch.bool)
    for frame in range(5):
        for point in range(3):
            assert tracks[0, frame, point].tolist() == output.tracks[frame, point].tolist()
            assert visibility[0, frame, point] == output.visibility[frame, point]
    tracks.zero_()
    assert output.tracks.any()


def test_tapvid_counts_from_the_corner_of_the_first_pixel():
    output = output_of()
    found = output.to_tapvid()
    assert set(found) == {"tracks", "occluded"}
    assert (found["tracks"].shape, found["tracks"].dtype) == ((3, 5, 2), np.float32)
    for frame in range(5):
        for point in range(3):
            x, y = output.tracks[frame, point].tolist()
            assert found["tracks"][point, frame].tolist() == pytest.approx([(x + 0.5) / 60, (y + 0.5) / 40], abs=1e-6)
            assert found["occluded"][point, frame] != output.visibility[frame, point]
    corners = np.array([[[-0.5, -0.5], [59.5, 39.5], [29.5, 19.5]]], dtype=np.float32)
    shares = SENTrackingOutput(**{**output_of(1), "tracks": corners}).to_tapvid()["tracks"]
    assert shares[:, 0].tolist() == [[0, 0], [1, 1], [0.5, 0.5]]


@pytest.mark.parametrize(("num_frames", "num_points"), [(5, 3), (1, 2), (4, 0)])
def test_csv_has_a_row_for_each_point_of_each_frame(tmp_path, num_frames, num_points):
    output = output_of(num_frames, num_points)
    output.save(tmp_path / "tracks.csv")
    with open(tmp_path / "tracks.csv", newline="") as file:
        names, *rows = csv.reader(file)
    assert names == ["frame", "point", "x", "y", "visible", "confidence"]
    assert [(int(row[0]), int(row[1])) for row in rows] == [
        (frame, point) for frame in range(num_frames) for point in range(num_points)
    ]
    for frame, point, x, y, visible, confidence in rows:
        place = int(frame), int(point)
        assert [np.float32(x), np.float32(y)] == output.tracks[place].tolist()
        assert visible == str(int(output.visibility[place]))
        assert np.float32(confidence) == output.confidence[place]


def test_numbers_have_the_fewest_sufficient_digits(tmp_path):
    output = output_of(1, 1)
    output.tracks[0, 0], output.confidence[0, 0], output.visibility[0, 0] = (1.1, 20), 0.3, True
    output.save(tmp_path / "tracks.csv")
    assert (tmp_path / "tracks.csv").read_text().splitlines()[1] == "0,0,1.1,20.0,1,0.3"


@pytest.mark.parametrize(("num_frames", "num_points"), [(5, 3), (1, 2), (4, 0)])
def test_json_and_npz_restore_the_output(tmp_path, num_frames, num_points):
    output = output_of(num_frames, num_points)
    output.save(tmp_path / "tracks.json")
    output.save(str(tmp_path / "tracks.NPZ"))
    written = json.loads((tmp_path / "tracks.json").read_text())
    with np.load(tmp_path / "tracks.NPZ") as arrays:
        stored = dict(arrays)
    assert list(written) == list(stored) == NAMES
    assert written["frame_size"] == stored["frame_size"].tolist() == [40, 60]
    for name in NAMES[:4]:
        expected = output[name]
        read = np.array(written[name], dtype=expected.dtype).reshape(expected.shape)
        assert np.array_equal(read, expected)
        assert np.array_equal(stored[name], expected)
        assert stored[name].dtype == expected.dtype


def test_other_file_endings_and_missing_folders_are_refused(tmp_path):
    for name in ("tracks.txt", "tracks", "csv"):
        with pytest.raises(ValueError, match=rf"{name}: expected a file ending in \.csv, \.json or \.npz, found"):
            output_of().save(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no folder"):
        output_of().save(tmp_path / "nowhere" / "tracks.csv")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    (tmp_path / "tracks.npz").write_text("old")
    with pytest.raises(OSError, match="no space left"):
        output_of().save(tmp_path / "tracks.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["tracks.npz"]
    assert (tmp_path / "tracks.npz").read_text() == "old"
