# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From a hub id to a full specification: where its checkpoint is, which class loads it, and what its files leave to say."""

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, logging

from .configuration_sen import NeuronSpec
from .neuron_registry import CHECKPOINT_SPECS, NEURON_ADAPTERS, adapter_for

# Keyword arguments of `from_pretrained` that also say where configuration files are found.
_HUB_KWARGS = ("trust_remote_code", "token", "cache_dir", "local_files_only", "force_download")


def tower_location(spec: NeuronSpec, base: str | None, base_revision: str | None) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds a neuron: `(path or repository, {"revision":, "subfolder":})`.

    Args:
        base: folder or repository of the SEN checkpoint that names the neuron, for relative hub ids.
        base_revision: its commit.

    Raises:
        OSError: a builtin tower that is not installed; a relative hub id without a checkpoint; a folder that is not there.
    """
    if spec.is_builtin:
        folder = _sen_tiny_folder() / spec.hub_id.removeprefix("builtin:")
        if not (folder / "config.json").is_file():
            raise OSError(
                f"neuron {spec.name!r}: {spec.hub_id!r} is not among the towers shipped with the package modeling-sen "
                f"(looked in {folder}); checkpoints for use without it are saved with include_neurons=True"
            )
        return str(folder), {}
    if spec.is_relative:
        if not base:
            raise OSError(f"neuron {spec.name!r}: {spec.hub_id!r} is relative to a checkpoint, but none was loaded")
        subfolder = spec.hub_id.removeprefix("./").rstrip("/")
        if Path(base).is_dir():
            if not (Path(base) / subfolder).is_dir():
                raise FileNotFoundError(f"neuron {spec.name!r}: the checkpoint {base} has no folder {subfolder!r}")
            return str(Path(base) / subfolder), {}
        return base, {"subfolder": subfolder, "revision": base_revision}
    looks_like_a_path = spec.hub_id.startswith(("/", "~")) or spec.hub_id.count("/") > 1
    if looks_like_a_path and not Path(spec.hub_id).is_dir():
        raise FileNotFoundError(f"{spec.hub_id}: no such folder, from which neuron {spec.name!r} could be loaded")
    return spec.hub_id, {"revision": spec.revision}


def _sen_tiny_folder() -> Path:
    folder = Path(__file__).with_name("sen_tiny")
    if not folder.is_dir() and (package := importlib.util.find_spec("modeling_sen")) and package.origin:
        folder = Path(package.origin).with_name("sen_tiny")  # remote code beside an installed package
    return folder


def tower_class_of(spec: NeuronSpec, trust_remote_code: bool) -> Any:
    """The class that loads a neuron's tower.

    Raises:
        ValueError: no such class, or no model's.
    """
    try:
        found = attrgetter(spec.class_name)(transformers)  # dotted for classes that Transformers does not export
    except (AttributeError, ImportError):
        found = None
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    registered = getattr(AutoModel._model_mapping, "_extra_content", {})
    for candidate in registered.values():
        if candidate.__name__ == spec.class_name:
            return candidate
    if trust_remote_code:
        return AutoModel
    raise ValueError(
        f"neuron {spec.name!r}: {spec.class_name!r} is neither a model of transformers {transformers.__version__} nor "
        "registered with AutoModel.register (`sen --import FILE` runs what does); remote code needs "
        "neuron_kwargs={...: {'trust_remote_code': True}}"
    )


def config_for(tower_class: Any, config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a checkpoint's config that the tower's class wants (CLIP: vision_config).

    Raises:
        ValueError: there is none, or more than one.
    """
    wanted = getattr(tower_class, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return _with_timm_classes(config)
    parts = _parts(config, wanted)
    if len(parts) != 1:
        found = f"{len(parts)} of them" if parts else f"a {type(config).__name__}"
        raise ValueError(f"{tower_class.__name__} needs a {wanted.__name__}, but config.json has {found}")
    if hasattr(config, "quantization_config"):
        parts[0].quantization_config = config.quantization_config  # how the weights are to be read
    if hasattr(parts[0], "projection_dim") and hasattr(config, "projection_dim"):
        parts[0].projection_dim = config.projection_dim  # the whole model's rules; older parts carry a default
    return _with_timm_classes(parts[0])


def _with_timm_classes(config: Any) -> Any:
    """Where timm's wrapper stands inside (PE's video tower), Transformers 5.23 does not read how many classes it has."""
    vision: Any = getattr(config, "vision_config", None)
    if getattr(vision, "model_type", None) == "timm_wrapper" and hasattr(vision, "num_classes"):
        vision.num_labels = vision.num_classes
    return config


def _parts(config: PreTrainedConfig, wanted: type) -> list[PreTrainedConfig]:
    """A configuration's parts of one class; of their parts, where it has none itself (PE audio-video)."""
    inner = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    found = [part for part in inner if isinstance(part, wanted)]
    return found or [part for outer in inner for part in _parts(outer, wanted)]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without load reports and progress bars: cutting a tower out leaves the rest unused, and what is missing raises."""
    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()


@contextmanager
def readable_weights(where: str) -> Iterator[None]:
    """Turns what safetensors says of a damaged file into an OSError that names it."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{where}: damaged safetensors file ({error}); save or download it again") from error


@contextmanager
def naming_errors(what: str) -> Iterator[None]:
    """Puts what was loaded in front of what Transformers says went wrong."""
    try:
        yield
    except UnpicklingError as error:
        raise OSError(f"{what}: its weights file holds more than tensors, and is not read") from error
    except (OSError, ImportError, ValueError, RuntimeError, AssertionError) as error:  # the last: no such device
        if problem := _hub_problem(error):
            raise OSError(f"{what}: {problem}") from error
        kind = next((kind for kind in (OSError, ImportError, ValueError) if isinstance(error, kind)), RuntimeError)
        extra = " (or: pip install modeling-sen[pe])" if kind is ImportError and "timm" in str(error) else ""
        raise kind(f"{what}: {str(error).strip()}{extra}") from error


_LOGIN = "log in with `hf auth login`, or pass neuron_kwargs={NAME: {'token': ...}}"


def _hub_problem(error: BaseException | None) -> str | None:
    """What the Hub refused and what helps, where that is what went wrong."""
    while error is not None:
        if isinstance(error, GatedRepoError):  # before what it is a kind of
            return f"the repository is gated; accept its terms on its page at {constants.ENDPOINT}, and {_LOGIN}"
        if isinstance(error, RevisionNotFoundError):
            return "the repository has no such branch, tag or commit"
        if isinstance(error, RepositoryNotFoundError):
            return f"no such repository at {constants.ENDPOINT}, or a private one; for that, {_LOGIN}"
        if isinstance(error, LocalEntryNotFoundError):
            silent = f"nothing answers at {constants.ENDPOINT}"
            return f"not in the cache, and {'offline mode (HF_HUB_OFFLINE=1) is on' if is_offline_mode() else silent}"
        error = error.__cause__
    return None


def hub_kwargs_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments for a neuron those that also say where its configuration is found."""
    # Said in any case: left open, Transformers would ask on the terminal whether to run a neuron's code.
    return {"trust_remote_code": False, **{key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}}


def cached_file_kwargs(hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of these what `cached_file` takes."""
    return {key: value for key, value in hub_kwargs.items() if key not in ("trust_remote_code", "force_download")}


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


__all__ = [
    "DEFAULT_LOGIT_SCALE",
    "cached_file_kwargs",
    "config_for",
    "hub_kwargs_of",
    "naming_errors",
    "quiet_transformers",
    "read_logit_scale",
    "readable_weights",
    "resolve_spec",
    "tower_class_of",
    "tower_location",
]
