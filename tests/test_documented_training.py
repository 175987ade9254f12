"""The code and the commands in docs/training.md run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_stock_trainer_trains_validates_saves_and_loads_with_default_arguments(tmp_path, monkeypatch):
    """No column is dropped, `eval_loss` is reported, and checkpoints contain the processor."""
    from modeling_sen import SEN_TINY, SENModel, SENProcessor
    from modeling_sen.world.write import write_world

    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "train", "train", 4, num_objects=1)
    write_world(tmp_path / "validation", "validation", 3, num_objects=1)
    code = blocks("python")[0]
    names: dict = {}
    exec(code.replace("max_steps=4,", "max_steps=4, use_cpu=True, disable_tqdm=True,"), names)
    state = names["trainer"].state
    assert state.global_step == 4
    measured = {line["step"]: line["eval_loss"] for line in state.log_history if "eval_loss" in line}
    assert measured.keys() == {2, 4}
    assert state.best_metric == min(measured.values())
    trained, before = load_file("trainer/final/model.safetensors"), SENModel.from_pretrained(SEN_TINY).state_dict()
    assert trained.keys() == before.keys()
    assert any(not torch.equal(weight.float(), before[name].float()) for name, weight in trained.items())
    again = SENModel.from_pretrained("trainer/final").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in trained.items())
    best = load_file(f"{state.best_model_checkpoint}/model.safetensors")
    assert all(torch.equal(weight, trained[name]) for name, weight in best.items())
    SENProcessor.from_pretrained(state.best_model_checkpoint)


def test_adapters_are_added_saved_and_merged(tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    from modeling_sen import SENModel

    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks("python")[1], names)
    assert isinstance(names["model"], peft.PeftModel)
    assert len(load_file("trainer/adapter/adapter_model.safetensors")) > 100
    assert set(SENModel.from_pretrained("trainer/merged").state_dict()) == set(
        SENModel.from_pretrained(names["SEN_TINY"]).state_dict()
    )


def test_the_flags_on_the_page_exist():
    from modeling_sen.commands.train import read_arguments

    (torchrun,) = [block for block in blocks("bash") if block.startswith("torchrun")]
    read_arguments(shlex.split(torchrun.partition("modeling_sen.commands.train ")[2]))
    named = re.findall(r"`(--[a-z_]+(?: [a-z_0-9]+)*(?: --[a-z_]+(?: [a-z_0-9.]+)?)*)`", PAGE)
    listed = " ".join(sorted({flag for flags in named for flag in re.findall(r"--[a-z_]+", flags)}))
    assert len(listed.split()) > 25
    assert set(listed.split()) <= parser_flags()


def parser_flags():
    from dataclasses import fields

    from modeling_sen.training.train_sen import TrainSettings
    from modeling_sen.training.trainer import SENTrainingArguments

    return {f"--{each.name}" for kind in (TrainSettings, SENTrainingArguments) for each in fields(kind)} | {"--config"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_train_a_checkpoint_from_clips(tmp_path):
    """The documented commands, on fewer clips."""
    script = re.sub(r"--num \d+", "--num 40", blocks("bash")[0])
    script = script.replace("--num_train_epochs 4", "--num_train_epochs 1 --per_device_train_batch_size 8")
    for line in script.splitlines():
        command = shlex.split(line, comments=True)
        assert command[0] == "sen"
        done = subprocess.run(
            [sys.executable, "-m", "sen_cli", *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert "a red circle shaking" in done.stdout
    assert {"best", "last", "train.yaml", "trainer_state.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
