# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Loads a tower with stock Transformers classes, and completes a specification from a checkpoint's files."""

import inspect
import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import cached_file, logging

from .configuration_sen import NeuronSpec
from .hub_files import (
    CheckpointError,
    HubSource,
    check_shapes,
    family_classes,
    naming_errors,
    quiet_transformers,
    readable_weights,
)
from .neuron import Neuron, is_dispatched
from .neuron_by_rule import adapter_for
from .neuron_registry import CHECKPOINT_SPECS, NEURON_ADAPTERS, checkpoint_spec
from .sentence_layout import SentenceHead, read_layout, tower_source
from .text_reader import TextReader

logger = logging.get_logger(__name__)

DEFAULT_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP's initial scale, for text towers without one
# Names of the scale in most dual encoders, in CLAP (sound to text) and in ImageBind.
_LOGIT_SCALES = ("logit_scale", "logit_scale_a", "text_logit_scale")


def load_neuron(
    spec: NeuronSpec, prompt_depth: int | str | None = None, base: HubSource | None = None, **kwargs: Any
) -> Neuron:
    """Loads a neuron's tower with stock Transformers classes.

    Args:
        spec: the specification.
        prompt_depth: see [`SENConfig`].
        base: the SEN checkpoint that relative hub ids refer to.
        kwargs: for `from_pretrained`: `dtype`, `attn_implementation`, `device_map`, `quantization_config`,
            `trust_remote_code`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        OSError: the checkpoint cannot be found or read.
        ImportError: it is quantised by a library that is not installed.
        RuntimeError: the checkpoint lacks weights of the tower (Transformers would leave them random), or has them in
            another shape.
        ValueError: the class, the submodule, the width or the modality does not fit the checkpoint; its sentence-transformers
            layout is not supported.
    """
    source = HubSource.of_neuron(spec, base, kwargs)
    tower_class = tower_class_of(spec, source.trust_remote_code)
    at_revision = f", revision {spec.revision!r}" if spec.revision else ""
    with naming_errors(f"neuron {spec.name!r} ({spec.hub_id}{at_revision})"):
        root = source.at_commit()
        source, sentence = tower_source(root), _load_sentence_head(spec, root)
        source.prefetch_model(kwargs)
        config = AutoConfig.from_pretrained(source.location, **source.arguments)
        settings = {"dtype": spec.dtype or "auto", **kwargs, **source.files}
        if spec.key_mapping:
            settings["key_mapping"] = spec.key_mapping
        settings |= {"config": config_for(tower_class, config), "ignore_mismatched_sizes": True}
        with quiet_transformers(), readable_weights(source.location):
            model, loading = tower_class.from_pretrained(source.location, output_loading_info=True, **settings)
    missing = _missing_keys(spec, model, loading["missing_keys"])
    if missing:
        raise CheckpointError(
            f"neuron {spec.name!r}: {spec.hub_id} has no weights for {len(missing)} parameters of {spec.class_name} (e.g. "
            f"{missing[0]}), which would stay random; expected a checkpoint of that class, or key_mapping / submodule to cut "
            "it out"
        )
    check_shapes(f"neuron {spec.name!r} ({spec.hub_id})", loading.get("mismatched_keys", ()))
    tower = _part(spec, model, spec.submodule or "")
    width = adapter_for(tower).width
    if width is None and tower.config.model_type in NEURON_ADAPTERS:  # else a guess, which the first pass checks
        width = getattr(tower.config, "hidden_size", None)
    if width is not None and width != spec.hidden_size:
        raise ValueError(f"neuron {spec.name!r}: hidden_size is {spec.hidden_size}, but {spec.hub_id} has {width}")
    projection = _load_projection(spec, model, source)
    neuron = Neuron(spec, tower, projection, prompt_depth, source, sentence)
    for part in (projection, sentence):
        if part is not None and not is_dispatched(part):
            part.to(neuron.device, neuron.dtype)
    return neuron


def _load_sentence_head(spec: NeuronSpec, root: HubSource) -> SentenceHead | None:
    layout = read_layout(root) if spec.modality == "text" else None
    if layout is None:
        return None
    return SentenceHead(layout, 0 if layout.pools_prompt else TextReader(spec, root).prompt_tokens)


def _missing_keys(spec: NeuronSpec, model: Any, keys: Iterable[str]) -> list[str]:
    """Missing parameters that the tower or its projection uses, sorted."""
    adapter = NEURON_ADAPTERS.get(_part(spec, model, spec.submodule or "").config.model_type)
    training_only = () if adapter is None else adapter.training_only
    missing = sorted(key for key in keys if key not in training_only)
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


