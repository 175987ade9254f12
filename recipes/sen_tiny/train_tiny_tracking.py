"""Trains sen-tiny's point tracker: `python -m recipes.sen_tiny.train_tiny_tracking OUT`.

Stage `points` trains the networks that read pixels, on the world's clips for tracking. A second call resumes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from modeling_sen.point_network import PointNetwork
from modeling_sen.training.tracking_clips import TrainingClip, training_clip
from modeling_sen.training.tracking_task import tracking_loss
from modeling_sen.training.trainer import SENTrainingArguments
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers

SEED = 20250607


class PointTraining(nn.Module):
    """The networks; called on a clip it returns the losses."""

    accepts_loss_kwargs = False

    def __init__(self, network: PointNetwork):
        super().__init__()
        self.network = network

    def forward(self, **clip: Tensor) -> dict[str, Tensor]:
        return tracking_loss(self.network, TrainingClip(**clip), [])


def points_arguments(output: Path, steps: int = 1800, **changes: Any) -> SENTrainingArguments:
    """Arguments of the stage `points`: about 50 minutes on two cores."""
    own: dict[str, Any] = {
        "learning_rate": 1e-3,
        "warmup_steps": 100,
        "seed": SEED,
        "dataloader_num_workers": 1,
        "dataloader_prefetch_factor": 4,
        "save_steps": 200,
        "logging_steps": 50,
    }
    return numbered_arguments(output / "training" / "points", steps, **{**own, **changes})


def train_points(output: Path, arguments: SENTrainingArguments) -> PointNetwork:
    """Trains the networks on pixels alone."""
    torch.manual_seed(arguments.seed)
    network = PointNetwork([])
    for module in network.modules():
        if hasattr(module, "init_own_weights"):
            module.init_own_weights(0.02)
    trainer = train_on_numbers(PointTraining(network), clip_of, arguments)
    keep_record(trainer, output, "points")
    return network


def clip_of(number: int) -> dict[str, Tensor]:
    return asdict(training_clip(number))


def main(output: Annotated[Path, typer.Argument(help="folder of sen-tiny's tracker")]) -> None:
    """Train sen-tiny's tracker. Run again after an interruption: it goes on where it was."""
    torch.set_num_threads(2)
    train_points(output, points_arguments(output))


if __name__ == "__main__":
    typer.run(main)
