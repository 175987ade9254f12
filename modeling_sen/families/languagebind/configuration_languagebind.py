# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Configurations of LanguageBind (Zhu et al., 2023): a CLIP for each modality, all with one text space.

Published checkpoints name `LanguageBindVideo` and the like as `model_type`, and `clip_vision_model` for the tower inside.
Here each tower has a model type of its own, `languagebind_video_model` and the like.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig


@strict
class LanguageBindTowerConfig(CLIPVisionConfig):
    """Configuration of a tower, with what LanguageBind adds to [`CLIPVisionConfig`].

    Args:
        image_size: pixels of a side, or `[height, width]`; the audio tower's is always `[num_mel_bins, target_length]`.
        add_time_attn: whether each layer attends over the frames of a clip first.
        num_frames: of a clip, where the layers attend over frames; fixed by the weights.
        clip_type: `"vl"`, or `"vl_new"`: a 3D convolution embeds patches, and each frame has its own class embedding.
        lora_r, lora_alpha: rank and scale of the LoRA weights in the checkpoint's file. Loading folds them into the weights
            that they adapt, and sets `lora_r` to 0.
        num_mel_bins, target_length: mel bands and windows of a spectrogram; 0 for frames.
        audio_sample_rate: samples per second.
        audio_mean, audio_std: of a spectrogram's values, which become `(v - audio_mean) / (2 * audio_std)`.
        max_depth: metres by which depth maps are divided; 0 divides each map by its largest depth.

    Raises:
        ValueError: an unknown `clip_type`, or `"vl_new"` without attention over frames.
    """

    num_hidden_layers: int = 24
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_attention_heads: int = 16
    projection_dim: int = 768
    patch_size: int = 14
    hidden_act: str = "gelu"
    add_time_attn: bool = False
    num_frames: int = 1
    clip_type: str = "vl"
    lora_r: int = 0
    lora_alpha: int | float = 16
    num_mel_bins: int | float = 0
    target_length: int | float = 0
    audio_sample_rate: int = 16_000
    audio_mean: float | int = -4.2677393
    audio_std: float | int = 4.5689974
    max_depth: float | int = 10

    def __post_init__(self, **kwargs: Any):
        if self.num_mel_bins and self.target_length:
            self.image_size = [int(self.num_mel_bins), int(self.target_length)]
        super().__post_init__(**kwargs)

    def validate_clip_type(self):
        """Called by the strict dataclass on construction and on save."""
        if self.clip_type not in ("vl", "vl_new"):
            raise ValueError(f"clip_type is {self.clip_type!r}, expected 'vl' or 'vl_new'")
        if self.clip_type == "vl_new" and not self.add_time_attn:
            raise ValueError(
                "clip_type is 'vl_new' and add_time_attn False, expected True: its clips have fixed frames"
            )

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the pixel values."""
        size: Any = self.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@strict
class LanguageBindImageTowerConfig(LanguageBindTowerConfig):
    """See [`LanguageBindTowerConfig`]."""

    model_type = "languagebind_image_model"


@strict
class LanguageBindVideoTowerConfig(LanguageBindTowerConfig):
    """See [`LanguageBindTowerConfig`]."""

    model_type = "languagebind_video_model"

    add_time_attn: bool = True
    num_frames: int = 8


@strict
class LanguageBindAudioTowerConfig(LanguageBindTowerConfig):
    """See [`LanguageBindTowerConfig`]."""

    model_type = "languagebind_audio_model"

    num_mel_bins: int | float = 112
    target_length: int | float = 1036


@strict
class LanguageBindDepthTowerConfig(LanguageBindTowerConfig):
    """See [`LanguageBindTowerConfig`]."""

    model_type = "languagebind_depth_model"


@strict
class LanguageBindThermalTowerConfig(LanguageBindTowerConfig):
    """See [`LanguageBindTowerConfig`]."""

    model_type = "languagebind_thermal_model"


@strict
class LanguageBindConfig(CLIPConfig):
    """Configuration of a modality's tower and the text tower beside it.

    Args:
        text_config: of [`CLIPTextModel`].
        vision_config: of the modality's tower, a [`LanguageBindTowerConfig`].
        projection_dim: width of the space that all LanguageBind towers share.
        logit_scale_init_value: log of the similarity scale before training.
    """

    projection_dim: int = 768

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_config, dict):  # `clip_vision_model` in published files
            self.vision_config = {name: value for name, value in self.vision_config.items() if name != "model_type"}
        super().__post_init__(**kwargs)
        # The original pools the token with the highest id; CLIPTextModel does so if `eos_token_id` is 2.
        text_config: Any = self.text_config
        text_config.eos_token_id = 2


def _beside_text(tower: type[LanguageBindTowerConfig]) -> dict[str, Any]:
    return {"vision_config": tower, "text_config": CLIPTextConfig}


@strict
class LanguageBindImageConfig(LanguageBindConfig):
    """See [`LanguageBindConfig`]."""

    model_type = "LanguageBindImage"
    sub_configs_defaults: ClassVar[dict[str, Any]] = _beside_text(LanguageBindImageTowerConfig)


@strict
class LanguageBindVideoConfig(LanguageBindConfig):
    """See [`LanguageBindConfig`]."""

    model_type = "LanguageBindVideo"
    sub_configs_defaults: ClassVar[dict[str, Any]] = _beside_text(LanguageBindVideoTowerConfig)


@strict
class LanguageBindAudioConfig(LanguageBindConfig):
    """See [`LanguageBindConfig`]."""

    model_type = "LanguageBindAudio"
    sub_configs_defaults: ClassVar[dict[str, Any]] = _beside_text(LanguageBindAudioTowerConfig)


@strict
class LanguageBindDepthConfig(LanguageBindConfig):
    """See [`LanguageBindConfig`]."""

    model_type = "LanguageBindDepth"
    sub_configs_defaults: ClassVar[dict[str, Any]] = _beside_text(LanguageBindDepthTowerConfig)


@strict
class LanguageBindThermalConfig(LanguageBindConfig):
    """See [`LanguageBindConfig`]."""

    model_type = "LanguageBindThermal"
    sub_configs_defaults: ClassVar[dict[str, Any]] = _beside_text(LanguageBindThermalTowerConfig)


__all__ = [
    "LanguageBindAudioConfig",
    "LanguageBindAudioTowerConfig",
    "LanguageBindConfig",
    "LanguageBindDepthConfig",
    "LanguageBindDepthTowerConfig",
    "LanguageBindImageConfig",
    "LanguageBindImageTowerConfig",
    "LanguageBindThermalConfig",
    "LanguageBindThermalTowerConfig",
    "LanguageBindTowerConfig",
    "LanguageBindVideoConfig",
    "LanguageBindVideoTowerConfig",
]
