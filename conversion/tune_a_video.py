# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads a model that was tuned with the authors' Tune-A-Video (showlab/Tune-A-Video, Apache-2.0) as an editing adapter.

They save a whole pipeline. What was tuned are the query projections of both attentions and the temporal attention; the rest
of its UNet is the base model's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling_sen.editing.base_unet import beside
from modeling_sen.editing.edit_adapter import SENEditAdapter, unet_shape
from modeling_sen.hub_files import HubSource

_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_TUNED = (".attn1.to_q.weight", ".attn2.to_q.weight")
_ADDED = (".attn_temp.", ".norm_temp.")


def convert_tune_a_video(tuned: str, unet: Any, **kwargs: Any) -> SENEditAdapter:
    """An adapter that makes of its base model what was tuned; it reads no neuron.

    Args:
        tuned: folder or hub id of the pipeline that Tune-A-Video saved.
        unet: the `UNet2DConditionModel` that it was tuned from.
        kwargs: how files of a repository are fetched: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        OSError: no weights are found there.
        ValueError: it is no model of Tune-A-Video, or one of another base model.
    """
    weights = _read_unet(HubSource.of(tuned, kwargs))
    base = unet.state_dict()
    record = {"converted_from": "Tune-A-Video"}
    adapter = SENEditAdapter.from_unet(unet, trained_queries=("attn1", "attn2"), tuning=record)
    blocks, _ = unet_shape(unet)
    own = adapter.state_dict()
    found: dict[str, Tensor] = {}
    for name in own:
        if not name.endswith(".to_q_delta.weight"):
            found[name] = _weight(weights, name, own[name], tuned)
            continue
        projection = name.replace(".to_q_delta.", ".to_q.")
        found[name] = _weight(weights, projection, own[name], tuned).float() - base[projection].float()
    _check_base(weights, base, {f"{path}{end}" for path in blocks for end in _TUNED}, tuned)
    adapter.load_state_dict(found)
    return adapter


def _read_unet(source: HubSource) -> Mapping[str, Tensor]:
    unet = beside(source, "unet")
    for name in _FILES:
        path = unet.file(name, optional=True)
        if path is not None:
            return (
                load_file(path)
                if Path(name).suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    raise FileNotFoundError(
        f"{source.location}: found none of the files {', '.join(f'unet/{name}' for name in _FILES)}"
    )


def _weight(weights: Mapping[str, Tensor], name: str, like: Tensor, tuned: str) -> Tensor:
    if name not in weights:
        raise ValueError(f"{tuned}: its UNet has no weight {name}, expected one that was tuned with Tune-A-Video")
    if weights[name].shape != like.shape:
        found, expected = tuple(weights[name].shape), tuple(like.shape)
        raise ValueError(
            f"{tuned}: its UNet was tuned from another base model: {name} is {found}, expected {expected}"
        )
    return weights[name]


def _check_base(weights: Mapping[str, Tensor], base: Mapping[str, Tensor], tuned_names: set[str], tuned: str) -> None:
    """Everything that was not tuned must be the base model's, to the precision of half a float."""
    names = {name for name in weights if not any(part in name for part in _ADDED)}
    if different := sorted(names ^ set(base)):
        raise ValueError(
            f"{tuned}: its UNet was tuned from another base model: only one of the two has {different[0]}"
        )
    for name in sorted(names - tuned_names):
        same = weights[name].shape == base[name].shape
        if not same or not torch.allclose(weights[name].float(), base[name].float(), rtol=1e-2, atol=1e-3):
            raise ValueError(f"{tuned}: its UNet was tuned from another base model: the two differ in {name}")


__all__ = ["convert_tune_a_video"]
