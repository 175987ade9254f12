# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trains the part of a tracker that reads a SEN on generated clips: association, modulation, and the head on the tokens.

The pixel networks are frozen. The folder of a run has the layout of `train_sen`, without `best`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.modeling_sen import SENModel
from modeling_sen.modeling_sen_tracking import SENForVideoTracking, SENTrackingConfig
from modeling_sen.presets import PRESETS, SEN_TINY_TRACKING, resolve_checkpoint
from modeling_sen.training.tracking_task import semantic_loss
from modeling_sen.training.train_sen import check_and_write, in_full_precision, run_and_save
from modeling_sen.training.train_settings import TrainSettings
from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments
from modeling_sen.training.training_clips import TrainingClip, training_clip

CLIPS_OF_A_SEED = 10**6


class DrawnClips:
    """Collator that generates the clips of a batch from their numbers.

    Different seeds have no clip in common. No seed has a clip on which the pixel networks were trained, because there they
    would hardly need the tokens.
    """

    def __init__(self, seed: int):
        self.first = (seed + 1) * CLIPS_OF_A_SEED

    def __call__(self, numbers: Sequence[int]) -> dict[str, list[dict[str, Tensor]]]:
        return {"clips": [asdict(training_clip(self.first + number)) for number in numbers]}


def tracking_step(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Training task: mean losses of a batch of [`DrawnClips`]."""
    losses = []
    for values in batch["clips"]:
        clip = TrainingClip(**values)
        losses.append(semantic_loss(model.network, clip, model.read_tokens(clip.frames.cpu().numpy())))  # type: ignore[operator, arg-type]
    return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}


def train_tracking(settings: TrainSettings, training: SENTrainingArguments) -> Path:
    """Trains a tracker, or resumes an interrupted run.

    Args:
        settings: the model.
        training: arguments of the Trainer.

    Returns:
        The folder of the checkpoint, `last`.

    Raises:
        ValueError, OSError: wrong settings, or an output folder of a run with other settings.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint is written.
    """
    output = Path(training.output_dir or "")
    if training.max_steps < 1:
        raise ValueError(f"max_steps is {training.max_steps}, expected at least 1, because there are unlimited clips")
    if training.world_size > 1:
        raise ValueError(f"found {training.world_size} processes, expected one for the task 'tracking'")
    output.mkdir(parents=True, exist_ok=True)
    check_and_write(settings, training, (), output / "train.yaml")
    chosen = output / "last"
    if chosen.exists():  # written last, so the run is finished
        return chosen
    torch.manual_seed(training.seed)
    model = load_tracker(settings.model)
    model.to(training.device)  # type: ignore[arg-type]
    clips = training.max_steps * training.per_device_train_batch_size * training.gradient_accumulation_steps
    trainer = SENTrainer(
        model,
        training,
        task=tracking_step,
        data_collator=DrawnClips(training.seed),
        train_dataset=range(clips),
    )
    run_and_save(trainer, output, chosen)
    return chosen


def load_tracker(model: str) -> SENForVideoTracking:
    """A tracker with frozen pixel networks: a checkpoint, or a new tracker of a SEN and sen-tiny's pixel networks.

    Args:
        model: a preset, or a checkpoint of a SEN or a tracker; `"sen-tiny"` is the SEN in the package.

    Raises:
        OSError, RuntimeError, ValueError: see `SENForVideoTracking.from_pretrained`; or the tracker reads no neuron.
    """
    folder = resolve_checkpoint(model)
    if model in PRESETS:
        sen = SENModel(SENConfig.from_preset(model)).load_neurons()
    elif PreTrainedConfig.get_config_dict(folder)[0].get("model_type") == SENTrackingConfig.model_type:
        tracker = SENForVideoTracking.from_pretrained(folder)
        if not tracker.read_neurons:
            raise ValueError(f"{model}: the tracker reads no neuron, so it has nothing to train; expected a SEN")
        tracker.freeze_pixel_networks()
        return in_full_precision(tracker)
    else:
        sen = SENModel.from_pretrained(folder)
    return in_full_precision(SENForVideoTracking.from_sen(sen, SENForVideoTracking.from_pretrained(SEN_TINY_TRACKING)))


__all__ = ["DrawnClips", "load_tracker", "tracking_step", "train_tracking"]
