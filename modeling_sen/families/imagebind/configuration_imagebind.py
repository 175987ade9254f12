# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBindConfig: six towers with one embedding space. The defaults are the sizes of `imagebind_huge`."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")


@strict
class ImageBindTowerConfig(PreTrainedConfig):
    """Base of the six towers' configurations.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the transformer.
        hidden_act: the activation of its MLPs.
        layer_norm_eps: of all layer norms except the patches', whose epsilon is 1e-5.
        attention_dropout: in training.
        attention_bias_rows: whether each layer has one learned row of keys and values beside those of the tokens.
        projection_dim: width of the embedding space.
        logit_scale_init_value: log of the factor by which normalised embeddings are multiplied; `None` for no factor.
        initializer_range: standard deviation of the initial weights.

    Raises:
        StrictDataclassError: a value of the wrong type, or a width that the heads do not divide.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    attention_bias_rows: bool = True
    projection_dim: int = 1024
    logit_scale_init_value: float | int | None = None
    initializer_range: float | int = 0.02

    def validate_architecture(self):
        """Called by the strict dataclass on construction and on save."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, expected a multiple of {self.num_attention_heads} heads"
            )


@strict
class ImageBindVisionConfig(ImageBindTowerConfig):
    """Images (repeated to two frames) and clips of two frames: patches of `tubelet_size` x `patch_size` x `patch_size`."""

    model_type = "imagebind_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    intermediate_size: int = 5120
    attention_bias_rows: bool = False
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    tubelet_size: int = 2


@strict
class ImageBindTextConfig(ImageBindTowerConfig):
    """Texts as CLIP's word pieces, with causal attention; the end token, which has the highest id, is pooled."""

    model_type = "imagebind_text_model"
    base_config_key = "text_config"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    attention_bias_rows: bool = False
    logit_scale_init_value: float | int | None = 2.6592600369327779  # log(1 / 0.07)
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int | None = 49406
    eos_token_id: int | list[int] | None = 49407
    pad_token_id: int | None = 0


@strict
class ImageBindAudioConfig(ImageBindTowerConfig):
    """A spectrogram (1, `num_mel_bins`, `num_mel_frames`) in overlapping patches."""

    model_type = "imagebind_audio_model"
    base_config_key = "audio_config"

    logit_scale_init_value: float | int | None = 2.995732273553991  # log(20)
    num_mel_bins: int = 128
    num_mel_frames: int = 204
    patch_size: int = 16
    patch_stride: int = 10


@strict
class ImageBindDepthConfig(ImageBindTowerConfig):
    """Disparity (1, `image_size`, `image_size`)."""

    model_type = "imagebind_depth_model"
    base_config_key = "depth_config"

    hidden_size: int = 384
    num_attention_heads: int = 8
    intermediate_size: int = 1536
    logit_scale_init_value: float | int | None = 1.6094379124341003  # log(5)
    image_size: int = 224
    patch_size: int = 16


@strict
class ImageBindThermalConfig(ImageBindTowerConfig):
    """Heat (1, `image_size`, `image_size`)."""

    model_type = "imagebind_thermal_model"
    base_config_key = "thermal_config"

    logit_scale_init_value: float | int | None = 2.302585092994046  # log(10)
    image_size: int = 224
    patch_size: int = 16


@strict
class ImageBindImuConfig(ImageBindTowerConfig):
    """Accelerations and rotation rates (`num_channels`, `num_samples`), `patch_size` samples for each token."""

    model_type = "imagebind_imu_model"
    base_config_key = "imu_config"

    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    logit_scale_init_value: float | int | None = 1.6094379124341003  # log(5)
    num_channels: int = 6
    num_samples: int = 2000
    patch_size: int = 8


TOWER_CONFIGS: dict[str, type[ImageBindTowerConfig]] = {
    "vision": ImageBindVisionConfig,
    "text": ImageBindTextConfig,
    "audio": ImageBindAudioConfig,
    "depth": ImageBindDepthConfig,
    "thermal": ImageBindThermalConfig,
    "imu": ImageBindImuConfig,
}


@strict
class ImageBindConfig(PreTrainedConfig):
    """Configuration of an [`ImageBindModel`].

    Args:
        vision_config, text_config, audio_config, depth_config, thermal_config, imu_config: of each tower, or a dict of
            the values that differ from `imagebind_huge`.
        projection_dim: width of the embedding space, set in the configuration of every tower.

    Raises:
        StrictDataclassError: a value of the wrong type.
    """

    model_type = "imagebind"
    sub_configs = {f"{name}_config": kind for name, kind in TOWER_CONFIGS.items()}  # noqa: RUF012 (Transformers' own)

    vision_config: dict[str, Any] | ImageBindVisionConfig | None = None
    text_config: dict[str, Any] | ImageBindTextConfig | None = None
    audio_config: dict[str, Any] | ImageBindAudioConfig | None = None
    depth_config: dict[str, Any] | ImageBindDepthConfig | None = None
    thermal_config: dict[str, Any] | ImageBindThermalConfig | None = None
    imu_config: dict[str, Any] | ImageBindImuConfig | None = None
    projection_dim: int = 1024
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        for name, kind in TOWER_CONFIGS.items():
            given = getattr(self, f"{name}_config")
            tower = given if isinstance(given, kind) else kind(**(given or {}))
            tower.projection_dim = self.projection_dim
            setattr(self, f"{name}_config", tower)
        super().__post_init__(**kwargs)


__all__ = [
    "MODALITIES",
    "TOWER_CONFIGS",
    "ImageBindAudioConfig",
    "ImageBindConfig",
    "ImageBindDepthConfig",
    "ImageBindImuConfig",
    "ImageBindTextConfig",
    "ImageBindThermalConfig",
    "ImageBindTowerConfig",
    "ImageBindVisionConfig",
]
