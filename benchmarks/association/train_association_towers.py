"""Draws the clips of the association study and trains its two sets of towers.

`python -m benchmarks.association.train_association_towers OUT`: OUT/clips/NAME holds clips, OUT/global and OUT/local the
towers with their logs. What is there is kept, what was interrupted goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file

from benchmarks.association.association_clips import read_clips, write_clips
from benchmarks.association.association_towers import (
    SEES,
    TOWER_KINDS,
    AssociationTowers,
    ClipBatches,
    save_towers,
    seen_shares,
    tower_targets,
)
from benchmarks.association.background_towers import train_background_towers
from recipes.sen_tiny.numbered_batches import numbered_arguments, train_on_numbers

# Clips: split, seed, how many, objects in each (None: 3 to 8). Towers and association are trained on different clips.
CLIP_SETS: dict[str, tuple[str, int, int, int | None]] = {
    "towers": ("train", 100, 40_000, None),
    "towers_two": ("train", 101, 24_000, 2),
    "train": ("train", 200, 32_000, None),
    "validation": ("validation", 0, 1_000, None),
    "test_3": ("test", 3, 1_000, 3),
    "test_5": ("test", 5, 1_000, 5),
    "test_8": ("test", 8, 1_000, 8),
    "fresh_5": ("test", 15, 1_000, 5),  # on which no choice was made
    "unseen_pairs": ("unseen_pairs", 0, 1_000, 5),
}
BATCH_SIZE = 128
SEEN_FIELDS = ("image", "grey", "log_mel", "legend_ids")


def draw_clips(output: Path, workers: int | None = None) -> None:
    """Writes all sets of `CLIP_SETS` that are missing."""
    for name, (split, seed, count, objects) in CLIP_SETS.items():
        write_clips(output / "clips" / name, split, seed, count, objects, workers)


def tower_clips(output: Path, *names: str) -> dict[str, np.ndarray]:
    """What the towers see of some sets of clips, one after the other, with the targets of their training."""
    parts = [read_clips(output / "clips" / name, CLIP_SETS[name][2]) for name in names]
    # Field by field, so that clips are in memory twice for one field at most.
    clips = {field: np.concatenate([part.pop(field) for part in parts]) for field in list(parts[0])}
    return {field: clips[field] for field in SEEN_FIELDS} | tower_targets(clips)


@dataclass(frozen=True)
class Stage:
    """Towers that are trained together, and what they name of `DENSE`."""

    kind: str
    name: str
    towers: tuple[str, ...]
    steps: int
    named: tuple[str, ...] = ()


STAGES = (
    Stage("local", "stills", ("image", "audio", "legend"), 800, ("image_colour", "image_shape", "legend_motion")),
    Stage("local", "motion", ("video",), 1000, ("video_shape", "video_motion")),
    # Both ways, as patches do: prompts get nothing from a legend that names motions only (docs/association_details.md).
    Stage("local", "legend", ("legend",), 800, ("legend_motion", "legend_name")),
    Stage("global", "stills", ("image", "audio", "legend"), 800),
    Stage("global", "motion", ("video",), 1000),
)


def train_towers(output: Path, kind: str, threads: int = 1) -> None:
    """Trains one set of towers on the clips in `output` and saves it to `output`/`kind`; a second call resumes.

    Args:
        kind: one of `TOWER_KINDS`; all others start from the local ones, which are trained first.
    """
    if kind not in TOWER_KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(TOWER_KINDS)}")
    if kind != "local" and not (output / "local" / "words.json").exists():
        train_towers(output, "local", threads)
    if kind == "background":
        return train_background_towers(output, threads)
    for stage in STAGES:
        if stage.kind == kind:
            towers = train_stage(output, stage, threads)
    save_towers(towers.eval(), output / kind)


def train_stage(output: Path, stage: Stage, threads: int = 1) -> AssociationTowers:
    """One stage; it starts from what earlier stages left in `towers.safetensors`, and leaves its own there."""
    torch.manual_seed(0)
    towers, folder = AssociationTowers(local=stage.kind == "local"), output / stage.kind
    if stage.kind == "global":
        lower = AssociationTowers(local=True)
        lower.load_state_dict(load_file(output / "local" / "towers.safetensors"))
        towers.start_from_lower_half(lower, ("image", "video"))
    if stage.name != "stills":
        towers.load_state_dict(load_file(folder / "towers.safetensors"))
    if stage.kind == "local" and stage.name == "motion":
        towers.start_video_from_image()
    towers.train_only(stage.towers, words=stage.name == "stills", named=stage.named)
    for name in SEES:  # the CPU's fused attention is the slower one backwards, by far, on few tokens
        getattr(towers, name).set_attn_implementation("eager")
    held_out = tower_clips(output, "validation")

    clips = tower_clips(output, "towers_two", "towers")
    two = {name: values[: CLIP_SETS["towers_two"][2]] for name, values in clips.items()}
    first, later = (ClipBatches(each, BATCH_SIZE, seed=0) for each in (two, clips))
    # From lists alone, shapes are only learned where there are few to tell apart at first.
    few_steps = stage.steps // 2 if stage.kind == "global" else 0
    arguments = numbered_arguments(
        folder / f"training_{stage.name}",
        stage.steps,
        learning_rate=2e-3,
        warmup_steps=100,
        weight_decay=0.05,
        bf16=True,
        eval_strategy="steps",
        eval_steps=200,
        save_steps=200,
    )
    torch.set_num_threads(threads)
    train_on_numbers(
        towers,
        lambda number: first(number) if number < few_steps else later(number),
        arguments,
        lambda module: seen_shares(towers, held_out, stage.towers),
    )
    save_file(towers.state_dict(), folder / "towers.safetensors")
    return towers


def main(
    output: Annotated[Path, typer.Argument(help="folder of the study")],
) -> None:
    """Draw the clips and train the towers of the association study."""
    draw_clips(output)
    for kind in ("local", "global"):
        train_towers(output, kind)


if __name__ == "__main__":
    typer.run(main)
