"""Conversations in each layout: what is read, and what is wrong is named with file and row."""

import csv
import json
import os
from pathlib import Path

import pytest

from modeling_sen.training.conversations import open_conversations

VIDEO = {"type": "video"}


def text(words):
    return {"type": "text", "text": words}


def turn(role, *parts):
    return {"role": role, "content": list(parts)}


def beside(clips, folder):
    """Paths as they are written in a file of this folder."""
    return [os.path.relpath(clip, folder) for clip in clips]


def write(path, rows):
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def llava(video, *values, name="video"):
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"id": "0", name: video, "conversations": turns}


def asked(question, answer, *videos):
    return [turn("user", *videos, text(question)), turn("assistant", text(answer))]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_llava(clips, tmp_path, suffix):
    first, second, _ = beside(clips, tmp_path)
    rows = [
        llava(first, "<video>\nWhat is it?", "a circle", "Its colour?", " red "),
        llava([first, second], "Before <image> and after <video>", "two", name="image"),
        {"id": "2", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    ]
    rows[2]["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    found = open_conversations(write(tmp_path / f"chat{suffix}", rows))
    assert len(found) == 3
    assert found.messages[0] == [*asked("What is it?", "a circle", VIDEO), *asked("Its colour?", "red")]
    user = turn("user", text("Before"), VIDEO, text("and after"), VIDEO)
    assert found.messages[1] == [user, turn("assistant", text("two"))]
    assert found.messages[2] == [turn("system", text("Be brief.")), *asked("Hi", "Hello")]
    paths = [[Path(video).resolve() for video in found.read_videos(row)] for row in range(3)]
    assert paths == [[clips[0].resolve()], [clip.resolve() for clip in clips[:2]], []]
    assert [len(keys) for keys in found.video_keys] == [1, 2, 0]


def test_messages_with_clips_inside_or_beside(clips, tmp_path):
    first, second, _ = beside(clips, tmp_path)
    inside = [
        turn("user", {"type": "video", "path": first}, text("What?")),
        turn("assistant", text("a circle")),
        turn("user", {"type": "video", "video": second}, text("And now?")),
        {"role": "assistant", "content": "a star"},
    ]
    bare = [turn("user", VIDEO, text("What?")), {"role": "assistant", "content": "a circle"}]
    rows = [
        {"messages": inside},
        {"messages": [*bare, *asked("And now?", "a star", VIDEO)], "videos": [first, second]},
        {"messages": bare, "video": second},
        {"messages": asked("Hi", "Hello")},
    ]
    found = open_conversations(write(tmp_path / "chat.jsonl", rows))
    both = [*asked("What?", "a circle", VIDEO), *asked("And now?", "a star", VIDEO)]
    assert found.messages == [both, both, asked("What?", "a circle", VIDEO), asked("Hi", "Hello")]
    assert [[Path(each).name for each in found.read_videos(row)] for row in range(4)] == [
        [clips[0].name, clips[1].name],
        [clips[0].name, clips[1].name],
        [clips[1].name],
        [],
    ]
    assert found.video_keys[0] == found.video_keys[1]
    before = found.keys
    os.utime(clips[1], (1, 1))
    assert open_conversations(str(tmp_path / "chat.jsonl")).keys != before


def test_tables_of_questions(clips, tmp_path):
    names = beside(clips, tmp_path)
    with (tmp_path / "qa.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "question", "answer", "short"])
        writer.writerows([name, f"What is {row}?", f"It is {row}", row] for row, name in enumerate(names))
    found = open_conversations(str(tmp_path / "qa.csv"))
    assert found.messages == [asked(f"What is {row}?", f"It is {row}", VIDEO) for row in range(3)]
    assert [Path(*found.read_videos(row)).resolve() for row in range(3)] == [clip.resolve() for clip in clips]
    assert open_conversations(str(tmp_path / "qa.csv"), target_column="short").messages[2][1]["content"] == [text("2")]


def test_a_folder_as_sen_world_writes_it(clips):
    folder = clips[0].parents[1]
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    found = open_conversations(str(folder))
    for row, conversation in zip(rows, found.messages, strict=True):
        questions = row["questions"]
        expected = [asked(each["question"], each["answer"]) for each in questions]
        expected[0][0]["content"].insert(0, VIDEO)
        assert conversation == [message for pair in expected for message in pair]
    assert Path(*found.read_videos(1)).resolve() == clips[1].resolve()


@pytest.mark.parametrize("stored", ["paths", "videos", "lists"])
def test_a_data_set_that_was_saved(clips, tmp_path, stored):
    datasets = pytest.importorskip("datasets")
    messages = [turn("user", VIDEO, text("What?")), turn("assistant", text("a circle"))]
    names = [str(clip) for clip in clips]
    videos = {"paths": names, "videos": names, "lists": [[name] for name in names]}[stored]
    data = datasets.Dataset.from_dict({"messages": [messages] * 3, "videos": videos})
    feature = {"videos": datasets.Video(), "lists": datasets.List(datasets.Video())}.get(stored)
    if feature is not None:
        data = data.cast_column("videos", feature)
    data.save_to_disk(tmp_path / "data")
    found = open_conversations(str(tmp_path / "data"))
    assert found.messages == [messages] * 3
    for row, clip in enumerate(clips):
        (video,) = found.read_videos(row)
        assert video == str(clip) if stored == "paths" else video["video"]["bytes"] == clip.read_bytes()
    assert len(set(found.keys)) == 3


def test_a_parquet_table(clips, tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"messages": asked("What?", "a circle", VIDEO), "video": name} for name in beside(clips, tmp_path)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "chat.parquet")
    found = open_conversations(str(tmp_path / "chat.parquet"))
    assert found.messages == [asked("What?", "a circle", VIDEO)] * 3
    assert [Path(*found.read_videos(row)).name for row in range(3)] == [clip.name for clip in clips]


BAD = [
    (llava("CLIP", "What?", "a circle"), "expected as many clips as its turns mention, 0; found 1"),
    (llava("CLIP", "<video> <video> What?", "a circle"), "as its turns mention, 2; found 1"),
    (llava("CLIP", "<video> What?"), "turns that end with assistant; found user"),
    (llava("CLIP", "<video> What?", "  "), "expected text of the assistant, found none"),
    (llava("CLIP", "<video> What?", None), "expected a turn's value to be text, found None"),
    ({"conversations": "What?", "video": "CLIP"}, "expected conversations to be a list of objects, found str"),
    ({"conversations": [], "video": "CLIP"}, "found none"),
    ({"messages": ["What?"]}, "expected messages to be a list of objects, found a list with 'What"),
    ({"messages": [turn("tool", text("x")), turn("assistant", text("y"))]}, "found tool, assistant"),
    ({"messages": asked("What?", "", VIDEO), "video": "CLIP"}, "expected text of the assistant, found ''"),
    ({"messages": [turn("user", {"type": "audio"})]}, "expected parts of type text, video or image"),
    (
        {"messages": [turn("user", text("x")), turn("assistant", VIDEO)], "video": "CLIP"},
        "found one in a turn of assistant",
    ),
    ({"messages": asked("x", "y", {"type": "video", "path": "CLIP"}, VIDEO)}, "in each part of type video or in none"),
    ({"video": "CLIP", "question": "What?"}, "expected messages, conversations, questions, or question and answer"),
    ({"video": "CLIP", "question": "What?", "answer": None}, "expected text of the assistant, found None"),
    ({"video": "CLIP", "questions": ["What?"]}, "expected questions to be a list of objects"),
    ({"video": 3, "question": "What?", "answer": "y"}, "expected the path of a clip, found int"),
    (["What?"], "expected an object, found list"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named(clips, tmp_path, row, message):
    (name,) = beside(clips[:1], tmp_path)
    good = json.dumps(llava("CLIP", "<video> What?", "a circle"))
    written = f"[{good}, {json.dumps(row)}]".replace("CLIP", name)
    (tmp_path / "chat.json").write_text(written)
    with pytest.raises(ValueError, match=rf"chat\.json, row 1: .*{message}"):
        open_conversations(str(tmp_path / "chat.json"))


def test_a_missing_clip_is_named(tmp_path):
    write(tmp_path / "chat.json", [llava("none.mp4", "<video> What?", "a circle")])
    with pytest.raises(FileNotFoundError, match=r"chat\.json, row 0: no such file .*none\.mp4"):
        open_conversations(str(tmp_path / "chat.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected at least one row, found none"),
        ("{}", "expected a list of conversations, found dict"),
        ("[", "expected json"),
        (b"\xff\xfe", "expected a list of conversations in UTF-8"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    (tmp_path / "chat.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"chat\.json: {message}"):
        open_conversations(str(tmp_path / "chat.json"))


def test_sources_that_are_not_there(clips, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file or folder"):
        open_conversations(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="world:train: expected files; `sen world` writes generated clips"):
        open_conversations("world:train")
    with pytest.raises(
        ValueError, match=r"expected metadata\.csv or metadata\.jsonl or metadata\.parquet, found none"
    ):
        open_conversations(str(tmp_path))
    write(tmp_path / "chat.jsonl", [llava(*beside(clips[:1], tmp_path), "<video> What?", "a circle")])
    with pytest.raises(ValueError, match=r"row 0: no column 'film', only id, video, conversations"):
        open_conversations(str(tmp_path / "chat.jsonl"), video_column="film")
