# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBind's towers: a transformer for each modality, all with the same kind of layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from modeling_sen.families.imagebind.configuration_imagebind import (
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindTowerConfig,
    ImageBindVisionConfig,
)
from modeling_sen.families.imagebind.imagebind_embeddings import EMBEDDINGS


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, tokens, heads, width of a head) and weights (batch, heads, queries, keys)."""
    weights = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ImageBindAttention(nn.Module):
    """Multi-head attention; all modalities except vision and text have one learned row of keys and values."""

    def __init__(self, config: ImageBindTowerConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.bias_k, self.bias_v = (
            nn.Parameter(torch.zeros(1, 1, width)) if config.attention_bias_rows else None for _ in range(2)
        )

    @property
    def num_extra_keys(self) -> int:
        """Number of learned rows of keys and values behind those of the tokens; `prompt_queries` reads it."""
        return 0 if self.bias_k is None else 1

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple:
        """(batch, tokens, width) -> the same shape, and the attention weights if the implementation returns them."""
        queries = self._in_heads(self.q_proj(hidden_states))
        keys, values = self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.bias_k is not None and self.bias_v is not None:
            batch = len(hidden_states)
            keys = torch.cat([keys, self.bias_k.expand(batch, -1, -1)], dim=1)
            values = torch.cat([values, self.bias_v.expand(batch, -1, -1)], dim=1)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        outputs, weights = attention(
            self,
            queries,
            self._in_heads(keys),
            self._in_heads(values),
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(outputs.flatten(2)), weights

    def _in_heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, tokens, width of a head)


class ImageBindMLP(nn.Module):
    def __init__(self, config: ImageBindTowerConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class ImageBindLayer(GradientCheckpointingLayer):
    def __init__(self, config: ImageBindTowerConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ImageBindAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ImageBindMLP(config)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), attention_mask, **kwargs)[0]
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class ImageBindPreTrainedModel(PreTrainedModel):
    """Base of all ImageBind models: initial weights, and what Transformers may do with them."""

    config_class: Any = ImageBindConfig
    base_model_prefix = "imagebind"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["ImageBindLayer", "ImageBindTextEmbeddings", "ImageBindPatchEmbeddings"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": ImageBindLayer, "attentions": ImageBindAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        for name in ("class_embedding", "position_embedding", "bias_k", "bias_v"):
            weight = getattr(module, name, None)
            if isinstance(weight, nn.Parameter):
                init.normal_(weight, std=std)
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            init.normal_(module.weight, std=std)


# --- towers ----------------------------------------------------------------------------------------------------------


class ImageBindTower(ImageBindPreTrainedModel):
    """A transformer over the tokens of one modality.

    `pooler_output` is the class token, of a text the end token, after a layer norm: the input of the projection.
    """

    config: ImageBindTowerConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: ImageBindTowerConfig):
        super().__init__(config)
        self.embeddings = EMBEDDINGS[config.model_type](config)
        self.layers = nn.ModuleList([ImageBindLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: images (batch, channels, height, width), of the vision tower also clips (batch, channels, 2, height,
                width). Disparity and heat have one channel.

        Raises:
            ValueError: another shape.
        """
        return self._tower(self.embeddings(pixel_values), **kwargs)

    def _tower(self, hidden_states: Tensor, places: Tensor | int = 0, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Runs all layers on the tokens and pools one token of each sample, at `places` (batch,)."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        batch = torch.arange(len(hidden_states), device=hidden_states.device)
        pooled = self.post_layernorm(hidden_states[batch, places])
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class ImageBindVisionModel(ImageBindTower):
    config: ImageBindVisionConfig
    input_modalities = "video"


class ImageBindTextModel(ImageBindTower):
    config: ImageBindTextConfig
    main_input_name = "input_ids"
    _input_embed_layer = "token_embedding"
    input_modalities = "text"

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            input_ids: (batch, tokens) int64, at most `max_position_embeddings` tokens; the highest id of a text is its end
                token.
            attention_mask: (batch, tokens), 0 for padding. Attention is causal, so that padding behind a text does not
                change its pooled output.

        Raises:
            ValueError: more tokens than there are positions.
        """
        hidden_states = self.embeddings(input_ids)
        mask = create_causal_mask(self.config, hidden_states, attention_mask, None)
        kwargs.pop("is_causal", None)
        return self._tower(hidden_states, input_ids.argmax(dim=-1), attention_mask=mask, is_causal=True, **kwargs)


class ImageBindAudioModel(ImageBindTower):
    config: ImageBindAudioConfig
    main_input_name = "input_features"
    input_modalities = "audio"

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_features: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Args:
            input_features: (batch, 1, mel bins, mel frames).

        Raises:
            ValueError: another shape.
        """
        return self._tower(self.embeddings(input_features), **kwargs)


class ImageBindDepthModel(ImageBindTower):
    config: ImageBindDepthConfig


class ImageBindThermalModel(ImageBindTower):
    config: ImageBindThermalConfig


class ImageBindImuModel(ImageBindTower):
    config: ImageBindImuConfig
    main_input_name = "imu_values"
    input_modalities = "time"

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, imu_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Args:
            imu_values: accelerations and rotation rates (batch, channels, samples).

        Raises:
            ValueError: another shape.
        """
        return self._tower(self.embeddings(imu_values), **kwargs)


TOWERS: dict[str, type[ImageBindTower]] = {
    "vision": ImageBindVisionModel,
    "text": ImageBindTextModel,
    "audio": ImageBindAudioModel,
    "depth": ImageBindDepthModel,
    "thermal": ImageBindThermalModel,
    "imu": ImageBindImuModel,
}


__all__ = ["TOWERS", "ImageBindPreTrainedModel", "ImageBindTower", *(tower.__name__ for tower in TOWERS.values())]
