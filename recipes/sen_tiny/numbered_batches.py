"""Training on batches that are a function of their number: the data set is the numbers, in order."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from modeling_sen.training.trainer import Measure, SENTrainer, SENTrainingArguments, Task, changed_arguments


def numbered_arguments(folder: Path, steps: int, **changes: Any) -> SENTrainingArguments:
    """Arguments of a run whose items are whole batches."""
    return SENTrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=1, train_sampling_strategy="sequential", **changes
    )


def train_on_numbers(
    module: nn.Module,
    batch_at: Callable[[int], Mapping[str, Any]],
    arguments: SENTrainingArguments,
    measure: Measure | None = None,
    task: Task | None = None,
) -> SENTrainer:
    """Trains `module` on `batch_at(0)`, `batch_at(1)`, ...; a second call resumes, or loads what is finished.

    Args:
        measure, task: of [`SENTrainer`].
    """
    trainer = SENTrainer(
        module,
        arguments,
        train_dataset=range(arguments.max_steps),
        data_collator=lambda numbers: batch_at(*numbers),
        measure=measure,
        task=task,
    )
    if trainer.resume() is not None:
        trainer.save_state()
    return trainer


def keep_record(trainer: SENTrainer, output: Path, stage: str) -> None:
    """Writes a run's arguments and log to where its towers are: `STAGE_settings.json`, `STAGE_log.jsonl`."""
    settings = changed_arguments(trainer.args)
    settings["output_dir"] = Path(settings["output_dir"]).relative_to(output).as_posix()  # no folder of this machine
    (output / f"{stage}_settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    lines = "".join(json.dumps(line) + "\n" for line in trainer.state.log_history)
    (output / f"{stage}_log.jsonl").write_text(lines)
