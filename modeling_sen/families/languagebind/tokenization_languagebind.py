# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""CLIP's tokenizer under the class names in the tokenizer_config.json of LanguageBind checkpoints."""

from transformers import CLIPTokenizer


class LanguageBindImageTokenizer(CLIPTokenizer):
    """CLIP's."""


class LanguageBindVideoTokenizer(CLIPTokenizer):
    """CLIP's."""


class LanguageBindAudioTokenizer(CLIPTokenizer):
    """CLIP's."""


class LanguageBindDepthTokenizer(CLIPTokenizer):
    """CLIP's."""


class LanguageBindThermalTokenizer(CLIPTokenizer):
    """CLIP's."""


__all__ = [
    "LanguageBindAudioTokenizer",
    "LanguageBindDepthTokenizer",
    "LanguageBindImageTokenizer",
    "LanguageBindThermalTokenizer",
    "LanguageBindVideoTokenizer",
]
