"""`sen train`: a SEN from a preset, a checkpoint or sen-tiny, trained on clips with labels or texts.

OUT/train.yaml       the settings, resolved: `sen train --config OUT/train.yaml` is the same run
OUT/best, OUT/last   checkpoints: SENModel.from_pretrained, `sen classify --model`, ...
OUT/log.jsonl        loss, learning rate, speed and validation; OUT/curve.png draws them
OUT/checkpoint-STEP  what an interrupted run goes on from, when the same command is given again
"""

import hashlib
import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.encoding import DEFAULT_TEMPLATE
from modeling_sen.modeling_sen import SENModel
from modeling_sen.presets import PRESETS, resolve_checkpoint
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.clip_batches import ClipBatches, ClipInputs
from modeling_sen.training.data import LabelledClips, open_clips
from modeling_sen.training.run_log import plot_log, replace_text
from modeling_sen.training.tasks import LOSSES, Recognition, Retrieval
from modeling_sen.training.trainer import FREE_ON_RESUME, TrainingSettings, train

TASKS = {"recognition": "label", "retrieval": "text"}  # task -> what each clip has
CACHE_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TrainSettings:
    """The settings of `sen train`: its flags, and the keys of its YAML file."""

    output: str = _setting(MISSING, "Folder of the run; given again, an interrupted run goes on.")
    train: str = _setting(
        MISSING,
        "Training clips: a folder, a csv, jsonl or parquet table, world:SPLIT?num=N, or a data set's id on the Hub.",
    )
    task: str = _setting("recognition", "recognition (clips with labels) or retrieval (clips with texts).")
    validation: str | None = _setting(None, "Validation clips, in any of these forms.")
    model: str = _setting("sen-tiny", "A preset, a checkpoint folder or Hub id of a SEN, or sen-tiny.")
    train_split: str = _setting("train", "Split of a Hub data set, or sub-folder, that is trained on.")
    validation_split: str = _setting("validation", "The same for validation.")
    video_column: str | None = _setting(None, "Column of the clips; by default the first with a usual name.")
    target_column: str | None = _setting(None, "Column of labels or texts; by default the first with a usual name.")
    templates: list[str] = field(
        default_factory=lambda: [DEFAULT_TEMPLATE],
        metadata={"help": "Texts with {} for the label; several are averaged."},
    )
    loss: str = _setting("contrastive", f"Of retrieval: {', '.join(LOSSES)}.")
    epochs: float = _setting(10.0, "How often each clip is seen.")
    steps: int | None = _setting(None, "Optimiser steps, in the place of epochs.")
    batch_size: int = _setting(32, "Clips of an optimiser step, over all processes.")
    gradient_accumulation: int = _setting(1, "Parts in which a batch is computed, one after the other.")
    learning_rate: float = _setting(1e-3, "Peak of the schedule: linear warm-up, then a cosine to zero.")
    warmup: float = _setting(0.1, "Share of the steps that warm up.")
    weight_decay: float = _setting(0.01, "Of matrices.")
    dtype: str = _setting("float32", "float32, or bfloat16 for mixed precision.")
    seed: int = _setting(0, "Of new weights and the order of clips.")
    evaluate_every: int | None = _setting(None, "Steps between validations; by default an epoch.")
    checkpoint_every: int = _setting(200, "Steps between checkpoints.")
    log_every: int = _setting(20, "Steps between lines of the log.")
    patience: int | None = _setting(None, "Stop after so many validations without a better one.")
    num_workers: int = _setting(0, "Processes that decode ahead.")
    cache: str | None = _setting(
        None, "Folder of cached trunks: built first, then no video is decoded and no trunk is run."
    )
    cache_dtype: str = _setting("bfloat16", "Of what is cached: float32, float16 or bfloat16.")
    skip_unreadable: bool = _setting(
        False, "Leave out clips that cannot be read, and say how many; else they are an error."
    )
    tracker: str | None = _setting(None, "Log to tensorboard, wandb or another tracker of accelerate too.")

    def __post_init__(self):
        for name, known in (("task", TASKS), ("loss", LOSSES), ("cache_dtype", CACHE_TYPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}, expected a share from 0 to below 1")
        if not self.templates or not all("{}" in template for template in self.templates):
            raise ValueError(f"templates: expected texts with {{}} for the label, found {self.templates}")
        if self.patience is not None and self.validation is None:
            raise ValueError("patience needs validation clips")


def train_sen(settings: TrainSettings) -> Path:
    """Trains, or goes on with what was interrupted, in one process or in each of those that torchrun starts.

    Returns:
        the folder of the checkpoint to use: the best, or without validation the last.

    Raises:
        ValueError, OSError: wrong settings or data; a clip that cannot be read; the folder of a run with other settings.
        ImportError: the extra `train` is missing.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError("training needs the extra `train`: pip install 'modeling-sen[train]'") from error
    state, output = PartialState(cpu=not torch.accelerator.is_available()), Path(settings.output)
    data = {"train": _open(settings, settings.train, settings.train_split)}
    if settings.validation is not None:
        data["validation"] = _open(settings, settings.validation, settings.validation_split)
    output.mkdir(parents=True, exist_ok=True)
    _check_and_write(settings, data, output / "train.yaml", state.is_main_process)

    torch.manual_seed(settings.seed)
    model, processor = load_sen(settings.model)
    model.to(state.device)
    unreadable = output / "unreadable.txt" if settings.skip_unreadable else None
    inputs = {name: ClipInputs(clips, processor, unreadable) for name, clips in data.items()}
    if settings.cache is not None:
        for each in inputs.values():
            each.use_cache(model, settings.cache, CACHE_TYPES[settings.cache_dtype])
    module: Recognition | Retrieval
    if settings.task == "recognition":
        module = Recognition(model, processor, inputs["train"], inputs.get("validation"), settings.templates)
    else:
        module = Retrieval(model, processor, inputs["train"], inputs.get("validation"), settings.loss)
    if inputs["train"].cache is not None:
        inputs["train"].cache.drop_trunks()
    batches = ClipBatches(
        inputs["train"],
        settings.batch_size,
        settings.seed,
        settings.gradient_accumulation,
        state.process_index,
        state.num_processes,
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    validates = settings.validation is not None
    train(
        module,
        batches,
        _training_settings(settings, batches.steps_per_epoch, module.metric if validates else None),
        (lambda *_: module.evaluate()) if validates else None,
        save,
        [] if settings.tracker is None else [settings.tracker],
    )
    if state.is_main_process:
        if find_spec("matplotlib") is not None:
            plot_log(output / "log.jsonl", output / "curve.png")
        if unreadable is not None and unreadable.exists():
            count = len(set(unreadable.read_text().splitlines()))
            print(f"{count} clips could not be read and were left out: {unreadable}")
    return output / ("best" if validates else "last")


def load_sen(model: str) -> tuple[SENModel, SENProcessor]:
    """A SEN with its towers, and its processor: new from a preset, else from a checkpoint (`"sen-tiny"`: the one inside).

    Raises:
        OSError, RuntimeError, ValueError: see `SENModel.from_pretrained`.
    """
    if model in PRESETS:
        config = SENConfig.from_preset(model)
        return SENModel(config).load_neurons(), SENProcessor(config)
    folder = resolve_checkpoint(model)
    loaded = SENModel.from_pretrained(folder)
    for parameter in loaded.parameters():
        if parameter.requires_grad:  # small steps vanish in half precision
            parameter.data = parameter.data.float()
    return loaded, SENProcessor.from_pretrained(folder)


def _open(settings: TrainSettings, source: str, split: str) -> LabelledClips:
    return open_clips(source, TASKS[settings.task], split, settings.video_column, settings.target_column)


def _training_settings(settings: TrainSettings, steps_per_epoch: int, metric: str | None) -> TrainingSettings:
    steps = settings.steps or max(1, round(settings.epochs * steps_per_epoch))
    return TrainingSettings(
        output=settings.output,
        steps=steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        gradient_accumulation=settings.gradient_accumulation,
        seed=settings.seed,
        dtype=settings.dtype,
        num_workers=settings.num_workers,
        log_every=settings.log_every,
        evaluate_every=settings.evaluate_every or steps_per_epoch,
        checkpoint_every=settings.checkpoint_every,
        metric=metric,
        patience=settings.patience,
    )


def _check_and_write(settings: TrainSettings, data: dict[str, LabelledClips], path: Path, is_main: bool) -> None:
    """Writes train.yaml, after a check that a run that is there already had the same settings and the same clips."""
    import yaml

    wanted = asdict(settings)
    for name, clips in data.items():
        content = "\n".join(f"{key}\t{target}" for key, target in zip(clips.keys, clips.targets, strict=True))
        wanted[f"{name}_sha256"] = hashlib.sha256(content.encode()).hexdigest()
    if path.exists():
        found = yaml.safe_load(path.read_text())
        for name, value in wanted.items():
            if name not in (*FREE_ON_RESUME, "tracker") and found.get(name) != value:
                raise ValueError(
                    f"{path}: the run was started with {name} = {found.get(name)!r} and cannot be resumed with {value!r}; "
                    "use the same settings or another folder"
                )
    if is_main:
        replace_text(path, yaml.safe_dump(wanted, sort_keys=False))


def read_settings(config: Path | None, flags: dict[str, Any]) -> TrainSettings:
    """Settings from a YAML file and flags, which win.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown settings, values of the wrong kind, or none of those that have no default.
    """
    import yaml

    settings: dict[str, Any] = {}
    if config is not None:
        try:
            settings = yaml.safe_load(config.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{config}: expected YAML ({' '.join(str(error).split())})") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{config}: expected settings by name, found {type(settings).__name__}")
    known = {each.name: each for each in fields(TrainSettings)}
    settings = {name: value for name, value in settings.items() if not name.endswith("_sha256")}
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{config}: unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
    for name, value in settings.items():
        kinds: Any = known[name].type
        if kinds == list[str]:
            kinds = list
        if isinstance(value, int) and not isinstance(value, bool) and kinds is float:
            settings[name] = float(value)
        elif not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"{config}: {name} is {value!r}, expected {getattr(kinds, '__name__', kinds)}")
    settings |= {name: value for name, value in flags.items() if value not in (None, [])}
    for name, each in known.items():
        if each.default is MISSING and each.default_factory is MISSING and name not in settings:
            raise ValueError(f"expected --{name}, or {name} in the file given as --config")
    return TrainSettings(**settings)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command a flag for each setting, all `None` where they are not given, so that a file's value stays."""
    parameters = [inspect.signature(command).parameters["config"]]
    for each in fields(TrainSettings):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        shown = (
            None if default in (MISSING, None, False) else str(default[0] if isinstance(default, list) else default)
        )
        option = typer.Option(help=each.metadata["help"], show_default=shown or False)
        kind: Any = each.type | None  # type: ignore[operator]
        parameters.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


@_with_flags
def run(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings by name; flags win.")] = None, **flags: Any
) -> None:
    """Train a SEN on clips with labels or texts. Run again after an interruption, it goes on where it was.

    Several processes: torchrun --nproc_per_node 2 -m modeling_sen.commands.train --output OUT ...
    """
    chosen = train_sen(read_settings(config, flags))
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{chosen}: load it with SENModel.from_pretrained, or name it to sen classify --model")


if __name__ == "__main__":
    typer.run(run)
