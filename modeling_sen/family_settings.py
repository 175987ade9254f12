# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Preprocessing of checkpoints that have no file for it: what LanguageBind needs stands in its config.json."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

from .hub_files import HubSource

_BILINEAR, _BICUBIC = 2, 3  # Pillow's filters
_CLIP_COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def settings_of_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The image processor's settings that go with a config.json; `None` for families whose checkpoints have a file of them.

    LanguageBind's depth is distance, in frames brighter where nearer: it is `1 - value`.
    """
    model_type = config.get("model_type", "")
    if not model_type.lower().startswith("languagebind"):
        return None
    tower = config.get("vision_config", config)
    side = tower.get("image_size", 224)
    height, width = (side, side) if isinstance(side, int) else side
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": min(height, width)},
        "crop_size": {"height": height, "width": width},
        "resample": _BILINEAR if "video" in model_type.lower() else _BICUBIC,
        **_CLIP_COLOURS,
    }
    if "depth" in model_type.lower():
        settings["image_mean"] = [1 - mean for mean in settings["image_mean"]]
        settings["image_std"] = [-std for std in settings["image_std"]]
    return settings


def load_feature_extractor(source: HubSource) -> Any:
    """A checkpoint's feature extractor: of its file, or made of its configuration where it has none.

    Raises:
        OSError, ValueError: there is neither.
    """
    files = [source.file(name, optional=True) for name in ("preprocessor_config.json", "processor_config.json")]
    if not any(files):
        config = AutoConfig.from_pretrained(source.location, **source.arguments)
        extractor_class: Any = FEATURE_EXTRACTOR_MAPPING.get(type(config), None)
        if hasattr(extractor_class, "from_config"):
            return extractor_class.from_config(config)
    return AutoFeatureExtractor.from_pretrained(source.location, **source.arguments)


__all__ = ["load_feature_extractor", "settings_of_config"]
