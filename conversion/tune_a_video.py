# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads a model that was tuned with the authors' Tune-A-Video (showlab/Tune-A-Video, Apache-2.0) as an editing adapter.

The authors save a whole pipeline. Tuning changes the query projections of both attentions and adds the temporal attention;
the rest of the UNet is the base model's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling_sen.base_models import licence_of_repository
from modeling_sen.conversion.original_checkpoint import Conversion, read_weights
from modeling_sen.hub_files import HubSource, naming_errors, readable_weights
from modeling_sen.modeling_sen_editing import SENForVideoEditing
from modeling_sen.presets import SEN_TINY

try:
    from modeling_sen.editing.base_unet import ADAPTER_FOLDER, beside
    from modeling_sen.editing.edit_adapter import SENEditAdapter, unet_shape
except ModuleNotFoundError as error:
    raise ImportError("tune-a-video needs the extra `editing`: pip install 'modeling-sen[editing]'") from error

_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_TUNED = (".attn1.to_q.weight", ".attn2.to_q.weight")
_ADDED = (".attn_temp.", ".norm_temp.")
_INPUTS = ("sample", "timestep", "encoder_hidden_states")  # of the original's UNet

CARD = """---
license: {tuned_licence}
{base_model}library_name: transformers
tags:
- sen
- video-editing
- tune-a-video
---

# {name}

A model that was tuned with [Tune-A-Video](https://github.com/showlab/Tune-A-Video) (Wu et al., ICCV 2023), in the classes of
modeling-sen, converted by `sen convert tune-a-video` from {tuned}: {parameters:,} parameters in the folder `adapter`. They
make a video UNet of the base model {base}, whose weights are not in this folder. The model reads no features of
the SEN in its configuration: it is plain Tune-A-Video.

Licence of the tuned weights, as their card states it: {tuned_licence}. Licence of the base model: {base_licence}. The terms
of both apply. The code of Tune-A-Video is under Apache-2.0; this licence does not cover the weights.

```python
import modeling_sen  # registers the classes
from transformers import AutoModel

model = AutoModel.from_pretrained(FOLDER)  # loads the base model's UNet too
noise = model.predict(latents, timesteps, text_states)
```
"""


def convert(source: str | Path, base: str | None = None) -> Conversion:
    """An editing checkpoint that computes what the tuned model does. Its adapter reads no neuron; its SEN is sen-tiny.

    Args:
        source: folder or hub id of the pipeline that Tune-A-Video saved.
        base: hub id or folder of the pipeline that it was tuned from.

    Raises:
        ImportError: Diffusers is not installed (the extra `editing`).
        OSError: no weights are found, or they cannot be read.
        ValueError: `base` is missing; see also [`convert_tune_a_video`].
    """
    if base is None:
        raise ValueError("base: found none, expected the model that was tuned (--base CompVis/stable-diffusion-v1-4)")
    with naming_errors(str(source), "pass token=..."):
        tuned = HubSource.of_checkpoint(str(source), {})
    model = SENForVideoEditing.from_base(base, SEN_TINY, read_neurons=[])
    model.adapter.detach()  # the tuned weights are compared with the UNet's own
    adapter = convert_tune_a_video(tuned.location, model.unet, revision=tuned.revision)
    model.adapter = None
    model.attach_adapter(adapter)
    origin, parameters = model.base_source, adapter.num_parameters()
    assert origin is not None  # as `base` is no model
    licences = [licence_of_repository(each) for each in (tuned, origin)]
    is_folder = Path(base).is_dir()
    notes = [
        f"{parameters:,} of these parameters are the adapter's, in {ADAPTER_FOLDER}; the base model is not copied"
    ]
    if is_folder:
        notes.append(f"the base model is the folder {base}: elsewhere the checkpoint loads with unet=...")
    card = CARD.format(
        base_model="" if is_folder else f"base_model: {base}\nbase_model_relation: adapter\n",
        name=Path(tuned.location).resolve().name,
        tuned=_shown(tuned),
        base=_shown(origin),
        parameters=parameters,
        tuned_licence=licences[0] or "unknown",
        base_licence=licences[1] or "unknown",
    )
    return Conversion(model, None, card, original_outputs, tuple(notes))


def _shown(source: HubSource) -> str:
    """A repository and its commit, or the name of a folder."""
    folder = Path(source.location)
    if folder.is_dir():
        return f"the folder `{folder.resolve().name}`"
    commit = f" at commit `{source.commit}`" if source.commit else ""
    return f"[{source.location}](https://huggingface.co/{source.location}){commit}"


def original_outputs(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`sample` that the UNet predicts, of the original's arguments: `sample` (batch, channels, frames, h, w), `timestep`,
    `encoder_hidden_states` (batch, tokens, width).

    Raises:
        ValueError: one of them is missing.
    """
    if missing := [name for name in _INPUTS if name not in inputs]:
        raise ValueError(f"input.{missing[0]} is missing, expected {', '.join(f'input.{name}' for name in _INPUTS)}")
    return {"sample": model.predict(*(inputs[name] for name in _INPUTS))}


def convert_tune_a_video(tuned: str, unet: Any, **kwargs: Any) -> SENEditAdapter:
    """An adapter that turns its base model into the tuned one; it reads no neuron.

    Args:
        tuned: folder or hub id of the pipeline that Tune-A-Video saved.
        unet: the `UNet2DConditionModel` that it was tuned from.
        kwargs: how files of a repository are fetched: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        OSError: no weights are found there.
        ValueError: it is no model of Tune-A-Video, or one of another base model; see also [`read_weights`].
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
        with naming_errors(source.location, "pass token=..."):
            path = unet.file(name, optional=True)
        if path is None:
            continue
        if path.suffix == ".bin":
            return read_weights(path)
        with readable_weights(str(path)):
            return load_file(path)
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


__all__ = ["convert", "convert_tune_a_video", "original_outputs"]
