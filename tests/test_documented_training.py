"""docs/training.md runs as it is written."""

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


def test_the_stock_trainer_trains_saves_and_loads(tmp_path, monkeypatch):
    from modeling_sen import SEN_TINY, SENModel
    from modeling_sen.world.write import write_world

    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "train", "train", 4, num_objects=1)
    (code,) = blocks("python")
    names: dict = {}
    exec(code.replace("report_to=[],", "report_to=[], use_cpu=True, disable_tqdm=True,"), names)
    assert names["trainer"].state.global_step == 2
    assert 0 < names["trainer"].state.log_history[-1]["train_loss"] < 20
    trained, before = load_file("trainer/final/model.safetensors"), SENModel.from_pretrained(SEN_TINY).state_dict()
    assert trained.keys() == before.keys()
    assert any(not torch.equal(weight.float(), before[name].float()) for name, weight in trained.items())
    again = SENModel.from_pretrained("trainer/final").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in trained.items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_lead_from_clips_to_a_checkpoint_that_answers(tmp_path):
    """As documented, on fewer clips."""
    script = re.sub(r"--num \d+", "--num 40", blocks("bash")[0]).replace("--epochs 4", "--epochs 1 --batch-size 8")
    for line in script.splitlines():
        command = shlex.split(line, comments=True)
        assert command[0] == "sen"
        done = subprocess.run(
            [sys.executable, "-m", "sen_cli", *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert "a red circle shaking" in done.stdout
    assert {"best", "last", "train.yaml", "log.jsonl"} <= {path.name for path in (tmp_path / "run").iterdir()}
