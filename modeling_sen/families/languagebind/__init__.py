# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""LanguageBind in Transformers' classes: image, video, sound, depth and thermal towers with one text space."""

from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer

from modeling_sen.families.languagebind import configuration_languagebind as configurations
from modeling_sen.families.languagebind import modeling_languagebind as models
from modeling_sen.families.languagebind import tokenization_languagebind as tokenizers
from modeling_sen.families.languagebind.feature_extraction_languagebind import LanguageBindFeatureExtractor
from modeling_sen.families.languagebind.processing_languagebind import LanguageBindProcessor

MODALITIES = ("Image", "Video", "Audio", "Depth", "Thermal")


def register() -> dict[str, Any]:
    """Registers the classes with the Auto classes by the published model types; returns the models by name."""
    found = {}
    for modality in MODALITIES:
        for name in (f"LanguageBind{modality}", f"LanguageBind{modality}Tower"):
            config, found[name] = getattr(configurations, f"{name}Config"), getattr(models, name)
            AutoConfig.register(config.model_type, config, exist_ok=True)
            AutoModel.register(config, found[name], exist_ok=True)
            if modality == "Audio":
                AutoFeatureExtractor.register(config, LanguageBindFeatureExtractor, exist_ok=True)
        whole = getattr(configurations, f"LanguageBind{modality}Config")
        AutoProcessor.register(whole, LanguageBindProcessor, exist_ok=True)
        AutoTokenizer.register(whole, getattr(tokenizers, f"LanguageBind{modality}Tokenizer"), exist_ok=True)
    return found


__all__ = ["MODALITIES", "LanguageBindFeatureExtractor", "LanguageBindProcessor", "register"]
