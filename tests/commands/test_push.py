"""`sen push`: what is listed, what is refused in one line, and that the card's example really runs."""

import json
import re
import sys

import pytest

import sen_cli
from modeling_sen import SEN_TINY, SEN_TINY_EDITING, publishing
from modeling_sen.card_example import run_example


def sen_push(*arguments: str, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["sen", "push", *arguments])
    monkeypatch.setattr(sen_cli, "is_program", False)  # as before, after the test
    try:
        sen_cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(publishing, "run_example", lambda *_, **__: "")


def test_a_dry_run_lists_files_sizes_and_the_card(sen_folder, quick, monkeypatch, capsys):
    assert sen_push(str(sen_folder), "org/sen", "--dry-run", monkeypatch=monkeypatch) == 0
    listed, _, card = capsys.readouterr().out.partition("\n\nREADME.md:\n\n")
    *files, total = listed.splitlines()
    names = [line.split("  ")[-1] for line in files]
    assert {"README.md", "config.json", "model.safetensors", "neuron_image/model.safetensors"} <= set(names)
    assert f"{len(names)} files would be uploaded to org/sen" in total
    assert card.startswith("---\n")
    assert "# sen\n" in card


def test_as_json(quick, monkeypatch, capsys):
    assert sen_push("sen-tiny", "org/tiny", "--dry-run", "--license", "mit", "--json", monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["repository"], found["url"]) == ("org/tiny", None)
    assert {file["path"] for file in found["files"]} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "processor_config.json",
    }
    assert all(file["bytes"] > 0 for file in found["files"])
    assert "\nlicense: mit\n" in found["card"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder", "org/sen"], "sen push: no-such-folder: found no config.json"),
        ([SEN_TINY, "sen"], "sen push: repository 'sen', expected ORGANISATION/NAME"),
        ([SEN_TINY, "org/tiny", "--with-code"], "sen push: neuron 'image': its tower is part of the package"),
        ([SEN_TINY_EDITING, "org/edit", "--with-code"], "sen push: with_code: found a model of video editing"),
        ([SEN_TINY], "sen push: Missing argument 'ORG/NAME'"),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, message, quick, monkeypatch, capsys):
    assert sen_push(*arguments, *(["--dry-run"] if len(arguments) > 1 else []), monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(message)


def test_without_network_the_hub_is_named(quick, monkeypatch, capsys):
    assert sen_push(SEN_TINY, "org/tiny", monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("sen push: org/tiny: ")
    assert "HF_HUB_OFFLINE" in line


def test_the_example_on_the_card_runs_on_a_clip_in_a_process_of_its_own():
    planned = publishing.push_folder(SEN_TINY, "org/tiny", dry_run=True)
    assert "Before the upload this ran on a generated clip, with modeling-sen" in planned.card
    (code,) = re.findall(r"```python\n(.*?)```", planned.card, re.DOTALL)
    printed = run_example(code.replace('"org/tiny"', repr(SEN_TINY)), "here", offline=True)
    labels = re.search(r"candidate_labels=\[(.*?)\]", code)[1]
    assert all(label.strip('"') in printed for label in labels.split(", "))


def test_an_example_that_fails_stops_the_push():
    with pytest.raises(
        RuntimeError, match=r"here: the example of its card fails \(ValueError: no\); nothing was pushed"
    ):
        run_example("raise ValueError('no')", "here")


@pytest.mark.slow
def test_with_code_an_example_runs_without_the_package(monkeypatch, capsys):
    flags = ("--with-code", "--include-neurons", "--dry-run")
    assert sen_push(SEN_TINY, "org/tiny", *flags, monkeypatch=monkeypatch) == 0
    assert 'AutoModel.from_pretrained("org/tiny", trust_remote_code=True)' in capsys.readouterr().out
