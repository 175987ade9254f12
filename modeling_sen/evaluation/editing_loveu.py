# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads LOVEU-TGVE-2023 (github.com/showlab/loveu-tgve-2023), 76 videos with four prompts each, and its submissions."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

FRAME_SIZE = (480, 480)  # width and height of frames in its evaluation
KINDS = ("style", "object", "background", "multiple")


@dataclass(frozen=True)
class EditConfig:
    """Configuration of a video of the set, or of Tune-A-Video, which uses the same keys.

    Attributes:
        video_path: path of the source as written in the file.
        source_prompt: description of the source.
        edit_prompts: kind of edit -> description of the edited video. Prompts in a list, as in Tune-A-Video, have the kinds
            "0", "1", ...
    """

    video_path: str
    source_prompt: str
    edit_prompts: dict[str, str]


@dataclass(frozen=True)
class LoveuEdit:
    """An edited video of a submission; `source` and `edited` are folders of frames."""

    source: Path
    edited: Path
    source_prompt: str
    edit_prompt: str
    kind: str


def read_edit_config(path: str | os.PathLike) -> EditConfig:
    """Reads `train_data.video_path`, `train_data.prompt` and `validation_data.prompts` from a YAML file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a YAML file, or one of these entries is missing or not a text.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: expected a YAML file ({error})") from error
    prompts = _value(path, content, "validation_data", "prompts")
    if isinstance(prompts, list):
        prompts = {str(number): prompt for number, prompt in enumerate(prompts)}
    if not isinstance(prompts, dict) or not prompts:
        raise ValueError(
            f"{path}, validation_data.prompts: expected prompts by kind or a list of them, found {prompts!r}"
        )
    found = {f"validation_data.prompts.{kind}": prompt for kind, prompt in prompts.items()}
    found |= {f"train_data.{key}": _value(path, content, "train_data", key) for key in ("video_path", "prompt")}
    for key, text in found.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path}, {key}: expected text, found {text!r}")
    return EditConfig(
        found["train_data.video_path"],
        found["train_data.prompt"].strip(),
        {str(kind): prompt.strip() for kind, prompt in prompts.items()},
    )


def read_loveu(configs: str | os.PathLike, submission: str | os.PathLike, data: str | os.PathLike) -> list[LoveuEdit]:
    """Lists the edited videos of a submission, ordered by set, video and kind.

    Args:
        configs: the folder `configs/loveu-tgve-2023` of the repository with `SET/VIDEO.yaml`, or a part of it.
        submission: folder with `SET/VIDEO/KIND/%05d.jpg`; kinds are style, object, background and multiple.
        data: folder of the unpacked videos, `SET/480p_frames/VIDEO`: the last three parts of `train_data.video_path`.

    Raises:
        FileNotFoundError: no configurations, or a folder of frames does not exist.
        ValueError: a configuration lacks one of the four prompts; and see [`read_edit_config`].
    """
    files = sorted(Path(configs).glob("*/*.yaml"))
    if not files:
        raise FileNotFoundError(f"{configs}: expected SET/VIDEO.yaml, found none")
    edits = []
    for file in files:
        config = read_edit_config(file)
        source = Path(data, *PurePosixPath(config.video_path).parts[-3:])
        for kind in KINDS:
            if kind not in config.edit_prompts:
                raise ValueError(f"{file}, validation_data.prompts: expected {', '.join(KINDS)}, found no {kind}")
            edited = Path(submission, file.parent.name, file.stem, kind)
            for folder in (source, edited):
                if not folder.is_dir():
                    raise FileNotFoundError(f"{file}: no folder {folder}")
            edits.append(LoveuEdit(source, edited, config.source_prompt, config.edit_prompts[kind], kind))
    return edits


def _value(path: str | os.PathLike, content: Any, section: str, key: str) -> Any:
    part = content.get(section) if isinstance(content, dict) else None
    if not isinstance(part, dict) or key not in part:
        raise ValueError(f"{path}: expected {section}.{key}, found none")
    return part[key]


__all__ = ["EditConfig", "LoveuEdit", "read_edit_config", "read_loveu"]
