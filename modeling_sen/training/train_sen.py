# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trains a SEN from a preset, a checkpoint or sen-tiny on clips with labels or texts.

OUT/train.yaml          the resolved settings: `sen train --config OUT/train.yaml` repeats the run
OUT/checkpoint-STEP     the checkpoint from which the same command resumes an interrupted run
OUT/best, OUT/last      checkpoints of the finished run, for SENModel.from_pretrained, `sen classify --model`, ...
OUT/trainer_state.json  the log; OUT/curve.png is a plot of it

With --push_to_hub, the best checkpoint (without validation the last) is pushed at the end, as by `sen push`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import EarlyStoppingCallback, IntervalStrategy
from transformers.trainer_utils import get_last_checkpoint

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.modeling_sen import SENModel
from modeling_sen.presets import PRESETS, resolve_checkpoint
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.publishing import push_folder
from modeling_sen.training.clip_dataset import ClipDataset
from modeling_sen.training.conversations import Conversations
from modeling_sen.training.data import LabelledClips, open_clips
from modeling_sen.training.tasks import Recognition, Retrieval
from modeling_sen.training.train_settings import TrainSettings, defaults_of
from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments, changed_arguments
from modeling_sen.whole_file import whole_file

TARGETS = {"recognition": "label", "retrieval": "text"}  # task -> target of each clip
Model = TypeVar("Model", bound=torch.nn.Module)
# Prefixes of arguments that do not affect results, so that a run may be resumed with other values.
FREE_ON_RESUME = (
    *("output_dir", "log_", "logging_", "save_", "push_to_hub", "hub_", "report_to", "run_name", "project"),
    *("disable_tqdm", "dataloader_num", "dataloader_pin", "dataloader_persistent", "dataloader_prefetch"),
)


def train_sen(settings: TrainSettings, training: SENTrainingArguments) -> Path:
    """Trains a SEN, or resumes an interrupted run, in one process or in each process started by torchrun.

    Args:
        settings: data and model.
        training: arguments of the Trainer.

    Returns:
        The folder of the best checkpoint, or without validation of the last.

    Raises:
        ValueError, OSError: wrong settings or data, an unreadable clip, or an output folder of a run with other settings.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint is written.
    """
    output = Path(training.output_dir or "")
    target = TARGETS[settings.task]
    clips = [open_clips(settings.train, target, settings.train_split, settings.video_column, settings.target_column)]
    if settings.validation is not None:
        clips.append(
            open_clips(
                settings.validation, target, settings.validation_split, settings.video_column, settings.target_column
            )
        )
    output.mkdir(parents=True, exist_ok=True)
    check_and_write(settings, training, clips, output / "train.yaml")
    chosen = output / ("last" if settings.validation is None else "best")
    if (output / "last").exists():  # written last, so the run is finished
        return chosen

    torch.manual_seed(training.seed)
    model, processor = load_sen(settings.model)
    model.to(training.device)  # type: ignore[arg-type]
    unreadable = output / "unreadable.txt" if settings.skip_unreadable else None
    starts = (0, len(clips[0]))
    datasets = [ClipDataset(each, processor, start, unreadable) for each, start in zip(clips, starts, strict=False)]
    if settings.cache is not None:
        for each in datasets:
            each.use_cache(model, settings.cache, getattr(torch, settings.cache_dtype))
    task: Recognition | Retrieval
    if settings.task == "recognition":
        task = Recognition(model, processor, datasets, settings.templates)
    else:
        task = Retrieval(model, processor, datasets, settings.loss)
    if datasets[0].cache is not None:
        datasets[0].cache.drop_trunks()
    training.label_names = ["rows"]  # passed to `measure` with the embeddings
    callbacks = []
    if settings.validation is not None:
        validate_and_keep_the_best(training, task.metric)
        if settings.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    trainer = SENTrainer(
        model,
        training,
        task=task,
        data_collator=datasets[0].collate,
        train_dataset=datasets[0],
        eval_dataset=datasets[1] if datasets[1:] else None,
        compute_metrics=task.measure,
        processing_class=processor,
        callbacks=callbacks,
    )
    run_and_save(trainer, output, chosen)
    if unreadable is not None and unreadable.exists() and training.process_index == 0:
        count = len(set(unreadable.read_text().splitlines()))
        print(f"{count} clips could not be read and were left out: {unreadable}")
    return chosen


