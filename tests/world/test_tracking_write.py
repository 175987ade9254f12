import json

import numpy as np
import pytest

from modeling_sen.video_io import read_video
from modeling_sen.world import tracking_clip
from modeling_sen.world.tracking_write import write_tracking_world


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("tracking") / "clips"
    write_tracking_world(out, "rotation", 2, seed=1000)
    return out


def rows_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def test_the_truth_and_the_frames_of_a_row_can_be_read_and_drawn_again(written):
    for index, row in enumerate(rows_of(written)):
        assert (row["preset"], row["seed"], row["index"]) == ("rotation", 1000 + index, index)
        clip = tracking_clip(row["preset"], row["seed"])
        with np.load(written / row["truth_path"]) as truth:
            for name in ("masks", "visibility", "queries", "surface"):
                np.testing.assert_array_equal(truth[name], getattr(clip, name))
            np.testing.assert_array_equal(truth["points"], clip.tracks)
            assert truth["frame_times"].tolist() == [time / 8 for time in range(24)]
        frames = np.asarray(read_video(written / row["file_name"], num_frames=24).frames)
        assert frames.shape == clip.frames.shape
        assert abs(frames.astype(int) - clip.frames).mean() < 6, "the video is lossy, and of these frames"


def test_existing_clips_are_kept_and_more_can_be_added(written, tmp_path):
    write_tracking_world(tmp_path / "out", "base", 1)
    before = (tmp_path / "out/videos/000000.mp4").stat().st_mtime_ns
    summary = write_tracking_world(tmp_path / "out", "base", 2)
    assert (summary["clips"], summary["written"]) == (2, 1)
    assert (tmp_path / "out/videos/000000.mp4").stat().st_mtime_ns == before
    assert [row["index"] for row in rows_of(tmp_path / "out")] == [0, 1]
    with pytest.raises(ValueError, match="holds clips drawn with"):
        write_tracking_world(written, "base", 2, seed=1000)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"preset": "easy"}, "unknown tracking preset 'easy'"),
        ({"num": 0}, "num is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64 - 1, "num": 2}, f"seed is {2**64}"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_written(tmp_path, arguments, named):
    with pytest.raises(ValueError, match=named):
        write_tracking_world(tmp_path / "out", **{"preset": "base", "num": 1, **arguments})
    assert not list(tmp_path.iterdir())
