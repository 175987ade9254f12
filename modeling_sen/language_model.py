# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The language model behind visual tokens: loaded by hub id at a pinned commit, and left out of the checkpoint.

As of neurons, a checkpoint keeps the id and the commit. A language model that is trained whole stands beside the checkpoint,
in `language_model/`, and adapters of peft in `language_model_adapter/`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation import LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from .configuration_sen import NeuronSpec
from .hub_files import CheckpointError, HubSource, check_shapes, naming_errors, quiet_transformers, readable_weights
from .tower_weights import all_weights, loaded_name

logger = logging.get_logger(__name__)

NAME = "language_model"  # of the child module, and of the folder beside a checkpoint
ADAPTER = "language_model_adapter"
_PEFT_PREFIX = "base_model.model."  # of weights' names in peft's files


def load_language_model(
    settings: Mapping[str, Any], base: HubSource | None = None, **kwargs: Any
) -> tuple[PreTrainedModel, HubSource]:
    """Loads a causal language model, frozen.

    Args:
        settings: `hub_id`; `revision` and `dtype` where they are known.
        base: the checkpoint that a `hub_id` with `./` refers to.
        kwargs: of `from_pretrained`.

    Returns:
        The model, and where it came from.

    Raises:
        OSError: the checkpoint cannot be found or read.
        RuntimeError: the checkpoint lacks weights, which would stay random.
        ValueError: it is no causal language model of Transformers.
    """
    hub_id = settings["hub_id"]
    source = _source(hub_id, settings.get("revision"), base, kwargs)
    at_revision = f", revision {source.revision!r}" if source.revision else ""
    where, login = f"language model {hub_id}{at_revision}", "pass language_model_kwargs={'token': ...}"
    with naming_errors(where, login):
        source = source.at_commit()
        source.prefetch_model(kwargs)
        arguments = {"dtype": settings.get("dtype") or "auto", **kwargs, **source.arguments}
        arguments["ignore_mismatched_sizes"] = True  # checked below
        with quiet_transformers(), readable_weights(source.location):
            loaded: Any = AutoModelForCausalLM.from_pretrained(source.location, output_loading_info=True, **arguments)
    model, loading = loaded
    check_shapes(where, loading["mismatched_keys"])
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{where}: {len(missing)} weights are missing (e.g. {missing[0]}) and would stay random")
    return model.requires_grad_(False).eval(), source


def add_adapter(model: PreTrainedModel, adapter_config: Any) -> None:
    """Puts trainable adapters of peft on a language model and freezes the rest; adapters of half precision become float32.

    Raises:
        ImportError: peft is not installed.
        ValueError: there are adapters already.
    """
    # By peft itself: Transformers' `add_adapter` asks for the newest peft, and does not change the precision.
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    if is_adapted(model):
        raise ValueError("the language model has an adapter already, expected one without")
    inject_adapter_in_model(adapter_config, model)
    cast_adapter_dtype(model, "default")


def is_adapted(model: PreTrainedModel | None) -> bool:
    """Whether a language model has adapters of its own."""
    return hasattr(model, "peft_config")


def load_adapter(model: PreTrainedModel, folder: str, base: HubSource | None = None, **kwargs: Any) -> None:
    """Puts saved adapters on a language model, frozen.

    Args:
        folder: beside the checkpoint, `./language_model_adapter`.
        base, kwargs: of [`load_language_model`].

    Raises:
        OSError: they cannot be found or read.
        ImportError: peft is not installed.
        RuntimeError: weights are missing, or of other layers.
    """
    source = _source(folder, None, base, kwargs)
    with naming_errors(f"adapter of the language model in {source.location}"):
        from peft import PeftConfig

        weights, settings = (source.file(name) for name in ("adapter_model.safetensors", "adapter_config.json"))
        add_adapter(model, PeftConfig.from_pretrained(str(settings.parent)))  # type: ignore[union-attr]
        _set_adapter(model, weights)  # type: ignore[arg-type]
    model.requires_grad_(False)


