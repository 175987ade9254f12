# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Adapters for Transformers encoder types: where their layers are, their pooled output, their token grid.

`register_neuron(model_type, ...)` adds a type in one line; unregistered types are used by rule, see `neuron_by_rule.py`.
`register_checkpoint` describes how to cut a tower out of a larger checkpoint (CLIP: image and text).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from .tower_inputs import (
    Grid,
    ast_seconds,
    clap_inputs,
    clap_seconds,
    image_grid,
    imagebind_frames,
    imagebind_grid,
    imagebind_sound,
    languagebind_sound_grid,
    one_channel,
    pair,
    siglip2_inputs,
    vjepa2_inputs,
    wavlm_position_bias,
)

if TYPE_CHECKING:  # keeps `sen neurons` fast: importing torch takes seconds
    from torch import Tensor


def clip_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Tubelets of a clip: pixel_values are (batch, time, channels, height, width)."""
    time, _, height, width = inputs["pixel_values"].shape[1:]
    if isinstance(config.tubelet_size, int):
        depth, (patch_height, patch_width) = config.tubelet_size, pair(config.patch_size)
    else:
        depth, patch_height, patch_width = config.tubelet_size
    return time // depth, height // patch_height, width // patch_width


def frame_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """One token for each frame of a clip: pixel_values are (batch, time, channels, height, width)."""
    return inputs["pixel_values"].shape[1], 1, 1


def spectrogram_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of a spectrogram: input_features are (batch, time, mel bins); tokens run over time first."""
    time, bins = inputs["input_features"].shape[-2:]
    frequency = (bins - config.patch_size) // config.frequency_stride + 1
    return 1, frequency, (time - config.patch_size) // config.time_stride + 1


