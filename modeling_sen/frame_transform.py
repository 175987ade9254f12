# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Turn sampled frames into a neuron's pixel values, by the numbers in its hub processor's configuration.

One path, in Pillow and torch, whatever else is installed: the same file gives the same tensor with and without torchvision.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .configuration_sen import NeuronSpec
from .hub_files import HubSource


@dataclass(frozen=True)
class FrameTransform:
    """Resize, centre crop, rescale and normalise, as the CLIP family's image processors do.

    Attributes:
        size: shorter side in pixels, `(height, width)`, or `None` to leave frames as they are.
        crop: `(height, width)` of the centre crop, black where the frame is smaller; `None` for no crop.
        mean, std: of each channel, applied after scaling to 0..1.
        resample: Pillow's filter number.
        gray: replace the channels by their luma (ITU-R 601) first.
    """

    size: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3
    gray: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any] | None, spec: NeuronSpec) -> "FrameTransform":
        """From a hub processor's dict (`preprocessor_config.json`), overridden by `spec.preprocessing`.

        Raises:
            ValueError: neither says the size, mean or standard deviation.
        """
        values = {} if settings is None else _hub_values(settings)
        values |= spec.preprocessing or {}
        if missing := {"size", "mean", "std"} - set(values):
            raise ValueError(
                f"the checkpoint has no image processor configuration that says {sorted(missing)}; give them in the "
                "neuron's preprocessing"
            )
        for name in ("size", "crop", "mean", "std"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(
            size=values["size"],
            crop=values.get("crop"),
            mean=values["mean"],
            std=values["std"],
            resample=values.get("resample", Image.Resampling.BICUBIC),
            gray=values.get("gray", False),
        )

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(T, H, W, 3) uint8 -> (T, 3, height, width) float32."""
        pixels = np.stack([self._resized(frame) for frame in frames])  # (T, height, width, 3) uint8
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (values / 255 - mean) / std

    def _resized(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        image = Image.fromarray(frame)
        if self.gray:
            image = image.convert("L").convert("RGB")
        if self.size is not None:
            target = _target_size(self.size, height, width)
            if target != (height, width):
                image = image.resize((target[1], target[0]), resample=Image.Resampling(self.resample))
        if self.crop is not None and self.crop != (image.height, image.width):
            top, left = (image.height - self.crop[0]) // 2, (image.width - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(image)


def hub_settings(source: HubSource) -> dict[str, Any] | None:
    """A checkpoint's image or video processor configuration; `None` where it has none.

    Raises:
        OSError: the checkpoint cannot be found.
        ValueError: the file is not JSON.
    """
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        path = source.file(name, optional=True)
        if path is None:
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error})") from error
        if name == "processor_config.json":  # of all parts of a processor
            found = settings.get("image_processor") or settings.get("video_processor")
        else:
            # Beside a video processor (PE-AV) the other file may be that of sound.
            found = None if "feature_extractor_type" in settings else settings
        if found:
            return found
    source.file("config.json")  # raises where there is no such checkpoint
    return None


def _target_size(size: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    if not isinstance(size, int):
        return size
    # Transformers' rule: the longer side is cut to a whole pixel.
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _hub_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The hub's keys in ours; old files give sizes as one number."""
    values: dict[str, Any] = {"size": None}
    crops = settings.get("do_center_crop", "crop_size" in settings)
    if settings.get("do_resize", True) and "size" in settings:
        values["size"] = _size(settings["size"], square=not crops)
    if crops and settings.get("crop_size") is not None:
        values["crop"] = _pair(settings["crop_size"])
    if not settings.get("do_normalize", True):
        settings = {**settings, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    # The processor computes (pixel * factor - offset - mean) / std; ours is (pixel / 255 - mean) / std.
    scale = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1)
    is_shifted = settings.get("offset", False) or settings.get("rescale_offset", False)
    offset = 1.0 if is_shifted and settings.get("do_rescale", True) else 0.0
    if settings.get("image_mean") is not None:
        values["mean"] = tuple((mean + offset) / scale for mean in settings["image_mean"])
    if settings.get("image_std") is not None:
        power = 2 if settings.get("include_top", False) else 1  # EfficientNet's divides once more
        values["std"] = tuple(std**power / scale for std in settings["image_std"])
    if settings.get("resample") is not None:
        values["resample"] = int(settings["resample"])
    return values


def _size(size: Any, square: bool) -> int | tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
    return (int(size), int(size)) if square else int(size)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, Mapping) else (int(size), int(size))


__all__ = ["FrameTransform", "hub_settings"]