def _set_adapter(model: PreTrainedModel, file: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    with readable_weights(str(file)):
        weights = {name.removeprefix(_PEFT_PREFIX): weight for name, weight in load_file(file).items()}
    if different := sorted(set(weights) ^ set(get_peft_model_state_dict(model))):
        raise CheckpointError(
            f"{file}: {len(different)} weights (e.g. {different[0]}) are missing, or of other layers"
        )
    set_peft_model_state_dict(model, weights)


def _save_adapter(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model).items()
    folder.mkdir()
    named = {f"{_PEFT_PREFIX}{name}": weight.to("cpu").contiguous() for name, weight in weights}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(folder)


def _source(hub_id: str, revision: str | None, base: HubSource | None, arguments: Mapping[str, Any]) -> HubSource:
    """Where a folder or repository is; a relative one is found beside the checkpoint, as those of neurons are."""
    spec = NeuronSpec(NAME, "text", hub_id, hidden_size=1, class_name="", revision=revision)
    return HubSource.of_neuron(spec, base, arguments)


def save_language_model(
    model: PreTrainedModel,
    settings: Mapping[str, Any] | None,
    source: HubSource | None,
    loaded: frozenset[str],
    folder: Path,
    include: bool,
) -> dict[str, Any]:
    """Writes what a reload would not bring: adapters, and a language model that is trained, that stood beside the checkpoint
    or that came from no checkpoint.

    Args:
        settings: what it was loaded by; `None` where it was given as a model.
        source: where it came from.
        loaded: the names of its weights when it was loaded.
        folder: of the checkpoint.
        include: write the language model in any case.

    Returns:
        The settings to save.
    """
    settings = {**(settings or {}), "dtype": str(model.dtype).removeprefix("torch.")}
    trained = any(loaded_name(name, loaded) and weight.requires_grad for name, weight in model.named_parameters())
    hub_id = settings.get("hub_id")
    if include or trained or hub_id is None or hub_id.startswith("./"):
        if hub_id and not hub_id.startswith("./") and source is not None and source.commit is not None:
            settings["base_model"] = f"{hub_id}@{source.commit}"  # as of a neuron: cards name it, with its licence
        found = {loaded_name(name, loaded): weight for name, weight in all_weights(model).items()}
        base = {name: weight for name, weight in found.items() if name is not None}
        settings |= {"hub_id": f"./{NAME}", "revision": None}
        with quiet_transformers():
            model.save_pretrained(folder / NAME, state_dict=base)
    elif os.path.isdir(hub_id):
        logger.warning(
            f"language model {hub_id} is a local folder; elsewhere the checkpoint needs include_neurons=True"
        )
    elif source is not None:
        settings["revision"] = source.commit
    settings.pop("adapter", None)
    if is_adapted(model):
        _save_adapter(model, folder / ADAPTER)
        settings["adapter"] = f"./{ADAPTER}"
    return settings


@torch.no_grad()
def restore_language_model(
    model: PreTrainedModel, settings: Mapping[str, Any], loaded: frozenset[str], folder: Path
) -> None:
    """Takes over weights and adapters that [`save_language_model`] wrote.

    Args:
        settings: that it returned.
        loaded: the names of the model's weights when it was loaded.
        folder: of the checkpoint.

    Raises:
        OSError, RuntimeError: they cannot be read, or are of other layers.
    """
    if settings.get("hub_id") == f"./{NAME}":
        saved = load_language_model(settings, HubSource.of(folder, {}))[0].state_dict()
        for name, weight in all_weights(model).items():
            base = loaded_name(name, loaded)
            if base is not None:
                weight.copy_(saved[base])
    if "adapter" in settings:
        _set_adapter(model, folder / ADAPTER / "adapter_model.safetensors")


def leave_out(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
    """Hook of `state_dict`: without the language model.

    Adapters that peft puts on the whole model stay, as peft looks for them here; those of `add_language_model_adapter` have
    files of their own.
    """
    start, model = f"{prefix}{NAME}.", getattr(module, NAME)
    for key in [key for key in state_dict if key.startswith(start)]:
        if is_adapted(model) or loaded_name(key.removeprefix(start), module.loaded_names):  # type: ignore[arg-type]
            del state_dict[key]


def expect_none(module: nn.Module, incompatible_keys: Any) -> None:
    """Hook of `load_state_dict`: the language model's weights are not among those that are missing."""
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if f".{NAME}." not in f".{key}"]


class WithoutPlaceholders(LogitsProcessor):
    """Processors that see each placeholder as the first other token of its row, and scores that never choose one.

    The id may lie outside of the scores, where a repetition penalty would read.
    """

    def __init__(self, processors: LogitsProcessorList, video_token_id: int):
        self.processors, self.video_token_id = processors, video_token_id

    def __call__(self, input_ids, scores):
        is_visual = input_ids == self.video_token_id
        first = input_ids.gather(1, (~is_visual).int().argmax(dim=1, keepdim=True))
        scores = self.processors(torch.where(is_visual, first, input_ids), scores)
        if self.video_token_id < scores.shape[-1]:
            scores = scores.index_fill(1, torch.tensor([self.video_token_id], device=scores.device), -torch.inf)
        return scores


__all__ = [
    "ADAPTER",
    "NAME",
    "WithoutPlaceholders",
    "add_adapter",
    "expect_none",
    "is_adapted",
    "leave_out",
    "load_adapter",
    "load_language_model",
    "restore_language_model",
    "save_language_model",
]
