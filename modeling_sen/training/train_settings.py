# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What `sen train` can be told, apart from the model stack: so that its help appears at once."""

from dataclasses import dataclass, field
from typing import Any, Literal

from modeling_sen.templates import DEFAULT_TEMPLATE

# Arguments of the Trainer whose defaults are ours, as they suit an association over frozen towers: name -> (default, help).
TRAINER_DEFAULTS: dict[str, tuple[Any, str]] = {
    "per_device_train_batch_size": (32, "Clips of a batch in each process."),
    "per_device_eval_batch_size": (32, "Clips of a validation batch in each process."),
    "num_train_epochs": (10.0, "How often each clip is seen."),
    "learning_rate": (1e-3, "Peak of the schedule."),
    "lr_scheduler_type": ("cosine", "Schedule after the warm-up."),
    "warmup_steps": (0.1, "Steps of the linear warm-up; below 1 a share of all steps."),
    "weight_decay": (0.01, "AdamW's, of matrices only: no biases, norms and scalars."),
    "logging_steps": (20, "Steps between two logged losses."),
    # The filter would hide a loss that is not finite; the trainer stops at one.
    "logging_nan_inf_filter": (False, "Log the mean of the other losses in the place of NaN and infinity."),
    "save_steps": (200, "Steps between two checkpoints."),
    "save_total_limit": (2, "Checkpoints to keep; the best one and the newest always stay."),
    "dataloader_drop_last": (
        True,
        "Leave out what remains of an epoch, so that all batches have one size; validation has all clips.",
    ),
    # Transformers pushes the whole output folder at each save, with all paths of this machine in it.
    "hub_strategy": ("end", "With push_to_hub: when to push. end: the finished model and its card, and nothing else."),
    # Patience is part of the state of a run.
    "restore_callback_states_from_checkpoint": (True, "Continue early stopping where it was."),
}

# What the task "tracking" is trained on: clips that are drawn as they are needed, each once.
TRACKING_CLIPS = "world:tracking"
# Task -> arguments of the Trainer with defaults of their own.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "tracking": {
        "per_device_train_batch_size": 1,
        "max_steps": 300,
        "learning_rate": 2e-3,
        "save_steps": 100,
    }
}
# Settings that the task "tracking" does not take.
_NOT_OF_TRACKING = (
    "validation",
    "video_column",
    "target_column",
    "early_stopping_patience",
    "cache",
    "skip_unreadable",
)


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TrainSettings:
    """What `sen train` needs beside the arguments of the Trainer: data and model."""

    train: str = _setting(
        "",
        "Training clips: a folder, a csv, jsonl or parquet table, world:SPLIT?num=N, or a data set's id on the Hub; "
        "for tracking world:tracking, its default.",
    )
    task: Literal["recognition", "retrieval", "tracking"] = _setting(
        "recognition", "recognition (clips with labels), retrieval (clips with texts) or tracking (drawn clips)."
    )
    validation: str | None = _setting(None, "Validation clips, in any of these forms.")
    model: str = _setting(
        "sen-tiny", "A preset, a checkpoint folder or Hub id of a SEN, or sen-tiny; for tracking also of a tracker."
    )
    train_split: str = _setting("train", "Split of a Hub data set, or sub-folder, that is trained on.")
    validation_split: str = _setting("validation", "The same for validation.")
    video_column: str | None = _setting(None, "Column of the clips; by default the first with a usual name.")
    target_column: str | None = _setting(None, "Column of labels or texts; by default the first with a usual name.")
    templates: list[str] = field(
        default_factory=lambda: [DEFAULT_TEMPLATE],
        metadata={"help": "Texts with {} for the label; several are averaged."},
    )
    loss: Literal["contrastive", "sigmoid", "gram"] = _setting("contrastive", "Of retrieval.")
    early_stopping_patience: int | None = _setting(None, "Stop after so many validations without a better one.")
    cache: str | None = _setting(
        None, "Folder of cached trunks: built first, then no video is decoded and no trunk is run."
    )
    cache_dtype: Literal["bfloat16", "float16", "float32"] = _setting("bfloat16", "Of what is cached.")
    skip_unreadable: bool = _setting(
        False, "Leave out clips that cannot be read, and say how many; else they are an error."
    )

    def __post_init__(self) -> None:
        if self.task == "tracking":
            self._check_tracking()
        if not self.train:
            raise ValueError("expected --train, or train in the file given as --config")
        if not all("{}" in template for template in self.templates):
            raise ValueError(f"templates: expected texts with {{}} for the label, found {self.templates}")
        if self.early_stopping_patience is not None and self.validation is None:
            raise ValueError("early_stopping_patience needs validation clips")

    def _check_tracking(self) -> None:
        self.train = self.train or TRACKING_CLIPS
        if self.train != TRACKING_CLIPS:
            raise ValueError(f"train: found {self.train!r}, expected {TRACKING_CLIPS!r} for the task 'tracking'")
        if given := [name for name in _NOT_OF_TRACKING if getattr(self, name)]:
            raise ValueError(f"the task 'tracking' does not take {', '.join(given)}: its clips are drawn, each once")


__all__ = ["TASK_DEFAULTS", "TRACKING_CLIPS", "TRAINER_DEFAULTS", "TrainSettings"]
