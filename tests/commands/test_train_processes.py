"""Several processes that share a run: the same losses as one process, on the same global batches."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORLD = "?num_objects=1&size=32&num_frames=8"
SETTINGS = {"train": f"world:train{WORLD}&num=16", "validation": f"world:validation{WORLD}&num=7", "batch_size": 8}
SHORT = {"steps": 4, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 3, "learning_rate": 3e-3}


def run(processes, output, **settings):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**SETTINGS, **SHORT, **settings}.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", "modeling_sen.commands.train", f"--output={output}", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


TASKS = {
    "recognition": {"task": "recognition", "target_column": "shape"},
    "contrastive, of cached trunks": {"task": "retrieval"},
    "sigmoid, accumulated": {"task": "retrieval", "loss": "sigmoid", "gradient_accumulation": 2},
    "gram": {"task": "retrieval", "loss": "gram"},
}


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_learn_what_one_learns(sen_folder, tmp_path, name):
    logs, weights = [], []
    for processes in (1, 2):
        cache = {"cache": tmp_path / f"cache-{processes}", "cache_dtype": "float32"} if "cached" in name else {}
        output = tmp_path / f"run-{processes}"
        logs.append(run(processes, output, model=sen_folder, **TASKS[name], **cache))
        weights.append(load_file(output / "last" / "model.safetensors"))
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for one, two in zip(*logs, strict=True):
        for key in ("loss", "train_top1", "train_R@1"):
            if key in one:
                assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), one["step"]
        assert two.get("validation") == (pytest.approx(one["validation"], abs=1e-6) if "validation" in one else None)
    before = load_file(sen_folder / "model.safetensors")
    assert any(
        (weight - before[key]).abs().max() > 1e-3 for key, weight in weights[0].items()
    )  # something was learned
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, atol=2e-4, rtol=2e-3)
    if "cached" in name:
        shards = [sorted(path.name for path in (tmp_path / f"cache-{n}").glob("*/*.safetensors")) for n in (1, 2)]
        assert shards[0] == shards[1]
