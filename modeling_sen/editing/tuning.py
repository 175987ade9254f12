# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One-shot tuning: trains the adapter of a [`SENForVideoEditing`] on one clip and its caption, following Tune-A-Video
(arXiv 2212.11565).

An adapter that is tuned for too long reproduces the clip for any prompt. Therefore validation measures the loss on the clip
mirrored left to right, which matches the same caption. This loss rises when the adapter memorises positions; training then
stops.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

from modeling_sen.editing.base_parts import BaseParts
from modeling_sen.editing.latents import encode_prompts
from modeling_sen.editing.tuning_steps import AdapterTraining, TuningClip, validation_loss
from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments
from modeling_sen.whole_file import whole_file

RECORD = "tuning.json"  # file in a run's folder with its clip, prompt and settings


@dataclass(frozen=True)
class TuningSettings:
    """
    Attributes:
        steps: maximum number of steps.
        learning_rate: constant learning rate; the default is that of Tune-A-Video. Small base models need about 1e-3.
        window: number of consecutive frames per step, which bounds memory; each step draws a random window of a longer clip.
        validation_every: steps between two validations. A validation costs about as much as three steps.
        patience: number of validations without improvement after which training stops.
        seed: seed of windows, timesteps and noise.
        mixed_precision: `"bf16"` computes in bfloat16 with a float32 base model. The adapter is always float32.
        gradient_checkpointing: reduces memory and takes a third more time. Gradients are the same.

    Raises:
        ValueError: values out of range.
    """

    steps: int = 300
    learning_rate: float = 3e-5
    window: int = 24
    validation_every: int = 25
    patience: int = 3
    seed: int = 0
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "window", "validation_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected at least 0")
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision is {self.mixed_precision!r}, expected 'no' or 'bf16'")


@dataclass(frozen=True)
class TuningResult:
    """
    Attributes:
        steps: number of steps run.
        best_step: step with the lowest loss on the mirrored clip; the adapter has the weights of this step.
        losses: step -> mean training loss since the previous entry.
        validation_losses: step -> loss on the mirrored clip.
    """

    steps: int
    best_step: int
    losses: dict[int, float]
    validation_losses: dict[int, float]


