# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The model card of an adapter saved by peft, which names the SEN or head that the adapter was trained on."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from modeling_sen.base_models import OWN_LICENCE, BaseModel, licence_of_repository
from modeling_sen.card_example import adapter_example
from modeling_sen.hub_files import HubSource
from modeling_sen.model_card import (
    NO_LIMITS,
    NO_MEASURES,
    NO_TRAINING,
    PAPER,
    filled,
    joined,
    licence_metadata,
    restriction,
    training_text,
    words_beside,
)


def read_adapter(folder: Path, model_class: type | None = None) -> dict[str, Any]:
    """The settings of a saved adapter.

    Args:
        folder: folder of the adapter.
        model_class: class of the base model, if the settings do not name it.

    Raises:
        ValueError: the base model is a local folder, or its class is unknown.
    """
    settings = json.loads((folder / "adapter_config.json").read_text())
    base = settings.get("base_model_name_or_path") or ""
    if Path(base).is_dir() or base.count("/") != 1:
        raise ValueError(
            f"{folder}: the adapter's model is {base!r}, expected a repository of the Hub; push that model first, and name "
            "its repository as base_model_name_or_path in adapter_config.json"
        )
    if model_class is not None:
        settings["auto_mapping"] = {
            "parent_library": model_class.__module__,
            "base_model_class": model_class.__name__,
        }
    if not settings.get("auto_mapping"):
        raise ValueError(f"{folder}: found no auto_mapping in adapter_config.json, expected the class of the model")
    return settings


def example_of(settings: Mapping[str, Any], location: str) -> str:
    """Python code that loads the adapter and its base model; `location` is a Python expression."""
    mapping, base = settings["auto_mapping"], json.dumps(settings["base_model_name_or_path"])
    return adapter_example(mapping["parent_library"], mapping["base_model_class"], base, location)


def adapter_card(
    settings: Mapping[str, Any],
    weights: Path,
    repo_id: str,
    about: Path,
    licence: str = OWN_LICENCE,
    fetch: Mapping[str, Any] | None = None,
    ran: str = "",
) -> ModelCard:
    """The card of an adapter.

    Args:
        settings: as returned by [`read_adapter`].
        weights: folder of the adapter's weights.
        repo_id: id of the repository.
        about: folder with further files for the card, see `model_card`.
        licence: licence of the adapter.
        fetch: arguments to fetch the base model's card.
        ran: a sentence about the versions with which the example was run.
    """
    base, revision = settings["base_model_name_or_path"], settings.get("revision")
    base_licence = licence_of_repository(HubSource(base, revision, fetch=fetch or {}))
    model = BaseModel("model", "", base, revision, False, False, base_licence, None)
    restricted = [model] if model.is_non_commercial else []
    words, link = words_beside(about), f"[{base}](https://huggingface.co/{base})"
    data = ModelCardData(
        library_name="peft",
        tags=["sen", settings["peft_type"].lower()],
        base_model=base,
        base_model_relation="adapter",
        **licence_metadata(licence, restricted),
    )
    return filled(
        data,
        title=repo_id.split("/")[-1],
        introduction=joined(f"An adapter of {link}, a Super Encoding Network after {PAPER}.", words["introduction"]),
        restricted=restriction(restricted, licence),
        install="pip install modeling-sen peft",
        snippet=example_of(settings, json.dumps(repo_id)),
        ran=ran,
        base_models=joined(
            f"{link}, licence {base_licence or 'unknown'}. Its card names the encoders.", words["base_models"]
        ),
        trained=_trained(settings, weights),
        training_data=joined(training_text(about), words["training_data"]) or NO_TRAINING,
        measured=words["measured"] or NO_MEASURES,
        limits=words["limits"] or NO_LIMITS,
    )


def _trained(settings: Mapping[str, Any], weights: Path) -> str:
    parameters = 0
    for file in weights.glob("adapter_model*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    rank = f" of rank {settings['r']}" if "r" in settings else ""
    text = f"{parameters:,} parameters: {settings['peft_type']}{rank}"
    for name, label in (("target_modules", "on"), ("modules_to_save", "trained whole:")):
        if isinstance(found := settings.get(name), list):
            text += f", {label} `{'`, `'.join(sorted(found))}`"
    return f"{text}."


__all__ = ["adapter_card", "example_of", "read_adapter"]
