"""Question sets: the layouts of public data sets, made here over one synthetic video; the world; bad files."""

import hashlib
import json

import numpy as np
import pytest
from question_videos import PLAIN, put_videos, write_json

from modeling_sen.evaluation.prompt_formats import PROMPT_FORMATS
from modeling_sen.evaluation.question_mapping import list_mappings, read_mapping
from modeling_sen.evaluation.question_sets import open_question_set
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.data import file_key
from modeling_sen.world.chat_questions import chat_questions
from modeling_sen.world.scene import make_scene


def facts(found):
    """(video's name, question, options, answer, types) of each question."""
    return [
        (found.read(row).video.rsplit("/", 1)[1], one.question, one.options, one.answer, dict(one.types))
        for row, one in enumerate(found.questions)
    ]


def test_mvbench_is_a_folder_of_tasks_with_folders_of_videos(tmp_path):
    root = put_videos(
        tmp_path, "star/Charades_v1_480/ZS9XR.mp4", "ssv2_video/166583.webm", "clevrer/video_validation/v1.mp4"
    )
    row = {"question": "What happened?", "candidates": ["Sat.", "Ran."], "answer": "Ran."}
    write_json(
        tmp_path / "json/action_sequence.json",
        [{**row, "video": "ZS9XR.mp4", "start": 0.25, "end": 0.75, "accurate": 1}],
    )
    write_json(tmp_path / "json/action_antonym.json", [{**row, "video": "166583.webm"}])
    write_json(tmp_path / "json/moving_count.json", [{**row, "video": "v1.mp4", "answer": "Sat."}])
    found = open_question_set(str(tmp_path / "json"), "mvbench", root)
    assert facts(found) == [
        ("166583.webm", "What happened?", ("Sat.", "Ran."), "Ran.", {"task": "action_antonym"}),
        ("ZS9XR.mp4", "What happened?", ("Sat.", "Ran."), "Ran.", {"task": "action_sequence"}),
        ("v1.mp4", "What happened?", ("Sat.", "Ran."), "Sat.", {"task": "moving_count"}),
    ]
    assert [(found.read(row).start, found.read(row).end) for row in range(3)] == [
        (None,) * 2,
        (0.25, 0.75),
        (None,) * 2,
    ]
    assert found.questions[1].clip.endswith(":0.25-0.75")
    assert found.mapping == ("mvbench", 1)
    assert found.prompt.prompt("What happened?", ("Sat.", "Ran.")) == (
        "Question: What happened?\nOptions:\n(A) Sat.\n(B) Ran.\nOnly give the best option."
    )
    assert [one["sha1"] for one in found.listed] == [
        hashlib.sha1((tmp_path / "json" / name).read_bytes()).hexdigest()
        for name in ("action_antonym.json", "action_sequence.json", "moving_count.json")
    ]


@pytest.mark.parametrize("with_map", [True, False])
def test_next_qa_has_indices_and_a_map_of_videos(tmp_path, with_map):
    root = put_videos(tmp_path, "1164/3238737531.mp4" if with_map else "3238737531.mp4", "4010069381.mp4")
    (tmp_path / "val.csv").write_text(
        "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
        "4010069381,369,640,480,how do the two man play,0,6,CH,roll the handle,tap,strum,hit,pat\n"
        '3238737531,528,640,480,"why did he, the man, stop",4,7,CW,a,b,c,d,tired\n'
        "3238737531,528,640,480,how many people,1,8,XX,one,two,three,four,five\n"
    )
    if with_map:
        write_json(tmp_path / "map_vid_vidorID.json", {"3238737531": "1164/3238737531"})
    found = open_question_set(str(tmp_path / "val.csv"), "next-qa", root)
    options = ("roll the handle", "tap", "strum", "hit", "pat")
    assert facts(found)[0] == (
        "4010069381.mp4",
        "how do the two man play",
        options,
        "roll the handle",
        {"type": "causal how"},
    )
    assert [one.answer for one in found.questions] == ["roll the handle", "tired", "two"]
    assert [one.types["type"] for one in found.questions] == ["causal how", "causal why", "XX"]
    assert found.questions[1].clip == found.questions[2].clip != found.questions[0].clip
    assert len(found.listed) == 1 + with_map


