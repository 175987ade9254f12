# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How CLIP scales and cuts pictures, which ImageBind and LanguageBind do too."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def by_shorter_side(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with a shorter side of `size` pixels; the longer side is rounded down, as torchvision does."""
    longer = math.floor(size * max(height, width) / min(height, width))
    return (size, longer) if height <= width else (longer, size)


def by_shorter_side_of_video(height: int, width: int, size: int) -> tuple[int, int]:
    """As `by_shorter_side`, in the order of pytorchvideo: it divides first, which for a few sizes gives a pixel less."""
    return (math.floor(height / width * size), size) if width < height else (size, math.floor(width / height * size))


def middle(side: int, size: int) -> int:
    """Where a centre crop of `size` pixels begins; half a pixel is rounded to the even number, as torchvision does."""
    return round((side - size) / 2)


def centre(values: Tensor, height: int, width: int) -> Tensor:
    """(..., H, W) -> (..., height, width), cut out of the middle."""
    top, left = middle(values.shape[-2], height), middle(values.shape[-1], width)
    return values[..., top : top + height, left : left + width]


def normalised(values: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(..., channels, H, W) in 0..1, less the mean of each channel, divided by its deviation."""
    return (values - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


__all__ = ["MEAN", "STD", "by_shorter_side", "by_shorter_side_of_video", "centre", "middle", "normalised"]
