# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From a hub id to a full specification: what the id leaves open is read from the checkpoint, as is its similarity scale."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.utils import cached_file

from .configuration_sen import NeuronSpec
from .neuron_loading import (
    cached_file_kwargs,
    config_for,
    hub_kwargs_of,
    naming_errors,
    readable_weights,
    tower_class_of,
    tower_location,
)
from .neuron_registry import CHECKPOINT_SPECS, NEURON_ADAPTERS, adapter_for


def resolve_spec(
    neuron: str | Mapping[str, Any] | NeuronSpec, role: str = "tower", taken: tuple[str, ...] = (), **kwargs: Any
) -> NeuronSpec:
    """A full specification from a hub id or a partial dict, read from the checkpoint's config.json.

    Args:
        neuron: hub id, folder, or a dict with at least `hub_id`.
        role: `"tower"` or `"text_tower"`.
        taken: names already in use.
        kwargs: as for [`load_neuron`].

    Raises:
        OSError: no such checkpoint.
        ValueError: a checkpoint type that needs `class_name`.
    """
    if isinstance(neuron, NeuronSpec):
        return neuron
    given = {"hub_id": neuron} if isinstance(neuron, str) else dict(neuron)
    if "hub_id" not in given:
        raise ValueError(f"neuron {given!r}: expected a hub id or a dict with 'hub_id'")
    probe = NeuronSpec.from_dict({"name": "unnamed", "modality": "image", "hidden_size": 1, "class_name": "", **given})
    hub_kwargs = hub_kwargs_of(kwargs)
    location, where = tower_location(probe, None, None)
    at_revision = f", revision {probe.revision!r}" if probe.revision else ""
    named = (
        f"neuron {given['name']!r} ({given['hub_id']}{at_revision})"
        if "name" in given
        else given["hub_id"] + at_revision
    )
    with naming_errors(named):
        try:
            config = AutoConfig.from_pretrained(location, **where, **hub_kwargs)
        except (OSError, ValueError):
            _refuse_adapter(location, {**where, **cached_file_kwargs(hub_kwargs)})
            raise
    known = CHECKPOINT_SPECS.get((config.model_type, role), {})
    if given.get("class_name", known.get("class_name")) != known.get("class_name"):
        known = {}  # how another class is cut out of the checkpoint
    if "class_name" not in {**known, **given} and (config.model_type, "tower") in CHECKPOINT_SPECS:
        raise ValueError(
            f"{given['hub_id']}: no text tower of model type {config.model_type!r} is known; give class_name"
        )
    if "class_name" not in known and "class_name" not in given:
        mapping: Any = AutoModel._model_mapping
        if type(config) not in mapping:
            raise ValueError(f"{given['hub_id']}: model type {config.model_type!r} has no base class; give class_name")
        known = {"class_name": mapping[type(config)].__name__}
    merged = {**known, **given}
    tower_class = tower_class_of(NeuronSpec.from_dict({**probe.to_dict(), **merged}), hub_kwargs["trust_remote_code"])
    tower_config = config_for(tower_class, config)
    adapter = NEURON_ADAPTERS.get(tower_config.model_type)
    if adapter is None:
        with torch.device("meta"):  # structure only: no weights are made
            tower: Any = tower_class(tower_config)
        tower = tower.get_submodule(merged["submodule"]) if merged.get("submodule") else tower
        adapter = adapter_for(tower)
        tower_config = tower.config
    merged.setdefault("modality", "text" if role == "text_tower" else adapter.modality)
    merged.setdefault("hidden_size", _width(tower_config, given["hub_id"]))
    if merged["modality"] == "video":
        merged.setdefault("num_frames", getattr(tower_config, "num_frames", None))
    if merged["modality"] == "image":
        merged.setdefault("num_frames", 8)
    if not adapter.takes_prompts:
        merged.setdefault("prompt_side", "after")
    merged.setdefault("name", "class_text" if role == "text_tower" else _free_name(merged["modality"], taken))
    return NeuronSpec.from_dict(merged)


def _refuse_adapter(location: str, where: Mapping[str, Any]) -> None:
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo", "connection_errors")}
    path = cached_file(location, "adapter_config.json", **where, **quiet)
    if path is not None:
        base = json.loads(Path(path).read_text()).get("base_model_name_or_path")
        raise ValueError(
            f"found an adapter of {base} (adapter_config.json, no config.json), expected a whole model; peft's "
            "merge_and_unload() makes one"
        )


def _width(config: PreTrainedConfig, hub_id: str) -> int:
    width = getattr(config, "hidden_size", None)
    if width is None:
        width = (getattr(config, "hidden_sizes", None) or [None])[-1]  # convolutional towers: of the last stage
    if width is None:
        raise ValueError(
            f"{hub_id}: model type {config.model_type!r} does not say the width of its tokens; give hidden_size"
        )
    return width


def _free_name(modality: str, taken: tuple[str, ...]) -> str:
    # A number without an underscore: "image_2" would begin with the inputs' prefix of "image".
    base = "words" if modality == "text" else modality  # "text" is the class texts'
    names = [base, *(f"{base}{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


DEFAULT_LOGIT_SCALE = math.log(1 / 0.07)  # the initial scale of CLIP, for text towers that bring none
_LOGIT_SCALES = ("logit_scale", "logit_scale_a")  # the latter: of sounds to texts, in CLAP


def read_logit_scale(spec: NeuronSpec, base: str | None, base_revision: str | None, **kwargs: Any) -> float | None:
    """The log similarity scale of a dual encoder's checkpoint.

    Returns:
        The scale, or `None` where the checkpoint has none.
    """
    location, where = tower_location(spec, base, base_revision)
    where |= {**cached_file_kwargs(hub_kwargs_of(kwargs)), "_raise_exceptions_for_missing_entries": False}
    # A tower cut out and saved alone keeps its scale in a file of its own.
    names = ["logit_scale.safetensors", "model.safetensors"]
    if (index := cached_file(location, "model.safetensors.index.json", **where)) is not None:
        files = json.loads(Path(index).read_text())["weight_map"]
        names += [files[key] for key in _LOGIT_SCALES if key in files]
    for name in names:
        if (path := cached_file(location, name, **where)) is None:
            continue
        with readable_weights(path), safe_open(path, framework="pt") as file:
            for key in _LOGIT_SCALES:
                if key in file.keys():  # noqa: SIM118 (not a dict)
                    return float(file.get_tensor(key))
    if (path := cached_file(location, "pytorch_model.bin", **where)) is not None:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return next((float(weights[key]) for key in _LOGIT_SCALES if key in weights), None)
    return None


__all__ = ["DEFAULT_LOGIT_SCALE", "read_logit_scale", "resolve_spec"]
