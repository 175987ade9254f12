# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How each type of Transformers encoder becomes a neuron: where its layers are, its pooled output, its token grid.

`register_neuron(model_type, ...)` adds a type in one line; a type that nobody registered is tried by rule. A checkpoint
larger than the tower it holds (CLIP: image and text) is described by `register_checkpoint`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

logger = logging.get_logger(__name__)

Grid = tuple[int, int, int]  # (t, h, w): time, height, width; (1, frequency, time) for sound, (1, 1, tokens) for text


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def image_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of one frame: pixel_values are (batch, channels, height, width)."""
    height, width = inputs["pixel_values"].shape[-2:]
    patch_height, patch_width = _pair(config.patch_size)
    return 1, height // patch_height, width // patch_width


def clip_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Tubelets of a clip: pixel_values are (batch, time, channels, height, width)."""
    _, height, width = image_grid(config, inputs)
    return inputs["pixel_values"].shape[1] // config.tubelet_size, height, width


def spectrogram_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of a spectrogram: input_values are (batch, time, mel bins); tokens run over time first."""
    time, bins = inputs["input_values"].shape[-2:]
    frequency = (bins - config.patch_size) // config.frequency_stride + 1
    return 1, frequency, (time - config.patch_size) // config.time_stride + 1


def sequence_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Word pieces: input_ids are (batch, tokens)."""
    return 1, 1, inputs["input_ids"].shape[-1]


@dataclass(frozen=True)
class NeuronAdapter:
    """How a tower of one model type is used.

    Attributes:
        modality: the modality it reads when nothing else is said.
        grid: `grid(tower.config, tower_inputs) -> (t, h, w)`; tokens before the grid's own (class tokens) stay out of
            `last_hidden_state`. `None`: all tokens in one row.
        layers: dotted path of the transformer layers; `None`: the longest list of identical transformer layers.
        embeddings: dotted path of the module whose output enters the first layer.
        folds_frames: frames are folded into the tower's batch (an image tower) instead of one clip tensor.
        prompt_side: `prefix` or `suffix`.
        takes_prompts: `False` for towers that take no extra tokens and whose tokens cannot be shifted at a layer: they
            are re-associated after the tower.
        fixed_frames: whether a clip must have the `num_frames` of the tower's configuration.
    """

    modality: str
    grid: Callable[[Any, Mapping[str, Any]], Grid] | None
    layers: str | None = None
    embeddings: str | None = "embeddings"
    folds_frames: bool = False
    prompt_side: str = "prefix"
    takes_prompts: bool = True
    fixed_frames: bool = False


NEURON_ADAPTERS: dict[str, NeuronAdapter] = {}
# (model type of a checkpoint, "tower" or "text_tower") -> fields of its NeuronSpec
CHECKPOINT_SPECS: dict[tuple[str, str], dict[str, Any]] = {}


def register_neuron(
    model_type: str, modality: str, grid: Callable[[Any, Mapping[str, Any]], Grid] | None, **adapter: Any
) -> None:
    """Registers the adapter of a tower's `config.model_type`; later registrations replace earlier ones.

    Args:
        model_type: `tower.config.model_type`, e.g. `"clip_vision_model"`.
        modality, grid, adapter: fields of [`NeuronAdapter`].
    """
    NEURON_ADAPTERS[model_type] = NeuronAdapter(modality=modality, grid=grid, **adapter)


def register_checkpoint(model_type: str, class_name: str, role: str = "tower", **spec: Any) -> None:
    """Says how a tower is cut out of checkpoints whose config.json has `model_type`.

    Args:
        model_type: `model_type` in the checkpoint's config.json.
        class_name: the Transformers class that loads the tower.
        role: `"tower"`, or `"text_tower"` for the encoder of class texts.
        spec: further [`NeuronSpec`] fields (`submodule`, `projection`, `key_mapping`, `modality`).
    """
    CHECKPOINT_SPECS[model_type, role] = {"class_name": class_name, **spec}


def list_neurons() -> list[str]:
    """Registered model types, sorted."""
    return sorted(NEURON_ADAPTERS)


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


def adapter_for(tower: nn.Module, modality: str) -> NeuronAdapter:
    """The registered adapter of the tower's model type, or one made by rule (said in a warning)."""
    model_type = getattr(tower.config, "model_type", type(tower).__name__)
    if model_type in NEURON_ADAPTERS:
        return NEURON_ADAPTERS[model_type]
    layers = find_layers(tower)
    has_patches = hasattr(tower.config, "patch_size") and modality in ("image", "depth", "thermal")
    how = "after the tower: no list of identical transformer layers" if layers is None else f"{len(layers)} layers"
    logger.warning_once(
        f"model type {model_type!r} is not registered as a neuron and is used by rule ({how}); "
        "register_neuron(...) makes it exact"
    )
    return NeuronAdapter(
        modality=modality,
        grid=image_grid if has_patches else None,
        folds_frames=modality in ("image", "depth", "thermal"),
        takes_prompts=layers is not None,
    )


# Class token + patches, frames folded into the batch.
register_neuron("clip_vision_model", "image", image_grid, folds_frames=True)
register_neuron("siglip_vision_model", "image", image_grid, folds_frames=True)
register_neuron("dinov2", "image", image_grid, folds_frames=True)
# X-CLIP layers read token 0 as the class token of the frame: prompts go behind.
register_neuron("xclip_vision_model", "video", image_grid, folds_frames=True, prompt_side="suffix", fixed_frames=True)
register_neuron("videomae", "video", clip_grid, fixed_frames=True)
# Its divided attention reshapes tokens to the grid, so that it takes no others; they stand place by place, not in time.
register_neuron("timesformer", "video", None, takes_prompts=False)
register_neuron("audio-spectrogram-transformer", "audio", spectrogram_grid)
register_neuron("bert", "text", sequence_grid)
register_neuron("clip_text_model", "text", sequence_grid)
register_neuron("siglip_text_model", "text", sequence_grid)

register_checkpoint("clip", "CLIPVisionModelWithProjection", submodule="vision_model", projection="visual_projection")
register_checkpoint(
    "clip", "CLIPTextModelWithProjection", "text_tower", submodule="text_model", projection="text_projection"
)
register_checkpoint("siglip", "SiglipVisionModel")
register_checkpoint("siglip", "SiglipTextModel", "text_tower")
# Loading XCLIPVisionModel from a full checkpoint leaves it random: its keys carry the prefix of the whole model.
register_checkpoint("xclip", "XCLIPVisionModel", key_mapping={r"^vision_model\.": ""})
register_checkpoint("videomae", "VideoMAEModel")
register_checkpoint("timesformer", "TimesformerModel")
register_checkpoint("audio-spectrogram-transformer", "ASTModel")
register_checkpoint("bert", "BertModel")
register_checkpoint("dinov2", "Dinov2Model")
# The backbone alone: an image tower with dense, geometry-aware tokens; also reads depth maps.
register_checkpoint("depth_anything", "Dinov2Model", key_mapping={r"^backbone\.": ""})

__all__ = [
    "CHECKPOINT_SPECS",
    "NEURON_ADAPTERS",
    "NeuronAdapter",
    "adapter_for",
    "clip_grid",
    "find_layers",
    "image_grid",
    "list_neurons",
    "register_checkpoint",
    "register_neuron",
    "sequence_grid",
    "spectrogram_grid",
]
