# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBind: each tower with its projection into the shared embedding space, and all six in one model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from modeling_sen.families.imagebind.configuration_imagebind import (
    MODALITIES,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindVisionConfig,
)
from modeling_sen.families.imagebind.imagebind_towers import TOWERS, ImageBindPreTrainedModel

LARGEST_SCALE = 100.0  # upper limit of the factor by which embeddings are multiplied
CLIPS_FROM = 5  # dimensions: inputs with this many or more hold several clips of each sample


@dataclass
class ImageBindOutput(ModelOutput):
    """Embeddings (batch, projection_dim) of the given modalities.

    The length of a vision embedding is 1, of another embedding the factor of its modality. The mean over several clips may be
    shorter.
    """

    vision_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    depth_embeds: Tensor | None = None
    thermal_embeds: Tensor | None = None
    imu_embeds: Tensor | None = None


class ImageBindEmbeddingModel(ImageBindPreTrainedModel):
    """Base of models with projections: tower, projection and factor of each modality."""

    def _add(self, modality: str, config: Any) -> None:
        setattr(self, f"{modality}_model", TOWERS[modality]._from_config(config))
        setattr(self, f"{modality}_projection", nn.Linear(config.hidden_size, config.projection_dim, bias=False))
        if config.logit_scale_init_value is not None:
            scale = torch.tensor(float(config.logit_scale_init_value))
            if modality == "text":  # the only trained factor
                self.text_logit_scale = nn.Parameter(scale)
            else:
                self.register_buffer(f"{modality}_logit_scale", scale)

    def _embed(self, modality: str, values: Tensor, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The tower's outputs, with the embedding (batch, projection_dim) as `pooler_output`.

        Several clips of a sample are folded into the batch of `last_hidden_state`, and their embeddings are averaged.
        """
        clips = values.shape[1] if values.ndim >= CLIPS_FROM else None
        if clips is not None:
            values = values.flatten(0, 1)
        outputs = getattr(self, f"{modality}_model")(values, *args, **kwargs)
        embeds = nn.functional.normalize(getattr(self, f"{modality}_projection")(outputs.pooler_output), dim=-1)
        scale = getattr(self, f"{modality}_logit_scale", None)
        if scale is not None:
            embeds = embeds * scale.exp().clamp(max=LARGEST_SCALE)
        if clips is not None:  # as the original: averaged after the factor, and not normalised again
            embeds = embeds.unflatten(0, (-1, clips)).mean(dim=1)
        outputs.pooler_output = embeds
        return outputs

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        for modality in MODALITIES:
            scale = getattr(module, f"{modality}_logit_scale", None)
            if scale is not None:
                config: Any = getattr(module.config, f"{modality}_config", module.config)
                init.constant_(scale, config.logit_scale_init_value)


class ImageBindTowerWithProjection(ImageBindEmbeddingModel):
    """One tower with its projection; the names of its weights are those of [`ImageBindModel`], whose checkpoints it loads.

    `pooler_output` is the embedding: normalised, multiplied by the modality's factor, and averaged over clips.
    """

    modality: str

    def __init__(self, config: Any):
        super().__init__(config)
        self._add(self.modality, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return getattr(self, f"{self.modality}_model").get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        getattr(self, f"{self.modality}_model").set_input_embeddings(value)

    @can_return_tuple
    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Args:
            args, kwargs: of the tower. Inputs with five or more dimensions hold several clips a sample (batch, clips, ...).

        Raises:
            ValueError: inputs of a shape that the tower does not take.
        """
        values = args[0] if args else kwargs.pop(self.main_input_name)
        return self._embed(self.modality, values, *args[1:], **kwargs)


class ImageBindVisionModelWithProjection(ImageBindTowerWithProjection):
    modality, main_input_name, input_modalities = "vision", "pixel_values", "video"
    config: ImageBindVisionConfig


class ImageBindTextModelWithProjection(ImageBindTowerWithProjection):
    modality, main_input_name, input_modalities = "text", "input_ids", "text"
    config: ImageBindTextConfig


class ImageBindAudioModelWithProjection(ImageBindTowerWithProjection):
    modality, main_input_name, input_modalities = "audio", "input_features", "audio"
    config: ImageBindAudioConfig


class ImageBindDepthModelWithProjection(ImageBindTowerWithProjection):
    modality, main_input_name, input_modalities = "depth", "pixel_values", "image"
    config: ImageBindDepthConfig


class ImageBindThermalModelWithProjection(ImageBindTowerWithProjection):
    modality, main_input_name, input_modalities = "thermal", "pixel_values", "image"
    config: ImageBindThermalConfig


class ImageBindImuModelWithProjection(ImageBindTowerWithProjection):
    modality, main_input_name, input_modalities = "imu", "imu_values", "time"
    config: ImageBindImuConfig


class ImageBindModel(ImageBindEmbeddingModel):
    """Six towers with one embedding space: images and video, texts, sound, depth, heat and motion sensors.

    >>> from modeling_sen.families.imagebind import ImageBindModel, ImageBindProcessor
    >>> model, processor = (each.from_pretrained(FOLDER) for each in (ImageBindModel, ImageBindProcessor))
    >>> embeds = model(**processor(images="dog.jpg", text=["a dog", "a car"]))
    >>> (embeds.vision_embeds @ embeds.text_embeds.T).softmax(dim=-1)
    """

    config: ImageBindConfig
    main_input_name = "pixel_values"
    input_modalities = ["image", "video", "text", "audio"]  # noqa: RUF012

    def __init__(self, config: ImageBindConfig):
        super().__init__(config)
        for modality in MODALITIES:
            self._add(modality, getattr(config, f"{modality}_config"))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Of the text tower."""
        return self.get_submodule("text_model").get_input_embeddings()  # type: ignore[operator]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.get_submodule("text_model").set_input_embeddings(value)  # type: ignore[operator]

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        depth_values: Tensor | None = None,
        thermal_values: Tensor | None = None,
        imu_values: Tensor | None = None,
        **kwargs: Any,
    ) -> ImageBindOutput:
        """
        Args:
            pixel_values: images (batch, 3, height, width), several images of each sample (batch, images, 3, height, width),
                or clips of two frames (batch, clips, 3, 2, height, width).
            input_ids, attention_mask: (batch, tokens) int64; the mask may be left out where padding is behind the texts.
            input_features: (batch, 1, mel bins, mel frames), or clips (batch, clips, 1, mel bins, mel frames).
            depth_values, thermal_values: (batch, 1, height, width), or several (batch, pictures, 1, height, width).
            imu_values: (batch, 6, samples).
            kwargs: of the attention functions.

        Raises:
            ValueError: nothing given, or inputs of another shape.
        """
        given = (pixel_values, input_ids, input_features, depth_values, thermal_values, imu_values)
        found: dict[str, Any] = {}
        for modality, values in zip(MODALITIES, given, strict=True):
            if values is not None:
                more = {"attention_mask": attention_mask} if modality == "text" else {}
                found[f"{modality}_embeds"] = self._embed(modality, values, **more, **kwargs).pooler_output
        if not found:
            raise ValueError(
                "ImageBindModel: found no input, expected some of pixel_values, input_ids, input_features, depth_values, "
                "thermal_values, imu_values"
            )
        return ImageBindOutput(**found)


__all__ = [
    "ImageBindAudioModelWithProjection",
    "ImageBindDepthModelWithProjection",
    "ImageBindImuModelWithProjection",
    "ImageBindModel",
    "ImageBindOutput",
    "ImageBindTextModelWithProjection",
    "ImageBindThermalModelWithProjection",
    "ImageBindVisionModelWithProjection",
]
