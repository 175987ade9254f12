import json

import numpy as np
import pytest

from modeling_sen.world import edit, make_scene, render, tracks
from modeling_sen.world import write as writer
from modeling_sen.world.write import parse_objects, write_world


def rows_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "clips"
    write_world(out, "test", 4, seed=1, hops=2)
    return out


def test_the_truth_files_contain_the_truth(written):
    for index, row in enumerate(rows_of(written)):
        scene = make_scene("test", 1, index, hops=2)
        clip, (points, visibility) = render(scene), tracks(scene)
        with np.load(written / row["truth_path"]) as truth:
            np.testing.assert_array_equal(truth["masks"], clip.masks)
            np.testing.assert_array_equal(truth["depth"], clip.depth)
            np.testing.assert_array_equal(truth["points"], points)
            np.testing.assert_array_equal(truth["visibility"], visibility)
            np.testing.assert_array_equal(truth["edited_masks"], render(edit(scene).scene).masks)
            assert truth["frame_times"].tolist() == [time / 8 for time in range(16)]
        assert row["questions"][0]["hops"] == 2
        assert row["edit_prompt"].startswith("make the ")
        assert (written / row["edited_path"]).stat().st_size > 1000


def test_datasets_reads_one_row_a_clip(written, tmp_path):
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset("videofolder", data_dir=str(written), split="train", cache_dir=str(tmp_path))
    found = found.cast_column("video", datasets.Video(decode=False))
    rows = rows_of(written)
    assert len(found) == len(rows) == 4, "edited clips are no examples"
    for read, row in zip(found, rows, strict=True):
        assert read["video"]["path"].endswith(row["file_name"])
        assert read["caption"] == row["caption"]
        assert read["objects"] == row["objects"]
        assert read["questions"] == row["questions"]


def test_a_stopped_run_continues_where_it_stopped(tmp_path, monkeypatch):
    write_clip, calls = writer._write_clip, []

    def stop_at_the_third(out, scene):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(scene.index)
        write_clip(out, scene)

    monkeypatch.setattr(writer, "_write_clip", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "out", "train", 4)
    assert [row["index"] for row in rows_of(tmp_path / "out")] == [0, 1]
    monkeypatch.setattr(writer, "_write_clip", write_clip)
    before = (tmp_path / "out/videos/000000.mp4").stat().st_mtime_ns
    assert write_world(tmp_path / "out", "train", 4)["written"] == 2
    assert [row["index"] for row in rows_of(tmp_path / "out")] == [0, 1, 2, 3]
    assert (tmp_path / "out/videos/000000.mp4").stat().st_mtime_ns == before


def test_a_clip_whose_writing_failed_is_absent(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(writer.np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        write_world(tmp_path / "out", "train", 1)
    assert rows_of(tmp_path / "out") == []
    monkeypatch.undo()
    assert write_world(tmp_path / "out", "train", 1)["written"] == 1
    assert len(rows_of(tmp_path / "out")) == 1


def test_more_clips_can_be_added(tmp_path):
    write_world(tmp_path / "out", "train", 1)
    assert write_world(tmp_path / "out", "train", 2)["written"] == 1
    assert len(rows_of(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"num": 0}, "num is 0"),
        ({"size": 65}, "size is 65"),
        ({"num_objects": 9}, "num_objects is 9"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_world(tmp_path / "out", **{"split": "train", "num": 1, **arguments})
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_content_is_not_changed(tmp_path, written):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        write_world(tmp_path, "train", 1)
    with pytest.raises(ValueError, match=r"notes.txt is a file"):
        write_world(tmp_path / "notes.txt", "train", 1)
    with pytest.raises(ValueError, match="holds clips drawn with"):
        write_world(written, "test", 4, seed=2, hops=2)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_number_and_range_of_objects():
    assert (parse_objects(None), parse_objects("3"), parse_objects("1-4")) == (None, 3, (1, 4))
    for text in ("many", "1-", "-3", "1-x"):
        with pytest.raises(ValueError, match="--objects is"):
            parse_objects(text)