def sequence_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Word pieces: input_ids are (batch, tokens)."""
    return 1, 1, inputs["input_ids"].shape[-1]


@dataclass(frozen=True)
class NeuronAdapter:
    """Describes how to use a tower of one model type.

    Attributes:
        modality: default modality.
        grid: `grid(tower.config, inputs) -> (t, h, w)`. `inputs` are the neuron's `pixel_values` (frames folded),
            `input_features` or `input_ids`, and `num_tokens`, the number of tokens in the tower's output. Tokens in front of
            the grid (class tokens) are left out of `last_hidden_state`. `None`: all tokens in one row. Not called if the
            tower returns a feature map (batch, channels, height, width).
        layers: dotted path of the transformer layers; `None`: the longest list of identical transformer layers.
        below: dotted paths of modules in front of the layers whose outputs only the layers read; bypassed when the crown runs
            again. A path to a list means all its modules. `None`: `embeddings`, if the tower has it.
        folds_frames: whether frames are folded into the tower's batch (image towers); otherwise it takes one clip tensor.
        prompt_side: `prefix` or `suffix`.
        takes_prompts: `False` for towers that take no extra tokens and whose tokens cannot be shifted at a layer; their
            states are updated after the tower.
        takes_queries: whether prompt tokens can run through the layers without the tower's tokens and attend to the keys and
            values of the first look (`prompt="queries"`). `False` for layers that do not use Transformers' attention
            interface, attend within windows, or mix tokens by other means.
        fixed_frames: whether a clip must have the `num_frames` of the tower's configuration.
        tower_inputs: `tower_inputs(tower.config, inputs)` returns the tower's keyword arguments; needed if they are more than
            its main input and a mask.
        returned_beside: `returned_beside(tower, hidden_states)` returns what the tower's layers return besides hidden states;
            needed if that is more than `None`. It may depend only on the shape of `hidden_states` (batch, tokens, width).
        training_only: parameters that are used in training only; checkpoints may lack them.
        padding: the tokenizer's `padding`: `True` pads to the longest text of a batch, `"max_length"` is for towers trained
            on texts of one length.
        seconds: `seconds(feature extractor)` returns the longest sound that fits one input; `None`: its `chunk_length`.
        output_layers: whether an inner layer's output can be the neuron's tokens. `False` for staged towers, whose layers
            differ in the number and width of tokens, and for layers that run more than once.
        width: width of the tokens, if the tower's configuration has no `hidden_size` or a different one.
    """

    modality: str
    grid: Callable[[Any, Mapping[str, Any]], Grid] | None
    layers: str | None = None
    below: tuple[str, ...] | None = None
    folds_frames: bool = False
    prompt_side: str = "prefix"
    takes_prompts: bool = True
    takes_queries: bool = True
    fixed_frames: bool = False
    tower_inputs: Callable[[Any, "Mapping[str, Tensor]"], dict[str, Any]] | None = None
    returned_beside: Callable[[Any, "Tensor"], tuple] | None = None
    training_only: tuple[str, ...] = ()
    padding: bool | str = True
    seconds: Callable[[Any], float] | None = None
    output_layers: bool = True
    width: int | None = None


NEURON_ADAPTERS: dict[str, NeuronAdapter] = {}
# (model type of a checkpoint, "tower" or "text_tower") -> fields of its NeuronSpec
CHECKPOINT_SPECS: dict[tuple[str, str], dict[str, Any]] = {}


def register_neuron(
    model_type: str, modality: str, grid: Callable[[Any, Mapping[str, Any]], Grid] | None, **adapter: Any
) -> None:
    """Registers the adapter for a tower's `config.model_type`; later registrations replace earlier ones.

    Args:
        model_type: `tower.config.model_type`, e.g. `"clip_vision_model"`.
        modality, grid, adapter: fields of [`NeuronAdapter`].
    """
    NEURON_ADAPTERS[model_type] = NeuronAdapter(modality=modality, grid=grid, **adapter)


def register_checkpoint(model_type: str, class_name: str, role: str = "tower", **spec: Any) -> None:
    """Registers how to cut a tower out of checkpoints whose config.json has `model_type`.

    Args:
        model_type: `model_type` in the checkpoint's config.json.
        class_name: the Transformers class that loads the tower.
        role: `"tower"`, or `"text_tower"` for the encoder of class texts. For a checkpoint with a tower per modality, the
            name of the modality, which selects the tower for specifications with this `modality`.
        spec: further [`NeuronSpec`] fields (`submodule`, `projection`, `key_mapping`, `modality`).
    """
    CHECKPOINT_SPECS[model_type, role] = {"class_name": class_name, **spec}


def checkpoint_spec(model_type: str, role: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The registered [`NeuronSpec`] fields of a tower, looked up by class name, else by modality, else by role.

    Args:
        model_type: `model_type` in the checkpoint's config.json.
        role: as for `register_checkpoint`.
        given: fields of the specification.

    Returns:
        The fields; empty if nothing is registered.
    """
    of_type = {key[1]: spec for key, spec in CHECKPOINT_SPECS.items() if key[0] == model_type}
    if "class_name" in given:
        return next((spec for spec in of_type.values() if spec["class_name"] == given["class_name"]), {})
    return of_type.get(given.get("modality", role), of_type.get(role, {}))


def list_neurons() -> list[str]:
    """Registered model types, sorted."""
    return sorted(NEURON_ADAPTERS)


def adapter_of_class(class_name: str) -> NeuronAdapter | None:
    """The adapter of a Transformers class, by the model type of its configuration; `None` if none is registered."""
    import transformers

    try:
        model_class: Any = attrgetter(class_name)(transformers)  # dotted for classes that Transformers does not export
    except (AttributeError, ImportError):
        return None
    return NEURON_ADAPTERS.get(getattr(getattr(model_class, "config_class", None), "model_type", ""))


_VISION = {"submodule": "vision_model", "projection": "visual_projection"}
_TEXT = {"submodule": "text_model", "projection": "text_projection"}

# CLIP and similar models: frames are folded into the batch.
register_neuron("clip_vision_model", "image", image_grid, folds_frames=True)
register_neuron("clip_text_model", "text", sequence_grid)
register_checkpoint("clip", "CLIPVisionModelWithProjection", **_VISION)
register_checkpoint("clip", "CLIPTextModelWithProjection", "text_tower", **_TEXT)

register_neuron("metaclip_2_vision_model", "image", image_grid, folds_frames=True)
register_neuron("metaclip_2_text_model", "text", sequence_grid)
register_checkpoint("metaclip_2", "MetaClip2VisionModelWithProjection", **_VISION)
register_checkpoint("metaclip_2", "MetaClip2TextModelWithProjection", "text_tower", **_TEXT)