def _load_projection(spec: NeuronSpec, model: nn.Module, source: HubSource) -> nn.Module | None:
    if spec.projection is None:
        return None
    if not spec.projection.endswith(".safetensors"):
        return _part(spec, model, spec.projection)
    try:
        with readable_weights(f"{source.location}/{spec.projection}"):
            weights = load_file(str(source.file(spec.projection)))
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
    else:  # CLAP's projection has two layers
        activation = ACT2FN[_part(spec, model, spec.submodule or "").config.projection_hidden_act]
        projection = nn.Sequential(
            OrderedDict(linear1=layers["linear1"], activation=activation, linear2=layers["linear2"])
        )
    projection.load_state_dict(weights)
    return projection


def tower_class_of(spec: NeuronSpec, trust_remote_code: bool) -> Any:
    """The class that loads a neuron's tower.

    Raises:
        ValueError: no such class, or it is no model.
    """
    try:
        found = attrgetter(spec.class_name)(transformers)  # dotted for classes that Transformers does not export
    except (AttributeError, ImportError):
        found = None
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    if (of_family := family_classes().get(spec.class_name)) is not None:
        return of_family
    registered = getattr(AutoModel._model_mapping, "_extra_content", {})
    for candidate in registered.values():
        if candidate.__name__ == spec.class_name:
            return candidate
    if trust_remote_code:
        return AutoModel
    raise ValueError(
        f"neuron {spec.name!r}: {spec.class_name!r} is neither a model of transformers {transformers.__version__} nor "
        "registered with AutoModel.register (`sen --import FILE` runs a file that registers it); remote code needs "
        "neuron_kwargs={...: {'trust_remote_code': True}}"
    )


