"""`sen track`: tables, drawn videos and summaries, and errors before any work."""

import csv
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_tracker import save_fake_tracker
from PIL import Image

import modeling_sen
import sen_cli
from modeling_sen.commands.track import track
from modeling_sen.tracking import render
from modeling_sen.video_io import read_video


@pytest.fixture(scope="module")
def tracker_folder(tmp_path_factory) -> str:
    return save_fake_tracker(tmp_path_factory.mktemp("trackers") / "fake")


def queries_of(path) -> list[list[float]]:
    return json.loads(path.read_text())["query_points"]


def test_a_table_is_written_and_a_summary_printed(tracker_folder, clips, tmp_path, capsys):
    track(str(clips[0]), tmp_path / "tracks.csv", model=tracker_folder)
    with open(tmp_path / "tracks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 * 100
    assert [rows[100][name] for name in ("frame", "point", "x", "y")] == [
        "1",
        "0",
        "2.6",
        "0.6",
    ]  # 1.1, 1.1 and a step
    seen = round(100 * np.mean([int(row["visible"]) for row in rows]))
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}/tracks.csv: 100 points in 16 frames, visible in {seen} % of them\n"
    assert "16 frames of 32 x 32, 100 points: about 1 MB of memory, besides the model's\n" in printed.err


def test_the_summary_is_printed_as_json(tracker_folder, clips, tmp_path, capsys):
    drawn = tmp_path / "drawn.mp4"
    track(str(clips[0]), tmp_path / "tracks.json", grid=2, model=tracker_folder, render=drawn, as_json=True)
    found = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "tracks.json").read_text())
    assert found.pop("visible") == pytest.approx(np.mean(written["visibility"]))
    assert found == {
        "video": str(clips[0]),
        "output": str(tmp_path / "tracks.json"),
        "render": str(drawn),
        "frames": 16,
        "points": 4,
    }
    assert read_video(drawn).num_frames_total == 16


def test_points_come_from_a_file_a_grid_or_a_mask(tracker_folder, clips, tmp_path):
    (tmp_path / "points.csv").write_text("t,x,y\n3,4,5\n")
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[7, 8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    output = tmp_path / "tracks.json"
    for given, expected in [
        ({"points": tmp_path / "points.csv"}, [[3, 4, 5]]),
        ({"grid": 1, "query_frame": 2}, [[2, 15.5, 15.5]]),
        ({"mask": tmp_path / "mask.png", "query_frame": 15}, [[15, 8, 7]]),
    ]:
        track(str(clips[0]), output, model=tracker_folder, **given)
        assert queries_of(output) == expected


def test_a_pipe_is_tracked_and_drawn(tracker_folder, clips, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(clips[0].read_bytes(),), daemon=True)
    writer.start()
    track(str(pipe), tmp_path / "tracks.npz", grid=2, model=tracker_folder, render=tmp_path / "drawn.mp4")
    writer.join(10)
    with np.load(tmp_path / "tracks.npz") as found:
        assert found["tracks"].shape == (16, 4, 2)
    assert read_video(tmp_path / "drawn.mp4").num_frames_total == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "tracks.txt"], r"tracks.txt: expected a file ending in .csv, .json or .npz, found '.txt'"),
        (["-o", "nowhere/tracks.csv"], "nowhere/tracks.csv: no folder nowhere"),
        (["-o", "t.csv", "--render", "out.avi"], "out.avi: expected a file ending in .mp4, found '.avi'"),
        (["-o", "t.csv", "--grid", "2", "--mask", "m.png"], "one of query_points, grid_size and mask"),
        (["-o", "t.csv", "--points", "gone.csv"], "query_points: gone.csv: no such file"),
        (["-o", "t.csv", "--mask", "gone.png"], "mask: gone.png: no such file"),
        (["-o", "t.csv", "--points", "bad.csv"], "query_points: bad.csv: expected points as x, y or t, x, y"),
        (["-o", "t.csv", "--grid", "0"], "--grid"),
        (["-o", "t.csv"], "gone.mp4: no such file"),
        ([], "Missing option"),
    ],
)
def test_user_errors_are_one_line_before_any_work(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("a,b\n1,2")
    monkeypatch.setattr(sys, "argv", ["sen", "track", "gone.mp4", "--model", "nobody/nothing", *options])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith("sen track: ")
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_points_outside_of_the_clip_leave_no_file(tracker_folder, clips, tmp_path, monkeypatch, capsys):
    (tmp_path / "points.csv").write_text("16,1,1")
    arguments = [str(clips[0]), "-o", str(tmp_path / "t.csv"), "--points", str(tmp_path / "points.csv")]
    monkeypatch.setattr(sys, "argv", ["sen", "track", *arguments, "--model", tracker_folder])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "expected t as the whole number of a frame, 0..15, found 16 as t of point 0" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["points.csv"]


def test_a_failure_while_drawing_leaves_nothing_half_written(tracker_folder, clips, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(render, "draw_points", fail)
    with pytest.raises(OSError, match="no space left"):
        track(str(clips[0]), tmp_path / "tracks.csv", model=tracker_folder, render=tmp_path / "drawn.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["tracks.csv"]


def test_a_sen_without_a_tracking_head_is_refused(sen_folder, clips, tmp_path):
    with pytest.raises(ValueError, match="expected a SEN with a tracking head"):
        track(str(clips[0]), tmp_path / "tracks.csv", model=str(sen_folder))


@pytest.mark.skipif(not Path(modeling_sen.SEN_TINY_TRACKING).exists(), reason="no tracking head in sen-tiny")
def test_the_included_model_is_the_default(clips, tmp_path):
    track(str(clips[0]), tmp_path / "tracks.json", grid=2)
    assert len(queries_of(tmp_path / "tracks.json")) == 4


def test_each_video_of_a_folder_is_tracked(tracker_folder, clips, tmp_path, capsys):
    folder = tmp_path / "clips"
    (folder / "day2").mkdir(parents=True)
    for name in ("a.mp4", "day2/b.mp4"):
        (folder / name).write_bytes(clips[0].read_bytes())
    drawn = tmp_path / "drawn.mp4"
    track(str(folder), tmp_path / "tracks.csv", grid=2, model=tracker_folder, render=drawn, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [summary["video"] for summary in found] == [str(folder / "a.mp4"), str(folder / "day2/b.mp4")]
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"tracks-a.csv", "tracks-day2-b.csv", "drawn-a.mp4", "drawn-day2-b.mp4"}
