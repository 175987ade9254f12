"""The code in docs/chat.md runs, with a tiny random chat model; nothing that the page shows depends on the model."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
from tiny_chat import make_tiny_sen, save_chat_model
from transformers.pipelines import PIPELINE_REGISTRY

import sen_cli
from modeling_sen.chat import generate_answer, session
from modeling_sen.world.write import write_world

PAGE = (Path(__file__).parents[1] / "docs" / "chat.md").read_text()


@pytest.fixture(scope="module")
def chat_folder(towers, tmp_path_factory) -> str:
    return save_chat_model(make_tiny_sen(towers), tmp_path_factory.mktemp("chat") / "tiny")


def test_the_python_code_runs_and_gives_the_shown_results(chat_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    default = {"model": (chat_folder, None)}
    monkeypatch.setitem(PIPELINE_REGISTRY.supported_tasks["video-chat"], "default", default)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    exec(blocks[0], names)
    shown, expected = blocks[0].strip().splitlines()[-1].split("  # ")
    assert eval(shown, names) == ast.literal_eval(expected)
    names["chat"]._forward_params["max_new_tokens"] = 8  # a random model never ends an answer
    for block in blocks[1:]:
        exec(block, names)
    assert capsys.readouterr().out.endswith(" length ")
    assert [message["role"] for message in names["session"].messages] == ["user", "assistant"] * 2


def test_the_commands_run(chat_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world", "test", 1)
    (tmp_path / "world" / "videos" / "000000.mp4").rename("clip.mp4")
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in commands.strip().splitlines():
        arguments = [*shlex.split(line), "--model", chat_folder, "--max-new-tokens", "4"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            sen_cli.main()
        assert not stop.value.code
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_figures_equal_those_in_the_code():
    assert f"answer at most: {generate_answer.MAX_NEW_TOKENS}, or a quarter" in PAGE
    assert session.TEXT_SHARE == 0.25
    assert "at most three quarters of the context" in PAGE