# SigLIP was trained on texts padded to the full length, without a mask.
register_neuron("siglip_vision_model", "image", image_grid, folds_frames=True)
register_neuron("siglip_text_model", "text", sequence_grid, padding="max_length")
register_checkpoint("siglip", "SiglipVisionModel")
register_checkpoint("siglip", "SiglipTextModel", "text_tower")

# SigLIP2 takes frames of any size. Its processor sets only the number of patches: 256 of 16 x 16 pixels.
register_neuron("siglip2_vision_model", "image", image_grid, folds_frames=True, tower_inputs=siglip2_inputs)
register_neuron("siglip2_text_model", "text", sequence_grid, padding="max_length")
register_checkpoint("siglip2", "Siglip2VisionModel", preprocessing={"size": [256, 256]})
register_checkpoint("siglip2_vision_model", "Siglip2VisionModel", preprocessing={"size": [256, 256]})
register_checkpoint("siglip2", "Siglip2TextModel", "text_tower")

# DINOv3 applies rotary positions to the last tokens, so prompts must be a prefix.
register_neuron("dinov2", "image", image_grid, folds_frames=True)
register_neuron("dinov3_vit", "image", image_grid, folds_frames=True)
# Only the backbone: an image tower with dense, geometry-aware tokens, which also reads depth maps.
register_checkpoint("depth_anything", "Dinov2Model", key_mapping={r"^backbone\.": ""})

# X-CLIP layers use token 0 as the frame's class token, so prompts are a suffix and cannot run without the tokens. The
# `key_mapping` strips the whole model's prefix from the keys; without it the weights would be random.
register_neuron(
    "xclip_vision_model",
    "video",
    image_grid,
    folds_frames=True,
    prompt_side="suffix",
    takes_queries=False,
    fixed_frames=True,
)
register_checkpoint("xclip", "XCLIPVisionModel", key_mapping={r"^vision_model\.": ""})

register_neuron("videomae", "video", clip_grid, fixed_frames=True)
register_neuron("vivit", "video", clip_grid, fixed_frames=True)

# V-JEPA2's rotary positions count from the first token, so prompts are a suffix.
register_neuron(
    "vjepa2", "video", clip_grid, below=("encoder.embeddings",), prompt_side="suffix", tower_inputs=vjepa2_inputs
)

# VideoPrism runs spatial, then temporal layers. Prompts enter the temporal layers, beside the frames of each place.
register_neuron(
    "videoprism_vision_model",
    "video",
    clip_grid,
    layers="temporal_layers",
    below=("spatial_embeddings", "spatial_layers", "layernorm1", "temporal_embeddings"),
    fixed_frames=True,
)
register_checkpoint("videoprism", "VideoPrismVisionModel", key_mapping={r"^video_model\.vision_model\.": ""})

# TimeSformer's divided attention reshapes tokens to the grid, so it takes no extra tokens. Tokens are ordered by place, then
# time, so they have no (t, h, w) grid.
register_neuron("timesformer", "video", None, takes_prompts=False)

register_neuron("audio-spectrogram-transformer", "audio", spectrogram_grid, seconds=ast_seconds)

register_neuron("whisper", "audio", None, layers="layers", below=("conv1", "conv2"))
register_checkpoint(
    "whisper", "models.whisper.modeling_whisper.WhisperEncoder", key_mapping={r"^(model\.)?encoder\.": ""}
)

_WAVES: dict[str, Any] = {
    "layers": "encoder.layers",
    "below": ("feature_extractor", "feature_projection", "encoder.pos_conv_embed"),
    "training_only": ("masked_spec_embed",),
}
register_neuron("wav2vec2", "audio", None, **_WAVES)
register_neuron("hubert", "audio", None, **_WAVES)
# WavLM uses torch's attention, not Transformers' interface.
register_neuron("wavlm", "audio", None, **_WAVES, takes_queries=False, returned_beside=wavlm_position_bias)

