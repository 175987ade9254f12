"""README.md and the pages without their own test: commands, links and figures, and the clip of `make demo`, are right."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

import modeling_sen
import sen_cli
from modeling_sen import PRESETS, SEN_TINY, SENModel, SENProcessor
from modeling_sen.commands.train import read_arguments
from modeling_sen.explain import explain
from modeling_sen.world.write import write_world

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/recipes.md", "docs/hardware.md", "docs/presets.md"]
README = (ROOT / "README.md").read_text()


def commands_of(page):
    """The lines of a page that call `sen`, without comments."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    lines = blocks.replace("\\\n", " ").replace("&&", "\n").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))[:1] == ["sen"]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The folder with the clip that `make demo` draws."""
    folder = tmp_path_factory.mktemp("readme")
    seed = int(re.search(r"^SEED := (\d+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1])
    write_world(folder / "demo", "test", 1, seed, num_objects=3, hops=2)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_options_of_commands_exist(page):
    for _, verb, *arguments in commands_of(page):
        if verb in sen_cli.PARSE_THEMSELVES:
            read_arguments(arguments)
            continue
        app = typer.Typer(add_completion=False)
        app.command()(sen_cli._function(sen_cli.VERBS[verb][0]))
        get_command(app).make_context(verb, arguments)  # raises for an unknown or a missing option


def test_every_command_has_a_section_in_the_recipes():
    headings = re.findall(r"^### (.*)$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE)
    assert {verb for heading in headings for verb in re.split(r", | and ", heading)} == set(sen_cli.VERBS)
    assert {verb for _, verb, *_ in commands_of("docs/recipes.md")} == set(sen_cli.VERBS)


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_and_headings_exist(page):
    source = ROOT / page
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", source.read_text()):
        name, _, heading = target.partition("#")
        found = source.parent / name
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_the_figures_of_presets_equal_the_recorded_ones():
    page = (ROOT / "docs" / "presets.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| .*? \| ([\d,]+) M \| ([\d.]+) M \| ([\d.]+) GB \|", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(PRESETS) - {"imagebind", "languagebind"}
    for name, parameters, trained, weights in rows:
        preset = PRESETS[name]
        assert float(parameters.replace(",", "")) == pytest.approx(sum(preset.parameters.values()) / 1e6, abs=0.6)
        assert float(trained) == pytest.approx(preset.parameters["association"] / 1e6, abs=0.06)
        assert float(weights) == pytest.approx(preset.weight_memory / 1e9, abs=0.06)


def test_association_corrects_the_result_of_the_mean_on_the_demo_clip(demo):
    labels = re.search(r"^LABELS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split(",")
    model, processor = SENModel.from_pretrained(SEN_TINY), SENProcessor.from_pretrained(SEN_TINY)
    scores = explain(model, processor, str(demo / "demo" / "videos" / "000000.mp4"), labels)
    best = [labels[row.argmax()] for row in (scores.frozen_mean, *scores.fused[1:])]
    assert best == [
        "a red ring shaking",
        "a red cross moving in a circle",
        "a red cross moving right",
        "a red cross moving right",
    ]
    assert scores.frozen_mean.max() > 0.8
    assert scores.fused[-1].max() > 0.9


@pytest.mark.parametrize("task", ["classify", "chat"])
def test_the_python_code_gives_the_shown_result(task, demo, monkeypatch):
    monkeypatch.chdir(demo)
    (block,) = (
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"\n{task}(" in f"\n{block}"
    )
    code, _, shown = block.partition("\n# ")
    names: dict = {"modeling_sen": modeling_sen}
    *lines, call = (code if task == "classify" else "from transformers import pipeline\n" + code).splitlines()
    exec("\n".join(lines), names)
    found, expected = eval(call, names), ast.literal_eval(shown.replace("\n# ", "\n"))
    if task == "classify":
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
        assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-3)
    else:
        assert found == expected


@pytest.mark.parametrize("verb", ["classify", "chat"])
def test_commands_print_the_shown_output(verb, demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    (words,) = (words for words in commands_of("README.md") if words[1] == verb)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert not stop.value.code
    output, errors = capsys.readouterr()
    # Chat prints the frames to stderr.
    printed = output if verb == "classify" else errors.splitlines()[-1] + "\n" + output
    shown = re.search(rf"^sen {verb} .*?\n```\n\n```\w*\n(.*?)```", README, re.DOTALL | re.MULTILINE)[1]
    assert [line.split() for line in printed.splitlines()] == [line.split() for line in shown.splitlines()]
