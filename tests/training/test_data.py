"""Data sets of clips: each way of having them gives the same clips, and what is wrong is named."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from modeling_sen.training.data import open_clips
from modeling_sen.video_io import read_video

TEXTS = ["a red circle", "a blue star, far away", "two rings"]


def frames_of(clip):
    entry = clip["video"] if isinstance(clip, dict) else clip
    if isinstance(entry, dict):
        entry = entry["bytes"] or entry["path"]
    return read_video(entry, 2).frames


def assert_same_clips(found, clips):
    assert len(found) == len(clips)
    for row, clip in enumerate(clips):
        np.testing.assert_array_equal(frames_of(found.read(row)), frames_of(clip))


def write_table(path, clips, **columns):
    rows = [
        {"video": os.path.relpath(clip, path.parent), **{name: values[row] for name, values in columns.items()}}
        for row, clip in enumerate(clips)
    ]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_paths_and_texts(clips, tmp_path, suffix):
    path = write_table(tmp_path / f"clips{suffix}", clips, caption=TEXTS, label=["x", "y", "x"])
    found = open_clips(str(path), "text")
    assert found.targets == TEXTS
    assert_same_clips(found, clips)
    assert open_clips(str(path), "label").targets == ["x", "y", "x"]
    assert open_clips(str(path), "text", target_column="label").targets == ["x", "y", "x"]


def test_a_folder_for_each_class(clips, tmp_path):
    for number, clip in enumerate(clips):
        place = tmp_path / "train" / ("cat" if number < 2 else "dog") / "deeper"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, place / clip.name)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no video")
    found = open_clips(str(tmp_path), "label")
    assert found.targets == ["cat", "cat", "dog"]
    assert_same_clips(found, clips)
    assert open_clips(str(tmp_path / "train"), "label").targets == found.targets


def test_a_folder_with_metadata_as_sen_world_writes_it(clips):
    folder = clips[0].parents[1]
    found = open_clips(str(folder), "text")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert found.targets == [row["caption"] for row in rows]
    assert_same_clips(found, clips)


@pytest.mark.parametrize("stored", ["paths", "bytes"])
def test_a_data_set_saved_by_datasets(clips, tmp_path, stored):
    datasets = pytest.importorskip("datasets")
    videos = [str(clip) if stored == "paths" else {"path": None, "bytes": clip.read_bytes()} for clip in clips]
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["run", "sit"])}
    )
    data = datasets.Dataset.from_dict({"video": videos, "label": [1, 0, 1]}, features=features)
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "saved")
    found = open_clips(str(tmp_path / "saved"), "label")
    assert found.targets == ["sit", "run", "sit"]
    assert_same_clips(found, clips)
    assert found.keys == open_clips(str(tmp_path / "saved"), "label").keys
    with pytest.raises(ValueError, match="saved: no split 'test', only train"):
        open_clips(str(tmp_path / "saved"), "label", split="test")


def test_a_data_set_of_the_hub_is_read_by_datasets(clips, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(source, split):
        asked.append((source, split))
        return datasets.Dataset.from_dict({"path": [str(clip) for clip in clips], "text": TEXTS})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = open_clips("someone/clips", "text", split="validation")
    assert asked == [("someone/clips", "validation")]
    assert found.targets == TEXTS
    assert_same_clips(found, clips)


def test_a_missing_data_set_is_one_error(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(FileNotFoundError, match=r"^someone/clips: no such folder, table or data set on the Hub"):
        open_clips("someone/clips", "text")
    for source in (f"{tmp_path}/none", "none.csv", "./none"):
        with pytest.raises(FileNotFoundError, match=r"none.*: no such file or folder"):
            open_clips(source, "text")


def test_the_world_is_the_clips_that_sen_world_writes(tmp_path):
    from modeling_sen.world.write import write_world

    write_world(tmp_path / "world", "validation", 2, 3, num_objects=1, size=32, num_frames=8)
    written = open_clips(str(tmp_path / "world"), "text")
    drawn = open_clips("world:validation?num=2&seed=3&num_objects=1&size=32&num_frames=8", "text")
    assert drawn.targets == written.targets
    difference = np.abs(drawn.read(1)["video"][[2, 6]].astype(int) - frames_of(written.read(1)))
    assert difference.mean() < 6  # what H.264 does to them
    assert drawn.read(0)["audio"]["sampling_rate"] == 16000


def test_labels_of_the_world_are_of_the_only_or_the_sounding_object():
    one = open_clips("world:train?num=4&num_objects=1", "label")
    assert one.targets == open_clips("world:train?num=4&num_objects=1", "text").targets
    shapes = open_clips("world:train?num=4&num_objects=1", "label", target_column="shape").targets
    assert all(shape in text for shape, text in zip(shapes, one.targets, strict=True))
    sounding = open_clips("world:train?num=4&hops=2&num_objects=3", "label").targets
    captions = open_clips("world:train?num=4&hops=2&num_objects=3", "text").targets
    assert all(label in caption for label, caption in zip(sounding, captions, strict=True))
    assert len(open_clips("world:test", "text")) == 1000
    with pytest.raises(ValueError, match="add num_objects=1 or hops=2"):
        open_clips("world:train?num=50&num_objects=3", "label")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("world:train?number=3", r"unknown \['number'\]"),
        ("world:train?num=many", "num is 'many', expected a number"),
        ("world:holidays", "holidays"),
    ],
)
def test_wrong_settings_of_the_world_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        open_clips(source, "text")


def test_errors_in_a_table_name_file_row_and_column(clips, tmp_path):
    path = write_table(tmp_path / "clips.csv", clips, caption=TEXTS)
    with pytest.raises(
        ValueError, match=r"clips\.csv: no column of the label \(label, class, category\), only video, cap"
    ):
        open_clips(str(path), "label")
    with pytest.raises(ValueError, match=r"clips\.csv: no column 'words', only video, caption"):
        open_clips(str(path), "text", target_column="words")
    with pytest.raises(ValueError, match=r"clips\.csv: no column 'film'"):
        open_clips(str(path), "text", video_column="film")
    path = write_table(tmp_path / "clips.csv", clips, caption=[TEXTS[0], " ", TEXTS[2]])
    with pytest.raises(ValueError, match=r"clips\.csv, row 1, column 'caption': expected text, found ''"):
        open_clips(str(path), "text")
    path = write_table(tmp_path / "clips.jsonl", clips, label=[1, 2, 3])
    with pytest.raises(ValueError, match=r"clips\.jsonl, row 0, column 'label': expected text, found 1"):
        open_clips(str(path), "label")
    path = write_table(tmp_path / "clips.csv", [clips[0], tmp_path / "gone.mp4"], caption=TEXTS[:2])
    with pytest.raises(FileNotFoundError, match=r"clips\.csv, row 1, column 'video': no such file .*gone\.mp4"):
        open_clips(str(path), "text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"video,caption\n", "at least one row, found none"),
        ("a.jsonl", b"", "at least one row, found none"),
        ("a.jsonl", b"{not json}\n", r"expected \.jsonl rows"),
        ("a.csv", b"\xff\xfe\x00", r"expected \.csv rows in UTF-8"),
        ("a.parquet", b"no parquet", "expected a parquet file"),
        ("a.txt", b"video", r"expected a table that ends in \.csv"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: {message}|{name}.*{message}"):
        open_clips(str(tmp_path / name), "text")


def test_a_folder_without_videos_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected videos in a folder for each class, or metadata\.jsonl"):
        open_clips(str(tmp_path), "label")


def test_a_changed_file_has_another_key(clips, tmp_path):
    (tmp_path / "cat").mkdir()
    path = Path(shutil.copy(clips[0], tmp_path / "cat" / "clip.mp4"))
    before = open_clips(str(tmp_path), "label").keys
    assert open_clips(str(tmp_path), "label").keys == before
    shutil.copy(clips[1], path)
    assert open_clips(str(tmp_path), "label").keys != before
