# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen train`: the Trainer's flags and those of data and model, from the command line and a YAML file."""

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from transformers import HfArgumentParser

from modeling_sen.training.train_sen import TrainSettings, train_sen
from modeling_sen.training.trainer import SENTrainingArguments


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)  # one line, without the usage of some 150 flags


def run(arguments: Sequence[str]) -> None:
    """Train a SEN on clips with labels or texts. Run again after an interruption, it goes on where it was.

    Several processes: torchrun --nproc_per_node 2 -m modeling_sen.commands.train --output_dir OUT ...
    """
    settings, training = read_arguments(arguments)
    chosen = train_sen(settings, training)
    if training.process_index == 0:
        print(f"{chosen}: load it with SENModel.from_pretrained, or name it to sen classify --model")


def read_arguments(arguments: Sequence[str]) -> tuple[TrainSettings, SENTrainingArguments]:
    """Settings from flags and from the YAML file that `--config` names; flags win.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown settings, values of the wrong kind, no training clips.
    """
    parser = _Parser(
        [TrainSettings, SENTrainingArguments],  # type: ignore[list-item]
        prog="sen train",
        description=run.__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings by name; flags win.")
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(f"unknown arguments {' '.join(unknown)}; `sen train --help` lists all")
    config = known.config
    if config is not None:
        in_file = _flags_of_file(config, parser)
        try:
            parser.parse_args(in_file)
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
        arguments = [*in_file, *arguments]
    settings, training, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    return settings, training


def _flags_of_file(path: Path, parser: HfArgumentParser) -> list[str]:
    """The settings in a file as flags; null stands for the default."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected settings by name, found {type(content).__name__}")
    actions, flags = parser._option_string_actions, []
    for name, value in content.items():
        if value is None or value == [] or str(name).endswith("_sha256"):  # checksums of the clips, to resume by
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
