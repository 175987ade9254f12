# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How each type of Transformers encoder becomes a neuron: where its layers are, its pooled output, its token grid.

`register_neuron(model_type, ...)` adds a type in one line; a type that nobody registered is used by rule, see
`neuron_by_rule.py`. A checkpoint larger than the tower it holds (CLIP: image and text) is described by `register_checkpoint`.
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

if TYPE_CHECKING:  # `sen neurons` lists the types without the seconds that these take to import
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
    """How a tower of one model type is used.

    Attributes:
        modality: the modality it reads when nothing else is said.
        grid: `grid(tower.config, inputs) -> (t, h, w)`, where inputs are the neuron's: `pixel_values` (frames folded),
            `input_features` or `input_ids`, and `num_tokens` of the tower's output; tokens before the grid's own (class
            tokens) stay out of `last_hidden_state`. `None`: all tokens in one row. Not asked where the tower returns a plane
            (batch, width, height, width).
        layers: dotted path of the transformer layers; `None`: the longest list of identical transformer layers.
        below: dotted paths of modules in front of the layers, whose outputs only they read: bypassed where the layers run
            again. Of a list, all modules. `None`: `embeddings`, where the tower has it.
        folds_frames: frames are folded into the tower's batch (an image tower) instead of one clip tensor.
        prompt_side: `prefix` or `suffix`.
        takes_prompts: `False` for towers that take no extra tokens and whose tokens cannot be shifted at a layer: they
            are re-associated after the tower.
        takes_queries: whether prompts can run alone through the layers and attend to keys and values of the first look
            (`prompt="queries"`): `False` where layers call no attention of Transformers' interface, attend within windows, or
            mix tokens in other ways.
        fixed_frames: whether a clip must have the `num_frames` of the tower's configuration.
        tower_inputs: `tower_inputs(tower.config, inputs)`, the tower's keyword arguments, where they are more than its main
            input and a mask.
        returned_beside: `returned_beside(tower, hidden_states)`, what the tower's layers return beside their hidden states,
            where that is more than `None` and depends on the shape of `hidden_states` (batch, tokens, width) only.
        training_only: parameters that only training reads: checkpoints may lack them.
        padding: the tokenizer's `padding`: `True` to the longest text of a batch, `"max_length"` for towers that were trained
            on texts of one length.
        seconds: `seconds(feature extractor)`, the longest sound that it makes one input of; `None`: its `chunk_length`.
        output_layers: whether an inner layer's output can be the neuron's tokens: `False` for towers in stages, whose layers
            differ in the number and width of their tokens, and for layers that run more than once.
        width: of the tokens, where the tower's configuration does not say it (`hidden_size`) or says another.
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
        role: `"tower"`, or `"text_tower"` for the encoder of class texts; the name of a modality where the checkpoint has a
            tower for each: it is the one of specifications with this `modality`.
        spec: further [`NeuronSpec`] fields (`submodule`, `projection`, `key_mapping`, `modality`).
    """
    CHECKPOINT_SPECS[model_type, role] = {"class_name": class_name, **spec}


def checkpoint_spec(model_type: str, role: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is registered of the tower that a specification means: by its class, its modality, or the role.

    Args:
        given: fields of the specification.
    """
    of_type = {key[1]: spec for key, spec in CHECKPOINT_SPECS.items() if key[0] == model_type}
    if "class_name" in given:
        return next((spec for spec in of_type.values() if spec["class_name"] == given["class_name"]), {})
    return of_type.get(given.get("modality", role), of_type.get(role, {}))


def list_neurons() -> list[str]:
    """Registered model types, sorted."""
    return sorted(NEURON_ADAPTERS)


def adapter_of_class(class_name: str) -> NeuronAdapter | None:
    """The adapter of a Transformers class, by the model type of its configuration; `None` where nobody registered one."""
    import transformers

    try:
        model_class: Any = attrgetter(class_name)(transformers)  # dotted for classes that Transformers does not export
    except (AttributeError, ImportError):
        return None
    return NEURON_ADAPTERS.get(getattr(getattr(model_class, "config_class", None), "model_type", ""))


_VISION = {"submodule": "vision_model", "projection": "visual_projection"}
_TEXT = {"submodule": "text_model", "projection": "text_projection"}

# CLIP and its kind: frames are folded into the batch.
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

# Frames of any size: its processor's file names none, but the number of patches, 256 of 16 x 16 pixels.
register_neuron("siglip2_vision_model", "image", image_grid, folds_frames=True, tower_inputs=siglip2_inputs)
register_neuron("siglip2_text_model", "text", sequence_grid, padding="max_length")
register_checkpoint("siglip2", "Siglip2VisionModel", preprocessing={"size": [256, 256]})
register_checkpoint("siglip2_vision_model", "Siglip2VisionModel", preprocessing={"size": [256, 256]})
register_checkpoint("siglip2", "Siglip2TextModel", "text_tower")

# DINOv3 turns the last tokens by their place, so that prompts must stand in front.
register_neuron("dinov2", "image", image_grid, folds_frames=True)
register_neuron("dinov3_vit", "image", image_grid, folds_frames=True)
# The backbone alone: an image tower with dense, geometry-aware tokens; also reads depth maps.
register_checkpoint("depth_anything", "Dinov2Model", key_mapping={r"^backbone\.": ""})

# X-CLIP layers read token 0 as the class token of the frame: prompts go behind, and cannot run alone. Checkpoints with a
# `key_mapping` come back random without it: their keys carry the prefix of the whole model.
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

# Its rotary positions are counted from the first token: prompts go behind.
register_neuron(
    "vjepa2", "video", clip_grid, below=("encoder.embeddings",), prompt_side="suffix", tower_inputs=vjepa2_inputs
)

# Space first, then time: prompts join the frames of each place in the layers over time.
register_neuron(
    "videoprism_vision_model",
    "video",
    clip_grid,
    layers="temporal_layers",
    below=("spatial_embeddings", "spatial_layers", "layernorm1", "temporal_embeddings"),
    fixed_frames=True,
)
register_checkpoint("videoprism", "VideoPrismVisionModel", key_mapping={r"^video_model\.vision_model\.": ""})

# Its divided attention reshapes tokens to the grid, so that it takes no others; they stand place by place, not in time.
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
# WavLM's attention is torch's own, not Transformers'.
register_neuron("wavlm", "audio", None, **_WAVES, takes_queries=False, returned_beside=wavlm_position_bias)

register_neuron("pe_audio_encoder", "audio", None, layers="layers", below=("embedder", "patch_embedder"))
register_neuron("pe_video_encoder", "video", frame_grid, layers="layers", below=("embedder", "patch_embedder"))
register_checkpoint("pe_audio", "PeAudioEncoder", key_mapping={r"^audio_encoder\.": ""})
register_checkpoint("pe_audio_video", "PeAudioEncoder", key_mapping={r"^audio_model\.audio_encoder\.": ""})
register_checkpoint("pe_video", "PeVideoEncoder", key_mapping={r"^video_encoder\.": ""})

# Its windows are cut from the plane of the spectrogram: no place for other tokens.
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

# LanguageBind: a CLIP for each modality. The layers of its video tower attend over the frames of a clip first, place by
# place; a prompt token is a place of its own. Text towers are CLIP's.
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

# One checkpoint with six towers in one space. Frames are read by two, sound in clips; depth is disparity, of which the
# mean and deviation are; heat is not normalised.
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