register_neuron("pe_audio_encoder", "audio", None, layers="layers", below=("embedder", "patch_embedder"))
register_neuron("pe_video_encoder", "video", frame_grid, layers="layers", below=("embedder", "patch_embedder"))
register_checkpoint("pe_audio", "PeAudioEncoder", key_mapping={r"^audio_encoder\.": ""})
register_checkpoint("pe_audio_video", "PeAudioEncoder", key_mapping={r"^audio_model\.audio_encoder\.": ""})
register_checkpoint("pe_video", "PeVideoEncoder", key_mapping={r"^video_encoder\.": ""})

# CLAP's windows are cut from the spectrogram's plane, so it takes no extra tokens.
register_neuron(
    "clap_audio_model",
    "audio",
    None,
    takes_prompts=False,
    tower_inputs=clap_inputs,
    seconds=clap_seconds,
    output_layers=False,
)
register_neuron("clap_text_model", "text", sequence_grid)
register_checkpoint("clap", "ClapAudioModelWithProjection", submodule="audio_model", projection="audio_projection")
register_checkpoint("clap", "ClapTextModelWithProjection", "text_tower", **_TEXT)

# LanguageBind: a CLIP per modality, with CLIP's text tower. The video tower's layers first attend over the frames at each
# place; a prompt token is an additional place.
register_neuron("languagebind_image_model", "image", image_grid, folds_frames=True)
register_neuron("languagebind_video_model", "video", image_grid, folds_frames=True, fixed_frames=True)
register_neuron("languagebind_audio_model", "audio", languagebind_sound_grid)
register_neuron("languagebind_depth_model", "depth", image_grid, folds_frames=True)
register_neuron("languagebind_thermal_model", "thermal", image_grid, folds_frames=True)
for _name in (
    "LanguageBindImage",
    "LanguageBindVideo",
    "LanguageBindAudio",
    "LanguageBindDepth",
    "LanguageBindThermal",
):
    register_checkpoint(_name, _name, **_VISION)
    register_checkpoint(_name, "CLIPTextModelWithProjection", "text_tower", **_TEXT)

# ImageBind: one checkpoint with six towers in one space. The vision tower reads frames in pairs, the audio tower several
# sound clips. Depth is disparity, with its mean and standard deviation; thermal images are not normalised.
_IMAGEBIND: dict[str, dict[str, Any]] = {
    "vision": {},
    "text": {},
    "audio": {},
    "depth": {"preprocessing": {"gray": True, "mean": [0.0418] * 3, "std": [0.0295] * 3}},
    "thermal": {"preprocessing": {"gray": True, "mean": [0.0] * 3, "std": [1.0] * 3}},
    "imu": {},
}
_LAYERS: dict[str, Any] = {"layers": "layers"}
register_neuron("imagebind_vision_model", "video", image_grid, **_LAYERS, tower_inputs=imagebind_frames)
register_neuron("imagebind_text_model", "text", sequence_grid, **_LAYERS)
register_neuron("imagebind_audio_model", "audio", imagebind_grid, **_LAYERS, tower_inputs=imagebind_sound)
_PLANE: dict[str, Any] = {**_LAYERS, "folds_frames": True, "tower_inputs": one_channel}
register_neuron("imagebind_depth_model", "depth", image_grid, **_PLANE)
register_neuron("imagebind_thermal_model", "thermal", image_grid, **_PLANE)
register_neuron("imagebind_imu_model", "imu", imagebind_grid, **_LAYERS)
for _name, _spec in _IMAGEBIND.items():
    _role = {"vision": "tower"}.get(_name, _name)
    _spec = {"submodule": f"{_name}_model", "projection": f"{_name}_projection", **_spec}
    register_checkpoint("imagebind", f"ImageBind{_name.title()}ModelWithProjection", _role, **_spec)
register_checkpoint("imagebind", "ImageBindTextModelWithProjection", "text_tower", **_TEXT)

register_neuron("bert", "text", sequence_grid)
register_neuron("modernbert", "text", sequence_grid)

__all__ = [
    "CHECKPOINT_SPECS",
    "NEURON_ADAPTERS",
    "Grid",
    "NeuronAdapter",
    "adapter_of_class",
    "checkpoint_spec",
    "clip_grid",
    "frame_grid",
    "image_grid",
    "list_neurons",
    "register_checkpoint",
    "register_neuron",
    "sequence_grid",
    "spectrogram_grid",
]
