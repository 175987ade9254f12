# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Make LanguageBind known to the Auto classes, under the model types that published checkpoints have."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer, CLIPTokenizer

from modeling_sen.families.languagebind import configuration_languagebind as configurations
from modeling_sen.families.languagebind import modeling_languagebind as models
from modeling_sen.families.languagebind.feature_extraction_languagebind import LanguageBindFeatureExtractor
from modeling_sen.families.languagebind.processing_languagebind import LanguageBindProcessor

MODALITIES = ("Image", "Video", "Audio", "Depth", "Thermal")


def register() -> None:
    """Registers configurations, models, towers, processor, feature extractor and tokenizer with Transformers."""
    for modality in MODALITIES:
        for name in (f"LanguageBind{modality}", f"LanguageBind{modality}Tower"):
            config = getattr(configurations, f"{name}Config")
            AutoConfig.register(config.model_type, config, exist_ok=True)
            AutoModel.register(config, getattr(models, name), exist_ok=True)
            if modality == "Audio":
                AutoFeatureExtractor.register(config, LanguageBindFeatureExtractor, exist_ok=True)
        whole = getattr(configurations, f"LanguageBind{modality}Config")
        AutoProcessor.register(whole, LanguageBindProcessor, exist_ok=True)
        AutoTokenizer.register(whole, CLIPTokenizer, exist_ok=True)


__all__ = ["register"]
