# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Loads editing adapters from folders and repositories, and copies them."""

from typing import Any

import torch

from modeling_sen.editing.base_unet import load_adapter, load_part
from modeling_sen.editing.edit_adapter import SENEditAdapter
from modeling_sen.hub_files import HubSource
from modeling_sen.modeling_sen_editing import ADAPTER_FOLDER


def open_adapter(name: str, **kwargs: Any) -> SENEditAdapter:
    """Loads an adapter.

    Args:
        name: folder or Hub id of a checkpoint with a folder `adapter`, or of a separately saved adapter.
        kwargs: arguments for downloading: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        OSError: no adapter is found, or it cannot be read.
        RuntimeError: weights are missing.
    """
    source = HubSource.of_checkpoint(name, kwargs)
    if source.file(f"{ADAPTER_FOLDER}/config.json", optional=True) is not None:
        return load_adapter(source)
    return load_part(SENEditAdapter, source, f"adapter {name}", {})


def fresh_copy(adapter: SENEditAdapter) -> SENEditAdapter:
    """An unattached float32 copy on the same device, without the record of a tuning."""
    names = ("blocks", "down_widths", "conditioning", "neuron_widths", "trained_queries")
    copy: Any = SENEditAdapter(**{name: adapter.config[name] for name in names})
    copy.load_state_dict(adapter.state_dict())
    weight = next(adapter.parameters())
    return copy.to(weight.device, torch.float32)


__all__ = ["fresh_copy", "open_adapter"]
