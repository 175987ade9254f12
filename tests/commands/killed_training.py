"""Run by test_train: `killed_training.py SEN FOLDER KILLS WORKERS`: a run is killed again and again, at aimed moments.

A child kills itself by SIGKILL inside a chosen call: before a shard of the cache gets its final name, inside a training step,
or between two files of a checkpoint. After each kill every folder and file that has its final name is whole, and a run that
went on after kills is in the end the run that was never interrupted: the same weights and the same log, bit for bit. Without
workers trunks are cached; with workers clips are decoded there.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_sen import SENModel
from modeling_sen.training import clip_dataset, trainer
from modeling_sen.training.feature_cache import _is_whole
from modeling_sen.training.train_sen import TrainSettings, load_sen, train_sen
from modeling_sen.training.trainer import UNFINISHED, SENTrainer, SENTrainingArguments

sen, folder, kills, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
clip_dataset.SHARD_CLIPS = 4
trainer.draw_curve = lambda log, picture: picture.touch()  # which takes longer than such a run
torch.set_num_threads(1)
random.seed(0)
WORLD = "?num_objects=1&size=32&num_frames=8"
SHORT = {"max_steps": 5, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}


def run(name: str) -> None:
    settings = TrainSettings(
        train=f"world:train{WORLD}&num=8",
        validation=f"world:validation{WORLD}&num=4",
        task="retrieval",
        model=sen,
        cache=None if workers else str(folder / f"{name}-cache"),
    )
    train_sen(
        settings,
        SENTrainingArguments(
            str(folder / name), eval_strategy="steps", dataloader_num_workers=workers, disable_tqdm=True, **SHORT
        ),
    )


def start(name: str, trap: Callable[[], None] = lambda: None) -> int:
    """Trains in a child, and returns how it ended."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            trap()
            run(name)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return os.waitpid(child, 0)[1]


def kill_in(holder: object, name: str, number: int, counts: Callable[..., bool] = lambda *_: True) -> None:
    """This process dies inside the `number`-th of the calls that count."""
    call, calls = getattr(holder, name), itertools.count(1)

    def trapped(*args, **kwargs):
        if counts(*args) and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    setattr(holder, name, trapped)


def is_shard(source: object, target: object) -> bool:
    return f"{target}".endswith(".safetensors") and f"{folder}/parts-cache" in f"{target}"


TRAPS = {
    "caching": lambda: kill_in(os, "replace", random.randint(2, len(shards("whole"))), is_shard),
    "training": lambda: kill_in(SENTrainer, "training_step", random.randint(1, 4)),
    "saving": lambda: kill_in(torch, "save", random.randint(1, 10)),  # five files of each checkpoint
}


def shards(name: str) -> list[Path]:
    return list((folder / f"{name}-cache").glob("*/*.safetensors"))


def check_files(what: str) -> None:
    """What has its final name is whole, and it was cut where it was meant to be."""
    run = folder / "parts"
    assert all(_is_whole(shard) for shard in shards("parts"))
    assert what != "caching" or 0 < len(shards("parts")) < len(shards("whole"))
    assert what != "saving" or (run / UNFINISHED).exists()
    for checkpoint in run.glob("checkpoint-*"):
        load_file(checkpoint / "model.safetensors")
        assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
        for part in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.load(checkpoint / part, weights_only=False)
    for saved in ("best", "last"):
        if (run / saved).exists():
            SENModel.from_pretrained(run / saved)


def result(name: str) -> tuple[dict, list]:
    weights = {
        f"{saved}/{key}": tensor
        for saved in ("best", "last")
        for key, tensor in load_file(folder / name / saved / "model.safetensors").items()
    }
    lines = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
    timed = ("runtime", "per_second", "preparation_time")
    return weights, [
        {key: value for key, value in line.items() if not key.endswith(timed)}
        for line in lines
        if "train_runtime" not in line
    ]


def compare_with_whole() -> None:
    (weights, log), (expected, expected_log) = result("parts"), result("whole")
    assert weights.keys() == expected.keys()
    different = [key for key, tensor in weights.items() if not torch.equal(tensor, expected[key])]
    assert not different, different
    assert log == expected_log, (log, expected_log)


load_sen(sen)  # which imports all that the children would import, each on its own
assert start("whole") == 0
killed_while, compared = [], 0
for what in itertools.cycle(["saving", "training"] if workers else ["caching", "saving", "training"]):
    if len(killed_while) == kills:
        break
    if what == "caching":
        shutil.rmtree(folder / "parts-cache", ignore_errors=True)
    random.random()  # the child's own draws are lost with it
    status = start("parts", TRAPS[what])
    if os.WIFSIGNALED(status):
        check_files(what)
        killed_while.append(what)
    else:  # it was through before the trap
        assert status == 0, status
        compare_with_whole()
        compared += 1
        shutil.rmtree(folder / "parts")
assert start("parts") == 0, "the last run did not finish"
compare_with_whole()
print(json.dumps({"killed_while": killed_while, "compared": compared + 1}))
