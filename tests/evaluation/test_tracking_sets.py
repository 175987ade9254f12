"""Test sets of tracked clips by name: which clips, under which keys, and what is refused."""

import os
import pickle

import numpy as np
import pytest

from modeling_sen.evaluation.tracking_sets import open_tracking_set
from modeling_sen.world.tracking_clips import tracking_clip
from modeling_sen.world.tracking_write import write_tracking_world


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    """Six clips of two frames, the number of each in its pixels."""
    path = tmp_path_factory.mktemp("tapvid") / "clips.pkl"
    points, occluded = np.full((1, 2, 2), 0.5, dtype=np.float32), np.zeros((1, 2), dtype=bool)
    clips = {
        f"clip{number}": {
            "video": np.full((2, 8, 8, 3), number, dtype=np.uint8),
            "points": points,
            "occluded": occluded,
        }
        for number in range(6)
    }
    path.write_bytes(pickle.dumps(clips, 4))
    return path


def test_clips_of_a_preset_follow_the_seed():
    found = open_tracking_set("base", "strided", num=2, seed=7)
    assert (found.source, list(found.keys)) == ("base", ["base, seed 7", "base, seed 8"])
    clip = found.read(1)
    np.testing.assert_array_equal(clip.read_frames(), tracking_clip("base", 8).frames)
    assert clip.query_mode == "strided"
    assert len(open_tracking_set("base", "first").keys) == 10


def test_clips_of_a_folder_are_those_that_were_written(tmp_path):
    write_tracking_world(tmp_path / "clips", "base", 1, seed=3)
    found = open_tracking_set(str(tmp_path / "clips"), "first")
    assert len(found.keys) == 1
    clip = found.read(0)
    np.testing.assert_array_equal(clip.tracks, tracking_clip("base", 3).tracks)


def test_clips_of_a_pickle_are_drawn_by_the_seed(pickled):
    def numbers(**options):
        found = open_tracking_set(str(pickled), "first", **options)
        read = [int(found.read(row).read_frames()[0, 0, 0, 0]) for row in range(len(found.keys))]
        assert [key.rsplit(":clip", 1)[1] for key in found.keys] == [str(number) for number in read]
        return read

    assert numbers() == numbers(num=6, seed=5) == numbers(num=9) == [0, 1, 2, 3, 4, 5]
    drawn = [numbers(num=3, seed=seed) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len({tuple(some) for some in drawn}) > 1


def test_a_file_that_changed_has_other_keys(pickled):
    before = open_tracking_set(str(pickled), "first").keys
    os.utime(pickled, (1, 1))
    assert not set(before) & set(open_tracking_set(str(pickled), "first").keys)


def test_invalid_test_sets_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = "nowhere: expected a folder of `sen world`, a TAP-Vid pickle, or one of base, rotation"
    with pytest.raises(FileNotFoundError, match=expected):
        open_tracking_set("nowhere", "first")
    with pytest.raises(FileNotFoundError, match=r"metadata\.jsonl"):
        open_tracking_set(".", "first")


def test_another_query_mode_is_refused(pickled):
    with pytest.raises(ValueError, match="query_mode is 'last', expected one of first, strided"):
        open_tracking_set(str(pickled), "last")
