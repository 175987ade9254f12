"""The code in docs/editing.md runs, with a tiny random model; nothing that the page shows depends on the weights."""

import ast
import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from tiny_editing import save_tiny_editing
from transformers.pipelines import PIPELINE_REGISTRY
from typer.main import get_command

import sen_cli

pytest.importorskip("diffusers")

from modeling_sen.commands.edit import edit
from modeling_sen.editing import edit_frames, editing_output
from modeling_sen.pipelines import video_editing
from modeling_sen.pipelines.sen_video_editing import SENVideoEditingPipeline
from modeling_sen.world.write import write_world

PAGE = (Path(__file__).parents[1] / "docs" / "editing.md").read_text()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, sen_folder) -> str:
    return save_tiny_editing(tmp_path_factory.mktemp("editing") / "checkpoint", sen_folder, size=64)


def test_the_python_code_gives_the_shown_result(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PIPELINE_REGISTRY.supported_tasks["video-editing"], "default", {"model": (checkpoint, None)})
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    *lines, call = code.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    shown, expected = call.split("  # ")
    assert eval(shown, names) == ast.literal_eval(expected)
    assert (tmp_path / "edited.mp4").is_file()


def test_the_commands_run(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world", "test", 1, size=32)
    (tmp_path / "world" / "videos" / "000000.mp4").rename("clip.mp4")
    _, commands = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in commands.strip().splitlines():
        monkeypatch.setattr(sys, "argv", [*shlex.split(line), "--model", checkpoint])
        with pytest.raises(SystemExit) as stop:
            sen_cli.main()
        assert not stop.value.code
    names = {path.name for path in tmp_path.iterdir()}
    assert {"edited.mp4", "edited.json", "out-1.mp4", "out-2.mp4", "out-2.json", "compare.mp4", "tuned"} <= names


def test_the_table_lists_every_option():
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE.split("## Options")[1].split("### Masks")[0], re.MULTILINE)
    python = {name for row, _ in rows for name in re.findall(r"`(\w+)`", row)}
    assert python == {*video_editing.OPTIONS} - {"progress"}
    shell = {name for _, row in rows for name in re.findall(r"`(--[a-z-]+)`", row)}
    app = typer.Typer(add_completion=False)
    app.command()(edit)
    options = {name for parameter in get_command(app).params for name in parameter.opts if name.startswith("--")}
    assert shell == options - {"--output", "--compare", "--model", "--device", "--dtype", "--json"}


def test_figures_equal_those_in_the_code():
    defaults = {name: p.default for name, p in inspect.signature(SENVideoEditingPipeline.edit).parameters.items()}
    assert f"noise levels, {defaults['num_inference_steps']} |" in PAGE
    assert f"classifier-free guidance, {defaults['guidance_scale']}; 1 is none" in PAGE
    assert f"takes at once, {defaults['window']}, and those that two windows share, {defaults['overlap']} |" in PAGE
    assert f"may come to {edit_frames.LARGEST_CLIP >> 30} GiB" in PAGE
    fields = set(editing_output.SENEditingOutput.__dataclass_fields__)
    assert (
        set(re.findall(r"`(\w+)`", PAGE.split("a `ModelOutput`:")[1].split("`save(")[0])) - {"SENEditAdapter"}
        <= fields
    )