class _Bar(ProgressCallback):
    """A progress bar with the latest losses, on standard error."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for name, shown in (("loss", "loss"), ("eval_loss", "loss on the mirrored clip")):
            if self.training_bar is not None and name in logs:
                self.training_bar.set_description(f"tune, {shown} {logs[name]:.4f}")


def tune_adapter(
    model: Any,
    parts: BaseParts,
    frames: np.ndarray,
    prompt: str,
    settings: TuningSettings | None = None,
    output_dir: str | Path | None = None,
    progress: bool = True,
) -> TuningResult:
    """Trains the adapter, which is then in float32 and evaluation mode; the UNet and the SEN do not change.

    Args:
        model: a `SENForVideoEditing`, on the device for training.
        parts: its base model's parts, on the same device.
        frames: (T, H, W, 3) uint8, in a size returned by [`edit_size`].
        prompt: description of the clip.
        settings: settings; by default `TuningSettings()`.
        output_dir: folder for checkpoints. A call with the same clip, caption and settings resumes an interrupted run or
            loads a finished one. Without a folder, no checkpoints are kept.
        progress: whether to show a progress bar with the losses.

    Raises:
        ImportError: Accelerate is not installed; the extras `editing` and `train` include it.
        ValueError: unsuitable frames, prompt or base model; a folder of a run with other settings; a loss that is not finite.
        KeyboardInterrupt: after Ctrl-C, at the end of a step; with `output_dir`, a checkpoint is written first.
    """
    settings = settings or TuningSettings()
    if model.unet.dtype == torch.float16:
        raise ValueError(
            "base model: its UNet is in float16, in which gradients overflow or vanish; expected float32 or bfloat16"
        )
    with tempfile.TemporaryDirectory() if output_dir is None else nullcontext(str(output_dir)) as folder:
        arguments = _arguments(folder, settings, model.device, progress)
        if output_dir is None and arguments.world_size > 1:
            raise ValueError(f"output_dir is None, expected a folder for {arguments.world_size} processes to share")
        with torch.no_grad():
            text_states = encode_prompts(parts, [prompt])
        shared = (model, parts.vae, parts.scheduler)
        mirrored = np.ascontiguousarray(frames[:, :, ::-1]) if frames.ndim == 4 else frames
        clip, mirror = (
            TuningClip.of(*shared, each, prompt, settings.window, settings.seed) for each in (frames, mirrored)
        )
        _keep_record(Path(folder), model, frames, prompt, settings, arguments.process_index == 0)
        model.adapter.float()  # small steps vanish in half precision
        trainer = SENTrainer(
            AdapterTraining(model.adapter, text_states, parts.scheduler),
            arguments,
            train_dataset=range(settings.steps * arguments.world_size),
            data_collator=lambda numbers: clip.training_batch(*numbers),
            measure=lambda training: {"loss": validation_loss(training, mirror)},
            callbacks=[EarlyStoppingCallback(settings.patience)],
        )
        # Both print logs to standard output, where commands print results.
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        if progress:
            trainer.add_callback(_Bar())
        with _checkpointing(model.unet, settings.gradient_checkpointing):
            try:
                trainer.resume()
            except KeyboardInterrupt:
                if output_dir is not None:
                    raise
                raise KeyboardInterrupt("stopped; a run with an output_dir can be resumed") from None
        best = int(trainer.state.best_global_step or 0)
        trainer.load_weights(str(Path(folder, f"checkpoint-{best}")))
    model.adapter.eval()
    losses, validation = (
        {int(entry["step"]): entry[name] for entry in trainer.state.log_history if name in entry}
        for name in ("loss", "eval_loss")
    )
    return TuningResult(trainer.state.global_step, best, losses, validation)


def _arguments(folder: str, settings: TuningSettings, device: torch.device, progress: bool) -> SENTrainingArguments:
    every = min(settings.validation_every, settings.steps)
    return SENTrainingArguments(
        folder,
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",  # the items are the numbers of the steps
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        seed=settings.seed,
        bf16=settings.mixed_precision == "bf16",
        logging_steps=every,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        metric_for_best_model="loss",
        greater_is_better=False,
        load_best_model_at_end=True,
        use_cpu=device.type == "cpu",
        disable_tqdm=not progress,
        report_to="none",
        dataloader_pin_memory=False,  # batches are on the device
    )


def _keep_record(
    folder: Path, model: Any, frames: np.ndarray, prompt: str, settings: TuningSettings, is_first: bool
) -> None:
    """Writes the run's clip, prompt and settings, or checks that an existing run in the folder has the same.

    Raises:
        ValueError: the existing run has different ones.
    """
    wanted = {
        "prompt": prompt,
        "frames": list(frames.shape),
        "frames_sha256": hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest(),
        "base_model_id": model.config.base_model_id,
        "conditioning": model.config.conditioning,
        "read_neurons": model.config.read_neurons,
        **asdict(settings),
    }
    del wanted["gradient_checkpointing"]  # only affects time and memory
    path = folder / RECORD
    if path.exists():
        found = json.loads(path.read_text())
        for name, now in wanted.items():
            if found.get(name) != now:
                raise ValueError(
                    f"{path}: the run was started with {name} = {found.get(name)!r} and cannot be resumed with {now!r}; "
                    "use the same or another folder"
                )
    elif is_first:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(wanted, indent=2) + "\n")


@contextmanager
def _checkpointing(unet: Any, wanted: bool) -> Iterator[None]:
    """Switches the UNet's gradient checkpointing on or off, and restores it afterwards."""
    before = unet.is_gradient_checkpointing
    switches = {True: unet.enable_gradient_checkpointing, False: unet.disable_gradient_checkpointing}
    switches[wanted]()
    try:
        yield
    finally:
        switches[before]()


__all__ = ["TuningResult", "TuningSettings", "tune_adapter"]
