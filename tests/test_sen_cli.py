"""The command `sen`: verbs are imported when called, and errors take one line."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import types
from importlib.metadata import version

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

import sen_cli
from modeling_sen.hub_files import CheckpointError

HEAVY = {"torch", "transformers", "scipy", "pandas", "datasets", "av", "modeling_sen.modeling_sen"}


def sen(*arguments: str, monkeypatch) -> int:
    """Runs the command in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["sen", *arguments])
    try:
        sen_cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def verb(monkeypatch):
    """Registers a verb `try` with the test's function."""

    def register(function) -> None:
        module = types.ModuleType("sen_verb_of_a_test")
        module.run = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sen_cli.VERBS, "try", (f"{module.__name__}:run", "Of a test."))

    return register


def raising(error: BaseException):
    def run() -> None:
        raise error

    return run


def test_help_imports_no_heavy_libraries():
    code = (
        "import sys, sen_cli\nsys.argv = ['sen', '--help']\nsen_cli.main()\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'typer', 'rich', 'av', 'modeling_sen'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in sen_cli.VERBS)


def test_help_of_a_verb_does_not_import_the_model_stack():
    code = f"""
import contextlib, io, sys
import sen_cli
for arguments in [*([verb, "--help"] for verb in sen_cli.VERBS), ["presets"], ["neurons"]]:
    sys.argv = ["sen", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        sen_cli.main()
    assert shown.getvalue()
    print(arguments, sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if not line.endswith("[]")] == []
    assert len(done.stdout.splitlines()) == len(sen_cli.VERBS) + 2


def test_the_package_as_a_module_runs_the_command_without_heavy_imports():
    command = [sys.executable, "-X", "importtime", "-m", "modeling_sen", "presets", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "sen presets" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "modeling_sen.presets" in imported
    assert not HEAVY & imported


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sen cl", ["classify"]),
        ("sen ", list(sen_cli.VERBS)),
        ("sen classify --de", ["--device"]),
        ("sen train --num_t", ["--num_train_epochs"]),
    ],
)
def test_shell_completion_completes_verbs_and_options(words, found):
    asked = {"_SEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", "import sen_cli; sen_cli.main()"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == found


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(arguments, monkeypatch, capsys):
    assert sen(*arguments, monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert all(name in text and about in text for name, (_, about) in sen_cli.VERBS.items())


def test_help_groups_the_verbs_by_purpose(monkeypatch, capsys):
    sen("--help", monkeypatch=monkeypatch)
    groups = {}
    for block in capsys.readouterr().out.split("\n\n")[2:-1]:
        purpose, *lines = block.splitlines()
        groups[purpose.removesuffix(":")] = [line.split()[0] for line in lines]
    assert groups == {purpose: list(verbs) for purpose, verbs in sen_cli.VERBS_BY_PURPOSE.items()}


def test_version(monkeypatch, capsys):
    assert sen("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.strip() == f"sen {version('modeling-sen')}"


@pytest.mark.parametrize("name", sen_cli.VERBS)
def test_every_verb_is_a_documented_function(name, monkeypatch, capsys):
    module, function = sen_cli.VERBS[name][0].split(":")
    found = getattr(importlib.import_module(module), function)
    assert inspect.isfunction(found)
    assert sen(name, "--help", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert f"sen {name}" in text
    assert found.__doc__.split(".")[0] in " ".join(text.split())


def test_an_unknown_verb_gives_the_closest_one(monkeypatch, capsys):
    assert sen("clasify", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "sen: no verb 'clasify'; did you mean classify?\n"
    assert sen("zzz", monkeypatch=monkeypatch) == 2
    assert "classify or encode" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad\n  value"),
        FileNotFoundError("bad value"),
        ConnectionError("bad value"),
        ImportError("bad value"),
        CheckpointError("bad value"),
        StrictDataclassClassValidationError("check", ValueError("bad value")),
        torch.OutOfMemoryError("bad value"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_wrong_input_gives_one_line_and_status_2(error, verb, monkeypatch, capsys):
    verb(raising(error))
    assert sen("try", monkeypatch=monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"sen try: .*bad value\n", err)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        TypeError("'x'"),
        AssertionError("'x'"),
        RuntimeError("'x'"),
        AttributeError("'x'"),
        IndexError("'x'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_program_errors_are_reported_as_faults_with_status_1(error, verb, monkeypatch, capsys):
    verb(raising(error))
    assert sen("try", monkeypatch=monkeypatch) == 1
    found = f"{type(error).__name__}: 'x' (SEN_TRACEBACK=1 shows where)"
    assert capsys.readouterr().err == f"sen try: this is a fault of sen, not of its input: {found}\n"


def test_errors_in_an_imported_file_are_reported_as_the_users(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.py"
    for text, found in (
        ("1 + '1'", "TypeError: unsupported"),
        ("{}['x']", "KeyError: 'x'"),
        ("raise OSError('no')", "no"),
    ):
        file.write_text(text)
        assert sen("--import", str(file), "neurons", monkeypatch=monkeypatch) == 2
        assert capsys.readouterr().err.startswith(f"sen --import: {found}")


def test_sen_traceback_shows_the_traceback(verb, monkeypatch):
    verb(raising(ValueError("bad value")))
    monkeypatch.setenv("SEN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad value"):
        sen("try", monkeypatch=monkeypatch)


def test_an_interruption_gives_one_line_and_status_130(verb, monkeypatch, capsys):
    verb(raising(KeyboardInterrupt()))
    assert sen("try", monkeypatch=monkeypatch) == 130
    assert capsys.readouterr().err == "sen try: interrupted\n"


def test_a_verb_can_set_the_exit_status(verb, monkeypatch, capsys):
    import typer

    verb(raising(typer.Exit(7)))
    assert sen("try", monkeypatch=monkeypatch) == 7
    assert capsys.readouterr().err == ""


def test_usage_errors_give_status_2(verb, monkeypatch, capsys):
    def run(number: int) -> None:
        print(number)

    verb(run)
    assert sen("try", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "sen try: Missing argument 'number'.\n"
    assert sen("try", "x", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.startswith("sen try: Invalid value for 'number'")
    assert sen("try", "3", "--more", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "sen try: No such option: --more\n"
    assert sen("try", "3", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "3\n"


def test_missing_files_and_wrong_checkpoints_are_named_in_one_line(sen_folder, towers, clips, monkeypatch, capsys):
    clip, folder = str(clips[0]), str(sen_folder)
    for arguments, message in [
        (["classify", "gone.mp4", "--labels", "a,b", "--model", folder], "sen classify: gone.mp4: no such file"),
        (["classify", clip, "--labels", "a,a", "--model", folder], "sen classify: candidate_labels: duplicate labels"),
        (["classify", clip, "--labels", "a", "--model", towers["bert"]], "its model type is 'bert', expected 'sen'"),
        (["info", "/nowhere/sen"], "sen info: /nowhere/sen: no such checkpoint folder"),
        (["encode", clip, "-o", "out.csv", "--model", folder], "ending in .parquet or .npz"),
    ]:
        assert sen(*arguments, monkeypatch=monkeypatch) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert message in shown.err
        assert shown.err.count("\n") == 1
