"""Several processes that share a run: the same losses as one process, on the same global batches."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORLD = "?num_objects=1&size=32&num_frames=8"
SETTINGS = {"train": f"world:train{WORLD}&num=16", "validation": f"world:validation{WORLD}&num=7"}
SHORT = {"max_steps": 4, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 3}


def run(processes, output, batch_size=8, accumulation=1, expected=0, **settings):
    """The log of a run whose processes share a batch."""
    own = batch_size // processes // accumulation
    sizes = {"per_device_train_batch_size": own, "gradient_accumulation_steps": accumulation}
    evaluated = {"per_device_eval_batch_size": 8 // processes, "learning_rate": 3e-3}
    flags = [f"--{name}={value}" for name, value in {**SETTINGS, **SHORT, **sizes, **evaluated, **settings}.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", "modeling_sen.commands.train", f"--output_dir={output}", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == expected, done.stderr[-3000:]
    if not expected:
        return json.loads((output / "trainer_state.json").read_text())["log_history"]


TASKS = {
    "recognition": {"task": "recognition", "target_column": "shape"},
    "contrastive, of cached trunks": {"task": "retrieval"},
    "sigmoid, accumulated": {"task": "retrieval", "loss": "sigmoid"},
    "gram": {"task": "retrieval", "loss": "gram"},
}


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_learn_what_one_learns(sen_folder, tmp_path, name):
    logs, weights = [], []
    for processes in (1, 2):
        cache = {"cache": tmp_path / f"cache-{processes}", "cache_dtype": "float32"} if "cached" in name else {}
        parts = {"accumulation": 2} if "accumulated" in name else {}
        output = tmp_path / f"run-{processes}"
        logs.append(run(processes, output, model=sen_folder, **TASKS[name], **cache, **parts))
        weights.append(load_file(output / "last" / "model.safetensors"))
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for one, two in zip(*logs, strict=True):
        # Not `eval_loss`: of seven clips the second process repeats one to have as many as the first.
        for key in ("loss", "eval_top1", "eval_R@1", "eval_text_to_video_MnR"):
            if key in one:
                assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), (key, one["step"])
    before = load_file(sen_folder / "model.safetensors")
    assert any(
        (weight - before[key]).abs().max() > 1e-3 for key, weight in weights[0].items() if key in before
    )  # something was learned
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, atol=2e-4, rtol=2e-3)
    if "cached" in name:
        shards = [sorted(path.name for path in (tmp_path / f"cache-{n}").glob("*/*.safetensors")) for n in (1, 2)]
        assert shards[0] == shards[1]


def test_two_processes_resume_in_the_middle_of_a_later_epoch(sen_folder, tmp_path):
    """As if they had not been interrupted: each epoch has an order of its own, which all processes know."""
    given = {"model": sen_folder, "task": "recognition", "target_column": "shape", "max_steps": 12, "batch_size": 4}
    given |= {"learning_rate": 0.0, "save_total_limit": 12}  # so that a loss tells which clips a batch has
    log = run(2, tmp_path / "whole", **given)
    run(2, tmp_path / "parts", **given)
    for step in range(7, 13):
        shutil.rmtree(tmp_path / "parts" / f"checkpoint-{step}", ignore_errors=True)
    shutil.rmtree(tmp_path / "parts" / "last")
    again = run(2, tmp_path / "parts", **given)
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (log, again)]
    assert losses[0] == losses[1]
