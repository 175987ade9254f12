"""The package's one trainer: it trains any module whose call on a batch returns a loss.

A batch is a pure function of its step (`batch_at(step)`), the learning rate is one too, and weights, optimiser and
random state are saved together; so a run interrupted and resumed equals the uninterrupted one bit for bit on CPU.
"""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

Batch = Mapping[str, torch.Tensor]
BatchAt = Callable[[int], Batch]
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]

# What may differ between the two parts of a resumed run: none of it changes a number that training computes.
FREE_ON_RESUME = ("output", "num_workers", "checkpoint_every", "evaluate_every")


@dataclass
class TrainingSettings:
    """How to train. Saved as `settings.json` in `output`; a run is only resumed with the settings it was started with.

    Attributes:
        output: folder of the run: settings.json, log.jsonl and the last checkpoint.
        steps: optimiser steps in all.
        batch_size: clips in a batch; told to the log (clips per second), the batches themselves come from `batch_at`.
        learning_rate: peak of the schedule: linear warm-up over `warmup_steps`, then a cosine to zero at `steps`.
        weight_decay: AdamW's, on matrices only (norms, biases and scalars are not decayed).
        gradient_clip: largest norm of the gradient over all trainable weights.
        seed: seeds torch at the start of a run; data that depend on a seed get it from the caller.
        dtype: "float32", or "bfloat16" to run forward passes under autocast; weights stay float32.
        threads: torch threads of the training process; None leaves torch's choice.
        num_workers: processes that prepare batches ahead; 0 prepares them in the training process.
        log_every, evaluate_every, checkpoint_every: steps between log lines, evaluations and checkpoints.
    """

    output: str
    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    threads: int | None = None
    num_workers: int = 0
    log_every: int = 20
    evaluate_every: int = 1000
    checkpoint_every: int = 500

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainingSettings.{name} is {getattr(self, name)}, expected at least 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f'TrainingSettings.dtype is {self.dtype!r}, expected "float32" or "bfloat16"')

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0..steps-1."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def train(model: nn.Module, batch_at: BatchAt, settings: TrainingSettings, evaluate: Evaluate | None = None) -> None:
    """Trains the parameters of `model` that require a gradient, in place, from the last checkpoint where there is one.

    Args:
        model: `model(batch)` returns a dict with "loss" (a scalar tensor) and any further scalars, which are logged.
        batch_at: the batch of a step, a dict of tensors. Must depend on the step only, never on earlier calls.
        settings: see TrainingSettings.
        evaluate: called as `evaluate(model, steps_done)` every `evaluate_every` steps and at the end, in eval mode
            without gradients; what it returns is logged under "validation".

    Raises:
        ValueError: `settings.output` holds a run with other settings or other weights, or the loss is not finite.
        KeyboardInterrupt: after Ctrl-C, once the step is finished and a checkpoint written.
        ImportError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import send_to_device
    except ImportError as error:
        raise ImportError("training needs the extra `train`: pip install 'modeling-sen[train]'") from error

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    accelerator = Accelerator()
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    _check_and_write_settings(settings, output)

    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), lr=settings.learning_rate)
    start = _load_checkpoint(model, optimizer, output)
    log = RunLog(output / "log.jsonl", start)
    if start >= settings.steps:
        return
    trained_model, optimizer = accelerator.prepare(model, optimizer)

    progress = tqdm(total=settings.steps, initial=start, unit="step", dynamic_ncols=True)
    with _interrupt_flag() as interrupted:
        logged_at, logged_step = time.perf_counter(), start
        for step, batch in _batches(batch_at, start, settings):
            trained_model.train()
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate_at(step)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
                results = trained_model(send_to_device(batch, accelerator.device))
            accelerator.backward(results["loss"])
            accelerator.clip_grad_norm_(trained_model.parameters(), settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()

            done = step + 1
            progress.update()
            if done % settings.log_every == 0 or done == settings.steps:
                metrics = {name: value.item() for name, value in results.items()}
                if not math.isfinite(metrics["loss"]):
                    raise ValueError(
                        f"{output}: the loss is {metrics['loss']} at step {done}, expected a finite number"
                    )
                now = time.perf_counter()
                speed = settings.batch_size * (done - logged_step) / (now - logged_at)
                logged_at, logged_step = now, done
                log.write(
                    done, {**metrics, "learning_rate": settings.learning_rate_at(step), "clips_per_second": speed}
                )
                progress.set_postfix(loss=f"{metrics['loss']:.3f}", clips=f"{speed:.0f}/s")
            if evaluate is not None and (done % settings.evaluate_every == 0 or done == settings.steps):
                trained_model.eval()
                with torch.no_grad():
                    validation = dict(evaluate(model, done))
                log.write(done, {"validation": validation})
                progress.write(
                    f"step {done}: " + "  ".join(f"{name} {value:.4f}" for name, value in validation.items())
                )
                logged_at, logged_step = time.perf_counter(), done
            if done % settings.checkpoint_every == 0 or done == settings.steps or interrupted.is_set():
                _save_checkpoint(model, optimizer, done, output)
            if interrupted.is_set():
                raise KeyboardInterrupt(f"stopped after step {done}; the same call resumes from {output}")
    progress.close()


class RunLog:
    """The run's JSON lines, one object a line. Lines of steps after the resumed checkpoint are dropped."""

    def __init__(self, path: Path, start: int):
        self.path = path
        kept = (
            [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= start]
            if path.exists()
            else []
        )
        _replace_text(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _batches(batch_at: BatchAt, start: int, settings: TrainingSettings) -> Iterator[tuple[int, Batch]]:
    """Yields (step, batch) from `start` on, in order, prepared ahead by worker processes where asked."""
    steps = range(start, settings.steps)
    loader = DataLoader(
        _BatchPerStep(batch_at),
        batch_size=None,
        sampler=steps,
        num_workers=settings.num_workers,
        worker_init_fn=_prepare_worker,
        # A generator of its own: the loader draws a base seed, which must not come from the training's random state.
        generator=torch.Generator(),
    )
    return zip(steps, loader, strict=True)


class _BatchPerStep(Dataset):
    def __init__(self, batch_at: BatchAt):
        self.batch_at = batch_at

    def __getitem__(self, step: int) -> Batch:
        return self.batch_at(step)


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


def _check_and_write_settings(settings: TrainingSettings, output: Path) -> None:
    path = output / "settings.json"
    if path.exists():
        found = json.loads(path.read_text())
        for field in fields(settings):
            wanted = getattr(settings, field.name)
            if field.name not in FREE_ON_RESUME and found.get(field.name) != wanted:
                raise ValueError(
                    f"{path}: the run was started with {field.name} = {found.get(field.name)!r} and cannot be resumed "
                    f"with {wanted!r}; use the same settings or another folder"
                )
    _replace_text(path, json.dumps(asdict(settings), indent=2) + "\n")


def _save_checkpoint(model: nn.Module, optimizer: Any, step: int, output: Path) -> None:
    """Writes `checkpoint-STEP/` and drops older ones. Weights and state belong together, so the folder is moved."""
    target, temporary = output / f"checkpoint-{step}", output / "checkpoint.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(_trainable(model), temporary / "model.safetensors")
    state = {"step": step, "optimizer": optimizer.state_dict(), "torch_rng": torch.get_rng_state()}
    torch.save(state, temporary / "state.pt")
    os.replace(temporary, target)
    for other in output.glob("checkpoint-*"):
        if other != target:
            shutil.rmtree(other)


def _load_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, output: Path) -> int:
    """Loads the newest checkpoint, if any, and returns the number of steps done."""
    folders = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    if not folders:
        return 0
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
    torch.set_rng_state(state["torch_rng"])
    return state["step"]


def _trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
