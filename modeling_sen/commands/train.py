# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen train`: reads the Trainer's settings and those of data and model from flags and a YAML file, and trains."""

import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from modeling_sen.training.train_settings import TRAINER_DEFAULTS, TrainSettings, defaults_of

if TYPE_CHECKING:
    from transformers import HfArgumentParser

    from modeling_sen.training.trainer import SENTrainingArguments


def run(arguments: Sequence[str]) -> None:
    """Train a SEN on clips with labels or texts, a tracker, or video chat. The same command resumes an interrupted run.

    Several processes: torchrun --nproc_per_node 2 -m modeling_sen.commands.train --output_dir OUT ...
    """
    if "--help-all" in arguments:
        _parser().print_help()
        return
    settings, training = read_arguments(arguments)
    if settings.task == "tracking":
        from modeling_sen.auto import register
        from modeling_sen.training.train_tracking import train_tracking

        register()  # pushing loads heads by their model type
        chosen, load, verb = train_tracking(settings, training), "SENForVideoTracking", "track"
    elif settings.task == "chat":
        from modeling_sen.auto import register
        from modeling_sen.training.train_chat import train_chat

        register()
        chosen, load, verb = train_chat(settings, training), "SENForConditionalGeneration", "chat"
    else:
        from modeling_sen.training.train_sen import train_sen

        chosen, load, verb = train_sen(settings, training), "SENModel", "classify"
    if training.process_index == 0:
        print(f"{chosen}: load it with {load}.from_pretrained, or pass it to sen {verb} --model")


def usual_flags(**flags: Any) -> None:
    """Train a SEN on clips with labels or texts, a tracker, or video chat. The same command resumes an interrupted run.

    All flags of transformers.TrainingArguments are supported; `sen train --help-all` lists them. Several processes: torchrun
    --nproc_per_node 2 -m modeling_sen.commands.train --output_dir OUT ...
    """


def _usual_flags() -> dict[str, tuple[Any, str]]:
    """Flag -> (default, help), for the short help and for shell completion."""
    own = {
        each.name: (
            each.default if each.default_factory is MISSING else each.default_factory(),
            each.metadata["help"],
        )
        for each in fields(TrainSettings)
    }
    return {
        "output_dir": (None, "Folder of the run: settings, checkpoints, log, curve, best and last."),
        "config": (None, "YAML file of settings by name; flags take precedence."),
        **own,
        **TRAINER_DEFAULTS,
        "max_steps": (-1, "Number of steps, instead of epochs."),
        "seed": (42, "Seed of the initial weights and the order of the clips."),
        "bf16": (False, "Train in bfloat16 with float32 weights."),
        "help-all": (False, "List all flags, including those of transformers.TrainingArguments."),
    }


def _as_option(name: str, default: Any, words: str) -> inspect.Parameter:
    is_switch = default is False
    shown = False if default in (None, "", -1) or is_switch else str(default)
    option = typer.Option(f"--{name}", help=words, show_default=shown)
    kind: Any = Annotated[bool if is_switch else str | None, option]
    default = False if is_switch else None
    return inspect.Parameter(name.replace("-", "_"), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


usual_flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_as_option(name, *flag) for name, flag in _usual_flags().items()]
)
usual_flags.__annotations__ = {
    each.name: each.annotation for each in inspect.signature(usual_flags).parameters.values()
}


def _parser() -> "HfArgumentParser":
    from transformers import HfArgumentParser

    from modeling_sen.training.trainer import SENTrainingArguments

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)  # one line; the default also prints the usage of some 150 flags

    parser = Parser(
        [TrainSettings, SENTrainingArguments],  # type: ignore[list-item]
        prog="sen train",
        description=run.__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings by name; flags take precedence.")
    return parser


def read_arguments(arguments: Sequence[str]) -> "tuple[TrainSettings, SENTrainingArguments]":
    """Reads settings from flags and from the YAML file of `--config`; flags take precedence.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown settings, values of the wrong type, no training clips.
    """
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(f"unknown arguments {' '.join(unknown)}; `sen train --help-all` lists all")
    config = parsed.config
    if config is not None:
        in_file = _flags_of_file(config, parser)
        try:
            parser.parse_args(in_file)
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
        arguments = [*in_file, *arguments]
    parsed = parser.parse_args(arguments)
    defaults = [f"--{name}={value}" for name, value in defaults_of(parsed.task, parsed.preset).items()]
    settings, training, _ = parser.parse_args_into_dataclasses([*defaults, *arguments], look_for_args_file=False)
    return settings, training


def _flags_of_file(path: Path, parser: "HfArgumentParser") -> list[str]:
    """The settings in a file as flags; null means the default."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected settings by name, found {type(content).__name__}")
    actions, flags = parser._option_string_actions, []
    for name, value in content.items():
        if value is None or value == [] or str(name).endswith("_sha256"):  # checksums of the clips are not settings
            continue
        if f"--{name}" not in actions:
            near = get_close_matches(str(name), [each.removeprefix("--") for each in actions], n=1)
            raise ValueError(f"{path}: unknown setting {name!r}{f'; did you mean {near[0]}?' if near else ''}")
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is True and actions[f"--{name}"].nargs == "?":
            flags.append(f"--{name}")
        else:
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


if __name__ == "__main__":
    run(sys.argv[1:])
