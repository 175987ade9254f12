# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a tower of a type that nobody registered is used: by rules, and after a trial on the meta device.

Modality and grid follow from what the tower's class declares; where prompts may stand is found by passes over tensors without
values, which cost nothing.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from .neuron_registry import NEURON_ADAPTERS, NeuronAdapter, clip_grid, image_grid, sequence_grid
from .prompt_injection import PromptedTower

logger = logging.get_logger(__name__)

_SIDES: dict[tuple, str | None] = {}  # (class, modality, configuration) -> what a trial found, seconds each


def find_layers(tower: nn.Module, path: str | None = None) -> nn.ModuleList | None:
    """The tower's transformer layers: at `path`, or the longest list of layers of one class.

    Returns:
        The list, or `None` where the tower has none.

    Raises:
        ValueError: what stands at `path` is no list of layers.
    """
    if path is not None:
        layers = tower.get_submodule(path)
        if not isinstance(layers, nn.ModuleList):
            raise ValueError(f"{type(tower).__name__}.{path}: found {type(layers).__name__}, expected a ModuleList")
        return layers
    longest = None
    for module in tower.modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        kinds = {type(layer) for layer in module}
        if len(kinds) != 1 or not issubclass(kinds.pop(), GradientCheckpointingLayer):
            continue
        if longest is None or len(module) > len(longest):
            longest = module
    return longest


def modules_below(tower: nn.Module, paths: tuple[str, ...] | None) -> list[nn.Module]:
    """The modules in front of a tower's layers, see [`NeuronAdapter`]."""
    if paths is None:
        embeddings = getattr(tower, "embeddings", None)
        return [embeddings] if isinstance(embeddings, nn.Module) else []
    found = [tower.get_submodule(path) for path in paths]
    return [part for module in found for part in (module if isinstance(module, nn.ModuleList) else [module])]


def adapter_for(tower: nn.Module) -> NeuronAdapter:
    """The registered adapter of the tower's model type, or one made by rule, with a warning."""
    model_type = getattr(tower.config, "model_type", type(tower).__name__)
    if model_type in NEURON_ADAPTERS:
        return NEURON_ADAPTERS[model_type]
    modality, layers = _modality_of(tower), find_layers(tower)
    side = None
    if layers is not None:
        config: Any = tower.config
        tried = (type(tower), modality, config.to_json_string(use_diff=False))
        if tried not in _SIDES:
            _SIDES[tried] = _prompt_side(tower, modality)
        side = _SIDES[tried]
    if layers is None:
        how = "after the tower: no list of identical transformer layers"
    elif side is None:
        how = f"after the tower: its {len(layers)} layers take no other tokens"
    else:
        how = f"{len(layers)} layers"
    logger.warning_once(
        f"model type {model_type!r} is not registered as a neuron and is used by rule ({how}); "
        "register_neuron(...) makes it exact"
    )
    grid: Any = sequence_grid if modality == "text" else None
    if side is not None and modality == "image" and hasattr(tower.config, "patch_size"):
        grid = image_grid
    if side is not None and modality == "video" and hasattr(tower.config, "tubelet_size"):
        grid = clip_grid
    return NeuronAdapter(
        modality=modality,
        grid=grid,
        folds_frames=modality == "image",
        prompt_side=side or "prefix",
        takes_prompts=side is not None,
        fixed_frames=modality == "video" and getattr(tower.config, "num_frames", None) is not None,
    )


def _modality_of(tower: nn.Module) -> str:
    """What a tower reads: `image`, `video`, `audio` or `text`."""
    modalities: Any = getattr(tower, "input_modalities", "text")
    declared = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    main_input: Any = getattr(tower, "main_input_name", "input_ids")
    if main_input == "pixel_values_videos" or (main_input == "pixel_values" and hasattr(tower.config, "num_frames")):
        return "video"
    if main_input == "pixel_values":
        return "video" if declared[0] == "video" else "image"
    return "audio" if main_input in ("input_values", "input_features") or declared[0] == "audio" else "text"


def _prompt_side(tower: nn.Module, modality: str) -> str | None:
    """Where the tower lets prompts stand; `None` where its layers take no other tokens, or it cannot run without values."""
    config: Any = copy.deepcopy(tower.config)
    try:
        with torch.device("meta"), torch.no_grad():
            trial: Any = type(tower)(config)
            trial.set_attn_implementation("eager")  # its masks are made without looking at values
            inputs = _trial_inputs(trial, modality)
            plain = trial.eval()(**inputs).last_hidden_state
    except Exception:  # whatever a tower raises that looks at values
        return None
    layers = find_layers(trial)
    assert layers is not None  # as in the tower itself
    for side in ("prefix", "suffix"):
        prompted = PromptedTower(trial, layers, 1, modules_below(trial, None), side)
        try:
            with torch.device("meta"), torch.no_grad():
                _, trunk = prompted.first_pass(inputs)
                outputs = prompted.prompted_pass(trunk, torch.empty(1, 2, config.hidden_size))
        except Exception:  # whatever a tower raises when it meets tokens that it has no place for
            continue
        if outputs.last_hidden_state.shape == plain.shape:
            return side
    return None


def _trial_inputs(tower: Any, modality: str) -> dict[str, Tensor]:
    config: Any = tower.config
    shape: list[int] = [1]
    if modality == "text":
        return {"input_ids": torch.ones(1, 8, dtype=torch.long)}
    if modality == "audio" and tower.main_input_name == "input_values":
        shape += [16_000]
    elif modality == "audio":
        shape += [200, getattr(config, "num_mel_bins", getattr(config, "feature_projection_input_dim", 80))]
    else:
        size: Any = getattr(config, "image_size", getattr(config, "crop_size", 224))
        shape += [getattr(config, "num_frames", 8)] if modality == "video" else []
        shape += [getattr(config, "num_channels", 3), *([size, size] if isinstance(size, int) else size)]
    return {tower.main_input_name: torch.empty(shape)}


__all__ = ["adapter_for", "find_layers", "modules_below"]