def load_sen(model: str) -> tuple[SENModel, SENProcessor]:
    """A SEN with loaded towers, and its processor.

    Args:
        model: a preset for a new SEN, or a checkpoint; `"sen-tiny"` is the one in the package.

    Raises:
        OSError, RuntimeError, ValueError: see `SENModel.from_pretrained`.
    """
    if model in PRESETS:
        config = SENConfig.from_preset(model)
        return SENModel(config).load_neurons(), SENProcessor(config)
    folder = resolve_checkpoint(model)
    loaded = in_full_precision(SENModel.from_pretrained(folder))
    return loaded, SENProcessor.from_pretrained(folder)


def in_full_precision(model: Model) -> Model:
    """Converts trainable parameters to float32, because small updates are lost in half precision."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def validate_and_keep_the_best(training: SENTrainingArguments, metric: str, greater_is_better: bool = True) -> None:
    """Defaults for runs with validation: validate after each epoch, and select the best model by the task's metric."""
    if training.eval_strategy == IntervalStrategy.NO:
        training.eval_strategy = IntervalStrategy.EPOCH
    if training.metric_for_best_model is None:
        training.metric_for_best_model, training.greater_is_better = metric, greater_is_better
    training.load_best_model_at_end = True
    if training.save_total_limit == 1:  # the Trainer would keep only the best checkpoint, and not the last
        training.save_total_limit = 2


def run_and_save(trainer: SENTrainer, output: Path, chosen: Path) -> None:
    """Trains or resumes, writes `best` and `last`, and with `push_to_hub` pushes the folder `chosen`."""
    training = trainer.args
    trainer.resume()
    trainer.save_state()
    for name, checkpoint in (
        ("best", trainer.state.best_model_checkpoint),
        ("last", get_last_checkpoint(str(output))),
    ):
        if checkpoint is not None:
            trainer.load_weights(checkpoint)
        if checkpoint is not None or name == "last":
            trainer.save_whole(output / name)
    if training.push_to_hub and training.process_index == 0:
        push_folder(
            chosen,
            str(trainer.hub_model_id),
            private=training.hub_private_repo,
            token=training.hub_token,
            revision=training.hub_revision,
        )


def check_and_write(
    settings: TrainSettings, training: SENTrainingArguments, clips: Sequence[LabelledClips | Conversations], path: Path
) -> None:
    """Writes train.yaml, after a check that an existing run in the folder has the same settings and clips.

    Args:
        settings, training: the settings.
        clips: training clips and, optionally, validation clips.
        path: path of train.yaml.

    Raises:
        ValueError: the existing run has other settings or clips.
    """
    import yaml

    # Arguments with task-specific defaults are always written, because the defaults depend on the task.
    of_task = {name: training.to_dict()[name] for name in defaults_of(settings.task, settings.preset)}
    wanted: dict[str, Any] = {**asdict(settings), **of_task, **changed_arguments(training)}
    for name, each in zip(("train", "validation"), clips, strict=False):
        content = "\n".join(f"{key}\t{target}" for key, target in zip(each.keys, each.targets, strict=True))
        wanted[f"{name}_sha256"] = hashlib.sha256(content.encode()).hexdigest()
    if path.exists():
        found = yaml.safe_load(path.read_text())
        for name in dict.fromkeys([*wanted, *found]):
            before, now = (repr(each[name]) if name in each else "its default" for each in (found, wanted))
            if before != now and not name.startswith(FREE_ON_RESUME):
                raise ValueError(
                    f"{path}: the run was started with {name} = {before} and cannot be resumed with {now}; "
                    "use the same settings or another folder"
                )
    if training.process_index == 0:
        with whole_file(path) as unfinished:
            unfinished.write_text(yaml.safe_dump(wanted, sort_keys=False))
