"""Lists of test clips in the forms that published numbers are of."""

import hashlib
import json

import pytest

from modeling_sen.evaluation.dataset_lists import (
    KNOWN_LISTS,
    open_hub_test_set,
    open_labelled_clips,
    open_test_list,
    open_test_sets,
    read_class_names,
)


@pytest.fixture
def root(tmp_path):
    """A folder of (empty) clips."""
    folder = tmp_path / "clips"
    for name in ("a.avi", "b.avi", "brush_hair/c.avi", "ApplyLipstick/v_1.avi", "yoga/x_000001_000011.mp4", "7.webm"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def names(tmp_path):
    file = tmp_path / "names.csv"
    file.write_text('id,name\n1,"smile, and wave"\n0,brush hair\n2,ApplyLipstick\n')
    return file


@pytest.mark.parametrize("line", ["{} {}", "{},{}"])
def test_paths_with_class_numbers(root, names, tmp_path, line):
    file = tmp_path / "val1.txt"
    file.write_text("".join(line.format(*row) + "\n" for row in (("a.avi", 1), ("brush_hair/c.avi", 0), ("b.avi", 1))))
    found = open_test_list(file, root, names)
    assert found.class_names == ("brush hair", "smile, and wave", "ApplyLipstick")
    assert found.labels == [1, 0, 1]
    assert found.clips.read(1) == str(root / "brush_hair" / "c.avi")
    assert [part["sha1"] for part in found.listed] == [
        hashlib.sha1(part.read_bytes()).hexdigest() for part in (file, names)
    ]
    assert found.missing == 0


def test_the_lists_of_the_data_sets_themselves(root, tmp_path):
    ucf = tmp_path / "testlist01.txt"
    ucf.write_text("ApplyLipstick/v_1.avi\n")
    assert open_test_list(ucf, root).clips.targets == ["ApplyLipstick"]
    ucf.write_text("ApplyLipstick/v_1.avi 2\n")  # a training list: numbers from 1
    assert open_test_list(ucf, root).clips.targets == ["ApplyLipstick"]
    names = tmp_path / "names.csv"
    names.write_text("id,name\n0,ApplyEyeMakeup\n1,ApplyLipstick\n2,Archery\n")
    assert open_test_list(ucf, root, names).labels == [1]

    hmdb = tmp_path / "testTrainMulti_7030_splits"
    hmdb.mkdir()
    (hmdb / "brush_hair_test_split2.txt").write_text("c.avi 2 \nother.avi 1 \nunused.avi 0 \n")
    found = open_test_list(hmdb, root, split=2)
    assert found.clips.targets == ["brush hair"]
    assert found.clips.read(0) == str(root / "brush_hair" / "c.avi")
    with pytest.raises(FileNotFoundError, match=r"no lists \*_test_split1.txt"):
        open_test_list(hmdb, root)

    kinetics = tmp_path / "val.csv"
    kinetics.write_text("label,youtube_id,time_start,time_end,split\nyoga,x,1,11,val\nyoga,gone,2,12,val\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 clips are not in .*'gone_000002_000012.mp4'"):
        open_test_list(kinetics, root)
    found = open_test_list(kinetics, root, skip_missing=True)
    assert (found.clips.targets, found.missing) == (["yoga"], 1)

    something = tmp_path / "validation.json"
    something.write_text(json.dumps([{"id": "7", "template": "Pushing [something] off [something]"}]))
    found = open_test_list(something, root)
    assert found.clips.targets == ["Pushing something off something"]


def test_sources_of_a_command_line(root, names, tmp_path):
    lists = []
    for number in (1, 2):
        lists.append(tmp_path / f"val{number}.txt")
        lists[-1].write_text("a.avi 1\n" * number)
    sets = open_test_sets([str(file) for file in lists], root, [names])
    assert [len(found.clips) for found in sets] == [1, 2]
    hmdb = tmp_path / "official"
    hmdb.mkdir()
    for number in (1, 2, 3):
        (hmdb / f"brush_hair_test_split{number}.txt").write_text("c.avi 2\n")
    assert len(open_test_sets([str(hmdb)], root)) == 3
    with pytest.raises(ValueError, match="expected one file of class names or 3, found 2"):
        open_test_sets(["a", "b", "c"], root, [names, names])
    with pytest.raises(FileNotFoundError, match="nothing: no such list of clips"):
        open_test_list(tmp_path / "nothing", root)
    with pytest.raises(FileNotFoundError, match="nothing: no such file of class names"):
        open_test_list(lists[0], root, tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no such folder of clips"):
        open_test_list(lists[0], tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_test_sets([str(tmp_path / "nothing")])


def test_class_names_in_json(tmp_path):
    file = tmp_path / "names.json"
    file.write_text('{"1": "b", "0": "a"}')
    assert read_class_names(file) == ["a", "b"]
    file.write_text('{"b": "1", "a": 0}')
    assert read_class_names(file) == ["a", "b"]


def test_published_class_names_are_recognised(shared_data):
    for name in ("hmdb_51", "ucf_101", "kinetics_400"):
        file = shared_data / "recognition" / "labels" / f"{name}_labels.csv"
        assert len(read_class_names(file)) == int(name.split("_")[1])
        assert "class names" in KNOWN_LISTS[hashlib.sha1(file.read_bytes()).hexdigest()]


def test_data_of_the_hubs_form(tmp_path, monkeypatch, clips):
    datasets = pytest.importorskip("datasets")
    rows = {"video": [str(clips[0]), str(clips[1])], "label": [1, 0]}
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["brush_hair", "wave"])}
    )
    data = datasets.Dataset.from_dict(rows, features=features)
    asked = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.update(kwargs) or data)
    found = open_hub_test_set("someone/HMDB51", "c0ffee")
    assert asked == {"split": "test", "revision": "c0ffee"}
    assert found.class_names == ("brush hair", "wave")
    assert found.labels == [1, 0]
    assert found.clips.read(0)["video"]["path"] == str(clips[0])
    assert found.listed == ({"id": "someone/HMDB51", "revision": "c0ffee"},)


def test_folders_of_classes(root):
    found = open_labelled_clips(str(root))
    assert found.class_names == ("ApplyLipstick", "brush_hair", "yoga")
    assert found.labels == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "with_names", "error", "message"),
    [
        ("a.avi 1\n", False, ValueError, "the file with their names is needed"),
        ("a.avi 3\n", True, ValueError, "line 1: class 3, expected one of 0..2"),
        ("a.avi\n", True, ValueError, "line 1: expected a clip and its class number"),
        ("\n", True, ValueError, "expected one clip per line, found none"),
        ("gone.avi 1\n", True, FileNotFoundError, "1 of 1 clips are not in"),
        ("yoga/x_000001_000011.mp4\n", True, ValueError, "class 'yoga' is not among the 3"),
    ],
)
def test_errors_name_what_is_wrong(root, names, tmp_path, text, with_names, error, message):
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(error, match=message):
        open_test_list(file, root, names if with_names else None, skip_missing=True)


@pytest.mark.parametrize(
    "text", ["id,name\n0,a\n2,b\n", "a\nb\n", "id,name\n", "id,name\n0,a\n0,b\n", "id,name\n0,a\n1,a\n"]
)
def test_class_numbers_are_complete(tmp_path, text):
    file = tmp_path / "names.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"names.csv: expected"):
        read_class_names(file)
