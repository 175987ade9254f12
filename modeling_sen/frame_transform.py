# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Converts sampled frames to a neuron's pixel values, with the settings of the processor in its checkpoint.

There is one implementation, in Pillow and torch, so that results do not depend on whether torchvision is installed. Missing
settings have the defaults of Transformers' processor class, with which the result is compared.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.utils import logging

from .configuration_sen import NeuronSpec
from .family_settings import settings_of_config
from .hub_files import HubSource

logger = logging.get_logger(__name__)

Size = int | tuple[int, int] | Callable[[int, int], tuple[int, int]] | None
_TYPES = ("image_processor_type", "video_processor_type", "feature_extractor_type")
# torchvision video processors with the same settings as a Pillow image processor.
_AS_IMAGES = {"VideoMAEVideoProcessor": "VideoMAEImageProcessor", "VivitVideoProcessor": "VivitImageProcessor"}


@dataclass(frozen=True)
class FrameTransform:
    """Resize, centre crop, rescale and normalise, as Transformers' image processors do.

    Attributes:
        size: shorter side in pixels; `(height, width)`; a function from a frame's height and width to `(height, width)`;
            `None` for no resizing.
        crop: `(height, width)` of the centre crop, padded with black if the frame is smaller; `None` for no crop.
        mean, std: per channel, applied after scaling to 0..1.
        resample: number of Pillow's filter.
        gray: whether to replace the channels by their luma (ITU-R 601) first.
        bgr: whether to reverse the channels before `mean` and `std` are applied.
    """

    size: Size
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC
    gray: bool = False
    bgr: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any] | None, spec: NeuronSpec) -> "FrameTransform":
        """A transform with a processor's settings (`hub_settings`), overridden by `spec.preprocessing`.

        Unless the latter has a size, the result for one frame is compared with Transformers' processor, and a difference is
        logged as a warning.

        Raises:
            ValueError: size, mean or standard deviation is missing, or a setting of the file is not supported.
        """
        own = {name: tuple(v) if isinstance(v, list) else v for name, v in (spec.preprocessing or {}).items()}
        values: dict[str, Any] = {"crop": None}
        stock = _stock_processor(settings or {})
        if settings is not None:
            rule = None
            if stock is not None:
                rule = _RULES.get(_class_name(settings))
                settings = {**settings, **vars(stock), **stock.to_dict()}  # `to_dict` leaves out what is None
            values |= _colours(settings)
            values |= _plain_crop(settings) if "size" in own else _geometry(settings, rule)
        if missing := {"size", "mean", "std"} - set(values | own):
            raise ValueError(
                f"the checkpoint has no image processor configuration with {sorted(missing)}; give them in the "
                "neuron's preprocessing"
            )
        if settings is not None and "size" not in own:
            differs = stock is not None and {"mean", "std"} <= set(values) and _differs(cls(**values), stock)
            if settings.get("do_pad") and (differs or stock is None):
                raise _refusal(settings, "do_pad", "no padding")
            if differs:
                logger.warning(
                    f"{_file(settings)}: frames are not prepared as {type(stock).__name__} prepares them, which has "
                    f"rules that are not followed here; {_OVERRIDE}"
                )
        return cls(**values | own)

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(T, H, W, 3) uint8 -> (T, 3, height, width) float32.

        Raises:
            ValueError: the frames are so small that the size rule gives no pixels.
        """
        pixels = np.stack([self._resized(frame) for frame in frames])  # (T, height, width, 3) uint8
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32)
        if self.bgr:
            values = values.flip(1)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (values / 255 - mean) / std

    def _resized(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        image = Image.fromarray(frame)
        if self.gray:
            image = image.convert("L").convert("RGB")
        target = self._target_size(height, width)
        if min(target) < 1:
            raise ValueError(
                f"frames are {height} x {width}, of which the checkpoint's processor makes {target[0]} x {target[1]} "
                "pixels; give larger ones, or size in the neuron's preprocessing"
            )
        if target != (height, width):
            image = image.resize((target[1], target[0]), resample=Image.Resampling(self.resample))
        if self.crop is not None and self.crop != (image.height, image.width):
            top, left = (image.height - self.crop[0]) // 2, (image.width - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(image)

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, int):
            return _by_shorter_side(self.size, height, width)
        if callable(self.size):
            return self.size(height, width)
        return self.size or (height, width)


def hub_settings(source: HubSource) -> dict[str, Any] | None:
    """A checkpoint's image or video processor configuration; `None` if it has none.

    Two keys are added: `file`, the path of the file, and, if the file names no class, `image_processor_type` from the model
    type.

    Raises:
        OSError: the checkpoint cannot be found.
        ValueError: the file is not JSON.
    """
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        path = source.file(name, optional=True)
        if path is None:
            continue
        settings = _json(path)
        if name == "processor_config.json":  # has the settings of all parts of a processor
            found = settings.get("image_processor") or settings.get("video_processor")
        else:
            # PE-AV's file is for sound; old image processors' files also have the key `feature_extractor_type`.
            is_sound = "feature_extractor_type" in settings and "do_resize" not in settings
            found = None if is_sound else settings
        if found:
            config = None if any(found.get(key) for key in _TYPES) else source.file("config.json", optional=True)
            if config is not None:
                found["image_processor_type"] = _class_of_model(_json(config).get("model_type"))
            return {**found, "file": str(path)}
    path = source.file("config.json")  # raises if there is no such checkpoint
    found = settings_of_config(_json(path))
    return found and {**found, "file": str(path)}


def _json(path: Any) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


# --- Transformers' own processor -------------------------------------------------------------------------------------


def _class_of_model(model_type: Any) -> str | None:
    classes = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    return classes.get("torchvision") or classes.get("pil")


def _class_name(settings: Mapping[str, Any]) -> str:
    name = next((settings[key] for key in _TYPES if settings.get(key)), "")
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    return _AS_IMAGES.get(name, name)


def _stock_processor(settings: Mapping[str, Any]) -> Any:
    """Transformers' Pillow processor of the class that the settings name.

    `None` if Transformers has none (remote code, or torchvision only), or if it does not accept the settings.
    """
    name = _class_name(settings)
    stock_class: Any = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name, None)
    if not isinstance(stock_class, type) or not issubclass(stock_class, transformers.BaseImageProcessor):
        return None
    try:
        stock = stock_class.from_dict(dict(settings))
    except (ImportError, TypeError, ValueError):  # needs more than Pillow, or does not accept the settings
        return None
    return stock if getattr(stock, "backend", "pil") == "pil" else None


def _differs(transform: FrameTransform, stock: Any) -> bool:
    """Whether the results for a frame of random pixels differ; false if the stock processor raises an error."""
    frame = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    try:
        theirs = np.asarray(stock([frame], return_tensors="np")["pixel_values"])
    except Exception:  # processors raise various exceptions for settings they cannot use
        return False
    ours = transform(frame[None]).numpy()
    if ours.shape[1:] != theirs.shape[-3:] or ours.size != theirs.size:
        return True
    return bool(np.abs(ours - theirs.reshape(ours.shape)).max() > 1e-3 * max(1.0, np.abs(theirs).max()))


# --- conversion of the processor's settings --------------------------------------------------------------------------


def _colours(settings: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"bgr": bool(settings.get("do_flip_channel_order"))}
    if not settings.get("do_normalize", True):
        settings = {**settings, "image_mean": 0.0, "image_std": 1.0}
    # The processor computes (pixel * factor - offset - mean) / std; ours is (pixel / 255 - mean) / std.
    scale = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1)
    is_shifted = settings.get("offset", False) or settings.get("rescale_offset", False)
    offset = 1.0 if is_shifted and settings.get("do_rescale", True) else 0.0
    if settings.get("image_mean") is not None:
        values["mean"] = tuple((mean + offset) / scale for mean in _of_channels(settings["image_mean"]))
    if settings.get("image_std") is not None:
        power = 2 if settings.get("include_top", False) else 1  # EfficientNet's processor divides by std twice
        values["std"] = tuple(std**power / scale for std in _of_channels(settings["image_std"]))
    if settings.get("resample") is not None:
        values["resample"] = int(settings["resample"])
    return values


def _of_channels(value: Any) -> Any:
    return (value,) * 3 if isinstance(value, int | float) else value


def _plain_crop(settings: Mapping[str, Any]) -> dict[str, Any]:
    if not settings.get("do_center_crop", "crop_size" in settings) or settings.get("crop_size") is None:
        return {}
    return {"crop": _pair(settings, "crop_size")}


def _geometry(settings: Mapping[str, Any], rule: "Rule | None") -> dict[str, Any]:
    """`size` and `crop`; without `size` if frames are resized to an unknown size."""
    values = _plain_crop(settings)
    if not settings.get("do_resize", "size" in settings):
        return {"size": None, **values}
    if rule is not None:
        return values | rule(settings)
    if settings.get("size") is not None:
        values["size"] = _size(settings, square="crop" not in values)  # one number in old files
    return values


def _size(settings: Mapping[str, Any], square: bool = False) -> int | tuple[int, int]:
    """The shorter side, or (height, width); a single number is the side of a square if `square`, else the shorter side."""
    size = settings["size"]
    if isinstance(size, int | float):
        return (int(size), int(size)) if square else int(size)
    if isinstance(size, Mapping) and {key for key, value in size.items() if value is not None} == {"shortest_edge"}:
        return int(size["shortest_edge"])
    return _pair(settings, "size", "shortest_edge, or height and width")


def _pair(settings: Mapping[str, Any], name: str, expected: str = "height and width") -> tuple[int, int]:
    size = settings[name]
    if isinstance(size, int | float):
        return int(size), int(size)
    if isinstance(size, Mapping) and {key for key, value in size.items() if value is not None} == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise _refusal(settings, name, expected)


def _shorter_side(settings: Mapping[str, Any]) -> int:
    size = _size(settings)
    if not isinstance(size, int):
        raise _refusal(settings, "size", "shortest_edge")
    return size


def _refusal(settings: Mapping[str, Any], name: str, expected: str) -> ValueError:
    return ValueError(f"{_file(settings)}: {name} is {settings[name]!r}, expected {expected}; {_OVERRIDE}")


_OVERRIDE = "size and crop in the neuron's preprocessing override the file"


def _file(settings: Mapping[str, Any]) -> str:
    return settings.get("file", "the image processor's configuration")


# --- processors with other rules for the size ------------------------------------------------------------------------


def _convnext(settings: Mapping[str, Any]) -> dict[str, Any]:
    edge = _shorter_side(settings)
    if edge >= 384:
        return {"size": (edge, edge)}
    return {"size": int(edge / settings["crop_pct"]), "crop": (edge, edge)}


def _poolformer(settings: Mapping[str, Any]) -> dict[str, Any]:
    size, part = _size(settings), settings["crop_pct"]
    if isinstance(size, tuple) and size[0] != size[1]:
        return {"size": (int(size[0] / part), int(size[1] / part))}
    return {"size": int((size if isinstance(size, int) else size[0]) / part)}


def _levit(settings: Mapping[str, Any]) -> dict[str, Any]:
    size = _size(settings)
    return {"size": int(256 / 224 * size) if isinstance(size, int) else size}


def _textnet(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": partial(_rounded_up, _shorter_side(settings), settings["size_divisor"])}


def _glpn(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": partial(_rounded_down, settings["size_divisor"]), "crop": None}


def _dpt(settings: Mapping[str, Any]) -> dict[str, Any]:
    size, multiple = _pair(settings, "size"), settings.get("ensure_multiple_of") or 1
    if settings.get("keep_aspect_ratio"):
        return {"size": partial(_fitted, size, multiple)}
    return {"size": (round(size[0] / multiple) * multiple, round(size[1] / multiple) * multiple)}


Rule = Callable[[Mapping[str, Any]], dict[str, Any]]
_RULES: dict[str, Rule] = {
    "ConvNextImageProcessor": _convnext,
    "DPTImageProcessor": _dpt,
    "GLPNImageProcessor": _glpn,
    "LevitImageProcessor": _levit,
    "PoolFormerImageProcessor": _poolformer,
    "TextNetImageProcessor": _textnet,
}


def _by_shorter_side(side: int, height: int, width: int) -> tuple[int, int]:
    # As in Transformers, the longer side is rounded down.
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _rounded_up(side: int, multiple: int, height: int, width: int) -> tuple[int, int]:
    height, width = _by_shorter_side(side, height, width)
    return math.ceil(height / multiple) * multiple, math.ceil(width / multiple) * multiple


def _rounded_down(multiple: int, height: int, width: int) -> tuple[int, int]:
    return height // multiple * multiple, width // multiple * multiple


def _fitted(size: tuple[int, int], multiple: int, height: int, width: int) -> tuple[int, int]:
    """Keeps the aspect ratio and matches the height or the width of `size`, whichever changes the frame less."""
    scale = min(size[0] / height, size[1] / width, key=lambda scale: abs(1 - scale))
    return round(scale * height / multiple) * multiple, round(scale * width / multiple) * multiple


__all__ = ["FrameTransform", "hub_settings"]
