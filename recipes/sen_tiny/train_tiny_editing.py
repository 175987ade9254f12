"""Trains sen-tiny-edit: `python -m recipes.sen_tiny.train_tiny_editing OUT`.

A small text-to-image diffusion model learns from nothing to draw frames of the world, and becomes the base of an editing
checkpoint whose adapter is untrained. A second call resumes, or exports what is finished.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.editing_tower import EditingTower, load_tower, train_tower
from modeling_sen.modeling_sen_editing import SENEditingConfig, SENForVideoEditing
from modeling_sen.presets import SEN_TINY
from modeling_sen.training.trainer import SENTrainingArguments
from recipes.sen_tiny.editing_batches import EditingBatches, cached_tokenizer
from recipes.sen_tiny.editing_measure import asked_scenes, generated_accuracy, real_accuracy
from recipes.sen_tiny.editing_network import WIDTHS, EditingBase, make_scheduler, make_vae, to_latents
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers

SEED = 20250607
BATCH_SIZE = 32  # frames
STEPS = 10_000  # a step takes 0.44 s of one core
OBJECTS = {"one": 1, "two": 2, "three": 3}
TOWER_STEPS = 2000
# Recommended by the checkpoint; the defaults are Stable Diffusion's.
TUNING = {"learning_rate": 1e-3, "steps": 200}
EDITING = {"guidance_scale": 2.0, "num_inference_steps": 25}
BASE_CARD = """---
library_name: diffusers
license: apache-2.0
---

# Base model of sen-tiny-edit

A text-to-image diffusion model for frames of 64 x 64 pixels, trained from nothing on frames of the generated world of the
package modeling-sen. Diffusers loads UNet, scheduler and text encoder; the VAE is `PixelUnshuffle` of that package.
"""
# The exported weights are a running mean over about 1 / (1 - KEPT) steps.
KEPT = 0.999


class EditingTraining(nn.Module):
    """The base model and the running mean of its weights; called on a batch of `EditingBatches` it returns the loss."""

    accepts_loss_kwargs = False  # a mean over values, whatever the Trainer counts

    def __init__(self, base: EditingBase):
        super().__init__()
        self.base = base
        self.mean = copy.deepcopy(base).requires_grad_(False).eval()
        self.register_buffer("averaged", torch.zeros((), dtype=torch.int64))
        self.vae = make_vae()
        self.scheduler = make_scheduler()

    def forward(self, frames: Tensor, input_ids: Tensor, timesteps: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity."""
        if self.training:
            self._average()
        latents = to_latents(self.vae, frames)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        return {"loss": nn.functional.mse_loss(self.base(noisy, timesteps, input_ids).float(), target)}

    @torch.no_grad()
    def _average(self) -> None:
        """Takes the weights of the step before into the mean, of which the first steps soon leave nothing."""
        self.averaged += 1
        kept = min(KEPT, int(self.averaged) / (int(self.averaged) + 10))
        torch._foreach_lerp_(list(self.mean.parameters()), list(self.base.parameters()), 1 - kept)


def editing_arguments(output: Path, steps: int = STEPS, **changes: Any) -> SENTrainingArguments:
    """Arguments of the training: within an hour on two cores."""
    own: dict[str, Any] = {
        "learning_rate": 1e-3,
        "warmup_steps": 300,
        "seed": SEED,
        "bf16": True,
        "dataloader_num_workers": 1,
        "dataloader_prefetch_factor": 4,
        "eval_strategy": "steps",
        "eval_steps": 1000,
        "save_steps": 250,
        "logging_steps": 50,
    }
    return numbered_arguments(output / "training" / "editing", steps, **{**own, **changes})


def train_editing(
    output: Path,
    arguments: SENTrainingArguments,
    tower: EditingTower,
    batch_size: int = BATCH_SIZE,
    validation_frames: int = 32,
    widths: tuple[int, int] = WIDTHS,
) -> EditingTraining:
    """Trains UNet and text encoder; a second call resumes, or loads what is finished.

    Args:
        tower: that reads the frames which are generated at each evaluation, `validation_frames` for each number of objects.
        widths: of the UNet.
    """
    torch.manual_seed(arguments.seed)
    training = EditingTraining(EditingBase(cached_tokenizer(), widths))
    batches = EditingBatches(arguments.seed, batch_size, arguments.max_steps)

    def measure(module: nn.Module) -> dict[str, float]:
        measured = {}
        for name, objects in OBJECTS.items():
            found = generated_accuracy(training.mean, training.vae, tower, asked_scenes(validation_frames, objects))
            measured |= {f"{name}_{attribute}": share for attribute, share in found.items()}
        return measured

    keep_record(train_on_numbers(training, batches, arguments, measure), output, "editing")
    return training


def cached_tower(path: Path, steps: int = TOWER_STEPS) -> EditingTower:
    """The evaluation tower in a file, which is trained first where it is not there: two minutes of one core."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(train_tower(steps).state_dict(), path)
    return load_tower(path)


def export_base(base: EditingBase, folder: Path) -> None:
    """Writes the base model as the Hub has pipelines of Stable Diffusion, in float16."""
    half = copy.deepcopy(base).half()
    parts = {
        "unet": half.unet,
        "vae": make_vae(),
        "text_encoder": half.text_encoder,
        "tokenizer": cached_tokenizer(),
        "scheduler": make_scheduler(),
    }
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    half.text_encoder.config.dtype = "float32"  # stored in float16, run in float32
    half.text_encoder.config.save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "README.md").write_text(BASE_CARD)


def export(output: Path, training: EditingTraining, folder: Path) -> None:
    """Writes the checkpoint, in float16, to `folder`: base model and untrained adapter in it, and settings and log."""
    whole = output / "base"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.rmtree(folder / "base", ignore_errors=True)
    export_base(training.mean, whole)
    torch.manual_seed(SEED)  # of the adapter's weights
    model = SENForVideoEditing.from_base(str(whole), SEN_TINY)
    model.config.base_model_id = "./base"
    model.half().save_pretrained(folder)  # type: ignore[call-arg]
    config = SENEditingConfig.from_pretrained(folder)
    config.dtype = "float32"
    config.tuning_settings, config.edit_settings = TUNING, EDITING
    config.save_pretrained(folder)
    for name in ("editing_settings.json", "editing_log.jsonl"):
        shutil.copy(output / name, folder / name)


def main(
    output: Annotated[Path, typer.Argument(help="folder of the run")],
    folder: Annotated[Path, typer.Option(help="what the checkpoint is written to")] = Path(SEN_TINY, "editing"),
    steps: Annotated[int, typer.Option(help="of the training")] = STEPS,
) -> None:
    """Train sen-tiny-edit and export it. Run again after an interruption: it goes on where it was."""
    torch.set_num_threads(2)
    tower = cached_tower(output / "editing_tower.safetensors")
    training = train_editing(output, editing_arguments(output, steps), tower)
    export(output, training, folder)
    for name, objects in OBJECTS.items():
        scenes = asked_scenes(96, objects, "test")
        found = {
            "generated": generated_accuracy(training.mean, training.vae, tower, scenes),
            "the scenes' own frames": real_accuracy(tower, scenes),
        }
        for what, shares in found.items():
            print(f"{name}, {what}:", {attribute: round(share, 3) for attribute, share in shares.items()})


if __name__ == "__main__":
    typer.run(main)
