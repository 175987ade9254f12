# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Load neurons by hub id with stock Transformers classes, and save them beside a SEN."""

import inspect
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.utils import cached_file, logging
from transformers.utils.hub import resolve_revision

from .configuration_sen import NeuronSpec
from .hub_files import (
    cached_file_kwargs,
    config_for,
    hub_kwargs_of,
    naming_errors,
    quiet_transformers,
    readable_weights,
    tower_class_of,
    tower_location,
)
from .neuron import Neuron, is_dispatched
from .neuron_registry import NEURON_ADAPTERS

logger = logging.get_logger(__name__)


def load_neuron(
    spec: NeuronSpec,
    prompt_depth: int | str | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    **kwargs: Any,
) -> Neuron:
    """Loads a neuron's tower with stock Transformers classes.

    Args:
        spec: what to load.
        prompt_depth: see [`SENConfig`].
        base, base_revision: the SEN checkpoint that relative hub ids refer to.
        kwargs: for `from_pretrained`: `dtype`, `attn_implementation`, `device_map`, `quantization_config`,
            `trust_remote_code`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        OSError: the checkpoint cannot be found or read.
        ImportError: it is quantised by a library that is not installed.
        RuntimeError: the checkpoint lacks weights of the tower (Transformers would leave them random).
        ValueError: the class, the submodule, the width or the modality does not fit the checkpoint.
    """
    location, where = tower_location(spec, base, base_revision)
    hub_kwargs = hub_kwargs_of(kwargs)
    tower_class = tower_class_of(spec, hub_kwargs["trust_remote_code"])
    at_revision = f", revision {spec.revision!r}" if spec.revision else ""
    with naming_errors(f"neuron {spec.name!r} ({spec.hub_id}{at_revision})"):
        commit = resolve_revision(location, where.get("revision"), **cached_file_kwargs(hub_kwargs))
        if commit is not None:
            where["revision"] = commit
        config = AutoConfig.from_pretrained(location, **where, **hub_kwargs)
        settings = {"dtype": spec.dtype or "auto", **kwargs}
        if spec.key_mapping:
            settings["key_mapping"] = spec.key_mapping
        settings |= {"config": config_for(tower_class, config), "ignore_mismatched_sizes": True}
        with quiet_transformers(), readable_weights(location):
            model, loading = tower_class.from_pretrained(location, output_loading_info=True, **where, **settings)
    missing = _missing_keys(spec, model, loading["missing_keys"])
    mismatched = sorted(key for key, *_ in loading.get("mismatched_keys", ()))
    if missing or mismatched:
        raise RuntimeError(
            f"neuron {spec.name!r}: {spec.hub_id} has no weights for {len(missing + mismatched)} parameters of "
            f"{spec.class_name} (e.g. {(missing + mismatched)[0]}), which would stay random; expected a checkpoint of that "
            "class, or key_mapping / submodule to cut it out"
        )
    tower = _part(spec, model, spec.submodule or "")
    width = getattr(tower.config, "hidden_size", None)
    if width is not None and width != spec.hidden_size:
        raise ValueError(f"neuron {spec.name!r}: hidden_size is {spec.hidden_size}, but {spec.hub_id} has {width}")
    projection = _load_projection(spec, model, location, {**where, **cached_file_kwargs(hub_kwargs)})
    neuron = Neuron(spec, tower, projection, prompt_depth, getattr(commit, "resolved", commit))
    if projection is not None and not is_dispatched(projection):
        projection.to(neuron.device, neuron.dtype)
    return neuron


def _missing_keys(spec: NeuronSpec, model: Any, keys: Iterable[str]) -> list[str]:
    """Missing parameters that the tower or its projection reads, sorted."""
    adapter = NEURON_ADAPTERS.get(_part(spec, model, spec.submodule or "").config.model_type)
    unread = () if adapter is None else adapter.training_only
    missing = sorted(key for key in keys if key not in unread)
    if spec.submodule is not None:
        prefixes = [f"{path}." for path in (spec.submodule, spec.projection) if path]
        return [key for key in missing if key.startswith(tuple(prefixes))]
    optional = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    if missing and optional and all(key.startswith("pooler.") for key in missing):
        logger.warning_once(
            f"{spec.hub_id} was trained without a pooler: neuron {spec.name!r} pools by the mean of tokens"
        )
        model.pooler = None
        return []
    return missing


