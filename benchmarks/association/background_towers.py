"""Towers whose final tokens describe the background and no object: local towers whose last layer is trained until it returns
the tokens of the same clip without its objects.

`train_association_towers.train_towers(ROOT, "background")` calls this. Only the last layer of the image and the video tower
is trained; audio and legend are the local towers.
"""

import copy
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.association.association_clips import SHARD, association_scene, read_clips
from benchmarks.association.association_towers import (
    LAYERS,
    AssociationTowers,
    ClipBatches,
    image_pixels,
    save_towers,
    video_pixels,
)
from modeling_sen.world.drawing import render
from modeling_sen.world.scene import Scene
from recipes.sen_tiny.numbered_batches import numbered_arguments, train_on_numbers
from recipes.sen_tiny.tiny_batches import MIDDLE_FRAME, VIDEO_FRAMES, luma

KIND = "background"
CHANGED = ("image", "video")
FIELDS = {"image": "image", "video": "grey"}
PIXELS = {"image": image_pixels, "video": video_pixels}
CLIPS = ("train", 100, 8_000)  # split, seed, how many: the first of those that the local towers were trained on
STEPS = 2_000
BATCH_SIZE = 64
HELD_OUT = 256  # clips


def empty_clip(scene: Scene) -> dict[str, np.ndarray]:
    """`image` (H, W, 3) and `grey` (8, H, W), uint8, of a scene without its objects."""
    frames = render(replace(scene, sprites=()), (*VIDEO_FRAMES, MIDDLE_FRAME)).frames
    return {"image": frames[-1], "grey": luma(frames[:-1])}


def _empty_clips(numbers: range) -> dict[str, np.ndarray]:
    split, seed, _ = CLIPS
    clips = [empty_clip(association_scene(split, seed, number)) for number in numbers]
    return {field: np.stack([clip[field] for clip in clips]) for field in clips[0]}


def read_pairs(root: Path) -> dict[str, np.ndarray]:
    """`image`, `grey` of the training clips, and `empty_image`, `empty_grey` of the same clips without objects."""
    count = CLIPS[2]
    pairs = read_clips(root / "clips" / "towers", count, tuple(FIELDS.values()))
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(_empty_clips, [range(start, start + SHARD) for start in range(0, count, SHARD)]))
    return pairs | {f"empty_{field}": np.concatenate([part[field] for part in parts]) for field in parts[0]}


class WithoutObjects(nn.Module):
    """The loss of a tower with a frozen copy of it: mean squared error between the tower's final tokens for the frames of a
    clip and the copy's for the frames without objects, in units of the variance of the latter over clips."""

    def __init__(self, tower: nn.Module, name: str):
        super().__init__()
        self.pixels, self.tower, self.teacher = PIXELS[name], tower, copy.deepcopy(tower).eval().requires_grad_(False)
        trained = (f"layers.{LAYERS - 1}.", "layernorm.")
        for parameter, weight in tower.named_parameters():
            weight.requires_grad_(parameter.startswith(trained))

    def forward(self, seen: Tensor, empty: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            expected = self.teacher(pixel_values=self.pixels(empty)).last_hidden_state.float()
        found = self.tower(pixel_values=self.pixels(seen)).last_hidden_state.float()
        return {"loss": F.mse_loss(found, expected) / expected.var(0).mean()}


def train_background_towers(root: Path, threads: int = 1) -> None:
    """Trains the towers on the clips in `root`, from `root`/local, and saves them to `root`/background; a second call
    resumes."""
    output = root / KIND
    towers = AssociationTowers(local=True)
    towers.load_state_dict(load_file(root / "local" / "towers.safetensors"))
    torch.set_num_threads(threads)
    clips = read_pairs(root)
    for name in CHANGED:
        torch.manual_seed(0)
        tower = getattr(towers, name)
        tower.set_attn_implementation("eager")  # on few tokens the CPU's fused attention is slower backwards
        pair = {"seen": clips[FIELDS[name]], "empty": clips[f"empty_{FIELDS[name]}"]}
        train, held_out = (
            {key: each[part] for key, each in pair.items()} for part in (slice(HELD_OUT, None), slice(HELD_OUT))
        )
        arguments = numbered_arguments(
            output / f"training_{name}",
            STEPS,
            learning_rate=3e-3,
            warmup_steps=STEPS // 10,
            weight_decay=0.05,
            bf16=True,
            eval_strategy="steps",
            eval_steps=200,
            save_steps=200,
        )
        train_on_numbers(
            WithoutObjects(tower, name),
            ClipBatches(train, BATCH_SIZE, seed=0),
            arguments,
            lambda module, held_out=held_out: {"loss": module(**tensors(held_out))["loss"].item()},
        )
    save_towers(towers.eval(), output)


def tensors(clips: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in clips.items()}
