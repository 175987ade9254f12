"""Measuring answers: accuracy by type and its error, answers that cannot be read, runs that go on."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from question_videos import PLAIN, put_videos, write_json

from modeling_sen.evaluation.clip_results import ClipResults
from modeling_sen.evaluation.measure_chat import measure_chat
from modeling_sen.evaluation.prompt_formats import PROMPT_FORMATS
from modeling_sen.evaluation.question_sets import AskedClip, QuestionSet, VideoQuestion, open_question_set

OPTIONS = ("red", "blue", "green", "pink")


def a_set(rows, source="some", prompt="letters"):
    """Rows of (clip, question, options, answer, kind)."""
    questions = tuple(
        VideoQuestion(clip, question, options, answer, {"kind": kind}, f"{source}, row {number}")
        for number, (clip, question, options, answer, kind) in enumerate(rows)
    )
    return QuestionSet(
        source=source,
        mapping=("mine", 2),
        prompt=PROMPT_FORMATS[prompt],
        questions=questions,
        read=lambda row: AskedClip(questions[row].clip),
        listed=({"file": source, "sha1": "abc"},),
        missing=1,
    )


ROWS = [
    ("clip1", "Which colour first?", OPTIONS, "blue", "colour"),
    ("clip2", "Which colour?", OPTIONS, "red", "colour"),
    ("clip1", "Which colour last?", OPTIONS, "pink", "colour"),
    ("clip2", "How many?", (), "two", "count"),
    ("clip3", "Which of two?", ("left", "right"), "left", "side"),
    ("clip3", "How many more?", (), "3", "count"),
    ("clip1", "What is it?", OPTIONS, "green", "colour"),
]
ANSWERS = {
    "Which colour first?": "(B)",
    "Which colour?": "",
    "Which colour last?": "A or B",
    "How many?": "2.",
    "Which of two?": "The left one",
    "How many more?": " ",
    "What is it?": "D",
}


def scripted(asked=None):
    def answer(clip, prompt, options):
        if asked is not None:
            asked.append((clip, prompt, options))
        return ANSWERS[prompt.split("\n")[0]]

    return answer


def test_numbers_are_those_counted_by_hand(tmp_path):
    ticks = itertools.count()
    found = measure_chat(
        scripted(), [a_set(ROWS)], ClipResults(tmp_path / "kept.json"), tmp_path, clock=lambda: next(ticks)
    )
    (split,) = found["splits"]
    right = np.array([1, 0, 0, 1, 1, 0, 0])
    assert (split["questions"], split["clips"], split["empty"], split["unreadable"]) == (7, 3, 2, 1)
    assert split["accuracy"] == pytest.approx(3 / 7)
    assert split["chance"] == pytest.approx((4 * 0.25 + 0.5) / 7)
    by_clip = [(right - 3 / 7)[rows].sum() for rows in ([0, 2, 6], [1, 3], [4, 5])]
    assert split["standard_errors"]["accuracy"] == pytest.approx(math.sqrt(np.square(by_clip).sum() * 3 / 2) / 7)
    assert split["seconds"] == 1.0
    kinds = split["by_type"]["kind"]
    assert {kind: (one["questions"], one["accuracy"]) for kind, one in kinds.items()} == {
        "colour": (4, 0.25),
        "count": (2, 0.5),
        "side": (1, 1.0),
    }
    assert kinds["colour"]["chance"] == 0.25
    assert math.isnan(kinds["side"]["standard_errors"]["accuracy"])
    assert found["data"] == [
        {
            "source": "some",
            "mapping": {"name": "mine", "version": 2},
            "prompt": {"name": "letters", "version": 1, "differs": ""},
            "listed": ({"file": "some", "sha1": "abc"},),
            "questions": 7,
            "missing": 1,
        }
    ]
    with open(tmp_path / "answers.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["right"] for row in table] == list("1001100")
    assert [row["read_as"] for row in table] == ["blue", "", "", "2", "left", "", "pink"]
    assert table[2] == {
        "place": "some, row 2",
        "question": "Which colour last?",
        "options": "red | blue | green | pink",
        "truth": "pink",
        "answer": "A or B",
        "read_as": "",
        "right": "0",
    }


def test_questions_about_one_clip_follow_each_other_with_one_clip_object(tmp_path):
    asked = []
    measure_chat(scripted(asked), [a_set(ROWS)], ClipResults(tmp_path / "kept.json"))
    assert [clip.video for clip, _, _ in asked] == ["clip1"] * 3 + ["clip2"] * 2 + ["clip3"] * 2
    assert len({id(clip) for clip, _, _ in asked}) == 3
    assert asked[0][1:] == (
        "Which colour first?\n(A) red\n(B) blue\n(C) green\n(D) pink\nAnswer with the letter of the right option.",
        OPTIONS,
    )


def test_an_interrupted_run_resumes(tmp_path):
    def breaks(clip, prompt, options):
        if prompt.startswith("How many?"):
            raise OSError("the disk is gone")
        return scripted()(clip, prompt, options)

    with pytest.raises(OSError, match="the disk is gone"):
        measure_chat(breaks, [a_set(ROWS)], ClipResults(tmp_path / "kept.json"), tmp_path)
    assert not (tmp_path / "answers.csv").exists()
    assert list(ClipResults(tmp_path / "kept.json").rows) == ["clip1"]
    asked = []
    went_on = measure_chat(scripted(asked), [a_set(ROWS)], ClipResults(tmp_path / "kept.json"))
    assert [clip.video for clip, _, _ in asked] == ["clip2"] * 2 + ["clip3"] * 2
    at_once = measure_chat(scripted(), [a_set(ROWS)], ClipResults(tmp_path / "other.json"))
    assert without_seconds(went_on) == without_seconds(at_once)


def without_seconds(found):
    splits = [{name: value for name, value in part.items() if name != "seconds"} for part in found["splits"]]
    return json.dumps(splits)


def test_changed_questions_and_prompts_are_asked_again(tmp_path):
    asked, kept = [], ClipResults(tmp_path / "kept.json")
    measure_chat(scripted(asked), [a_set(ROWS[:1])], kept)
    measure_chat(scripted(asked), [a_set(ROWS)], kept)
    assert len(asked) == 7
    measure_chat(scripted(asked), [a_set(ROWS, prompt="llava")], kept)
    assert len(asked) == 12, "the two open questions are put in the same words"
    measure_chat(scripted(asked), [a_set(ROWS), a_set(ROWS, prompt="llava")], ClipResults(tmp_path / "kept.json"))
    assert len(asked) == 12


def test_letters_are_read_only_if_the_prompt_lists_them(tmp_path):
    row = [("clip", "Which?", ("red", "blue"), "blue", "colour")]
    for prompt, accuracy in (("letters", 1.0), ("question", 0.0)):
        kept = ClipResults(tmp_path / f"{prompt}.json")
        found = measure_chat(lambda *asked: "B", [a_set(row, prompt=prompt)], kept)
        assert found["splits"][0]["accuracy"] == accuracy


def test_sets_are_averaged(tmp_path):
    sets = [a_set(ROWS), a_set(ROWS[:1], "other")]
    found = measure_chat(scripted(), sets, ClipResults(tmp_path / "kept.json"))
    assert found["mean"]["accuracy"] == pytest.approx((3 / 7 + 1) / 2)
    assert found["std"]["accuracy"] == pytest.approx(np.std([3 / 7, 1], ddof=1))
    with pytest.raises(ValueError, match="sets: expected at least one"):
        measure_chat(scripted(), [], ClipResults(tmp_path / "kept.json"))


def test_a_table_of_videos_is_measured(tmp_path):
    root = put_videos(tmp_path, "one.mp4", "two.mp4")
    part = open_question_set(write_json(tmp_path / "own.json", PLAIN), root=root)
    asked = []

    def answer(clip, prompt, options):
        asked.append((clip, prompt))
        return "B" if options else "Nobody!"

    found = measure_chat(answer, [part], ClipResults(tmp_path / "kept.json"))["splits"][0]
    assert found["accuracy"] == pytest.approx(2 / 3)  # the second is A
    assert [clip for clip, _ in asked] == [
        AskedClip(str(root / "one.mp4")),
        AskedClip(str(root / "two.mp4")),
        AskedClip(str(root / "two.mp4"), 0.5, 1.0),
    ]
    (root / "one.mp4").write_bytes((root / "one.mp4").read_bytes() + b"another file")
    part = open_question_set(str(tmp_path / "own.json"), root=root)
    measure_chat(answer, [part], ClipResults(tmp_path / "kept.json"))
    assert len(asked) == 4


def test_true_answers_score_full_and_a_constant_does_not(tmp_path):
    part = open_question_set("world:test?num=3&num_objects=1-3")
    truth = {(one.clip, one.question): one.answer for one in part.questions}
    clips = {}

    def knows(clip, prompt, options):
        key = clips.setdefault(id(clip), (len(clips), clip))[0]
        return truth[f"world:test?num=3&num_objects=1-3:{key}", prompt]

    found = measure_chat(knows, [part], ClipResults(tmp_path / "kept.json"))["splits"][0]
    assert found["accuracy"] == 1.0
    assert {"colour", "shape", "motion", "count", "yes_no"} <= set(found["by_type"]["kind"])
    always = measure_chat(lambda *asked: "yes", [part], ClipResults(tmp_path / "yes.json"))["splits"][0]
    assert always["by_type"]["kind"]["yes_no"]["accuracy"] == 0.5
    assert always["by_type"]["kind"]["colour"]["accuracy"] == 0.0
