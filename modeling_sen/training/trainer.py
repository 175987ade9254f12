# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The package's trainer, a subclass of Transformers' `Trainer`.

In addition, checkpoint folders are written atomically, Ctrl-C ends a run after a step with a checkpoint, an interrupted run
resumes bit-identically on CPU, metrics are computed over the whole validation set, and the best model is always saved.
"""

import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import SchedulerType, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, get_last_checkpoint, sort_checkpoints

from modeling_sen.hub_files import commit_folder, naming_hub_errors
from modeling_sen.modeling_sen import SENModel
from modeling_sen.publishing import CARD, write_trainer_card
from modeling_sen.training.curve import draw_curve
from modeling_sen.training.train_settings import TRAINER_DEFAULTS
from modeling_sen.upload_files import copy_checkpoint
from modeling_sen.whole_file import replaced_folder

UNFINISHED = ".unfinished"  # subfolder of a run for a checkpoint that is being written or removed
Task = Callable[[nn.Module, Mapping[str, Any]], Mapping[str, Any]]
Measure = Callable[[nn.Module], Mapping[str, float]]


def _ours(name: str) -> Any:
    default, words = TRAINER_DEFAULTS[name]
    return field(default=default, metadata={"help": words})


@dataclass
class SENTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of `train_settings.TRAINER_DEFAULTS`."""

    per_device_train_batch_size: int = _ours("per_device_train_batch_size")
    per_device_eval_batch_size: int = _ours("per_device_eval_batch_size")
    num_train_epochs: float = _ours("num_train_epochs")
    learning_rate: float = _ours("learning_rate")
    lr_scheduler_type: SchedulerType | str = _ours("lr_scheduler_type")  # noqa: RUF009 (a field)
    warmup_steps: float = _ours("warmup_steps")
    weight_decay: float = _ours("weight_decay")
    logging_steps: float = _ours("logging_steps")
    logging_nan_inf_filter: bool = _ours("logging_nan_inf_filter")
    save_steps: float = _ours("save_steps")
    save_total_limit: int | None = _ours("save_total_limit")
    dataloader_drop_last: bool = _ours("dataloader_drop_last")
    hub_strategy: HubStrategy | str = _ours("hub_strategy")  # noqa: RUF009 (a field)
    restore_callback_states_from_checkpoint: bool = _ours("restore_callback_states_from_checkpoint")

    def __post_init__(self) -> None:
        if find_spec("accelerate") is None:
            raise ImportError("training needs the extra `train`: pip install 'modeling-sen[train]'")
        # Without `use_cpu`, processes on CPUs do not connect to each other, and bf16 is rejected.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        # One GPU per process: `DataParallel` would split class texts and cached trunks among GPUs.
        self._n_gpu = min(self._n_gpu, 1)

    def __getstate__(self) -> dict[str, Any]:
        """Without the token, because the Trainer pickles its arguments to each checkpoint and uploads them."""
        return {**self.__dict__, "hub_token": None}


def changed_arguments(arguments: SENTrainingArguments) -> dict[str, Any]:
    """Arguments that differ from the defaults of Transformers or of this package, as plain values, without tokens."""
    values, changed = arguments.to_dict(), {}
    ours = {each.name: each.default for each in fields(SENTrainingArguments)}
    for each in fields(TrainingArguments):
        value = values.get(each.name)
        defaults = [getattr(default, "value", default) for default in (each.default, ours[each.name])]
        # Empty or false values were not set by the user, or follow from another argument.
        is_empty = value in (None, [], {}, "") or (value is False and defaults[0] is None)
        if not is_empty and any(value != default for default in defaults) and not each.name.endswith("_token"):
            changed[each.name] = value
    return changed


