# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Selects the files of a checkpoint's folder to upload: those needed to load the model and, on request, the model's code.

Training states, embeddings and files with local paths are not uploaded.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.configuration_sen_chat import SENChatConfig
from modeling_sen.modeling_sen_editing import ADAPTER_FOLDER, SENEditingConfig
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.processing_sen_chat import SENChatProcessor

# Patterns in the folder itself; subfolders are the adapter of editing and those that config.json refers to as `./NAME`.
_FILES = (
    *("config.json", "generation_config.json", "*processor_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("chat_template*", "adapter_config.json"),
)


def checkpoint_files(folder: Path) -> list[str]:
    """Paths of the files needed to load the model, relative to the checkpoint's folder."""
    found = {path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}
    if (folder / "config.json").is_file():
        settings = read_settings(folder)
        own = [ADAPTER_FOLDER] if settings["model_type"] == SENEditingConfig.model_type else []
        for name in [*own, *_folders_beside(settings)]:
            found |= {path for path in (folder / name).rglob("*") if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def copy_checkpoint(folder: Path, target: Path) -> None:
    """Copies the files of `checkpoint_files`."""
    for name in checkpoint_files(folder):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copyfile(folder / name, target / name)


def read_settings(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json.

    Raises:
        ValueError: the file is damaged or has no model type.
    """
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
        settings["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected the settings of a model ({error!r})") from error
    return settings


def saved_config(folder: Path) -> SENConfig:
    """The configuration of the SEN in a saved checkpoint's config.json."""
    settings = read_settings(folder)
    return SENConfig.from_dict(settings.get("sen_config", settings))


def saved_language_model(folder: Path) -> dict[str, Any] | None:
    """Location of a saved checkpoint's language model, as config.json has it; `None` if it has no language model."""
    return read_settings(folder).get("language_model")


def check_loads_elsewhere(folder: Path, with_code: bool = False) -> None:
    """Checks that the models which a checkpoint names can be loaded on other machines.

    Args:
        folder: of a saved checkpoint.
        with_code: whether it must also load without the package.

    Raises:
        ValueError: a tower, a language model or the base model of video editing is a local folder; or, if `with_code`, a
            tower is part of the package or the model edits videos, which needs the package.
    """
    settings = read_settings(folder)
    if with_code and settings["model_type"] == SENEditingConfig.model_type:
        raise ValueError(
            "with_code: found a model of video editing, which needs the package modeling-sen in any case; push it without "
            "with_code (sen push without --with-code)"
        )
    config = saved_config(folder)
    for spec in [*config.neuron_specs, *([config.text_tower_spec] if config.text_tower_spec else [])]:
        if Path(spec.hub_id).is_dir() and not spec.is_relative:
            raise ValueError(
                f"neuron {spec.name!r}: its tower is the folder {spec.hub_id} of this machine, which others do not have; "
                "upload it too, by include_neurons (sen push --include-neurons)"
            )
        if with_code and spec.is_builtin:
            raise ValueError(
                f"neuron {spec.name!r}: its tower is part of the package, which code in the repository is to do without; "
                "upload it too, by include_neurons (sen push --include-neurons)"
            )
    hub_id = (saved_language_model(folder) or {}).get("hub_id", "./")
    if Path(hub_id).is_dir() and not hub_id.startswith("./"):
        raise ValueError(
            f"language model: it is the folder {hub_id} of this machine, which others do not have; upload it too, by "
            "include_neurons (sen push --include-neurons)"
        )
    base = settings.get("base_model_id")
    if base is not None and not base.startswith("./") and Path(base).is_dir():
        raise ValueError(
            f"base_model_id: the base model is the folder {base} of this machine, which others do not have; expected the "
            "hub id of a repository, or './base' for a copy in the checkpoint's folder `base`"
        )


def add_code(model: Any, folder: Path) -> None:
    """Copies the code of model, configuration and processor to a saved checkpoint, and sets `auto_map` there.

    Transformers does the same for registered classes, but for all checkpoints of the class.

    Raises:
        ValueError: a class is not defined in a file, or its code imports a file that does not exist.
    """
    classes: dict[str, dict[str, type]] = {"config.json": {"AutoConfig": type(model.config), "AutoModel": type(model)}}
    if (folder / "processor_config.json").is_file():
        is_chat = model.config.model_type == SENChatConfig.model_type
        classes["processor_config.json"] = {"AutoProcessor": SENChatProcessor if is_chat else SENProcessor}
    for file, named in classes.items():
        settings = json.loads((folder / file).read_text())
        settings["auto_map"] = {
            auto_class: f"{kind.__module__.split('.')[-1]}.{kind.__name__}" for auto_class, kind in named.items()
        }
        (folder / file).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        for kind in named.values():
            for path in _code_of(kind):
                copyfile(path, folder / path.name)


def _code_of(kind: type) -> list[Path]:
    source = getattr(sys.modules[kind.__module__], "__file__", None)
    if source is None:
        raise ValueError(f"{kind.__name__}: no file defines it, so its code cannot be uploaded")
    try:
        return [Path(source), *map(Path, get_relative_import_files(source))]
    except FileNotFoundError as error:
        raise ValueError(f"{kind.__name__}: its code needs {error.filename}, which is not there") from error


def _folders_beside(settings: Any) -> Iterator[str]:
    """All folders that a configuration refers to as `./NAME`."""
    if isinstance(settings, str) and settings.startswith("./") and ".." not in settings.split("/"):
        yield settings.removeprefix("./")
    elif isinstance(settings, dict | list):
        for part in settings.values() if isinstance(settings, dict) else settings:
            yield from _folders_beside(part)


__all__ = [
    "add_code",
    "check_loads_elsewhere",
    "checkpoint_files",
    "copy_checkpoint",
    "read_settings",
    "saved_config",
    "saved_language_model",
]
