"""docs/publishing.md agrees with the code."""

import inspect
import re
from pathlib import Path

import pytest

from modeling_sen import publishing
from modeling_sen.commands.push import push
from modeling_sen.model_card import SECTIONS

PAGE = (Path(__file__).parents[1] / "docs" / "publishing.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_code_runs(monkeypatch, capsys):
    monkeypatch.setattr(publishing, "run_example", lambda *_, **__: "")
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    assert "model.safetensors" in capsys.readouterr().out

    class Trainer:
        pass

    assert names["with_card"](Trainer()).create_model_card.func is publishing.write_trainer_card


def test_options_and_sections_are_those_in_the_code():
    table = PAGE.split("| `sen push DIR ORG/NAME` |")[1].split("\n\n")[0]
    parameters = inspect.signature(push).parameters.values()
    named = {meta.default for each in parameters for meta in each.annotation.__metadata__}
    options = {name for name in named if isinstance(name, str) and name.startswith("--")}
    assert set(re.findall(r"^\| `(--[a-z-]+)", table, re.MULTILINE)) == options
    assert set(re.findall(r"`(\w+)\.md`", PAGE)) >= set(SECTIONS)


@pytest.mark.parametrize("name", ["README.md", "docs/publishing.md"])
def test_linked_files_exist(name):
    page = Path(__file__).parents[1] / name
    links = re.findall(r"\]\(((?!http)[^)#]+)", page.read_text())
    assert links
    assert all((page.parent / link).exists() for link in links)
