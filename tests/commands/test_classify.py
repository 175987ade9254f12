"""`sen classify`: labels from files, tables, JSON and pictures."""

import json
import os
import threading

import pytest
from PIL import Image

from modeling_sen.commands.classify import classify


def test_scores_of_all_labels_are_printed_as_json(sen_folder, clips, capsys):
    names = [str(clip) for clip in clips]
    classify(names, labels="a dog, a cat,a red circle", model=str(sen_folder), as_json=True, batch_size=2)
    found = json.loads(capsys.readouterr().out)
    assert [entry["video"] for entry in found] == names
    for entry in found:
        assert {score["label"] for score in entry["scores"]} == {"a dog", "a cat", "a red circle"}
        assert sum(score["score"] for score in entry["scores"]) == pytest.approx(1, abs=1e-6)


def test_good_videos_are_scored_before_the_error_of_a_bad_one(sen_folder, clips, capsys):
    names = [str(clip) for clip in clips]
    given = [*names[:2], "none.mp4", names[2]]
    with pytest.raises(FileNotFoundError, match=r"^none.mp4: no such file"):
        classify(given, labels="a dog,a cat", model=str(sen_folder), as_json=True)
    assert [entry["video"] for entry in json.loads(capsys.readouterr().out)] == names[:2]
    with pytest.raises(FileNotFoundError, match=r"^none.mp4: no such file"):
        classify(given, labels="a dog,a cat", model=str(sen_folder), batch_size=1)
    assert capsys.readouterr().out.splitlines()[::3] == names[:2]


def test_tables_show_the_best_labels_of_each_video(sen_folder, clips, capsys):
    classify([str(clips[0]), str(clips[1])], labels="a dog,[red]a cat", model=str(sen_folder), top_k=1, views=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(clips[0])
    assert lines[2] == str(clips[1])
    assert len(lines) == 4
    assert "█" in lines[1]
    assert 0.5 <= float(lines[1].replace("█", "").split()[-1]) <= 1


def test_templates_change_the_scores(sen_folder, clips, capsys):
    scores = []
    for template in (None, ["{}", "a photo of {}"]):
        classify([str(clips[0])], labels="a dog,a cat", template=template, model=str(sen_folder), as_json=True)
        scores.append(json.loads(capsys.readouterr().out)[0]["scores"])
    assert scores[0] != scores[1]


def test_a_picture_of_one_video_is_drawn(sen_folder, clips, tmp_path, capsys):
    classify([str(clips[0])], labels="a dog,a cat", model=str(sen_folder), plot=tmp_path / "rounds.png")
    with Image.open(tmp_path / "rounds.png") as picture:
        assert picture.width > 1000
    with pytest.raises(ValueError, match="found 2 videos and 1 views"):
        classify(["a", "b"], labels="a dog", plot=tmp_path / "rounds.png")
    with pytest.raises(ValueError, match="found 1 videos and 2 views"):
        classify(["a"], labels="a dog", plot=tmp_path / "rounds.png", views=2)
    with pytest.raises(ValueError, match="expected a picture ending in"):
        classify(["a"], labels="a dog", plot=tmp_path / "rounds.mp3")


@pytest.mark.parametrize("drawn", [False, True])
def test_a_pipe_is_read(sen_folder, clips, tmp_path, capsys, drawn):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(clips[0].read_bytes(),), daemon=True)
    writer.start()
    plot = tmp_path / "rounds.png" if drawn else None
    scores = []
    for name in (pipe, clips[0]):
        classify([str(name)], labels="a dog,a cat", model=str(sen_folder), plot=plot, as_json=True)
        scores.append(json.loads(capsys.readouterr().out)[0]["scores"])
    assert scores[0] == scores[1]
    writer.join(10)


def test_labels_come_from_one_place():
    with pytest.raises(ValueError, match="either --labels or --labels-file"):
        classify(["a.mp4"])
    with pytest.raises(ValueError, match="either --labels or --labels-file"):
        classify(["a.mp4"], labels="a", labels_file="b")


def test_a_folder_is_all_its_videos(sen_folder, clips, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    for name in ("b.mp4", "a.mp4", "more/c.mp4"):
        (tmp_path / name).write_bytes(clips[0].read_bytes())
    (tmp_path / "notes.txt").write_text("no video")
    classify([str(tmp_path), str(clips[1])], labels="a dog,a cat", model=str(sen_folder), as_json=True)
    names = [entry["video"] for entry in json.loads(capsys.readouterr().out)]
    assert names == [str(tmp_path / name) for name in ("a.mp4", "b.mp4", "more/c.mp4")] + [str(clips[1])]
