# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""LanguageBind on Transformers' CLIP, with other patch embeddings and, for video, attention over frames.

Published checkpoints load under their own names; their LoRA weights are folded into those that they adapt.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import load_state_dict
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoder,
    CLIPEncoderLayer,
    CLIPPreTrainedModel,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from modeling_sen.families.languagebind.configuration_languagebind import (
    LanguageBindAudioConfig,
    LanguageBindAudioTowerConfig,
    LanguageBindConfig,
    LanguageBindDepthConfig,
    LanguageBindDepthTowerConfig,
    LanguageBindImageConfig,
    LanguageBindImageTowerConfig,
    LanguageBindThermalConfig,
    LanguageBindThermalTowerConfig,
    LanguageBindTowerConfig,
    LanguageBindVideoConfig,
    LanguageBindVideoTowerConfig,
)
from modeling_sen.families.languagebind.lora_languagebind import fold_lora, is_lora_key


class LanguageBindEmbeddings(nn.Module):
    """Patches of frames, maps or spectrograms, which need not be square, behind a class embedding."""

    def __init__(self, config: LanguageBindTowerConfig):
        super().__init__()
        self.config, self.is_3d = config, config.clip_type == "vl_new"
        patch, width = config.patch_size, config.hidden_size
        height, length = config.input_size
        if self.is_3d:
            self.class_embedding = nn.Parameter(torch.randn(config.num_frames, width))
            self.patch_embedding: nn.Module = nn.Conv3d(
                config.num_channels, width, (1, patch, patch), (1, patch, patch), bias=False
            )
        else:
            self.class_embedding = nn.Parameter(torch.randn(width))
            self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding((height // patch) * (length // patch) + 1, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(frames, channels, height, width) -> (frames, 1 + patches, width)."""
        pixel_values = pixel_values.to(self.position_embedding.weight.dtype)
        if self.is_3d:
            patches = self.patch_embedding(pixel_values.unsqueeze(2)).flatten(2).transpose(1, 2)
            first = self.class_embedding.repeat(len(patches) // len(self.class_embedding), 1).unsqueeze(1)
        else:
            patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
            first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class LanguageBindTimeAttention(CLIPAttention):
    """Attention of each position over the frames of a clip."""

    attends_over_frames = True  # each position attends to itself in other frames: prompts can run without other tokens


class LanguageBindLayer(CLIPEncoderLayer):
    """A layer of CLIP, before which each position attends over the frames of its clip if `add_time_attn` is set."""

    def __init__(self, config: LanguageBindTowerConfig):
        super().__init__(config)
        self.num_frames, self.over_time = config.num_frames, config.add_time_attn
        if self.over_time:
            self.temporal_embedding = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
            self.temporal_attn = LanguageBindTimeAttention(config)
            self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """(clips * frames, tokens, width) -> the same."""
        if self.over_time:
            hidden_states = self._attend_over_time(hidden_states, **kwargs)
        return super().forward(hidden_states, attention_mask, **kwargs)  # type: ignore[arg-type]

    def _attend_over_time(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        tokens = hidden_states.shape[1]
        places = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2).flatten(0, 1)
        if self.num_frames > 1:
            places = places + self.temporal_embedding  # (clips * tokens, frames, width)
        attended, _ = self.temporal_attn(self.temporal_layer_norm1(places), **kwargs)
        return (places + attended).unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)


class LanguageBindEncoder(CLIPEncoder):
    """CLIP's encoder with layers of LanguageBind."""

    def __init__(self, config: LanguageBindTowerConfig):
        nn.Module.__init__(self)  # CLIPEncoder would build layers of CLIP
        self.config: Any = config
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList([LanguageBindLayer(config) for _ in range(config.num_hidden_layers)])


class LanguageBindPreTrainedModel(CLIPPreTrainedModel):
    """Base of all LanguageBind models: initial weights, and loading, which folds LoRA weights of both peft layouts."""

    config: LanguageBindConfig  # type: ignore[assignment]
    _no_split_modules = [  # noqa: RUF012 (Transformers' own)
        "CLIPTextEmbeddings",
        "CLIPEncoderLayer",
        "LanguageBindLayer",
        "LanguageBindEmbeddings",
    ]
    # Stored by old versions of Transformers.
    _keys_to_ignore_on_load_unexpected = [r"position_ids$"]  # noqa: RUF012
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": CLIPEncoderLayer,
        "attentions": OutputRecorder(CLIPAttention, index=1, layer_name="self_attn"),
    }

    @classmethod
    def is_custom_code(cls) -> bool:
        # Classes outside of Transformers count as custom code, for which it may skip `_init_weights`: then the projections of
        # attention would keep the initial values of `nn.Linear`.
        return cls.is_remote_code()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LanguageBindEmbeddings):
            config, patches = module.config, module.patch_embedding
            factor = config.initializer_factor
            init.normal_(module.class_embedding, std=config.hidden_size**-0.5 * factor)
            init.normal_(patches.weight, std=config.initializer_range * factor)  # type: ignore[arg-type]
            init.normal_(module.position_embedding.weight, std=config.initializer_range * factor)
        elif isinstance(module, LanguageBindLayer) and module.over_time:
            init.normal_(module.temporal_embedding, std=module.embed_dim**-0.5)
        elif isinstance(module, LanguageBindModel):
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)  # type: ignore[arg-type]

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None):
        tower_config = getattr(model.config, "vision_config", model.config)
        if state_dict is None and checkpoint_files is not None and _has_lora(checkpoint_files):
            state_dict = {}
            for path in checkpoint_files:
                state_dict |= load_state_dict(path, weights_only=load_config.weights_only)
        if state_dict is not None and any(map(is_lora_key, state_dict)):
            state_dict = fold_lora(state_dict, tower_config.lora_alpha)
        tower_config.lora_r = 0  # they are folded now
        return CLIPPreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, expected_keys
        )


