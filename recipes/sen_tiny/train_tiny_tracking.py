"""Trains sen-tiny's point tracker: `python -m recipes.sen_tiny.train_tiny_tracking OUT`.

Stage `points` trains the networks that read pixels, on the world's clips for tracking; `image_128` an image tower for 128
pixels, from sen-tiny's; `tokens` association and head over that tower; `calibration` fits the probability of being right;
`export` writes the checkpoint. A second call resumes: what is finished is not done again.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.modeling_sen import SENModel
from modeling_sen.modeling_sen_tracking import SENForVideoTracking, SENTrackingConfig
from modeling_sen.point_network import PointNetwork
from modeling_sen.presets import SEN_TINY, SEN_TINY_TRACKING
from modeling_sen.training.tracking_task import tracking_loss
from modeling_sen.training.train_tracking import DrawnClips, tracking_step
from modeling_sen.training.trainer import SENTrainingArguments
from modeling_sen.training.training_clips import TrainingClip, training_clip
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers
from recipes.sen_tiny.tracking_calibration import CLIPS, fit_calibration, measured_points
from recipes.sen_tiny.train_tiny import image_128_arguments, train_image_128

SEED = 20250607
STAGES = ("points", "image_128", "tokens", "calibration", "export")
TOWER = "image_128"  # its folder; beside the exported checkpoint it is called neuron_image
WINDOW = 8  # frames


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


def tokens_arguments(output: Path, steps: int = 300, **changes: Any) -> SENTrainingArguments:
    """Arguments of the stage `tokens`: about 6 minutes on one core."""
    own: dict[str, Any] = {
        "learning_rate": 2e-3,
        "seed": SEED,
        "dataloader_num_workers": 1,
        "dataloader_prefetch_factor": 4,
        "save_steps": 100,
        "logging_steps": 25,
    }
    return numbered_arguments(output / "training" / "tokens", steps, **{**own, **changes})


def train_tokens(
    output: Path, network: PointNetwork, config: SENConfig, arguments: SENTrainingArguments, frozen: bool = False
) -> SENForVideoTracking:
    """Trains association and head over the frozen networks of pixels and the towers of a SEN.

    Args:
        frozen: the head alone, on tokens as the towers return them.
    """
    torch.manual_seed(arguments.seed)
    sen = SENModel(config).load_neurons()
    pixels = SENForVideoTracking(SENTrackingConfig(sen_config=sen.config.to_dict()))
    pixels.network = network
    tracker = SENForVideoTracking.from_sen(sen, pixels, window=WINDOW)
    if frozen:
        tracker.sen.requires_grad_(False)
    draw = DrawnClips(arguments.seed)
    keep_record(
        train_on_numbers(tracker, lambda number: draw([number]), arguments, task=tracking_step), output, "tokens"
    )
    return tracker.eval()


def tracking_sen_config(tower: str) -> SENConfig:
    """A SEN of one image tower: association gives it what it saw in the other frames of a window."""
    neuron = {
        "name": "image",
        "modality": "image",
        "hub_id": tower,
        "class_name": "CLIPVisionModelWithProjection",
        "submodule": "vision_model",
        "hidden_size": 128,
        "num_frames": WINDOW,
        "dtype": "float32",  # stored in float16, run in float32
    }
    return SENConfig(neurons=[neuron], hidden_size=64, bottleneck_size=16, projection_dim=64)


def calibrate(output: Path, tracker: SENForVideoTracking, clips: list[tuple[str, int]]) -> None:
    """Fits `config.calibration` on clips (preset, seed), or takes it from `calibration.json` in `output`."""
    record = output / "calibration.json"
    if not record.exists():
        tracker.config.calibration = (1.0, 0.0)
        probability, is_right = measured_points(tracker, clips)
        record.write_text(json.dumps(fit_calibration(probability, is_right), indent=2) + "\n")
    found = json.loads(record.read_text())
    tracker.config.calibration = (found["scale"], found["shift"])


def export(output: Path, tracker: SENForVideoTracking, folder: Path) -> None:
    """Writes the checkpoint, in float16, to `folder`: the tower beside it, and the settings and logs of all stages."""
    halves = {name: value.half() for name, value in tracker.state_dict().items()}
    tracker.save_pretrained(folder, state_dict=halves)
    config = SENTrackingConfig.from_pretrained(folder)
    (spec,) = config.sen_config.neurons  # type: ignore[union-attr]
    spec["hub_id"] = "./neuron_image"
    spec["base_model"] = "builtin:image"  # of which it has two layers, trained on
    config.save_pretrained(folder)
    shutil.copytree(output / TOWER, folder / "neuron_image", dirs_exist_ok=True)
    for stage in ("points", "image_128", "tokens"):
        for name in (f"{stage}_settings.json", f"{stage}_log.jsonl"):
            shutil.copy(output / name, folder / name)
    shutil.copy(output / "calibration.json", folder / "calibration.json")


def main(
    output: Annotated[Path, typer.Argument(help="folder of the runs")],
    stage: Annotated[str, typer.Option(help=f"the last to be done: {', '.join(STAGES)}")] = "export",
    folder: Annotated[Path, typer.Option(help="what `export` writes to")] = Path(SEN_TINY_TRACKING),
) -> None:
    """Train sen-tiny's tracker, up to a stage. Run again after an interruption: it goes on where it was."""
    if stage not in STAGES:
        raise typer.BadParameter(f"{stage!r}: expected one of {', '.join(STAGES)}", param_hint="--stage")
    last = STAGES.index(stage)
    torch.set_num_threads(2)
    network = train_points(output, points_arguments(output))
    if last >= 1 and not (output / TOWER).exists():
        train_image_128(output, Path(SEN_TINY), image_128_arguments(output))
    if last >= 2:
        config = tracking_sen_config(str((output / TOWER).resolve()))
        tracker = train_tokens(output, network, config, tokens_arguments(output))
        if last >= 3:
            calibrate(output, tracker, CLIPS)
        if last >= 4:
            export(output, tracker, folder)


if __name__ == "__main__":
    typer.run(main)
