# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Settings of `sen train`, in a module that does not import the model stack, so that its help is fast."""

from dataclasses import dataclass, field
from typing import Any, Literal

from modeling_sen.templates import DEFAULT_TEMPLATE

# Arguments of the Trainer with the package's defaults, which suit an association of frozen towers: name -> (default, help).
TRAINER_DEFAULTS: dict[str, tuple[Any, str]] = {
    "per_device_train_batch_size": (32, "Clips per batch and process."),
    "per_device_eval_batch_size": (32, "Clips per validation batch and process."),
    "num_train_epochs": (10.0, "Number of passes over the training clips."),
    "learning_rate": (1e-3, "Peak learning rate."),
    "lr_scheduler_type": ("cosine", "Schedule after the warm-up."),
    "warmup_steps": (0.1, "Steps of the linear warm-up; below 1 a fraction of all steps."),
    "weight_decay": (0.01, "Weight decay of AdamW, for matrices only, not for biases, norms and scalars."),
    "logging_steps": (20, "Steps between two logged losses."),
    # The filter would hide non-finite losses, at which the trainer stops.
    "logging_nan_inf_filter": (False, "Log the mean of the other losses instead of NaN and infinity."),
    "save_steps": (200, "Steps between two checkpoints."),
    "save_total_limit": (2, "Checkpoints to keep; the best and the newest are always kept."),
    "dataloader_drop_last": (
        True,
        "Drop an epoch's last incomplete batch, so that all batches have one size; validation uses all clips.",
    ),
    # Transformers' default pushes the whole output folder at each save, including local paths.
    "hub_strategy": ("end", "With push_to_hub: when to push. end: only the finished model and its card."),
    # The patience counter is part of a run's state.
    "restore_callback_states_from_checkpoint": (True, "Continue early stopping from its saved state."),
}

# Training data of the task "tracking": clips generated on demand, each used once.
TRACKING_CLIPS = "world:tracking"
# Task -> its own defaults for arguments of the Trainer.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "tracking": {
        "per_device_train_batch_size": 1,
        "max_steps": 300,
        "learning_rate": 2e-3,
        "save_steps": 100,
    },
    "chat": {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 1.0,
    },
}
# Preset of the task "chat" -> learning rate: for a new association and projector, or for conversations.
CHAT_PRESETS = {"align": 1e-3, "instruct": 2e-5}
# Training of the language model in `instruct` -> its learning rate.
LANGUAGE_MODEL_RATES = {"lora": 2e-4, "full": 2e-5}
# Settings that the task "tracking" does not take.
_NOT_OF_TRACKING = (
    "validation",
    "video_column",
    "target_column",
    "early_stopping_patience",
    "cache",
    "skip_unreadable",
)
# Settings that only the task "chat" takes.
_OF_CHAT = ("preset", "llm", "sen", "num_frames", "llm_training", "llm_learning_rate")


def defaults_of(task: str, preset: str | None) -> dict[str, Any]:
    """The task's own defaults for arguments of the Trainer, including those of its preset."""
    rate = {"learning_rate": CHAT_PRESETS[preset or "align"]} if task == "chat" else {}
    return {**TASK_DEFAULTS.get(task, {}), **rate}


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TrainSettings:
    """Settings of `sen train` besides the arguments of the Trainer: data and model.

    Raises:
        ValueError: settings that do not fit the task or each other.
    """

    train: str = _setting(
        "",
        "Training clips: a folder, a csv, jsonl or parquet table, world:SPLIT?num=N, or a data set's id on the Hub; "
        "for tracking world:tracking, its default; for chat conversations: also a json file.",
    )
    task: Literal["recognition", "retrieval", "tracking", "chat"] = _setting(
        "recognition",
        "recognition (clips with labels), retrieval (clips with texts), tracking (drawn clips) or chat (conversations).",
    )
    validation: str | None = _setting(None, "Validation clips, in any of these forms.")
    model: str = _setting(
        "sen-tiny",
        "A preset, a checkpoint folder or Hub id of a SEN, or sen-tiny; for tracking also of a tracker; "
        "for chat a chat model.",
    )
    train_split: str = _setting("train", "Split of a Hub data set, or sub-folder, with the training clips.")
    validation_split: str = _setting("validation", "Split or sub-folder with the validation clips.")
    video_column: str | None = _setting(None, "Column of the clips; by default the first with a usual name.")
    target_column: str | None = _setting(
        None, "Column of labels, texts or answers; by default the first with a usual name."
    )
    templates: list[str] = field(
        default_factory=lambda: [DEFAULT_TEMPLATE],
        metadata={"help": "Texts with {} for the label; embeddings of several are averaged."},
    )
    loss: Literal["contrastive", "sigmoid", "gram"] = _setting("contrastive", "Loss of the task retrieval.")
    early_stopping_patience: int | None = _setting(None, "Stop after this many validations without improvement.")
    cache: str | None = _setting(
        None, "Folder of cached trunks; it is filled first, and then no video is decoded and no trunk is run."
    )
    cache_dtype: Literal["bfloat16", "float16", "float32"] = _setting("bfloat16", "Dtype of the cache.")
    skip_unreadable: bool = _setting(
        False, "Leave out unreadable clips and print their number; otherwise they are an error."
    )

    preset: Literal["align", "instruct"] | None = _setting(
        None, "For chat: align (projector and association, the default) or instruct (the language model too)."
    )
    llm: str | None = _setting(None, "For a new chat model: id or folder of a causal language model.")
    sen: str | None = _setting(None, "For a new chat model: a preset, a checkpoint or Hub id of a SEN, or sen-tiny.")
    num_frames: int | None = _setting(
        None, "For chat: frames per clip, rounded up to whole windows; by default one window."
    )
    llm_training: Literal["lora", "full"] | None = _setting(
        None, "For instruct: lora (adapters, the default; extra chat) or full (all weights of the language model)."
    )
    llm_learning_rate: float | None = _setting(
        None, "For instruct: learning rate of the language model; by default 2e-4 for adapters, 2e-5 for all weights."
    )

    def __post_init__(self) -> None:
        if self.task == "tracking":
            self._check_tracking()
        if self.task == "chat":
            self._check_chat()
        elif given := [name for name in _OF_CHAT if getattr(self, name) is not None]:
            raise ValueError(f"the task {self.task!r} does not take {', '.join(given)}, which are for the task 'chat'")
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
            raise ValueError(
                f"the task 'tracking' does not take {', '.join(given)}: its clips are generated, each for one use"
            )

    def _check_chat(self) -> None:
        if (self.llm is None) != (self.sen is None):
            missing, given = ("llm", "sen") if self.llm is None else ("sen", "llm")
            raise ValueError(f"a new chat model needs --llm and --sen; found --{given} without --{missing}")
        if self.preset != "instruct" and (self.llm_training or self.llm_learning_rate) is not None:
            raise ValueError(
                "llm_training and llm_learning_rate need --preset instruct: align does not train the language model"
            )
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}, expected at least 1")
        if self.skip_unreadable:
            raise ValueError("the task 'chat' does not take skip_unreadable")


__all__ = [
    "CHAT_PRESETS",
    "LANGUAGE_MODEL_RATES",
    "TASK_DEFAULTS",
    "TRACKING_CLIPS",
    "TRAINER_DEFAULTS",
    "TrainSettings",
    "defaults_of",
]
