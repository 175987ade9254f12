"""docs/evaluation.md runs as it is written, and the commands print what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_sen.evaluation.protocols import PROTOCOLS

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()


def test_every_protocol_is_explained():
    for name in PROTOCOLS:
        assert f"`{name}`" in PAGE


def test_the_python_does_what_its_comment_says():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    *lines, call = code.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    shown, expected = call.split("  # ")
    assert eval(shown, names) == float(expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_print_what_is_shown(tmp_path):
    printed = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        for line in block.strip().splitlines():
            command = [sys.executable, "-m", "sen_cli", *shlex.split(line)[1:]]
            printed.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    shown = re.findall(r"\n\n```\n(.*?)```", PAGE, re.DOTALL)
    shown = [block for block in shown if "protocol own" in block]
    assert len(shown) == 2
    assert shown[0] == printed[0]
    assert shown[1] == printed[1]
    (linear,) = re.findall(r"\n\| `linear`.*\| (\d+) \|\n", PAGE)
    assert re.search(rf"top1 +{linear}\.0 %", printed[-1])
