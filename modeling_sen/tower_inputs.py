# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Input conversion, token grids and longest sounds of single tower types, used by the entries of `neuron_registry.py`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # keeps `sen neurons` fast: importing torch takes seconds
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
    """Each frame as a sequence of patches, with the number of rows and columns of patches."""
    import torch

    patch, (_, rows, columns) = config.patch_size, image_grid(config, inputs)
    pixels = inputs["pixel_values"][..., : rows * patch, : columns * patch]  # (frames, channels, height, width)
    patches = pixels.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (frames, patches, values)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": None,  # no patch is padding
        "spatial_shapes": torch.tensor([[rows, columns]]).expand(
            len(patches), -1
        ),  # on the CPU: read as Python numbers
    }


def vjepa2_inputs(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Runs the encoder only; the predictor is for training."""
    return {"pixel_values_videos": inputs["pixel_values"], "skip_predictor": True}


def clap_inputs(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Marks no sound as longer than one input; CLAP's feature extractor marks a random one in a batch of short sounds."""
    features = inputs["input_features"]  # (batch, 1 or 4, time, mel bins)
    return {"input_features": features, "is_longer": features.new_zeros(len(features), 1).bool()}


def wavlm_position_bias(tower: Any, hidden_states: "Tensor") -> tuple:
    """The relative position bias, which the first layer computes and every layer passes on to the next."""
    batch, tokens, _ = hidden_states.shape
    bias = tower.encoder.layers[0].attention.compute_bias(tokens, tokens)  # (heads, tokens, tokens)
    return (bias.repeat(batch, 1, 1),)


def imagebind_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of a spectrogram, input_features (batch, clips, 1, mel bins, time), or segments of IMU samples."""
    if "imu_values" in inputs:
        return 1, 1, inputs["imu_values"].shape[-1] // config.patch_size
    rows, columns = (
        (length - config.patch_size) // config.patch_stride + 1 for length in inputs["input_features"].shape[-2:]
    )
    return 1, rows, columns


def imagebind_frames(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Pairs of frames, folded into the batch; a single frame is an image.

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
    """Sound clips, folded into the batch: input_features are (batch, clips, 1, mel bins, time)."""
    return {"input_features": inputs["input_features"].flatten(0, 1)}


def languagebind_sound_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of spectrograms with mel bands as rows: input_features are (batch, crops, mel bands, windows)."""
    bands, windows = inputs["input_features"].shape[-2:]
    return 1, bands // config.patch_size, windows // config.patch_size


def one_channel(config: Any, inputs: "Mapping[str, Tensor]") -> dict[str, Any]:
    """The first of three identical channels, for towers that read one."""
    return {"pixel_values": inputs["pixel_values"][:, :1]}


def ast_seconds(extractor: Any) -> float:
    """Duration of the extractor's largest number of windows: 25 ms each, 10 ms apart."""
    return extractor.max_length * 0.010 + 0.015


def clap_seconds(extractor: Any) -> float:
    """The duration to which the extractor cuts sounds."""
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