def test_video_mme_is_nested_or_flat(tmp_path):
    root = put_videos(tmp_path, "001.mp4", "fFjv93ACGo8.mp4")
    options = ["A. Apples.", "B. Candles.", "C. Berries.", "D. The tree: all."]
    questions = [
        {"question_id": "001-1", "task_type": "Counting", "question": "Which?", "options": options, "answer": "C"},
        {"question_id": "001-2", "task_type": "OCR", "question": "What?", "options": options, "answer": "D"},
    ]
    nested = [{"video_id": "001", "duration": "short", "domain": "Knowledge", "questions": questions}]
    found = open_question_set(write_json(tmp_path / "template.json", nested), "video-mme", root)
    texts = ("Apples.", "Candles.", "Berries.", "The tree: all.")
    assert facts(found) == [
        ("001.mp4", "Which?", texts, "Berries.", {"task": "Counting", "duration": "short"}),
        ("001.mp4", "What?", texts, "The tree: all.", {"task": "OCR", "duration": "short"}),
    ]
    assert found.questions[1].place == f"{tmp_path}/template.json, row 0, question 1"
    first_release = json.dumps(nested).replace('"options"', '"choices"').replace('"duration"', '"duration_category"')
    (tmp_path / "first.json").write_text(first_release)
    assert facts(open_question_set(str(tmp_path / "first.json"), "video-mme", root)) == facts(found)
    assert found.prompt.prompt("Which?", texts[:3]).splitlines()[0].endswith("(A, B, or C) of the correct option.")

    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"video_id": "001", "duration": "long", "videoID": "fFjv93ACGo8", **one} for one in questions]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    flat = open_question_set(str(tmp_path / "test.parquet"), "video-mme", root)
    assert facts(flat)[0] == ("fFjv93ACGo8.mp4", "Which?", texts, "Berries.", {"task": "Counting", "duration": "long"})


def test_msvd_qa_numbers_its_videos(tmp_path):
    root = put_videos(tmp_path, "mv89psg6zh4_33_46.avi", "vid2.mp4")
    rows = [
        {"answer": "kitten", "id": 30933, "question": "what is playing with a ball?", "video_id": 1},
        {"answer": "man", "id": 30934, "question": "Who is lifting weights?", "video_id": 2},
        {"answer": "2", "id": 30935, "question": "how many run?", "video_id": 2},
    ]
    table = write_json(tmp_path / "test_qa.json", rows)
    (root / "youtube_mapping.txt").write_text("mv89psg6zh4_33_46 vid1\n\n")
    found = open_question_set(table, "msvd-qa", root)
    assert facts(found) == [
        ("mv89psg6zh4_33_46.avi", "what is playing with a ball?", (), "kitten", {"type": "what"}),
        ("vid2.mp4", "Who is lifting weights?", (), "man", {"type": "who"}),
        ("vid2.mp4", "how many run?", (), "2", {"type": "how"}),
    ]
    assert found.prompt.prompt("Who?") == "Who?\nAnswer the question using a single word or phrase."


