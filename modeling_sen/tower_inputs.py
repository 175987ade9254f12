# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How towers of single types are fed, and what else differs between types: used by the entries of `neuron_registry.py`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `sen neurons` lists the types without the seconds that these take to import
    from torch import Tensor

Grid = tuple[int, int, int]  # (t, h, w): time, height, width; (1, frequency, time) for sound, (1, 1, tokens) for text


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def image_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of one frame: pixel_values are (batch, channels, height, width)."""
    height, width = inputs["pixel_values"].shape[-2:]
    patch_height, patch_width = pair(config.patch_size)
    return 1, height // patch_height, width // patch_width


def siglip2_inputs(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Frames as rows of patches, with the shape of the rectangle that they fill."""
    import torch

    patch, (_, rows, columns) = config.patch_size, image_grid(config, inputs)
    pixels = inputs["pixel_values"][..., : rows * patch, : columns * patch]  # (frames, channels, height, width)
    patches = pixels.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (frames, patches, values)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": None,  # no patch is padding
        "spatial_shapes": torch.tensor([[rows, columns]]).expand(len(patches), -1),  # read as numbers: on the CPU
    }


def vjepa2_inputs(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """The encoder alone: its predictor is for training."""
    return {"pixel_values_videos": inputs["pixel_values"], "skip_predictor": True}


def clap_inputs(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Sound that fits the tower: CLAP's own feature extractor calls a clip of each batch longer than it is, at random."""
    features = inputs["input_features"]  # (batch, 1 or 4, time, mel bins)
    return {"input_features": features, "is_longer": features.new_zeros(len(features), 1).bool()}


def wavlm_position_bias(tower: Any, hidden_states: "Tensor") -> tuple:
    """The relative positions' bias, which the first layer computes and every layer returns for the next."""
    batch, tokens, _ = hidden_states.shape
    bias = tower.encoder.layers[0].attention.compute_bias(tokens, tokens)  # (heads, tokens, tokens)
    return (bias.repeat(batch, 1, 1),)


def imagebind_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of a spectrogram, input_features (batch, clips, 1, mel bins, time), or pieces of motion sensors' samples."""
    if "imu_values" in inputs:
        return 1, 1, inputs["imu_values"].shape[-1] // config.patch_size
    rows, columns = (
        (length - config.patch_size) // config.patch_stride + 1 for length in inputs["input_features"].shape[-2:]
    )
    return 1, rows, columns


def imagebind_frames(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Clips of two frames, folded into the batch; a frame alone is an image.

    Raises:
        ValueError: an odd number of frames.
    """
    pixels, size = inputs["pixel_values"], config.tubelet_size  # (batch, time, channels, height, width)
    if pixels.shape[1] == 1:
        return {"pixel_values": pixels.flatten(0, 1)}
    if pixels.shape[1] % size:
        raise ValueError(
            f"found {pixels.shape[1]} frames, expected 1 or a multiple of {size}: the tower reads them by {size}"
        )
    return {"pixel_values": pixels.unflatten(1, (-1, size)).flatten(0, 1).transpose(1, 2)}


def imagebind_sound(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Clips of sound, folded into the batch: input_features are (batch, clips, 1, mel bins, time)."""
    return {"input_features": inputs["input_features"].flatten(0, 1)}


def languagebind_sound_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of spectrograms with mel bands as rows: input_features are (batch, crops, mel bands, windows)."""
    bands, windows = inputs["input_features"].shape[-2:]
    return 1, bands // config.patch_size, windows // config.patch_size


def one_channel(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Pictures whose three channels are the same, for towers that read one."""
    return {"pixel_values": inputs["pixel_values"][:, :1]}


def ast_seconds(extractor: Any) -> float:
    """Of as many windows as the extractor gives at most: each is 25 ms long, they begin 10 ms apart."""
    return extractor.max_length * 0.010 + 0.015


def clap_seconds(extractor: Any) -> float:
    """What the extractor cuts sounds to."""
    return extractor.max_length_s


__all__ = [
    "Grid",
    "ast_seconds",
    "clap_inputs",
    "clap_seconds",
    "image_grid",
    "imagebind_frames",
    "imagebind_grid",
    "imagebind_sound",
    "languagebind_sound_grid",
    "one_channel",
    "pair",
    "siglip2_inputs",
    "vjepa2_inputs",
    "wavlm_position_bias",
]
