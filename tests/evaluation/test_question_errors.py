"""Bad tables of questions: one error, which names file and row."""

import pytest
from question_videos import PLAIN, put_videos, write_json

from modeling_sen.evaluation.question_sets import open_question_set


def bad(**changes):
    return [PLAIN[0], {name: value for name, value in {**PLAIN[1], **changes}.items() if value is not ...}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (bad(question=...), "own.json, row 1: no column 'question', only video, options, answer, type"),
        (bad(answer=...), "own.json, row 1: no column 'answer', only"),
        (
            bad(video=...),
            "own.json, row 1: expected the video as {video} or {path} or {file_name}, found no such cell",
        ),
        (bad(question=" "), "own.json, row 1, column 'question': expected text, found ' '"),
        (
            bad(answer="ball"),
            "own.json, row 1, column 'answer': expected one of the options 'star', 'disc', found 'ball'",
        ),
        (bad(answer="C"), "own.json, row 1, column 'answer': expected one of the options 'star', 'disc', found 'C'"),
        (bad(answer=None), "own.json, row 1, column 'answer': expected an answer, found None"),
        (
            bad(options="star or disc"),
            "row 1, column 'options': expected a list of 2 to 26 texts, found 'star or disc'",
        ),
        (bad(options=["star"]), "row 1, column 'options': expected a list of 2 to 26 texts, found ['star']"),
        (bad(options=["star", 2]), "row 1, column 'options': expected a list of 2 to 26 texts, found ['star', 2]"),
        (bad(start="soon"), "own.json, row 1, column 'start': expected seconds, found 'soon'"),
        (bad(start=-1), "own.json, row 1, column 'start': expected seconds, found -1"),
        (bad(start=2, end=1), "own.json, row 1: expected an end after the start, found 2.0 and 1.0 seconds"),
        ({"rows": []}, "own.json: expected a list of objects"),
        ([], "expected at least one question, found none"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, message):
    put_videos(tmp_path, "one.mp4", "two.mp4")
    with pytest.raises(ValueError) as error:
        open_question_set(write_json(tmp_path / "videos/own.json", rows))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mapping", "column", "cell", "message"),
    [
        ("next-qa", "answer", "5", "t.csv, row 0, column 'answer': expected an index in 0..4, found '5'"),
        ("next-qa", "answer", "-1", "t.csv, row 0, column 'answer': expected an index in 0..4, found '-1'"),
        ("next-qa", "a3", "", "t.csv, row 0, column 'a3': expected text, found ''"),
        ("video-mme", "answer", "G", "t.csv, row 0, column 'answer': expected a letter in A..B, found 'G'"),
        ("video-mme", "answer", "two", "t.csv, row 0, column 'answer': expected a letter in A..B, found 'two'"),
    ],
)
def test_letters_and_indices_out_of_range(tmp_path, mapping, column, cell, message):
    put_videos(tmp_path, "v.mp4")
    row = {
        "video": "v",
        "video_id": "v",
        "question": "?",
        "answer": "1",
        "type": "CW",
        "task_type": "x",
        "duration": "short",
    }
    row |= {f"a{number}": "x" for number in range(5)} | {"options": '["x"; "y"]'.replace(";", ",")} | {column: cell}
    path = tmp_path / "videos/t.csv"
    path.write_text(
        "\t".join(row) + "\n" + "\t".join(f'"{cell}"'.replace('["x", "y"]', '[""x"", ""y""]') for cell in row.values())
    )
    with pytest.raises(ValueError) as error:
        open_question_set(str(path), mapping)
    assert message in str(error.value)


def test_missing_videos_are_named_or_counted(tmp_path):
    put_videos(tmp_path, "two.mp4")
    table = write_json(tmp_path / "videos/own.json", PLAIN)
    with pytest.raises(FileNotFoundError) as error:
        open_question_set(table)
    looked = tmp_path / "videos/one.mp4"
    assert str(error.value) == f"{table}, row 0: no such video {looked} (1 of 3 questions have no video)"
    found = open_question_set(table, skip_missing=True)
    assert (len(found.questions), found.missing) == (2, 1)
    (tmp_path / "videos/two.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="3 of 3 questions have no video"):
        open_question_set(table, skip_missing=True)


def test_files_that_are_not_there_or_no_tables(tmp_path):
    put_videos(tmp_path, "one.mp4", "two.mp4")
    with pytest.raises(FileNotFoundError, match=r"nowhere.json: no such table of questions"):
        open_question_set("nowhere.json")
    table = write_json(tmp_path / "videos/own.json", PLAIN)
    with pytest.raises(FileNotFoundError, match="gone: no such folder of videos"):
        open_question_set(table, root=tmp_path / "gone")
    with pytest.raises(
        FileNotFoundError, match=r"mapping 'mvbanch': expected a JSON file, or one of activitynet-qa, msvd"
    ):
        open_question_set(table, "mvbanch")
    with pytest.raises(ValueError, match="prompt format 'letter', expected one of letters, question"):
        open_question_set(table, prompt="letter")
    with pytest.raises(FileNotFoundError, match="expected json tables in it, found none"):
        open_question_set(str(tmp_path), "mvbench")
    for name, text, message in (
        ("own.txt", "", "own.txt: expected a table that ends in .json"),
        ("broken.json", "[{", "broken.json: expected a table in JSON"),
        ("empty.csv", "video,question,answer\n", "expected at least one question"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            open_question_set(str(tmp_path / name))


def test_broken_maps_of_videos(tmp_path):
    table = write_json(tmp_path / "videos/test_qa.json", [{"answer": "a", "question": "who?", "video_id": 1}])
    (tmp_path / "videos/youtube_mapping.txt").write_text("name vid1\nname\n")
    with pytest.raises(ValueError, match=r"youtube_mapping.txt, line 2: expected a name and a key"):
        open_question_set(table, "msvd-qa")
    write_json(tmp_path / "videos/map_vid_vidorID.json", ["1"])
    with pytest.raises(ValueError, match=r"map_vid_vidorID.json: expected a JSON object, key to name"):
        open_question_set(table, "next-qa")
