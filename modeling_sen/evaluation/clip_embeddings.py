# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Embeddings of a data set's clips under a protocol, kept on disk as they are made: an interrupted run goes on with them."""

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

SHARD_CLIPS = 64  # what an interruption costs at most

# Of a configuration: where it was read, and what is written with it.
_PLACES = ("_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "auto_map")


class EmbeddingStore:
    """Embeddings by clip key, in safetensors files of up to `SHARD_CLIPS` clips; a damaged file is left out.

    Args:
        folder: made when the first are written.
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
        """Keeps (clips, views, width) float32 embeddings; the file appears whole."""
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
        folder: where embeddings are kept; those there of the same weights, protocol and clip are taken, none is made twice.

    Returns:
        (clips, views, projection_dim) float32, each of length 1.

    Raises:
        ValueError, OSError: a clip cannot be read; those before it are kept.
    """
    views = [SENEncoder(encoder.model, processor) for processor in protocol_processors(encoder.processor, protocol)]
    store = EmbeddingStore(folder / f"{protocol.name}-{protocol.version}-{model_sha1(encoder.model)[:16]}")
    wanted = {key: row for row, key in reversed(list(enumerate(clips.keys)))}  # a clip with several texts is one clip
    missing = [row for key, row in wanted.items() if key not in store.rows]
    missing.sort()
    with tqdm(
        total=len(wanted), initial=len(wanted) - len(missing), unit="clip", disable=not show_progress
    ) as progress:
        for start in range(0, len(missing), SHARD_CLIPS):
            some = missing[start : start + SHARD_CLIPS]
            read = [clips.read(row) for row in some]
            shard = np.stack([view.encode(read, batch_size) for view in views], axis=1)
            store.add([clips.keys[row] for row in some], shard)
            progress.update(len(some))
    return np.stack([store.rows[key] for key in clips.keys])


def mean_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Averages views: (clips, views, width) -> (clips, width) of length 1, the input of heads and of retrieval."""
    mean = embeddings.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def describe_run(encoder: SENEncoder, model: str, protocol: Protocol) -> dict[str, Any]:
    """What embeddings depend on beside the clips, JSON-able: protocol, weights and versions of packages.

    Args:
        model: the name to put down.
    """
    described = asdict(replace(protocol, templates={}))
    described["resample"] = protocol.resample.name
    return {
        "protocol": {name: value for name, value in described.items() if name not in ("templates", "hub_datasets")},
        **describe_model(encoder.model, model, encoder.processor.commit),
    }


def describe_model(model: SENPreTrainedModel, name: str, revision: str | None) -> dict[str, Any]:
    """Weights and versions of packages, JSON-able.

    Args:
        name, revision: of the checkpoint, to put down.
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
    """Of the configuration and all weights, the association's, the towers' and a language model's: what a result depends on.

    The same wherever the checkpoint and its towers lie, beside it or in repositories of their own.
    """
    settings = model.config.to_diff_dict()  # what a version of Transformers adds with its default does not count
    sen: Any = model.base_model
    for part in (settings, settings.get("sen_config", {})):
        for name in _PLACES:
            part.pop(name, None)
        for spec in [*part.get("neurons", []), part.get("text_tower") or {}]:
            for name in TOWER_SOURCE:
                spec.pop(name, None)
    digest = hashlib.sha1(json.dumps(settings, sort_keys=True, default=str).encode())
    parts = {"": model.state_dict(), **{name: neuron.state_dict() for name, neuron in sen.neurons.items()}}
    if (language_model := getattr(model, "language_model", None)) is not None:  # not in the state of its owner
        parts["language_model"] = language_model.state_dict()
    for part, weights in parts.items():
        for name, weight in sorted(weights.items()):
            digest.update(f"{part} {name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