def config_for(tower_class: Any, config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a checkpoint's configuration that the tower's class takes (CLIP: vision_config).

    Raises:
        ValueError: there is none, or more than one.
    """
    config_class = getattr(tower_class, "config_class", None)
    if config_class is None or isinstance(config, config_class):
        return _with_timm_classes(config)
    parts = _parts(config, config_class)
    if len(parts) != 1:
        found = f"{len(parts)} of them" if parts else f"a {type(config).__name__}"
        raise ValueError(f"{tower_class.__name__} needs a {config_class.__name__}, but config.json has {found}")
    if hasattr(config, "quantization_config"):
        parts[0].quantization_config = config.quantization_config  # needed to read the weights
    if hasattr(parts[0], "projection_dim") and hasattr(config, "projection_dim"):
        parts[0].projection_dim = config.projection_dim  # in older checkpoints the part has only the default
    return _with_timm_classes(parts[0])


def _with_timm_classes(config: Any) -> Any:
    """Sets the number of classes of an inner timm wrapper (PE's video tower), which Transformers 5.23 ignores."""
    vision: Any = getattr(config, "vision_config", None)
    if getattr(vision, "model_type", None) == "timm_wrapper" and hasattr(vision, "num_classes"):
        vision.num_labels = vision.num_classes
    return config


def _parts(config: PreTrainedConfig, config_class: type) -> list[PreTrainedConfig]:
    """A configuration's parts of one class, or if it has none, those of its parts (PE audio-video)."""
    inner = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    found = [part for part in inner if isinstance(part, config_class)]
    return found or [part for outer in inner for part in _parts(outer, config_class)]


def resolve_spec(
    neuron: str | Mapping[str, Any] | NeuronSpec,
    role: str = "tower",
    taken: tuple[str, ...] = (),
    prompt: str | None = None,
    **kwargs: Any,
) -> NeuronSpec:
    """A full specification from a hub id or a partial dict, read from the checkpoint's config.json.

    Args:
        neuron: hub id, folder, or a dict with at least `hub_id`.
        role: `"tower"` or `"text_tower"`.
        taken: names already in use.
        prompt: the SEN's prompt variant; with `queries`, a tower that does not support it gets `tokens`.
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
    source = HubSource.of_neuron(probe, None, kwargs)
    config = _read_config(given, probe, source)
    registered = checkpoint_spec(config.model_type, role, given)
    if "class_name" not in {**registered, **given} and (config.model_type, "tower") in CHECKPOINT_SPECS:
        raise ValueError(
            f"{given['hub_id']}: no text tower of model type {config.model_type!r} is known; give class_name"
        )
    if "class_name" not in registered and "class_name" not in given:
        mapping: Any = AutoModel._model_mapping
        if type(config) not in mapping:
            raise ValueError(f"{given['hub_id']}: model type {config.model_type!r} has no base class; give class_name")
        registered = {"class_name": mapping[type(config)].__name__}
    merged = {**registered, **given}
    tower_class = tower_class_of(NeuronSpec.from_dict({**probe.to_dict(), **merged}), source.trust_remote_code)
    tower_config = config_for(tower_class, config)
    adapter = NEURON_ADAPTERS.get(tower_config.model_type)
    if adapter is None:
        with torch.device("meta"):  # structure only, without weights
            tower: Any = tower_class(tower_config)
        tower = tower.get_submodule(merged["submodule"]) if merged.get("submodule") else tower
        adapter = adapter_for(tower)
        tower_config = tower.config
    merged.setdefault("modality", "text" if role == "text_tower" else adapter.modality)
    if "hidden_size" not in merged:
        merged["hidden_size"] = adapter.width or _width(tower_config, given["hub_id"])
    if merged["modality"] == "video":
        merged.setdefault("num_frames", getattr(tower_config, "num_frames", None))
    if merged["modality"] == "image":
        merged.setdefault("num_frames", 8)
    if not adapter.takes_prompts:
        merged.setdefault("prompt_side", "after")
    elif prompt == "queries" and not adapter.takes_queries:
        merged.setdefault("prompt", "tokens")
    merged.setdefault("name", "class_text" if role == "text_tower" else _free_name(merged["modality"], taken))
    return NeuronSpec.from_dict(merged)


def _read_config(given: Mapping[str, Any], spec: NeuronSpec, source: HubSource) -> PreTrainedConfig:
    at_revision = f"{given['hub_id']}, revision {spec.revision!r}" if spec.revision else given["hub_id"]
    with naming_errors(f"neuron {given['name']!r} ({at_revision})" if "name" in given else at_revision):
        try:
            tower = tower_source(source)
            tower.prefetch("config.json")
            return AutoConfig.from_pretrained(tower.location, **tower.arguments)
        except (OSError, ValueError):
            _refuse_adapter(source)
            read_layout(source)  # raises if modules.json has no Transformers module
            raise


def _refuse_adapter(source: HubSource) -> None:
    quiet = {f"_raise_exceptions_for_{kind}": False for kind in ("missing_entries", "gated_repo", "connection_errors")}
    path = cached_file(source.location, "adapter_config.json", **source.files, **quiet)
    if path is not None:
        with open(path) as file:
            base = json.load(file).get("base_model_name_or_path")
        raise ValueError(
            f"found an adapter of {base} (adapter_config.json, no config.json), expected a whole model; peft's "
            "merge_and_unload() makes one"
        )


def _width(config: PreTrainedConfig, hub_id: str) -> int:
    width = getattr(config, "hidden_size", None)
    if width is None:
        width = (getattr(config, "hidden_sizes", None) or [None])[-1]  # the last stage's, in staged towers
    if width is None:
        raise ValueError(
            f"{hub_id}: model type {config.model_type!r} has no width of tokens in its configuration; give hidden_size"
        )
    return width


def _free_name(modality: str, taken: tuple[str, ...]) -> str:
    base = "words" if modality == "text" else modality  # `text_input_ids` are the class texts
    names = [base, *(f"{base}{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def read_logit_scale(source: HubSource) -> float | None:
    """The log similarity scale of a dual encoder's checkpoint; `None` if the checkpoint has none."""
    # A tower that was cut out and saved has its scale in a separate file.
    names = ["logit_scale.safetensors", "model.safetensors"]
    if (index := source.file("model.safetensors.index.json", optional=True)) is not None:
        files = json.loads(index.read_text())["weight_map"]
        names += [files[key] for key in _LOGIT_SCALES if key in files]
    for name in names:
        if (path := source.file(name, optional=True)) is None:
            continue
        with readable_weights(str(path)), safe_open(path, framework="pt") as file:
            for key in _LOGIT_SCALES:
                if key in file.keys():  # noqa: SIM118 (not a dict)
                    return float(file.get_tensor(key))
    if (path := source.file("pytorch_model.bin", optional=True)) is not None:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return next((float(weights[key]) for key in _LOGIT_SCALES if key in weights), None)
    return None


__all__ = [
    "DEFAULT_LOGIT_SCALE",
    "config_for",
    "load_neuron",
    "read_logit_scale",
    "resolve_spec",
    "tower_class_of",
]
