"""Run by test_train_sen: `killed_training.py SEN FOLDER KILLS`: a run with a cache is killed again and again.

After each kill every file that has its final name is whole, and a run that went on after kills is, in the end, the run that
was never interrupted: the same weights and the same log, bit for bit.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_sen import SENModel
from modeling_sen.commands.train import TrainSettings, train_sen
from modeling_sen.training import clip_batches as training_batches
from modeling_sen.training.feature_cache import _is_whole

sen, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
training_batches.SHARD_CLIPS = 4
torch.set_num_threads(1)


def settings(name: str) -> TrainSettings:
    world = "?num_objects=1&size=32&num_frames=8"
    return TrainSettings(
        output=str(folder / name),
        train=f"world:train{world}&num=16",
        validation=f"world:validation{world}&num=8",
        task="retrieval",
        model=sen,
        steps=8,
        batch_size=4,
        log_every=1,
        evaluate_every=3,
        checkpoint_every=2,
        cache=str(folder / f"{name}-cache"),
    )


def start(name: str) -> int:
    """Trains in a child."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            train_sen(settings(name))
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return child


def shards(name: str) -> list[Path]:
    return list((folder / f"{name}-cache").glob("*/*.safetensors"))


def half_written(name: str) -> list[Path]:
    found = list((folder / f"{name}-cache").glob("*/*.tmp"))
    return found + [
        path for path in (folder / name).glob("*") if path.name == "checkpoint.tmp" or ".saving-" in path.name
    ]


def check_files(name: str) -> str:
    """Reads what there is, and says what was cut; raises where something with its final name is not whole."""
    run = folder / name
    assert all(_is_whole(shard) for shard in shards(name))
    for checkpoint in run.glob("checkpoint-*"):
        load_file(checkpoint / "model.safetensors")
        torch.load(checkpoint / "state.pt", weights_only=True)
    for saved in ("best", "last"):
        if (run / saved).exists():
            SENModel.from_pretrained(run / saved)
    if half_written(name):
        return "saving"
    return "caching" if len(shards(name)) < len(shards("whole")) else "training"


def wait_for(what: str, name: str, child: int) -> None:
    """Until the child is in the middle of something, or has ended, and some time more."""
    begun = {"caching": lambda: shards(name), "saving": lambda: half_written(name), "training": lambda: True}[what]
    while not begun() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
    time.sleep(moments.uniform(0, {"caching": 0.3, "saving": 0.003, "training": span}[what]))


def result(name: str) -> tuple[dict, list]:
    weights = {
        f"{saved}/{key}": tensor
        for saved in ("best", "last")
        for key, tensor in load_file(folder / name / saved / "model.safetensors").items()
    }
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    return weights, [{key: value for key, value in line.items() if key != "clips_per_second"} for line in lines]


def same_as_whole(name: str) -> bool:
    (weights, log), (expected, expected_log) = result(name), result("whole")
    assert weights.keys() == expected.keys()
    different = [key for key, tensor in weights.items() if not torch.equal(tensor, expected[key])]
    assert not different, different
    assert log == expected_log, (log, expected_log)
    return True


began = time.perf_counter()
os.waitpid(start("whole"), 0)
span = time.perf_counter() - began
moments, killed_while, compared = random.Random(0), [], 0
for what in itertools.cycle(["caching", "saving", "training"]):
    if len(killed_while) == kills:
        break
    if what == "caching":
        shutil.rmtree(folder / "parts-cache", ignore_errors=True)
    child = start("parts")
    wait_for(what, "parts", child)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed_while.append(check_files("parts"))
    elif same_as_whole("parts"):
        compared += 1
        shutil.rmtree(folder / "parts")
_, status = os.waitpid(start("parts"), 0)
assert status == 0, "the last run did not finish"
compared += same_as_whole("parts")
print(json.dumps({"killed_while": killed_while, "compared": compared, "seconds_of_a_run": round(span, 1)}))
