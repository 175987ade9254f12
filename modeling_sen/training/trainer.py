"""The package's one trainer: it trains any module whose call on a batch returns a loss.

A batch is a pure function of its number (`batch_at(number)`), so are learning rate and random state of their step, and
weights, optimiser and early stopping are saved together; so a run interrupted and resumed equals the uninterrupted one bit
for bit on CPU.
"""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modeling_sen.training.run_log import RunLog, replace_text

Batch = Mapping[str, torch.Tensor]
BatchAt = Callable[[int], Batch]
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]
Save = Callable[[Path], None]

# What may differ between the two parts of a resumed run: none of it changes a number that training computes.
FREE_ON_RESUME = ("output", "num_workers", "log_every", "checkpoint_every")


@dataclass
class TrainingSettings:
    """How to train. Saved as `settings.json` in `output`; a run is only resumed with the settings it was started with.

    Attributes:
        output: folder of the run: settings.json, log.jsonl and the last checkpoint.
        steps: optimiser steps in all.
        batch_size: clips of a step, over all processes; told to the log, the batches themselves come from `batch_at`.
        learning_rate: peak of the schedule: linear warm-up over `warmup_steps`, then a cosine to zero at `steps`.
        weight_decay: AdamW's, on matrices only (norms, biases and scalars are not decayed).
        gradient_clip: largest norm of the gradient over all trainable weights.
        gradient_accumulation: batches whose gradients make one step: step s takes those from s * gradient_accumulation on.
        seed: seeds torch, anew for each step and process; data that depend on a seed get it from the caller.
        dtype: "float32", or "bfloat16" to run forward passes under autocast; weights stay float32.
        threads: torch threads of the training process; None leaves torch's choice.
        num_workers: processes that prepare batches ahead; 0 prepares them in the training process.
        log_every, evaluate_every, checkpoint_every: steps between log lines, evaluations and checkpoints.
        metric: which number of `evaluate` says what is best; larger is better.
        patience: stop after so many evaluations in a row without a better `metric`; None trains on.
    """

    output: str
    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    gradient_accumulation: int = 1
    seed: int = 0
    dtype: str = "float32"
    threads: int | None = None
    num_workers: int = 0
    log_every: int = 20
    evaluate_every: int = 1000
    checkpoint_every: int = 500
    metric: str | None = None
    patience: int | None = None

    def __post_init__(self):
        counts = ("steps", "batch_size", "gradient_accumulation", "log_every", "evaluate_every", "checkpoint_every")
        for name in (*counts, *(["patience"] if self.patience is not None else [])):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainingSettings.{name} is {getattr(self, name)}, expected at least 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f'TrainingSettings.dtype is {self.dtype!r}, expected "float32" or "bfloat16"')
        if self.patience is not None and self.metric is None:
            raise ValueError(
                "TrainingSettings.patience needs a metric: which number of the validation is to get better"
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0..steps-1."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass
class Progress:
    """How far a run is: steps done, and what early stopping knows."""

    step: int = 0
    best: float | None = None
    evaluations_since_best: int = 0


def train(
    model: nn.Module,
    batch_at: BatchAt,
    settings: TrainingSettings,
    evaluate: Evaluate | None = None,
    save: Save | None = None,
    trackers: Sequence[Any] = (),
) -> None:
    """Trains the parameters of `model` that require a gradient, in place, from the last checkpoint where there is one.

    In several processes (torchrun, any launcher of accelerate) gradients are averaged over them; process 0 writes all files.

    Args:
        model: `model(batch)` returns a dict with "loss" (a scalar tensor) and any further scalars, which are logged.
        batch_at: a batch by its number, a dict of tensors. Must depend on the number only, never on earlier calls; each
            process gives its own share of it.
        settings: see TrainingSettings.
        evaluate: called as `evaluate(model, steps_done)` every `evaluate_every` steps and at the end, in eval mode
            without gradients, by every process; what it returns, the same in all, is logged under "validation".
        save: called with a folder to write the model to: `output`/last with each checkpoint, and `output`/best after each
            evaluation that is the best so far by `settings.metric`.
        trackers: what else to log to: names that accelerate knows ("tensorboard", "wandb", ...) or its `GeneralTracker`s.

    Raises:
        ValueError: `settings.output` holds a run with other settings or other weights, the loss is not finite, the
            validation lacks the metric, or a tracker is unknown or not installed.
        KeyboardInterrupt: after Ctrl-C, once the step is finished and a checkpoint written.
        ImportError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.utils import send_to_device
    except ImportError as error:
        raise ImportError("training needs the extra `train`: pip install 'modeling-sen[train]'") from error

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    output = Path(settings.output)
    # A neuron that no clip of a batch has inputs for leaves its weights without gradients.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without saying so, processes on CPUs would not know of each other
        log_with=list(trackers) or None,
        project_dir=output,
        kwargs_handlers=[parallel],
    )
    if len(accelerator.log_with) < len(trackers):
        found = [str(each) for each in accelerator.log_with]
        raise ValueError(f"trackers: of {list(trackers)} only {found} are installed")
    output.mkdir(parents=True, exist_ok=True)
    is_main = accelerator.is_main_process
    _check_and_write_settings(settings, output / "settings.json", is_main)

    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state = _load_checkpoint(model, optimizer, output)
    start = state.step
    log = RunLog(output / "log.jsonl", start) if is_main else None
    if start >= settings.steps or _is_over(state, settings):
        return
    trained_model, optimizer = accelerator.prepare(model, optimizer)
    if trackers:
        known = {name: value for name, value in asdict(settings).items() if value is not None}
        accelerator.init_trackers("sen", config=known)

    def write(values: Mapping[str, Any], flat: Mapping[str, float]) -> None:
        if log is not None:
            log.write(done, values)
        accelerator.log(dict(flat), step=done)

    progress = tqdm(total=settings.steps, initial=start, unit="step", dynamic_ncols=True, disable=not is_main)
    with _interrupt_flag() as interrupted:
        logged_at, logged_step = time.perf_counter(), start
        for step, batches in _batches(batch_at, start, settings):
            trained_model.train()
            torch.manual_seed(_random_seed(settings.seed, step, accelerator.process_index))
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate_at(step)
            parts: list[Mapping[str, torch.Tensor]] = []
            for batch in batches:
                is_last = len(parts) + 1 == settings.gradient_accumulation
                with nullcontext() if is_last else accelerator.no_sync(trained_model):
                    with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
                        parts.append(trained_model(send_to_device(batch, accelerator.device)))
                    accelerator.backward(parts[-1]["loss"] / settings.gradient_accumulation)
            accelerator.clip_grad_norm_(trained_model.parameters(), settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()

            done = state.step = step + 1
            progress.update()
            is_end = done == settings.steps
            if done % settings.log_every == 0 or is_end:
                metrics = {
                    name: float(
                        accelerator.reduce(torch.stack([part[name].detach() for part in parts]).mean(), "mean")
                    )
                    for name in parts[0]
                }
                if not math.isfinite(metrics["loss"]):
                    raise ValueError(
                        f"{output}: the loss is {metrics['loss']} at step {done}, expected a finite number"
                    )
                now = time.perf_counter()
                speed = settings.batch_size * (done - logged_step) / (now - logged_at)
                logged_at, logged_step = now, done
                metrics |= {"learning_rate": settings.learning_rate_at(step), "clips_per_second": speed}
                write(metrics, metrics)
                progress.set_postfix(loss=f"{metrics['loss']:.3f}", clips=f"{speed:.0f}/s")
            if evaluate is not None and (done % settings.evaluate_every == 0 or is_end):
                trained_model.eval()
                with torch.no_grad():
                    validation = dict(evaluate(model, done))
                write({"validation": validation}, {f"validation/{name}": value for name, value in validation.items()})
                if is_main:
                    shown = "  ".join(f"{name} {value:.4f}" for name, value in validation.items())
                    progress.write(f"step {done}: {shown}")
                if _is_best(state, validation, settings) and save is not None and is_main:
                    save(output / "best")
                logged_at, logged_step = time.perf_counter(), done
            is_end = is_end or _is_over(state, settings)
            if is_main and (done % settings.checkpoint_every == 0 or is_end or interrupted.is_set()):
                if save is not None:
                    save(output / "last")
                _save_checkpoint(model, optimizer, state, output)
            if interrupted.is_set():
                raise KeyboardInterrupt(f"stopped after step {done}; the same call resumes from {output}")
            if is_end:
                break
    progress.close()
    if trackers:
        accelerator.end_training()


def _is_best(state: Progress, validation: Mapping[str, float], settings: TrainingSettings) -> bool:
    """Counts an evaluation, and says whether it is the best so far."""
    if settings.metric is None:
        return False
    if settings.metric not in validation:
        raise ValueError(f"metric: the validation has no {settings.metric!r}, only {', '.join(validation)}")
    value = validation[settings.metric]
    if state.best is not None and not value > state.best:
        state.evaluations_since_best += 1
        return False
    state.best, state.evaluations_since_best = value, 0
    return True


def _is_over(state: Progress, settings: TrainingSettings) -> bool:
    """Whether patience has run out."""
    return settings.patience is not None and state.evaluations_since_best >= settings.patience


def _random_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0])


def _batches(batch_at: BatchAt, start: int, settings: TrainingSettings) -> Iterator[tuple[int, Iterator[Batch]]]:
    """Yields (step, its batches) from `start` on, in order, prepared ahead by worker processes where asked."""
    each = settings.gradient_accumulation
    loader = DataLoader(
        _BatchPerNumber(batch_at),
        batch_size=None,
        sampler=range(start * each, settings.steps * each),
        num_workers=settings.num_workers,
        worker_init_fn=_prepare_worker,
        # A generator of its own: the loader draws a base seed, which must not come from the training's random state.
        generator=torch.Generator(),
    )
    made = map(_raised, loader)
    for step in range(start, settings.steps):
        yield step, islice(made, each)


class _BatchPerNumber(Dataset):
    def __init__(self, batch_at: BatchAt):
        self.batch_at = batch_at

    def __getitem__(self, number: int) -> Batch | Exception:
        try:
            return self.batch_at(number)
        except Exception as error:  # handed on as it is: the loader would bury its message under a traceback
            return error


def _raised(batch: Batch | Exception) -> Batch:
    if isinstance(batch, Exception):
        raise batch
    return batch


def _prepare_worker(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process finishes its step, so workers must outlive it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Turns Ctrl-C into a flag while the loop runs, so that no step is cut in half."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = signal.signal(signal.SIGINT, lambda *_: flag.set())
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient, expected at least one")
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def _check_and_write_settings(settings: TrainingSettings, path: Path, is_main: bool) -> None:
    if path.exists():
        found = json.loads(path.read_text())
        for field in fields(settings):
            # A run that began before there was such a setting had its default.
            before, wanted = found.get(field.name, field.default), getattr(settings, field.name)
            if field.name not in FREE_ON_RESUME and before != wanted:
                raise ValueError(
                    f"{path}: the run was started with {field.name} = {before!r} and cannot be resumed with {wanted!r}; "
                    "use the same settings or another folder"
                )
    if is_main:
        replace_text(path, json.dumps(asdict(settings), indent=2) + "\n")


def _save_checkpoint(model: nn.Module, optimizer: Any, state: Progress, output: Path) -> None:
    """Writes `checkpoint-STEP/` and drops older ones. Weights and state belong together, so the folder is moved."""
    target, temporary = output / f"checkpoint-{state.step}", output / "checkpoint.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(_trainable(model), temporary / "model.safetensors")
    torch.save({**asdict(state), "optimizer": optimizer.state_dict()}, temporary / "state.pt")
    os.replace(temporary, target)
    for other in output.glob("checkpoint-*"):
        if other != target:
            shutil.rmtree(other)


def _load_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, output: Path) -> Progress:
    """Loads the newest checkpoint, if any."""
    folders = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    if not folders:
        return Progress()
    weights, wanted = load_file(folders[-1] / "model.safetensors"), _trainable(model)
    different = sorted(
        name
        for name in weights.keys() | wanted.keys()
        if name not in weights or name not in wanted or weights[name].shape != wanted[name].shape
    )
    if different:
        raise ValueError(f"{folders[-1]}: its weights are not those of the model, first difference: {different[0]!r}")
    model.load_state_dict(weights, strict=False)
    state = torch.load(folders[-1] / "state.pt", map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**{field.name: state[field.name] for field in fields(Progress) if field.name in state})


def _trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
