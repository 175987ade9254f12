"""Run by test_checkpoint_folder: `killed_saves.py CLIP_TOWER TARGET KILLS` saves over TARGET and is killed, again and again.

Model k (1 or 2) has k rounds in its configuration, k as its gate and k in its tower, so that a mixture shows.
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

tower, target, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)


def make_model(number: int) -> SENModel:
    model = SENModel.from_neurons(
        [{"hub_id": tower, "name": "image"}], num_rounds=number, hidden_size=8, projection_dim=12
    )
    model.gate.data.fill_(number)
    model.neurons["image"].tower.post_layernorm.bias.data.fill_(number)
    return model


def which() -> int:
    """The model in the folder; raises where it is not whole."""
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


def save_until_killed(models: list[SENModel], pipe: int) -> None:
    for model in models * 10_000:
        model.save_pretrained(target, include_neurons=True)
        os.write(pipe, b".")


models = [make_model(1), make_model(2)]
models[0].save_pretrained(target, include_neurons=True)
moments, found, leftovers = random.Random(0), [], []
for _ in range(kills):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        save_until_killed(models, write)
    os.read(read, 1)  # the first save is done: now in the middle of some later one
    time.sleep(moments.uniform(0, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    found.append(which())
    leftovers.append(len([path for path in target.parent.iterdir() if path != target]))
models[0].save_pretrained(target, include_neurons=True)
print(json.dumps({"found": found, "interrupted": sum(map(bool, leftovers)), "most_leftovers": max(leftovers)}))
