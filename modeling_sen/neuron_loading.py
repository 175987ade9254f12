# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Load neurons by hub id with stock Transformers classes, and save them beside a SEN."""

import importlib.util
import inspect
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import transformers
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import cached_file, logging
from transformers.utils.hub import resolve_revision

from .configuration_sen import NeuronSpec
from .neuron import Neuron, is_dispatched
from .neuron_registry import NEURON_ADAPTERS

logger = logging.get_logger(__name__)

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


def hub_kwargs_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments for a neuron those that also say where its configuration is found."""
    # Said in any case: left open, Transformers would ask on the terminal whether to run a neuron's code.
    return {"trust_remote_code": False, **{key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}}


def cached_file_kwargs(hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of these what `cached_file` takes."""
    return {key: value for key, value in hub_kwargs.items() if key not in ("trust_remote_code", "force_download")}


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
    """The state dict, offloaded weights included."""
    if not is_dispatched(module):
        return module.state_dict()
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    weights = get_state_dict_offloaded_model(nn.ModuleDict({"all": module}))  # which leaves out the root's own
    return {name.removeprefix("all."): weight for name, weight in weights.items()}


def _class_name(tower: nn.Module) -> str:
    kind = type(tower)
    if hasattr(transformers, kind.__name__) or not kind.__module__.startswith("transformers."):
        return kind.__name__
    return f"{kind.__module__}.{kind.__name__}".removeprefix("transformers.")


__all__ = [
    "TOWER_SOURCE",
    "cached_file_kwargs",
    "config_for",
    "hub_kwargs_of",
    "is_same_tower",
    "load_neuron",
    "naming_errors",
    "quiet_transformers",
    "readable_weights",
    "save_neuron",
    "tower_class_of",
    "tower_location",
]
