# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Converts ImageBind's original checkpoint (`imagebind_huge.pth`) to Transformers' classes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_sen.conversion.original_checkpoint import Conversion, Rules, fill, read_weights, rename
from modeling_sen.families.imagebind.configuration_imagebind import MODALITIES, ImageBindConfig
from modeling_sen.families.imagebind.modeling_imagebind import ImageBindModel
from modeling_sen.families.imagebind.processing_imagebind import ImageBindProcessor

_M = "(vision|text|audio|depth|thermal|imu)"
_LAYER = rf"modality_trunks\.{_M}\.blocks\.(\d+)\."
RULES: Rules = [
    (rf"modality_preprocessors\.{_M}\.cls_token", r"\1_model.embeddings.class_embedding"),
    (
        rf"modality_preprocessors\.{_M}\.(?:pos_embedding_helper\.)?pos_embed",
        r"\1_model.embeddings.position_embedding",
    ),
    (rf"modality_preprocessors\.{_M}\.\w+_stem\.proj(?:\.1)?\.weight", r"\1_model.embeddings.patch_embedding.weight"),
    (rf"modality_preprocessors\.{_M}\.\w+_stem\.norm_layer\.(\w+)", r"\1_model.embeddings.patch_norm.\2"),
    (r"modality_preprocessors\.text\.token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (rf"modality_trunks\.{_M}\.pre_transformer_layer\.0\.(\w+)", r"\1_model.embeddings.pre_layernorm.\2"),
    (_LAYER + r"attn\.in_proj_(weight|bias)", r"\1_model.layers.\2.self_attn.in_proj.\3"),
    (_LAYER + r"attn\.(out_proj\.weight|out_proj\.bias|bias_k|bias_v)", r"\1_model.layers.\2.self_attn.\3"),
    (_LAYER + r"norm_([12])\.(\w+)", r"\1_model.layers.\2.layer_norm\3.\4"),
    (_LAYER + r"mlp\.(fc[12])\.(\w+)", r"\1_model.layers.\2.mlp.\3.\4"),
    (rf"modality_heads\.{_M}\.(?:proj\.)?0\.(\w+)", r"\1_model.post_layernorm.\2"),
    # Position of the projection in the head: after norm and token choice, for motion sensors also after a dropout.
    (rf"modality_heads\.{_M}\.(?:proj\.1|2|3)\.weight", r"\1_projection.weight"),
    (rf"modality_postprocessors\.{_M}\.1\.log_logit_scale", r"\1_logit_scale"),
]
UNREAD = (r"modality_preprocessors\.text\.mask",)  # the causal mask

# Defaults of the original's constructor, which are not the sizes of `imagebind_huge`.
CONSTRUCTOR: dict[str, Any] = {
    "video_frames": 2,
    "kernel_size": [2, 14, 14],
    "audio_kernel_size": 16,
    "audio_stride": 10,
    "out_embed_dim": 768,
    "vision_embed_dim": 1024,
    "vision_num_blocks": 24,
    "vision_num_heads": 16,
    "audio_embed_dim": 768,
    "audio_num_blocks": 12,
    "audio_num_heads": 12,
    "audio_num_mel_bins": 128,
    "audio_target_len": 204,
    "text_embed_dim": 768,
    "text_num_blocks": 12,
    "text_num_heads": 12,
    "depth_embed_dim": 384,
    "depth_kernel_size": 16,
    "depth_num_blocks": 12,
    "depth_num_heads": 8,
    "thermal_embed_dim": 768,
    "thermal_kernel_size": 16,
    "thermal_num_blocks": 12,
    "thermal_num_heads": 12,
    "imu_embed_dim": 512,
    "imu_kernel_size": 8,
    "imu_num_blocks": 6,
    "imu_num_heads": 8,
}
_TRAINING_ONLY = tuple(f"{modality}_drop_path" for modality in MODALITIES)

CARD = """---
license: cc-by-nc-sa-4.0
library_name: transformers
tags:
- imagebind
- feature-extraction
---

# ImageBind

Weights of [ImageBind](https://github.com/facebookresearch/ImageBind) (Girdhar et al., CVPR 2023) in the classes of
modeling-sen, converted by `sen convert imagebind` from `{name}`: {parameters:,} parameters, whose values are unchanged.

The weights are under [CC BY-NC-SA 4.0](https://creativecommons.org/licenses/by-nc-sa/4.0/): no commercial use, and works that
are derived from them carry the same licence.

```python
import modeling_sen  # registers the classes
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained(FOLDER), AutoProcessor.from_pretrained(FOLDER)
embeds = model(**processor(images="dog.jpg", text=["a dog", "a car"], audio="dog.wav"))
```
"""


def convert(source: str | Path, config: str | Path | None = None, tokenizer: str | None = None) -> Conversion:
    """ImageBind's checkpoint as an [`ImageBindModel`].

    Args:
        source: the original file, a state dict.
        config: a JSON file with the arguments of the original's constructor, for sizes other than `imagebind_huge`'s.
        tokenizer: CLIP's word pieces for the processor: a hub id or folder of a tokenizer, or the original's file
            `bpe_simple_vocab_16e6.txt.gz`. Without it the processor takes no texts.

    Raises:
        OSError: a file does not exist.
        ValueError: not a checkpoint of ImageBind, other sizes, or a bad configuration; see also [`read_weights`].
    """
    settings = ImageBindConfig() if config is None else read_constructor(config)
    weights = rename(read_weights(source), RULES, UNREAD, "ImageBind")
    with torch.device("meta"):
        model = ImageBindModel(settings)
    hint = "give the original constructor's arguments by --config" if config is None else f"{config} has other sizes"
    fill(model, in_shape(weights), hint)
    model.eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    card = CARD.format(name=Path(source).name, parameters=count)
    notes: tuple[str, ...] = ()
    if tokenizer is None:
        notes = ("no tokenizer: texts need one, --tokenizer openai/clip-vit-base-patch32 or a local copy",)
    return Conversion(model, ImageBindProcessor.for_config(settings, tokenizer), card, original_outputs, notes)


def in_shape(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renamed weights in the shapes of this package's modules: separate queries, keys and values; positions without batch."""
    shaped: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".in_proj." in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                shaped[name.replace("in_proj", f"{part}_proj")] = (
                    rows.clone()
                )  # safetensors refuses views of one tensor
        elif name.endswith((".class_embedding", ".position_embedding")):
            shaped[name] = weight.flatten() if name.endswith(".class_embedding") else weight.flatten(0, -2)
        else:
            shaped[name] = weight
    return shaped


def read_constructor(path: str | Path) -> ImageBindConfig:
    """The configuration for a JSON file with arguments of the original's constructor.

    Raises:
        OSError: no such file.
        ValueError: not a JSON object, unknown arguments, or impossible values.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON ({error})") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}: found {type(given).__name__}, expected an object of constructor arguments")
    if unknown := sorted(set(given) - {*CONSTRUCTOR, *_TRAINING_ONLY}):
        raise ValueError(f"{path}: unknown arguments {unknown}, expected some of {', '.join(CONSTRUCTOR)}")
    values = {**CONSTRUCTOR, **given}
    wrong = [name for name, value in values.items() if name in CONSTRUCTOR and not _is_size(value, CONSTRUCTOR[name])]
    if wrong:
        raise ValueError(
            f"{path}: {wrong[0]} is {values[wrong[0]]!r}, expected a whole number like {CONSTRUCTOR[wrong[0]]}"
        )
    frames, *patch = values["kernel_size"]
    if frames != values["video_frames"] or len(set(patch)) != 1:
        raise ValueError(f"{path}: kernel_size is {values['kernel_size']}, expected [{values['video_frames']}, N, N]")
    towers: dict[str, Any] = {
        f"{modality}_config": {
            "hidden_size": values[f"{modality}_embed_dim"],
            "intermediate_size": 4 * values[f"{modality}_embed_dim"],
            "num_hidden_layers": values[f"{modality}_num_blocks"],
            "num_attention_heads": values[f"{modality}_num_heads"],
        }
        for modality in MODALITIES
    }
    towers["vision_config"] |= {"tubelet_size": frames, "patch_size": patch[0]}
    towers["audio_config"] |= {
        "patch_size": values["audio_kernel_size"],
        "patch_stride": values["audio_stride"],
        "num_mel_bins": values["audio_num_mel_bins"],
        "num_mel_frames": values["audio_target_len"],
    }
    for modality in ("depth", "thermal", "imu"):
        towers[f"{modality}_config"]["patch_size"] = values[f"{modality}_kernel_size"]
    return ImageBindConfig(projection_dim=values["out_embed_dim"], **towers)


def _is_size(value: Any, like: Any) -> bool:
    if isinstance(like, list):
        return isinstance(value, list) and len(value) == len(like) and all(_is_size(each, 1) for each in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# Modality of a reference input -> the model's argument and output.
_INPUTS = {
    "vision": ("pixel_values", "vision_embeds"),
    "text": ("input_ids", "text_embeds"),
    "audio": ("input_features", "audio_embeds"),
    "depth": ("depth_values", "depth_embeds"),
    "thermal": ("thermal_values", "thermal_embeds"),
    "imu": ("imu_values", "imu_embeds"),
}


def original_outputs(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's embeddings of the original's inputs, by the same names: a modality, or e.g. `vision_video` for clips.

    Raises:
        ValueError: the name of an input does not begin with a modality.
    """
    found = {}
    for name, values in inputs.items():
        if (modality := name.split("_")[0]) not in _INPUTS:
            raise ValueError(f"input.{name}: expected a name that begins with one of {', '.join(_INPUTS)}")
        argument, output = _INPUTS[modality]
        found[name] = model(**{argument: values})[output]
    return found


__all__ = ["convert", "in_shape", "original_outputs", "read_constructor"]
