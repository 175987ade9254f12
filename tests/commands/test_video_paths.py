"""Folders of videos as arguments of commands."""

from pathlib import Path

import pytest

from modeling_sen.commands.video_paths import listed_videos, named_videos, output_for


def test_a_folder_is_replaced_by_its_videos_in_order(tmp_path):
    (tmp_path / "day2").mkdir()
    for name in ("b.MP4", "a.webm", "day2/c.mkv", "notes.txt"):
        (tmp_path / name).touch()
    found = [str(tmp_path / name) for name in ("a.webm", "b.MP4", "day2/c.mkv")]
    assert listed_videos(["x.mp4", str(tmp_path), "https://example.org/y.mp4"]) == [
        "x.mp4",
        *found,
        "https://example.org/y.mp4",
    ]
    assert named_videos(str(tmp_path)) == dict(zip(found, ["a", "b", "day2-c"], strict=True))
    assert named_videos("x.mp4") == {"x.mp4": ""}
    assert output_for(Path("out/tracks.csv"), "day2-c") == Path("out/tracks-day2-c.csv")
    assert output_for(Path("out/tracks.csv"), "") == Path("out/tracks.csv")


def test_folders_that_cannot_be_used_give_one_error(tmp_path):
    with pytest.raises(ValueError, match="expected a video or a folder of videos, found a folder without any"):
        listed_videos([str(tmp_path)])
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.mkv and .*a\.mp4 would have the same output"):
        named_videos(str(tmp_path))