class SENTrainer(Trainer):
    """Trains any module that returns a loss: a SEN, its heads, fusion baselines, towers.

    Args:
        task: called with the model and a batch, returns a dict with at least `loss` (see `training/tasks.py`); default:
            `model(**batch)`.
        measure: called with the model at each evaluation, in every process, without gradients; returns metrics, the same in
            all processes, which are logged with the prefix `eval_`.
        args, kwargs: as for `Trainer`.
    """

    args: TrainingArguments
    model: Any  # never None, which the Trainer's type allows

    def __init__(self, *args: Any, task: Task | None = None, measure: Measure | None = None, **kwargs: Any):
        self.task, self.measure = task, measure
        self._interrupted = threading.Event()
        self._is_saving = False
        if measure is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = range(0)  # without one the Trainer does not evaluate
        super().__init__(*args, **kwargs)
        self.add_callback(_StopAfterStep(self._interrupted))

    # --- a run -------------------------------------------------------------------------------------------------------

    def resume(self) -> Any:
        """Trains from the last checkpoint in `output_dir`, or from the start if there is none.

        Returns:
            The result of `train`; `None` if the run was already finished, in which case its weights are loaded.
        """
        folder = str(self.args.output_dir)
        checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
        if checkpoint is None:
            return self.train()
        state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        if not state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            return self.train(resume_from_checkpoint=checkpoint)
        self._load_from_checkpoint(checkpoint)
        self.state = state
        return None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; also plots the log to `output_dir`/curve.png if matplotlib is installed.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the step is finished and a checkpoint is written.
            ValueError: the loss is not finite, there are fewer clips than in a batch, or no parameter is trainable.
        """
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ValueError(f"{type(self.model).__name__} has no parameter that requires a gradient, expected some")
        # Only for one process: several would stop at different steps and wait for each other.
        with _flag_on_interrupt(self._interrupted) if self.args.world_size == 1 else nullcontext():
            output = super().train(*args, **kwargs)
        if self.is_world_process_zero() and find_spec("matplotlib") is not None:
            draw_curve(self.state.log_history, Path(str(self.args.output_dir)) / "curve.png")
        return output

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices only; norms, biases, gates and scales have no weight decay."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0, because the estimate of `Trainer` ignores frozen towers and cached trunks."""
        return 0

    # --- data --------------------------------------------------------------------------------------------------------

    def _get_dataloader(
        self, dataset: Any, description: str, *args: Any, is_training: bool = False, **kwargs: Any
    ) -> Any:
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training  # validation uses all clips
        try:
            kwargs["is_training"] = is_training
            loader = super()._get_dataloader(dataset, description, *args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        if is_training and not len(loader):
            size = self.args.per_device_train_batch_size * self.args.world_size
            raise ValueError(f"a batch has {size} clips, but there are only {len(dataset)} to train on")
        return loader

    def get_batch_samples(self, *args: Any) -> Any:
        """As in `Trainer`; errors in workers keep their own message."""
        try:
            return super().get_batch_samples(*args)
        except Exception as error:
            # `DataLoader` raises the same type, with the worker's whole traceback in front of the message.
            trace, found, message = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not found or "DataLoader worker" not in trace:
                raise
            raise type(error)(message.strip()) from error

    # --- loss and measures -------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.task is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = self.task(model, inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        kwargs["metric_key_prefix"] = metric_key_prefix
        output: Any = super().evaluation_loop(*args, **kwargs)
        if self.measure is not None:
            self.model.eval()  # if there was no batch, `Trainer` has not done so
            with torch.no_grad():
                measured = self.measure(self.model)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in measured.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._check_finite(logs.get("loss", 0.0))
        super().log(logs, start_time)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise ValueError(
                f"{self.args.output_dir}: the loss is {loss} at step {self.state.global_step}, expected a finite number"
            )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.save_strategy != "no":
            self.control.should_save = True  # regardless of `save_steps`, so that the best model is not lost
        return is_best

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._is_saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`, but writes to a temporary folder and moves it when it is complete."""
        self._check_finite(self._tr_loss.item())
        run, name = Path(self._get_output_dir(trial)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished, target = run / UNFINISHED, run / name
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed save
        self.accelerator.wait_for_everyone()
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_saving = False
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / name / TRAINER_STATE_NAME))  # with the best model's final path
            shutil.rmtree(target, ignore_errors=True)  # an older checkpoint of the same step
            os.replace(unfinished / name, target)
            shutil.rmtree(unfinished)
            self._remove_old_checkpoints(run)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def save_whole(self, folder: Path) -> None:
        """`save_model` to a folder, written atomically."""
        with replaced_folder(folder) if self.args.should_save else nullcontext(folder) as unfinished:
            self.save_model(str(unfinished), _internal_call=True)  # without a push
        self.accelerator.wait_for_everyone()

    def _remove_old_checkpoints(self, run: Path) -> None:
        """Applies `save_total_limit` as `rotate_checkpoints` does, but removes folders atomically."""
        checkpoints, limit = sort_checkpoints(str(run)), self.args.save_total_limit
        if not limit or limit < 0:
            return
        kept = {checkpoints[-1], self.state.best_model_checkpoint} - {None}
        old = [each for each in checkpoints if each not in kept]
        for each in old[: max(0, len(checkpoints) - max(limit, len(kept)))]:
            os.replace(each, run / UNFINISHED)
            shutil.rmtree(run / UNFINISHED)

    def load_weights(self, checkpoint: str) -> None:
        """Loads the weights of a checkpoint folder of this run into the model, trained towers included."""
        self._load_from_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_towers(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_towers(str(self.state.best_model_checkpoint))

    def _load_towers(self, checkpoint: str) -> None:
        """Loads trained towers, which are not in the state dict that `Trainer` loads."""
        sen = getattr(self.model, "base_model", None)
        if isinstance(sen, SENModel) and os.path.isfile(os.path.join(checkpoint, "config.json")):
            config = type(self.model.config).from_pretrained(checkpoint)
            sen.neurons.restore(checkpoint, getattr(config, "sen_config", config))

    def _save_rng_state(self, output_dir: str) -> None:
        self.accelerator.wait_for_everyone()  # the main process may still be replacing the folder it saves to
        super()._save_rng_state(output_dir)
        running = {"sum": self._tr_loss, "since": self._globalstep_last_logged}
        torch.save(running, self._running_loss_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As in `Trainer`; the first logged loss includes the steps before the interruption."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and os.path.isfile(file := self._running_loss_file(checkpoint)):
            running = torch.load(file, map_location="cpu", weights_only=True)
            self._tr_loss = running["sum"].to(self.args.device)
            self._globalstep_last_logged = running["since"]

    def _running_loss_file(self, checkpoint: str) -> str:
        return os.path.join(checkpoint, f"running_loss_{self.args.process_index}.pth")

    # --- the Hub -----------------------------------------------------------------------------------------------------

    def create_model_card(self, **kwargs: Any) -> None:  # type: ignore[override]
        """For a model with a SEN, writes the package's card to `output_dir`; see [`write_trainer_card`]."""
        if self._sen is None:
            super().create_model_card(**kwargs)
        else:
            write_trainer_card(self, **kwargs)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in `Trainer`, but uploads only model, processor and card, in one commit, and waits for it."""
        if self._sen is None:
            return super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        output, repo_id = Path(str(self.args.output_dir)), str(self.hub_model_id)
        with tempfile.TemporaryDirectory() as name, naming_hub_errors(repo_id):
            copy_checkpoint(output, Path(name))
            shutil.copyfile(output / CARD, Path(name, CARD))
            message = commit_message or "End of training"
            return commit_folder(
                HfApi(token=token), repo_id, name, message, revision=revision or self.args.hub_revision
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._is_saving:  # pushed after the folder is moved
            return
        if self.args.hub_strategy != HubStrategy.END:
            self.create_model_card(checkpoint=Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    @property
    def _sen(self) -> SENModel | None:
        """The model's SEN; `None` if it has none."""
        found = getattr(self.accelerator.unwrap_model(self.model), "base_model", None)
        found = getattr(found, "model", found)  # inside a peft model
        sen = getattr(found, "base_model", None)
        return sen if isinstance(sen, SENModel) else None


class _StopAfterStep(TrainerCallback):
    """After Ctrl-C, saves at the end of the step and stops, with no other difference from an uninterrupted run."""

    def __init__(self, interrupted: threading.Event):
        self.interrupted = interrupted

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= self.interrupted.is_set()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.interrupted.is_set():
            raise KeyboardInterrupt(
                f"stopped after step {state.global_step}; the same command resumes from {args.output_dir}"
            )


@contextmanager
def _flag_on_interrupt(flag: threading.Event) -> Iterator[None]:
    """Ctrl-C sets a flag instead of interrupting a step; data workers inherit the handler and survive until its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    flag.clear()
    previous = signal.signal(signal.SIGINT, lambda *_: flag.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
