# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBind in Transformers' classes: configuration, models and processor."""

from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from modeling_sen.families.imagebind import modeling_imagebind
from modeling_sen.families.imagebind.configuration_imagebind import TOWER_CONFIGS, ImageBindConfig
from modeling_sen.families.imagebind.feature_extraction_imagebind import ImageBindFeatureExtractor
from modeling_sen.families.imagebind.imagebind_towers import TOWERS
from modeling_sen.families.imagebind.modeling_imagebind import ImageBindModel
from modeling_sen.families.imagebind.processing_imagebind import ImageBindProcessor


def register() -> dict[str, Any]:
    """Registers the classes with the Auto classes; returns the models by name."""
    AutoConfig.register(ImageBindConfig.model_type, ImageBindConfig, exist_ok=True)
    AutoModel.register(ImageBindConfig, ImageBindModel, exist_ok=True)
    AutoProcessor.register(ImageBindConfig, ImageBindProcessor, exist_ok=True)
    AutoFeatureExtractor.register(ImageBindConfig, ImageBindFeatureExtractor, exist_ok=True)
    for modality, config in TOWER_CONFIGS.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, TOWERS[modality], exist_ok=True)
    models = {tower.__name__: tower for tower in TOWERS.values()}
    with_projections = {name: getattr(modeling_imagebind, name) for name in modeling_imagebind.__all__}
    return {**models, **with_projections}


__all__ = ["ImageBindConfig", "ImageBindFeatureExtractor", "ImageBindModel", "ImageBindProcessor", "register"]
