# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Converts a published LanguageBind checkpoint (`pytorch_model.bin`, config.json) to safetensors and folds LoRA weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_sen.conversion.original_checkpoint import Conversion, fill, read_weights
from modeling_sen.families.clip_tokenizer import read_tokenizer
from modeling_sen.families.languagebind import MODALITIES
from modeling_sen.families.languagebind import configuration_languagebind as configurations
from modeling_sen.families.languagebind import modeling_languagebind as models
from modeling_sen.families.languagebind.configuration_languagebind import LanguageBindConfig
from modeling_sen.families.languagebind.lora_languagebind import fold_lora, is_lora_key
from modeling_sen.families.languagebind.processing_languagebind import LanguageBindProcessor
from modeling_sen.hub_files import HubSource

_WEIGHTS, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

CARD = """---
license: mit
library_name: transformers
pipeline_tag: feature-extraction
tags:
- languagebind
---

# {model_type}

Weights of [LanguageBind](https://github.com/PKU-YuanGroup/LanguageBind) (Zhu et al., ICLR 2024) in the classes of
modeling-sen, converted by `sen convert languagebind` from `{name}`: {parameters:,} parameters, {changes}.

The weights are under the [MIT licence](https://github.com/PKU-YuanGroup/LanguageBind/blob/main/LICENSE).

```python
import modeling_sen  # registers the classes
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained(FOLDER), AutoProcessor.from_pretrained(FOLDER)
output = model(**processor(images=[FILE, ...], text=["a dog barks", "a car passes"]))
output.logits_per_image.softmax(-1)
```
"""


def convert(source: str | Path, config: str | Path | None = None, tokenizer: str | None = None) -> Conversion:
    """A LanguageBind checkpoint as the model of its modality.

    Args:
        source: a folder with config.json and `pytorch_model.bin` (or its shards and their index), or that file alone.
        config: the config.json, if it is not beside the weights.
        tokenizer: CLIP's, see `read_tokenizer`; by default the one beside the weights, if there is one.

    Raises:
        OSError: a file does not exist.
        ValueError: config.json is of another family, or the weights do not fit it; see also `read_weights`, `fold_lora`.
    """
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    settings = read_config(Path(config or folder / "config.json"))
    tower: Any = settings.vision_config
    weights = {
        name: weight for name, weight in _all_weights(source).items() if not name.endswith(".position_ids")
    }  # position ids are 0, 1, 2, ..., and no weights here
    has_lora = any(map(is_lora_key, weights))
    if has_lora:
        weights = fold_lora(weights, tower.lora_alpha)
    tower.lora_r = 0
    with torch.device("meta"):
        model: PreTrainedModel = getattr(models, settings.model_type)(settings)
    fill(model, weights, f"{settings.model_type} of config.json has other sizes, or it is no LanguageBind checkpoint")
    model.eval()
    processor = LanguageBindProcessor(settings, HubSource(str(folder)))
    if tokenizer is not None:
        processor.tokenizer = read_tokenizer(tokenizer)
    card = CARD.format(
        model_type=settings.model_type,
        name=source.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        changes="LoRA weights folded into those that they adapt" if has_lora else "whose values are unchanged",
    )
    notes: tuple[str, ...] = ()
    if not processor.has_tokenizer:
        notes = ("no tokenizer: texts need one, --tokenizer openai/clip-vit-large-patch14 or a local copy",)
    return Conversion(model, processor, card, original_outputs, notes)


def read_config(path: Path) -> LanguageBindConfig:
    """A published config.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a JSON object, or the configuration of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the checkpoint's config.json by --config")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON ({error})") from error
    found = values.get("model_type") if isinstance(values, dict) else None
    known = [f"LanguageBind{modality}" for modality in MODALITIES]
    if found not in known:
        raise ValueError(f"{path}: model_type is {found!r}, expected one of {', '.join(known)}")
    return getattr(configurations, f"{found}Config").from_dict(values)


def _all_weights(source: Path) -> dict[str, Tensor]:
    if not source.is_dir():
        return read_weights(source)
    index = source / _INDEX
    if (source / _WEIGHTS).is_file() or not index.is_file():
        return read_weights(source / _WEIGHTS)
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return {name: weight for shard in shards for name, weight in read_weights(source / shard).items()}


def original_outputs(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Normalised `image_embeds` of `pixel_values`, and `text_embeds` of `input_ids` and `attention_mask`."""
    found = {}
    if "pixel_values" in inputs:
        found["image_embeds"] = model.get_image_features(inputs["pixel_values"]).pooler_output
    if "input_ids" in inputs:
        text = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        found["text_embeds"] = model.get_text_features(**text).pooler_output
    return {name: torch.nn.functional.normalize(embeds) for name, embeds in found.items()}


__all__ = ["convert", "original_outputs", "read_config"]