def test_activitynet_qa_has_its_answers_in_another_file(tmp_path):
    root = put_videos(tmp_path, "v_1QIUV7WYKXg.mp4", "v_ZNVhz7ctTq0.mkv")
    questions = [
        {"video_name": "1QIUV7WYKXg", "question": "is the dog brown", "question_id": "v_1QIUV7WYKXg_3"},
        {"video_name": "ZNVhz7ctTq0", "question": "how many people", "question_id": "v_ZNVhz7ctTq0_1"},
        {"video_name": "ZNVhz7ctTq0", "question": "what moves", "question_id": "v_ZNVhz7ctTq0_2"},
    ]
    answers = [
        {"answer": "2", "type": 7, "question_id": "v_ZNVhz7ctTq0_1"},
        {"answer": "no", "type": 3, "question_id": "v_1QIUV7WYKXg_3"},
        {"answer": "scooter", "type": 0, "question_id": "v_ZNVhz7ctTq0_2"},
    ]
    table = write_json(tmp_path / "test_q.json", questions)
    with pytest.raises(
        FileNotFoundError, match=r"test_q.json: it has no column 'answer', and there is no table .*test_a"
    ):
        open_question_set(table, "activitynet-qa", root)
    write_json(tmp_path / "test_a.json", answers)
    found = open_question_set(table, "activitynet-qa", root)
    assert [(one.answer, one.types["type"]) for one in found.questions] == [
        ("no", "yes/no"),
        ("2", "number"),
        ("scooter", "motion"),
    ]
    assert [one["file"] for one in found.listed] == [table, str(tmp_path / "test_a.json")]
    write_json(tmp_path / "test_a.json", answers[:2])
    with pytest.raises(ValueError, match=r"test_q.json, row 2: question_id 'v_ZNVhz7ctTq0_2' is not in .*test_a.json"):
        open_question_set(table, "activitynet-qa", root)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_own_tables_in_any_form(tmp_path, suffix):
    root, path = put_videos(tmp_path, "one.mp4", "two.mp4"), tmp_path / f"videos/own.{suffix}"
    if suffix == "json":
        write_json(path, PLAIN)
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, PLAIN)) + "\n")
    elif suffix == "csv":
        path.write_text(
            "path;question;options;answer;type;start;end\n"
            'one.mp4;Which colour?;"[""red"", ""blue""]";blue;colour;;\n'
            'two.mp4;Which shape?;"[""star"", ""disc""]";(A);shape;;\n'
            "two.mp4;Who?;;nobody;;0.5;1\n"
        )
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = ("video", "question", "options", "answer", "type", "start")
        rows = [{name: row.get(name) for name in columns} | {"end": row.get("end")} for row in PLAIN]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = open_question_set(str(path))
    assert facts(found) == [
        ("one.mp4", "Which colour?", ("red", "blue"), "blue", {"type": "colour"}),
        ("two.mp4", "Which shape?", ("star", "disc"), "star", {"type": "shape"}),
        ("two.mp4", "Who?", (), "nobody", {}),
    ]
    assert found.questions[2].clip == file_key(root / "two.mp4") + ":0.5-1.0"
    assert found.questions[2].place == f"{path}, row 2"
    assert found.prompt is PROMPT_FORMATS["letters"]
    drawn = open_question_set(str(path), num=2, seed=1)
    rows = np.sort(np.random.default_rng(1).permutation(3)[:2])
    assert [one.question for one in drawn.questions] == [PLAIN[row]["question"] for row in rows]
    assert [drawn.read(row) for row in (0, 1)] == [found.read(row) for row in rows]


def test_mappings_of_ones_own(tmp_path):
    root = put_videos(tmp_path, "a/one.mov")
    table = write_json(tmp_path / "t.json", [{"id": "one", "place": "a", "ask": "who?", "wanted": "me", "hard": True}])
    mapping = {
        "name": "mine",
        "version": 3,
        "source": "me",
        "prompt": "question",
        "video": ["{place}/{id}.mp4", "{place}/{id}.mov"],
        "question": "ask",
        "answer": "wanted",
        "answer_form": "text",
        "types": {"hard": "hard"},
    }
    found = open_question_set(table, write_json(tmp_path / "mine.json", mapping), root)
    assert facts(found) == [("one.mov", "who?", (), "me", {"hard": "True"})]
    assert found.mapping == ("mine", 3)
    for change, message in (
        ({"tipe": "x"}, "mine.json: unknown field 'tipe'"),
        ({"answer_form": "number"}, "answer_form is 'number', expected one of letter, index, text, text or letter"),
        ({"video": "{id}.mp4"}, "video is '{id}.mp4', expected a list of paths"),
        ({"prompt": "x"}, "prompt format 'x'"),
    ):
        with pytest.raises(ValueError) as error:
            read_mapping(write_json(tmp_path / "mine.json", {**mapping, **change}))
        assert message in str(error.value)
    with pytest.raises(ValueError, match=r"missing 1 required positional argument: 'answer'"):
        read_mapping(write_json(tmp_path / "mine.json", {name: mapping[name] for name in mapping if name != "answer"}))
    with pytest.raises(ValueError, match="expected a JSON object, found list"):
        read_mapping(write_json(tmp_path / "mine.json", []))


