# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Embeddings of a data set's clips under a protocol, stored on disk so that an interrupted run can resume."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.protocols import Protocol, protocol_processors
from modeling_sen.neuron_bank import TOWER_SOURCE
from modeling_sen.pretrained_sen import SENPreTrainedModel
from modeling_sen.training.data import LabelledClips
from modeling_sen.whole_file import whole_file

logger = logging.getLogger(__name__)

SHARD_CLIPS = 64  # largest number of clips whose embeddings an interruption loses

# Fields of a configuration that depend on where it was loaded from or saved by, and not on the model.
_LOCATION_FIELDS = ("_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "auto_map")


class EmbeddingStore:
    """Embeddings by clip key, in safetensors files of up to `SHARD_CLIPS` clips; damaged files are ignored with a warning.

    Args:
        folder: the folder; created when the first embeddings are written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: dict[str, np.ndarray] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="np") as shard:
                    embeddings = shard.get_tensor("embeddings")
                    keys = json.loads(shard.metadata()["keys"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                logger.warning(f"{file} is damaged ({error}); its clips are embedded again")
                continue
            self.rows |= dict(zip(keys, embeddings, strict=True))

    def add(self, keys: Sequence[str], embeddings: np.ndarray) -> None:
        """Stores (clips, views, width) float32 embeddings in a file, written atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha1("\n".join(keys).encode()).hexdigest()
        file = self.folder / f"{digest}.safetensors"
        with whole_file(file) as unfinished:
            save_file({"embeddings": torch.from_numpy(embeddings)}, unfinished, {"keys": json.dumps(list(keys))})
        self.rows |= dict(zip(keys, embeddings, strict=True))


def embed_clips(
    encoder: SENEncoder,
    protocol: Protocol,
    clips: LabelledClips,
    folder: Path,
    batch_size: int = 8,
    show_progress: bool = False,
) -> np.ndarray:
    """Embeds each clip in each view of a protocol.

    Args:
        encoder: embeds the clips.
        protocol: frames and preprocessing.
        clips: the clips.
        folder: folder of stored embeddings, which are reused for equal weights, protocol and clip key.
        batch_size: clips per forward pass.
        show_progress: whether to show a progress bar.

    Returns:
        (clips, views, projection_dim) float32, each of length 1.

    Raises:
        ValueError, OSError: a clip cannot be read; embeddings of earlier clips are kept.
    """
    views = [SENEncoder(encoder.model, processor) for processor in protocol_processors(encoder.processor, protocol)]
    store = EmbeddingStore(folder / f"{protocol.name}-{protocol.version}-{model_sha1(encoder.model)[:16]}")
    row_of = {key: row for row, key in reversed(list(enumerate(clips.keys)))}  # a clip with several texts is one clip
    missing = sorted(row for key, row in row_of.items() if key not in store.rows)
    with tqdm(
        total=len(row_of), initial=len(row_of) - len(missing), unit="clip", disable=not show_progress
    ) as progress:
        for start in range(0, len(missing), SHARD_CLIPS):
            some = missing[start : start + SHARD_CLIPS]
            read = [clips.read(row) for row in some]
            shard = np.stack([view.encode(read, batch_size) for view in views], axis=1)
            store.add([clips.keys[row] for row in some], shard)
            progress.update(len(some))
    return np.stack([store.rows[key] for key in clips.keys])


def mean_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Mean over views: (clips, views, width) -> (clips, width) of length 1, for heads and retrieval."""
    mean = embeddings.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def describe_run(encoder: SENEncoder, model: str, protocol: Protocol) -> dict[str, Any]:
    """Everything besides the clips on which embeddings depend, JSON-serialisable: protocol, weights, package versions.

    Args:
        encoder: the encoder.
        model: name of the model.
        protocol: the protocol.
    """
    described = asdict(replace(protocol, templates={}))
    described["resample"] = protocol.resample.name
    return {
        "protocol": {name: value for name, value in described.items() if name not in ("templates", "hub_datasets")},
        **describe_model(encoder.model, model, encoder.processor.commit),
    }


def describe_model(model: SENPreTrainedModel, name: str, revision: str | None) -> dict[str, Any]:
    """Description of a model's weights and the package versions, JSON-serialisable.

    Args:
        model: the model.
        name, revision: name and revision of the checkpoint.
    """
    sen: Any = model.base_model
    packages = ("modeling-sen", "transformers", "torch", "av", "pillow")
    return {
        "model": {
            "name": name,
            "revision": revision,
            "sha1": model_sha1(model),
            "neurons": [
                {
                    "name": neuron.spec.name,
                    "hub_id": neuron.spec.hub_id,
                    "revision": neuron.commit or neuron.spec.revision,
                }
                for neuron in sen.neurons.values()
            ],
        },
        "versions": {package: version(package) for package in packages},
    }


def model_sha1(model: SENPreTrainedModel) -> str:
    """SHA-1 of the configuration and all weights: of the association, the towers and the language model, if any.

    It does not depend on the locations of the checkpoint and its towers.
    """
    settings = model.config.to_diff_dict()  # without defaults, which may differ between versions of Transformers
    sen: Any = model.base_model
    for part in (settings, settings.get("sen_config", {})):
        for name in _LOCATION_FIELDS:
            part.pop(name, None)
        for spec in [*part.get("neurons", []), part.get("text_tower") or {}]:
            for name in TOWER_SOURCE:
                spec.pop(name, None)
    digest = hashlib.sha1(json.dumps(settings, sort_keys=True, default=str).encode())
    parts = {"": model.state_dict(), **{name: neuron.state_dict() for name, neuron in sen.neurons.items()}}
    if (language_model := getattr(model, "language_model", None)) is not None:  # not in the model's state dict
        parts["language_model"] = language_model.state_dict()
    for part, weights in parts.items():
        for name, weight in sorted(weights.items()):
            digest.update(f"{part} {name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
