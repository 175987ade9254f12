"""Labels and tables are read with any delimiter, quotes, newlines and byte order mark."""

import csv
import io

import pytest

from modeling_sen.evaluation.dataset_lists import open_test_list, read_class_names
from modeling_sen.text_tables import csv_columns, read_csv, read_labels
from modeling_sen.training.data import open_clips


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a dog\n\n  a cat \n", ["a dog", "a cat"]),
        ("\ufeffa dog, running\na cat", ["a dog, running", "a cat"]),
        ('"a dog" barks\nid\n', ['"a dog" barks', "id"]),
        ("one\r\ntwo\r\n", ["one", "two"]),
        ('id,name\n0,abseiling\n1,"shot put, standing"\n', ["abseiling", "shot put, standing"]),
        ('name\n"shot put, standing"\nabseiling\n', ["shot put, standing", "abseiling"]),
        ('\ufeff"name"\r\n"say ""hi"""\r\n\r\ncat\r\n', ['say "hi"', "cat"]),
        ("label\ra dog\ra cat\r", ["a dog", "a cat"]),
        ('class\n"two\nlines"\n', ["two\nlines"]),
        ("\nName ; number\na dog, running;1\na cat;2\n", ["a dog, running", "a cat"]),
        ('number\tLABEL\n1\t"a\tdog"\n2\ta cat\n', ["a\tdog", "a cat"]),
        ("label,name\n0,dog\n1,cat,\n", ["dog", "cat"]),
        ("id, name\n0, dog\n1, 'cat'\n,\n", ["dog", "'cat'"]),
    ],
)
def test_labels_are_read_from_lines_or_from_a_column(tmp_path, text, labels):
    (tmp_path / "labels").write_bytes(text.encode())
    assert read_labels(tmp_path / "labels") == labels


def test_a_csv_without_a_header_has_one_column(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('"shot put, standing"\nabseiling\n')
    assert read_labels(path) == ["shot put, standing", "abseiling"]
    path.write_text("id,title\n0,dog\n")
    with pytest.raises(ValueError, match=r"labels\.csv: expected a column name or label or class, found id, title"):
        read_labels(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "expected at least one label, found none"),
        (b"", "expected at least one label, found none"),
        (b"name\n", "expected at least one label, found none"),
        (b"\xff\xfe\x00", "expected labels in UTF-8"),
        (
            b"name\nshot put, standing\n",
            "line 2: expected 1 cells, found 2; cells with a delimiter in them need quotes",
        ),
        (b"id,name\n0,dog\n1\n", "row 1, column 'name': expected a label, found none"),
        (b'id,name\n0,"dog\n1,cat\n', "line 3: expected rows of a csv table"),
    ],
)
def test_files_without_labels_are_refused(tmp_path, content, message):
    path = tmp_path / "labels"
    with pytest.raises(FileNotFoundError, match="labels"):
        read_labels(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"labels[:,] {message}"):
        read_labels(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_the_csv_module_are_read(tmp_path, delimiter, newline):
    rows = [["video", "label"], ["a;b.mp4", 'say "hi", dog'], ["c\td.mp4", "two\nlines"], ["e.mp4", "a\u2028b\x0cc"]]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=newline).writerows(rows)
    columns, found = read_csv(tmp_path / "table.csv", text.getvalue())
    assert columns == csv_columns(text.getvalue()) == rows[0]
    assert found == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_every_table_reader_accepts_such_files(tmp_path, clips):
    """Class names, Kinetics' list and training clips, with semicolons, quotes and a newline in a cell."""
    names = tmp_path / "names.csv"
    names.write_text('id;name\n1;"two\nlines"\n0;dog, running\n')
    assert read_class_names(names) == ["dog, running", "two\nlines"]
    names.write_text("id,name\n0,dog\n1\n")
    with pytest.raises(ValueError, match=r"names\.csv: expected a name for each class"):
        read_class_names(names)
    (tmp_path / "x_000001_000011.mp4").touch()
    kinetics = tmp_path / "val.csv"
    kinetics.write_text('"label";"youtube_id";"time_start";"time_end"\n"dog, running";x;1;11\n')
    assert open_test_list(kinetics, tmp_path).class_names == ("dog, running",)
    kinetics.write_text("label,youtube_id,time_start,time_end\ndog,x,1\n")
    with pytest.raises(ValueError, match=r"val\.csv: expected whole seconds, found '1', None"):
        open_test_list(kinetics, tmp_path)
    table = tmp_path / "clips.csv"
    table.write_text(f'video;caption\n{clips[0]};"a dog,\nrunning"\n')
    assert open_clips(str(table), "text").targets == ["a dog,\nrunning"]
    lines = tmp_path / "clips.jsonl"
    lines.write_text(f'{{"video": "{clips[0]}", "caption": "a\u2028dog"}}\r\n')
    assert open_clips(str(lines), "text").targets == ["a\u2028dog"]
    lines.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"clips\.jsonl: expected \.jsonl rows that are objects"):
        open_clips(str(lines), "text")


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("kinetics_400_labels.csv", 400, "abseiling"),
        ("hmdb_51_labels.csv", 51, "brush hair"),
        ("ucf_101_labels.csv", 101, "ApplyEyeMakeup"),
        ("anet1.3_labels.csv", 200, "Applying sunscreen"),
    ],
)
def test_lists_of_known_data_sets_are_read(shared_data, name, count, first):
    labels = read_labels(shared_data / "recognition" / "labels" / name)
    assert len(set(labels)) == len(labels) == count
    assert labels[0] == first
