"""`sen eval --task chat`: a chat model on tables and the world; what is wrong is told in one line."""

import csv
import hashlib
import json
import sys

import pytest
from chat_parts import make_chat_parts
from question_videos import PLAIN, put_videos, write_json

from modeling_sen import SEN_TINY
from modeling_sen.commands.evaluate import main
from modeling_sen.evaluation.chat_answerer import ChatAnswerer, load_answerer
from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.evaluation.question_sets import open_question_set

WORLD = "world:test?num=2&num_objects=1&seed=5"


@pytest.fixture(scope="module")
def chat_folder(towers, tmp_path_factory):
    from random_sen import SMALL

    from modeling_sen import SENModel

    folder = tmp_path_factory.mktemp("chat")
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["ast"]]
    sen = SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL)
    model, processor = make_chat_parts(sen, folder / "llm")
    model.save_pretrained(folder / "chat", include_neurons=True)
    processor.save_pretrained(folder / "chat")
    return folder / "chat"


def results_of(output):
    return json.loads((output / "results.json").read_text(), parse_constant=pytest.fail)


def test_results_state_all_settings(chat_folder, tmp_path, capsys, monkeypatch):
    root = put_videos(tmp_path, "one.mp4", "two.mp4")
    table = write_json(tmp_path / "own.json", PLAIN)
    options = {"task": "chat", "num": 3, "seed": 7, "output": tmp_path / "out", "root": root}
    main(str(chat_folder), [table, WORLD], **options)
    printed = capsys.readouterr().out.splitlines()
    results = results_of(tmp_path / "out")
    loaded = load_answerer(str(chat_folder), device="cpu")
    assert results["model"]["sha1"] == model_sha1(loaded.model)
    settings = {name: results[name] for name in ("task", "num", "seed", "num_frames", "max_new_tokens")}
    assert settings == {"task": "chat", "num": 3, "seed": 7, "num_frames": None, "max_new_tokens": 64}
    own, world = results["data"]
    sha1 = hashlib.sha1((tmp_path / "own.json").read_bytes()).hexdigest()
    assert own["listed"] == [{"file": table, "sha1": sha1}]
    assert (own["mapping"], own["prompt"]["name"], own["questions"]) == ({"name": "plain", "version": 1}, "letters", 3)
    assert (world["mapping"]["name"], world["prompt"]["name"], world["questions"]) == ("world", "question", 3)
    with open(tmp_path / "out/answers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    asked = open_question_set(WORLD, num=3, seed=7)
    assert [row["question"] for row in rows[3:]] == [one.question for one in asked.questions]
    assert [row["answer"] for row in rows[3:]] == [
        loaded(asked.read(row), one.question) for row, one in enumerate(asked.questions)
    ]
    right = [int(row["right"]) for row in rows]
    assert results["splits"][0]["accuracy"] == pytest.approx(sum(right[:3]) / 3)
    assert results["splits"][1]["accuracy"] == pytest.approx(sum(right[3:]) / 3)
    kinds = results["splits"][1]["by_type"]["kind"]
    assert sum(one["questions"] for one in kinds.values()) == 3

    assert printed[0] == (
        f"{table}: mapping plain version 1, prompt letters version 1, seed 7; sha1 own.json {sha1[:12]}"
    )
    assert printed[1] == f"{WORLD}: mapping world version 2, prompt question version 1, seed 7"
    assert printed[2].split()[:2] == ["questions", "of"]
    for kind in kinds:
        assert any(f"kind: {kind}" in line for line in printed)
    assert printed[-1] == str(tmp_path / "out/results.json")

    monkeypatch.setattr(ChatAnswerer, "__call__", lambda *args: pytest.fail("all answers were there"))
    main(str(chat_folder), [table, WORLD], as_json=True, **options)
    again = json.loads(capsys.readouterr().out)
    assert again == results_of(tmp_path / "out") == results


def test_mapping_prompt_and_frames_are_options(chat_folder, tmp_path, capsys):
    root = put_videos(tmp_path, "one.mp4")
    rows = [{"answer": "cat", "question": "who runs?", "video_id": number} for number in (1, 2)]
    (root / "youtube_mapping.txt").write_text("one vid1")
    options = {"mapping": "msvd-qa", "prompt": "question", "num_frames": 4, "skip_missing": True}
    table = write_json(tmp_path / "test_qa.json", rows)
    main(str(chat_folder), [table], task="chat", output=tmp_path / "out", root=root, **options)
    results = results_of(tmp_path / "out")
    assert results["data"][0]["missing"] == 1
    assert results["data"][0]["mapping"]["name"] == "msvd-qa"
    assert results["num_frames"] == 4
    assert results["splits"][0]["standard_errors"] == {"accuracy": None}
    assert "1 without video left out" in capsys.readouterr().out
    (kept,) = (tmp_path / "out/answers").iterdir()
    assert kept.name == f"4-{results['model']['sha1'][:16]}.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SEN_TINY, WORLD], "sen_tiny: expected a model that answers questions about videos, found one of type 'sen'"),
        ([SEN_TINY], "expected DATA: tables of questions about videos, or world:..."),
        ([SEN_TINY, "nowhere.csv"], "nowhere.csv: no such table of questions"),
        ([SEN_TINY, "own.json"], "own.json, row 0: no such video one.mp4 (3 of 3 questions have no video)"),
        ([SEN_TINY, "own.json", "--mapping", "mvb"], "mapping 'mvb': expected a JSON file, or one of activitynet-qa"),
        ([SEN_TINY, "own.json", "--prompt", "x"], "prompt format 'x', expected one of letters, question"),
        ([SEN_TINY, WORLD, "--plot"], "--task chat does not support --protocol"),
        ([SEN_TINY, WORLD, "--protocol", "pe"], "--task chat does not support --protocol"),
        ([SEN_TINY, WORLD, "--query-mode", "first"], "--query-mode requires --task tracking, found --task chat"),
        ([SEN_TINY, WORLD, "--task", "recognition", "--prompt", "x"], "require --task chat, found --task recognition"),
        ([SEN_TINY, "base", "--task", "tracking", "--mapping", "x"], "require --task chat, found --task tracking"),
    ],
)
def test_user_errors_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    import sen_cli

    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "own.json", PLAIN)
    task = [] if "--task" in arguments else ["--task", "chat"]
    monkeypatch.setattr(sys, "argv", ["sen", "eval", *arguments, *task])
    with pytest.raises(SystemExit) as exit:
        sen_cli.main()
    assert exit.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sen eval: ")]
    assert len(errors) == 1
    assert message in errors[0]
