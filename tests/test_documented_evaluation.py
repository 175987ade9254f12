"""The code in docs/evaluation.md runs, and the commands print the shown output."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_sen.evaluation.prompt_formats import PROMPT_FORMATS
from modeling_sen.evaluation.protocols import PROTOCOLS
from modeling_sen.evaluation.question_mapping import list_mappings

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()


def test_every_protocol_prompt_and_mapping_is_explained():
    for name in (*PROTOCOLS, *PROMPT_FORMATS, *list_mappings()):
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_python_code_gives_the_shown_result(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *lines, call = code.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    shown, expected = call.split("  # ")
    assert eval(shown, names) == ast.literal_eval(expected)


CLIPS_THAT_MAY_DIFFER = 3.0  # in percentage points, between machines and versions of Transformers


def numbers_of(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def assert_as_shown(printed, shown):
    """The words are equal, and the figures differ by at most a few clips."""
    words = [re.sub(r"\d+\.\d+|\+-", "", re.sub(r" +", " ", text)).split() for text in (printed, shown)]
    assert words[0] == words[1]
    for found, expected in zip(numbers_of(printed), numbers_of(shown), strict=True):
        assert found == pytest.approx(expected, abs=CLIPS_THAT_MAY_DIFFER)


def test_a_wrong_figure_fails_the_comparison():
    assert_as_shown("top1   92.0 % +- 0.4 over 2 splits", "top1 93.5 % +- 0.7 over 2 splits")
    for wrong in ("top1 89.0 % +- 0.7 over 2 splits", "top5 93.5 % +- 0.7 over 2 splits"):
        with pytest.raises(AssertionError):
            assert_as_shown(wrong, "top1 93.5 % +- 0.7 over 2 splits")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_print_the_shown_output(tmp_path):
    printed = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        for line in block.strip().splitlines():
            command = [sys.executable, "-m", "sen_cli", *shlex.split(line)[1:]]
            printed.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    shown = re.findall(r"\n\n```\n(.*?)```", PAGE, re.DOTALL)
    shown = [block for block in shown if "protocol own" in block]
    assert len(shown) == 2
    assert_as_shown(printed[0], shown[0])
    assert_as_shown(printed[1], shown[1])
    (linear,) = re.findall(r"\n\| `linear`.*\| (\d+) \|\n", PAGE)
    (found,) = re.findall(r"top1 +([\d.]+) %", printed[-1])
    assert float(found) == pytest.approx(float(linear), abs=CLIPS_THAT_MAY_DIFFER)