@pytest.mark.parametrize("name", list_mappings())
def test_mappings_of_the_package_are_whole(name):
    mapping = read_mapping(name)
    assert mapping.name == name
    assert mapping.version == 1
    assert mapping.source


def test_prompt_formats_list_options_where_they_say_so():
    options = ("red {x}", "blue")
    for form in PROMPT_FORMATS.values():
        text = form.prompt("Which {colour}?", options)
        assert "Which {colour}?" in text
        assert all((option in text) == form.asks_for_letter for option in options)
    assert PROMPT_FORMATS["llava"].prompt("Which?", ("red", "blue")) == (
        "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    )


def test_the_world_generates_its_questions():
    source = "world:test?num=2&num_objects=2&seed=3"
    found = open_question_set(source, num=None)
    scenes = [make_scene("test", 3, index, num_objects=2) for index in range(2)]
    asked = [(index, one) for index in range(2) for one in chat_questions(scenes[index])]
    assert [(one.question, one.answer, one.options) for one in found.questions] == [
        (one.question, one.answer, one.options) for _, one in asked
    ]
    assert [one.types["kind"] for one in found.questions] == [one.kind for _, one in asked]
    assert {"image", "image and video"} <= {one.types["needs"] for one in found.questions}
    assert len({one.clip for one in found.questions}) == 2
    last = found.read(len(asked) - 1)
    assert (last.start, last.end) == (None, None)
    assert last.video["video"].shape == (16, 64, 64, 3)
    assert found.prompt.prompt("what moves?", ("a", "b")) == "what moves?"
    assert found.listed == ({"file": source, "sha1": None},)
    with pytest.raises(ValueError, match="unknown \\['clips'\\]"):
        open_question_set("world:test?clips=2")


def test_real_videos_are_found_and_can_be_read(shared_data, tmp_path, sen_folder):
    """Of the shared clips one has a question with options in public, one is of ActivityNet."""
    folder = shared_data / "chat"
    if not (folder / "ask-anything/yoga.mp4").is_file():
        pytest.skip("the shared chat clips are not here")
    options = ["playing basterball.", "doing homework.", "practicing yoga."]
    row = {
        "video": "ask-anything/yoga.mp4",
        "question": "What's she doing?",
        "options": options,
        "answer": "C",
        "end": 4,
    }
    found = [open_question_set(write_json(tmp_path / "yoga.json", [row]), root=folder)]
    write_json(tmp_path / "test_a.json", [{"answer": "dog", "type": 5, "question_id": "v_ZNVhz7ctTq0_1"}])
    asked = {"video_name": "ZNVhz7ctTq0", "question": "what walks", "question_id": "v_ZNVhz7ctTq0_1"}
    table = write_json(tmp_path / "test_q.json", [asked])
    found.append(open_question_set(table, "activitynet-qa", folder / "activitynet"))
    assert [part.questions[0].answer for part in found] == ["practicing yoga.", "dog"]
    processor = SENProcessor.from_pretrained(sen_folder)
    for part in found:
        assert processor(part.read(0).video)["frame_times"].shape[0] == 1