def _part(spec: NeuronSpec, model: nn.Module, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"neuron {spec.name!r}: {path!r} is no module of {type(model).__name__} ({error})") from error


def _load_projection(spec: NeuronSpec, model: nn.Module, location: str, where: dict[str, Any]) -> nn.Module | None:
    if spec.projection is None:
        return None
    if not spec.projection.endswith(".safetensors"):
        return _part(spec, model, spec.projection)
    try:
        with readable_weights(f"{location}/{spec.projection}"):
            weights = load_file(str(cached_file(location, spec.projection, **where)))
    except OSError as error:
        raise OSError(f"neuron {spec.name!r}: {error}") from error
    layers = {
        name.removesuffix(".weight"): nn.Linear(weight.shape[1], weight.shape[0], f"{name[:-6]}bias" in weights)
        for name, weight in weights.items()
        if weight.ndim == 2
    }
    projection: nn.Module
    if set(weights) == {"weight"}:
        projection = layers["weight"]
    else:  # of two layers, in CLAP
        activation = ACT2FN[_part(spec, model, spec.submodule or "").config.projection_hidden_act]
        projection = nn.Sequential(
            OrderedDict(linear1=layers["linear1"], activation=activation, linear2=layers["linear2"])
        )
    projection.load_state_dict(weights)
    return projection


# Of a specification, what its weights are and how they are read.
TOWER_SOURCE = ("hub_id", "revision", "class_name", "submodule", "key_mapping", "dtype", "projection")


def is_same_tower(first: NeuronSpec, second: NeuronSpec) -> bool:
    """Whether two neurons are loaded from the same weights in the same way, so that one tower serves both."""
    return all(getattr(first, field) == getattr(second, field) for field in TOWER_SOURCE)


# What else a tower needs to be fed, and comes along when it is saved beside a SEN.
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def save_neuron(
    spec: NeuronSpec,
    neuron: Neuron,
    folder: str | os.PathLike,
    base: str | None,
    base_revision: str | None,
    **kwargs: Any,
) -> NeuronSpec:
    """Writes a tower, its projection and its processor's files to `folder/neuron_NAME`.

    Args:
        kwargs: what the neuron was loaded with, see [`load_neuron`].

    Returns:
        The specification that finds it there.
    """
    target = Path(folder) / f"neuron_{spec.name}"
    with quiet_transformers():
        # As the tower names its weights: not as the checkpoint did, before a key mapping cut the tower out of it.
        neuron.tower.save_pretrained(target, state_dict=_weights(neuron.tower), save_original_format=False)
    if neuron.projection is not None:
        weights = {name: weight.to("cpu").contiguous() for name, weight in _weights(neuron.projection).items()}
        save_file(weights, target / "projection.safetensors", metadata={"format": "pt"})
    location, where = tower_location(spec, base, base_revision)
    where |= cached_file_kwargs(hub_kwargs_of(kwargs))
    for name in _PROCESSOR_FILES:
        found = cached_file(location, name, _raise_exceptions_for_missing_entries=False, **where)
        if found is not None:
            shutil.copyfile(found, target / name)
    return replace(
        spec,
        hub_id=f"./{target.name}",
        revision=None,
        class_name=_class_name(neuron.tower),
        submodule=None,
        key_mapping=None,
        projection=None if neuron.projection is None else "projection.safetensors",
        dtype=str(neuron.dtype).removeprefix("torch."),
    )


def _weights(module: nn.Module) -> dict[str, Any]:
    """The state dict, with weights that hooks of accelerate bring one module at a time."""
    weights: dict[str, Any] = {}
    for path, part in module.named_modules():
        hook: Any = getattr(part, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(part)
        here = {f"{path}.{name}" if path else name: weight for name, weight in part.state_dict().items()}
        weights |= {name: weight for name, weight in here.items() if not weight.is_meta}
        if hook is not None:
            hook.post_forward(part, None)
    return weights


def _class_name(tower: nn.Module) -> str:
    kind = type(tower)
    if hasattr(transformers, kind.__name__) or not kind.__module__.startswith("transformers."):
        return kind.__name__
    return f"{kind.__module__}.{kind.__name__}".removeprefix("transformers.")


__all__ = [
    "TOWER_SOURCE",
    "is_same_tower",
    "load_neuron",
    "save_neuron",
]
