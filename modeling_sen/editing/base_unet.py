# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Locates the base model of an editing checkpoint, and loads its UNet and the adapter."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from huggingface_hub import snapshot_download

from modeling_sen.editing.edit_adapter import SENEditAdapter
from modeling_sen.hub_files import CheckpointError, HubSource, naming_errors
from modeling_sen.modeling_sen_editing import ADAPTER_FOLDER

BASE_FOLDER = "base"  # folder of the base model inside a self-contained checkpoint


def base_source(
    model_id: str, revision: str | None, checkpoint: HubSource | None, arguments: Mapping[str, Any]
) -> HubSource:
    """Location of a base model's files, at a fixed commit.

    Args:
        model_id: id of a repository, or a folder; `./NAME` is a folder inside the checkpoint.
        revision: revision of the repository.
        checkpoint: location of the checkpoint, if one was loaded.
        arguments: arguments of `from_pretrained`.

    Raises:
        OSError: a relative id without a checkpoint; the repository or its commit cannot be found.
    """
    if not model_id.startswith("./"):
        with naming_errors(f"base model {model_id}", LOGIN):
            return HubSource.of(model_id, {"revision": revision, **arguments}).at_commit()
    if checkpoint is None:
        raise OSError(f"base model {model_id}: it is relative to a checkpoint, but none was loaded")
    return beside(checkpoint, model_id.removeprefix("./"))


def beside(checkpoint: HubSource, folder: str) -> HubSource:
    """A folder of a checkpoint."""
    return replace(checkpoint, subfolder="/".join(filter(None, [checkpoint.subfolder, folder])))


def load_unet(source: HubSource, **kwargs: Any) -> UNet2DConditionModel:
    """Loads a Stable Diffusion pipeline's UNet, frozen and in evaluation mode.

    Args:
        source: location of the pipeline, with the UNet in its folder `unet`.
        kwargs: arguments of Diffusers' `from_pretrained`.

    Raises:
        OSError: the UNet cannot be found or read.
        RuntimeError: weights are missing.
    """
    unet = load_part(UNet2DConditionModel, beside(source, "unet"), f"base model {source.location}", kwargs)
    return unet.requires_grad_(False).eval()


def load_adapter(checkpoint: HubSource, **kwargs: Any) -> SENEditAdapter:
    """Loads the adapter of a checkpoint from its folder `adapter`.

    Raises:
        OSError: the adapter cannot be found or read.
        RuntimeError: weights are missing.
    """
    return load_part(SENEditAdapter, beside(checkpoint, ADAPTER_FOLDER), f"adapter of {checkpoint.location}", kwargs)


def load_part(model_class: Any, source: HubSource, what: str, kwargs: Mapping[str, Any]) -> Any:
    """Loads a model of Diffusers or Transformers from a folder of a checkpoint, from safetensors files only.

    Args:
        model_class: its class.
        source: location of the folder.
        what: name of the part for error messages.
        kwargs: arguments of its `from_pretrained`.

    Raises:
        OSError: the model cannot be found or read.
        RuntimeError: weights are missing.
    """
    arguments = {"use_safetensors": True, **kwargs, **source.files}
    with naming_errors(what, LOGIN):
        source.file("config.json")  # must exist: otherwise Diffusers would read that of the parent folder
        model, loading = model_class.from_pretrained(source.location, output_loading_info=True, **arguments)
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{what}: {len(missing)} weights are missing (e.g. {missing[0]}) and would stay random")
    return model


def copy_base(source: HubSource, folder: Path) -> None:
    """Copies a base model stored in a checkpoint to the checkpoint's new folder."""
    location = source.location
    if not Path(location).is_dir():
        files = f"{source.subfolder}/*"
        location = snapshot_download(location, revision=source.revision, allow_patterns=files, **source.fetch)
    shutil.copytree(Path(location, source.subfolder), folder / BASE_FOLDER)


LOGIN = "pass base_kwargs={'token': ...}"

__all__ = [
    "BASE_FOLDER",
    "LOGIN",
    "base_source",
    "beside",
    "copy_base",
    "load_adapter",
    "load_part",
    "load_unet",
]