def _has_lora(checkpoint_files: Sequence[str]) -> bool:
    for path in checkpoint_files:
        if path.endswith(".safetensors"):
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
        else:
            keys = list(load_state_dict(path, map_location="meta"))
        if any(map(is_lora_key, keys)):
            return True
    return False


class LanguageBindTower(LanguageBindPreTrainedModel):
    """The tower of one modality.

    Args:
        config: of the tower.
    """

    config: LanguageBindTowerConfig  # type: ignore[assignment]
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: LanguageBindTowerConfig):
        super().__init__(config)
        self.embeddings = LanguageBindEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # as CLIP spells it
        self.encoder = LanguageBindEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: Tensor | None = None, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: (batch, channels, height, width), or clips (batch, channels, time, height, width). If the tower
                attends over frames, time is the configuration's `num_frames`, and clips may also be given as consecutive
                frames (batch * time, channels, height, width).
            interpolate_pos_encoding: of CLIP; only `False`.

        Returns:
            `last_hidden_state` (batch * time, 1 + patches, width), and `pooler_output` (batch, width): the class token after
            a layer norm, mean over a clip's frames.

        Raises:
            ValueError: no pixel values, another shape, or another number of frames.
        """
        if pixel_values is None or pixel_values.ndim not in (4, 5):
            found = None if pixel_values is None else tuple(pixel_values.shape)
            raise ValueError(
                f"pixel_values: found {found}, expected (batch, channels, height, width) or (batch, channels, time, height, "
                "width)"
            )
        if interpolate_pos_encoding:
            raise ValueError("interpolate_pos_encoding is True, expected False: positions of LanguageBind are fixed")
        time = 1
        if pixel_values.ndim == 5:
            time = pixel_values.shape[2]
            pixel_values = pixel_values.transpose(1, 2).flatten(0, 1)
        self._check(pixel_values, time)
        hidden_states = self.pre_layrnorm(self.embeddings(pixel_values))
        tokens = self.encoder(inputs_embeds=hidden_states, **kwargs).last_hidden_state
        pooled = self.post_layernorm(tokens[:, 0]).unflatten(0, (-1, time)).mean(dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)

    def _check(self, frames: Tensor, time: int) -> None:
        config, expected = self.config, (self.config.num_channels, *self.config.input_size)
        if frames.shape[1:] != expected:
            raise ValueError(
                f"pixel_values: found channels, height and width {tuple(frames.shape[1:])}, expected {expected}"
            )
        if config.add_time_attn and (len(frames) % config.num_frames or time not in (1, config.num_frames)):
            found = time if time > 1 else len(frames)
            raise ValueError(f"pixel_values: found {found} frames, expected clips of {config.num_frames}")


class LanguageBindImageTower(LanguageBindTower):
    """See [`LanguageBindTower`]."""

    config: LanguageBindImageTowerConfig


class LanguageBindVideoTower(LanguageBindTower):
    """See [`LanguageBindTower`]."""

    config: LanguageBindVideoTowerConfig


class LanguageBindAudioTower(LanguageBindTower):
    """See [`LanguageBindTower`]; pixel values are spectrograms (batch, 3, mel bands, windows), three crops of a sound."""

    config: LanguageBindAudioTowerConfig


class LanguageBindDepthTower(LanguageBindTower):
    """See [`LanguageBindTower`]."""

    config: LanguageBindDepthTowerConfig


class LanguageBindThermalTower(LanguageBindTower):
    """See [`LanguageBindTower`]."""

    config: LanguageBindThermalTowerConfig


class LanguageBindModel(LanguageBindPreTrainedModel, CLIPModel):
    """The tower of a modality and the text tower, as [`CLIPModel`]; `get_image_features` runs the tower of the modality.

    Args:
        config: of both.
    """

    tower_class: ClassVar[type[LanguageBindTower]]

    def __init__(self, config: LanguageBindConfig):
        LanguageBindPreTrainedModel.__init__(self, config)
        text_config: Any = config.text_config
        vision_config: Any = config.vision_config
        self.projection_dim = config.projection_dim
        self.text_embed_dim, self.vision_embed_dim = text_config.hidden_size, vision_config.hidden_size
        self.text_model = CLIPTextModel._from_config(text_config)
        self.vision_model = self.tower_class._from_config(vision_config)
        self.visual_projection = nn.Linear(self.vision_embed_dim, self.projection_dim, bias=False)
        self.text_projection = nn.Linear(self.text_embed_dim, self.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))  # type: ignore[arg-type]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Of the text tower."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Of the text tower."""
        self.text_model.set_input_embeddings(value)


