# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One-shot tuning: trains the adapter of a [`SENForVideoEditing`] on one clip and its caption, after Tune-A-Video
(arXiv 2212.11565).

Tuned for too long, an adapter copies the clip whatever the prompt. So the loss is also measured on the clip mirrored left to
right, for which the caption holds too: it rises when the adapter learns by heart where things are. Training stops then.
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

RECORD = "tuning.json"  # in the folder of a run: what it was started with


@dataclass(frozen=True)
class TuningSettings:
    """
    Attributes:
        steps: at most.
        learning_rate: constant; that of Tune-A-Video. Small base models take more, about 1e-3.
        window: consecutive frames of a step, which bounds its memory; a longer clip gives a random window to each.
        validation_every: steps between two validations. One costs about as much as three steps.
        patience: validations without a better one, after which training stops.
        seed: of windows, timesteps and noise.
        mixed_precision: `"bf16"` computes in bfloat16 where the base model is in float32. The adapter is float32 always.
        gradient_checkpointing: needs less memory, and a third more time. Gradients are the same.

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
        steps: that were run.
        best_step: after which the loss on the mirrored clip was lowest; the adapter has the weights of that step.
        losses: step -> mean loss of the steps since the one before.
        validation_losses: step -> loss on the mirrored clip.
    """

    steps: int
    best_step: int
    losses: dict[int, float]
    validation_losses: dict[int, float]


class _Bar(ProgressCallback):
    """A bar with the last losses, on the standard error."""

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
    """Trains the adapter, which is in float32 and in evaluation mode afterwards; the UNet and the SEN stay as they are.

    Args:
        model: a `SENForVideoEditing`, on the device that is trained on.
        parts: of its base model, on the same device.
        frames: (T, H, W, 3) uint8, of a size that [`edit_size`] returns.
        prompt: what the clip shows.
        output_dir: of checkpoints. A call with the same clip, caption and settings goes on where the last one was
            interrupted, or loads what is finished. Without one nothing is kept.
        progress: show a bar, and losses.

    Raises:
        ImportError: Accelerate is not installed, which the extras `editing` and `train` bring.
        ValueError: frames, prompt or base model that cannot be tuned on; the folder of a run that was started otherwise; a
            loss that is not finite.
        KeyboardInterrupt: after Ctrl-C, at the end of a step; with an output_dir a checkpoint is written.
    """
    settings = settings or TuningSettings()
    if model.unet.dtype == torch.float16:
        raise ValueError(
            "base model: its UNet is in float16, which gradients do not fit in; expected float32 or bfloat16"
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
        # Both print all that is logged on the standard output, where commands print results.
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
    """Writes what a run is started with, after a check that a run that is in the folder was started with the same.

    Raises:
        ValueError: it was started with something else.
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
    del wanted["gradient_checkpointing"]  # changes nothing but time and memory
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
    """With gradient checkpointing of the UNet on or off, as it was before afterwards."""
    before = unet.is_gradient_checkpointing
    switches = {True: unet.enable_gradient_checkpointing, False: unet.disable_gradient_checkpointing}
    switches[wanted]()
    try:
        yield
    finally:
        switches[before]()


__all__ = ["TuningResult", "TuningSettings", "tune_adapter"]
