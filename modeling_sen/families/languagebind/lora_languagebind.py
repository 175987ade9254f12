# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Fold LoRA weights of a LanguageBind checkpoint into the weights they adapt, in both key layouts of peft.

Published checkpoints were saved with the tower's encoder inside a peft model: `encoder.base_model.model.layers...`. Peft of
2023 left an adapted weight where it was (`q_proj.weight`), later versions put it one level deeper
(`q_proj.base_layer.weight`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_WRAPPER = "base_model.model."  # of peft, around the encoder
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def is_lora_key(key: str) -> bool:
    """Whether peft wrote a checkpoint's key: a LoRA weight, or another weight inside a peft model."""
    return _WRAPPER in key or ".lora_" in key or ".base_layer." in key


def fold_lora(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The weights without LoRA: `W + alpha / r * B A`, computed in float32, r being the rows of A.

    Args:
        weights: of a checkpoint.
        alpha: `lora_alpha` of the tower's configuration.

    Returns:
        Weights by their plain names, in their own dtype; weights that are not adapted are the same tensors.

    Raises:
        ValueError: A, B or the adapted weight is missing, shapes do not fit, or a LoRA weight is neither A nor B.
    """
    plain, lora = {}, {}
    for key, weight in weights.items():
        name = key.replace(_WRAPPER, "")
        if ".lora_" in name:
            lora[name] = weight
        else:
            plain[name.replace(".base_layer.", ".")] = weight
    for name, down in lora.items():
        if name.endswith(_UP) and name.replace(_UP, _DOWN) in lora:
            continue
        path = name.removesuffix(_DOWN)
        up, adapted = lora.get(f"{path}{_UP}"), plain.get(f"{path}.weight")
        if not name.endswith(_DOWN) or up is None or adapted is None:
            raise ValueError(
                f"checkpoint: found {name}, expected {_DOWN[1:]} and {_UP[1:]} of a module, and its weight, beside each other"
            )
        if down.ndim != 2 or up.ndim != 2 or (up.shape[0], down.shape[1]) != adapted.shape or len(down) != up.shape[1]:
            raise ValueError(
                f"checkpoint: LoRA weights of {path} have shapes {tuple(up.shape)} and {tuple(down.shape)}, expected "
                f"{(adapted.shape[0], 'r')} and {('r', adapted.shape[1])}"
            )
        change = up.to(torch.float32) @ down.to(torch.float32) * (alpha / len(down))
        plain[f"{path}.weight"] = (adapted.to(torch.float32) + change).to(adapted.dtype)
    return plain


__all__ = ["fold_lora", "is_lora_key"]