class LanguageBindImage(LanguageBindModel):
    """See [`LanguageBindModel`]."""

    config: LanguageBindImageConfig
    tower_class = LanguageBindImageTower


class LanguageBindVideo(LanguageBindModel):
    """See [`LanguageBindModel`]."""

    config: LanguageBindVideoConfig
    tower_class = LanguageBindVideoTower


class LanguageBindAudio(LanguageBindModel):
    """See [`LanguageBindModel`]."""

    config: LanguageBindAudioConfig
    tower_class = LanguageBindAudioTower


class LanguageBindDepth(LanguageBindModel):
    """See [`LanguageBindModel`]."""

    config: LanguageBindDepthConfig
    tower_class = LanguageBindDepthTower


class LanguageBindThermal(LanguageBindModel):
    """See [`LanguageBindModel`]."""

    config: LanguageBindThermalConfig
    tower_class = LanguageBindThermalTower


__all__ = [
    "LanguageBindAudio",
    "LanguageBindAudioTower",
    "LanguageBindDepth",
    "LanguageBindDepthTower",
    "LanguageBindImage",
    "LanguageBindImageTower",
    "LanguageBindModel",
    "LanguageBindPreTrainedModel",
    "LanguageBindThermal",
    "LanguageBindThermalTower",
    "LanguageBindTower",
    "LanguageBindVideo",
    "LanguageBindVideoTower",
]
