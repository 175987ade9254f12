"""Kills processes during saves: two models are saved in turn to one folder, which is checked after each kill.

Model k (1 or 2) has k rounds in its configuration, k as its gate and k in its tower, so that a mixture is detected. Savers
are forked, so this script runs in its own process without threads: `killed_saves.py CLIP_TOWER TARGET KILLS`.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_sen import SENModel


def make_model(tower: str, number: int) -> SENModel:
    model = SENModel.from_neurons(
        [{"hub_id": tower, "name": "image"}], num_rounds=number, hidden_size=8, projection_dim=12
    )
    model.gate.data.fill_(number)
    model.neurons["image"].tower.post_layernorm.bias.data.fill_(number)
    return model


def which(target: Path) -> int:
    """The number of the model in the folder; raises if the folder is incomplete or mixed."""
    rounds = json.loads((target / "config.json").read_text())["num_rounds"]
    weights = load_file(target / "model.safetensors")
    towers = load_file(target / "neuron_image" / "model.safetensors")
    biases = {
        value for key, tensor in towers.items() if key.endswith("post_layernorm.bias") for value in tensor.tolist()
    }
    blocks = {key.split(".")[1] for key in weights if key.startswith("blocks.")}
    assert weights["gate"].item() == rounds == len(blocks), (weights["gate"], rounds, blocks)
    assert biases == {rounds}, (biases, rounds)
    assert AutoModel.from_pretrained(target).config.num_rounds == rounds
    return rounds


def save_until_killed(models: list[SENModel], target: Path, pipe: int) -> None:
    for model in models * 10_000:
        model.save_pretrained(target, include_neurons=True)
        os.write(pipe, b".")


def kill_savers(tower: str, target: Path, kills: int) -> dict:
    """The model found after each kill, the number of interrupted saves, and the most files that one of them left behind."""
    torch.set_num_threads(1)
    models = [make_model(tower, 1), make_model(tower, 2)]
    models[0].save_pretrained(target, include_neurons=True)
    moments, found, leftovers = random.Random(0), [], []
    for _ in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            save_until_killed(models, target, write)
        os.read(read, 1)  # the first save is complete, so the kill interrupts a later one
        time.sleep(moments.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
        found.append(which(target))
        leftovers.append(len([path for path in target.parent.iterdir() if path != target]))
    models[0].save_pretrained(target, include_neurons=True)
    left = sorted(path.name for path in target.parent.iterdir())
    interrupted = sum(map(bool, leftovers))
    return {"found": found, "interrupted": interrupted, "most_leftovers": max(leftovers), "left": left}


if __name__ == "__main__":
    print(json.dumps(kill_savers(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
