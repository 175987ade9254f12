# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Weights of a neuron by their names at loading, and their saving to a folder."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging

from .configuration_sen import NeuronSpec
from .hub_files import quiet_transformers
from .neuron import Neuron
from .prompt_injection import DroppedLayer
from .text_reader import TOKENIZER_FILES

logger = logging.get_logger(__name__)

# Files of the tower's processor, saved beside it.
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    *TOKENIZER_FILES,
)
# Names under which peft keeps a module that it wraps with an adapter.
_WRAPPED = ("base_layer", "original_module")


def weight_names(module: nn.Module) -> list[str]:
    """Names of all parameters and buffers; those of shared modules occur under each of their names."""
    parameters, buffers = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return [name for name, _ in (*parameters, *buffers)]


def loaded_name(name: str, loaded: Iterable[str]) -> str | None:
    """The name of a weight at loading; `None` if it was added later.

    Args:
        name: the present name.
        loaded: names of all weights at loading.
    """
    if name in loaded:
        return name
    unwrapped = ".".join(part for part in name.split(".") if part not in _WRAPPED)
    return unwrapped if unwrapped in loaded else None


def all_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, with offloaded weights, which accelerate's hooks load one module at a time."""
    weights: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        hook = getattr(part, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(part)
        named = {f"{path}.{name}" if path else name: weight for name, weight in part.state_dict().items()}
        weights |= {name: weight for name, weight in named.items() if not weight.is_meta}
        if hook is not None:
            hook.post_forward(part, None)
    return weights


def same_weight(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are equal after conversion to the first one's dtype."""
    return one.shape == other.shape and torch.equal(one, other.to(one.device, one.dtype))


def save_tower(spec: NeuronSpec, neuron: Neuron, folder: Path, weights: Mapping[str, Tensor]) -> NeuronSpec:
    """Writes a tower, its projection and its processor's files.

    Args:
        spec: the neuron's specification.
        neuron: the neuron.
        folder: the folder to create.
        weights: the neuron's weights, by their names at loading.

    Returns:
        The specification of the saved tower.

    Raises:
        ValueError: the tower's layers below the prompts were dropped.
    """
    tower = neuron.tower
    if any(isinstance(module, DroppedLayer) for module in tower.modules()):
        raise ValueError(
            f"neuron {spec.name!r}: its tower cannot be written, as its layers below the prompts were dropped for training "
            "on stored first looks; save without include_neurons, load the result and save that"
        )
    parts: dict[str, dict[str, Tensor]] = {"tower": {}, "projection": {}, "sentence": {}}
    for name, weight in weights.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = weight
    is_adapted = tower._hf_peft_config_loaded
    tower._hf_peft_config_loaded = False  # otherwise only the adapter would be saved
    try:
        with quiet_transformers():
            # Keep the tower's names; the original format would undo the key mapping that cut out the tower.
            tower.save_pretrained(folder, state_dict=parts["tower"], save_original_format=False)
    finally:
        tower._hf_peft_config_loaded = is_adapted
    if neuron.projection is not None:
        on_cpu = {name: weight.to("cpu").contiguous() for name, weight in parts["projection"].items()}
        save_file(on_cpu, folder / "projection.safetensors", metadata={"format": "pt"})
    if neuron.sentence is not None:
        neuron.sentence.layout.save(folder, parts["sentence"])
    try:
        for name in _PROCESSOR_FILES:
            found = None if neuron.source is None else neuron.source.file(name, optional=True)
            if found is not None:
                shutil.copyfile(found, folder / name)
    except OSError as error:  # missing processor files must not prevent saving trained weights
        logger.warning(f"neuron {spec.name!r}: its processor's files are not saved with its tower ({error})")
    return replace(
        spec,
        hub_id=f"./{folder.name}",
        revision=None,
        class_name=_class_name(neuron.tower),
        submodule=None,
        key_mapping=None,
        projection=None if neuron.projection is None else "projection.safetensors",
        base_model=_origin(spec, neuron),
    )


def _origin(spec: NeuronSpec, neuron: Neuron) -> str | None:
    """The source of a copied tower; `None` if it is a local folder."""
    if spec.base_model is not None or spec.is_relative:
        return spec.base_model
    if spec.is_builtin:
        return spec.hub_id
    return None if neuron.commit is None else f"{spec.hub_id}@{neuron.commit}"


def _class_name(tower: nn.Module) -> str:
    kind = type(tower)
    if hasattr(transformers, kind.__name__) or not kind.__module__.startswith("transformers."):
        return kind.__name__
    return f"{kind.__module__}.{kind.__name__}".removeprefix("transformers.")


__all__ = ["all_weights", "loaded_name", "same_weight", "save_tower", "weight_names"]
