# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trunk outputs of frozen neurons on disk: what training reads instead of decoding video and running trunks.

One folder a neuron, named by a digest of all that its trunk's output depends on; in it safetensors shards of a fixed number
of clips, named by a digest of these. A shard is written whole and carries a checksum; one that is damaged is built anew.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from modeling_sen.modeling_sen import SENModel
from modeling_sen.neuron import Neuron, NeuronState, NeuronTrunk

SHARD_CLIPS = 2048
_NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}


class FeatureCache:
    """Trunks of clips, by row.

    Args:
        model: the SEN whose neurons are cached, loaded.
        folder: where the cache lives; several models and processes may share it.
        clips: what identifies each clip (a path with its time of change, a dataset's name and index), one string a row.
        dtype: of what is stored: `torch.float32`, `torch.float16` or `torch.bfloat16`.
        shard_clips: clips in a file.
    """

    def __init__(
        self,
        model: SENModel,
        folder: str | os.PathLike,
        clips: Sequence[str],
        dtype: torch.dtype = torch.bfloat16,
        shard_clips: int = SHARD_CLIPS,
    ):
        self.model, self.clips, self.dtype, self.shard_clips = model, list(clips), dtype, shard_clips
        self.folders = {
            name: Path(folder) / f"{name}-{trunk_digest(neuron, dtype)}"
            for name, neuron in model.neurons.by_name.items()
        }
        self._shards: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self._templates: dict[tuple[str, int], NeuronTrunk] = {}

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.shard_clips)

    def shard_rows(self, number: int) -> range:
        return range(number * self.shard_clips, min((number + 1) * self.shard_clips, len(self.clips)))

    def missing_shards(self) -> list[int]:
        """Shards that some neuron lacks, or whose file is damaged."""
        return [
            number
            for number in range(self.num_shards)
            if not all(_is_whole(self._path(name, number)) for name in self.folders)
        ]

    def bytes_for(self, inputs: Mapping[str, Tensor]) -> int:
        """Bytes that the whole cache takes, from the inputs of one batch."""
        stored = self._look(inputs)
        rows = len(next(iter(inputs.values())))
        size = sum(tensor.nbytes for tensors in stored.values() for tensor in tensors.values())
        return size * len(self.clips) // rows

    @torch.no_grad()
    def build(self, inputs_of: Callable[[Sequence[int]], Mapping[str, Tensor]], batch_size: int = 32) -> None:
        """Writes the shards that are missing. Interrupted, it goes on with the shard it was at.

        Args:
            inputs_of: the model's inputs for some rows, as `SENProcessor` makes them.
        """
        missing = self.missing_shards()
        total = sum(len(self.shard_rows(number)) for number in missing)
        with tqdm(total=total, desc="caching trunks", unit="clip", disable=not missing) as progress:
            for number in missing:
                parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self.folders}
                rows = self.shard_rows(number)
                for start in range(0, len(rows), batch_size):
                    batch = rows[start : start + batch_size]
                    for name, tensors in self._look(inputs_of(batch)).items():
                        parts[name].append(tensors)
                    progress.update(len(batch))
                for name, batches in parts.items():
                    joined = {key: torch.cat([each[key] for each in batches]).contiguous() for key in batches[0]}
                    _write_shard(self._path(name, number), joined)

    def _look(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Neuron -> what is stored of its first look, each (clips, ...)."""
        stored = {}
        for name, given in self.model._split_inputs(inputs).items():
            state, look = self.model.neurons.by_name[name].first_look(given)
            stored[name] = {
                "tokens": state.last_hidden_state.to(self.dtype),
                "pooled": state.pooler_output.to(self.dtype),
            }
            if look.trunk is not None:
                folded = look.trunk.hidden_states  # (clips * frames, tokens, width)
                stored[name]["trunk"] = folded.unflatten(0, (look.batch_size, -1)).to(self.dtype)
            for key, value in given.items():
                # Attention masks are made of ids and masks. Of pixels and sound the shape does: they are not looked at again.
                blank = value.is_floating_point()
                stored[name][f"shape_{key}" if blank else f"input_{key}"] = _shape_rows(value) if blank else value
        return stored

    def trunks(self, rows: Sequence[int]) -> dict[str, NeuronTrunk]:
        """What `SENModel.forward(trunks=...)` takes, for some clips.

        Raises:
            FileNotFoundError: a shard is not built.
        """
        return {name: self._trunk(name, np.asarray(rows)) for name in self.folders}

    def _trunk(self, name: str, rows: np.ndarray) -> NeuronTrunk:
        found = self._gather(name, rows)
        neuron = self.model.neurons.by_name[name]
        inputs = {key.removeprefix("input_"): value for key, value in found.items() if key.startswith("input_")}
        if (name, len(rows)) not in self._templates:  # for all of a trunk that does not depend on the clip
            shapes = {key.removeprefix("shape_"): value[0] for key, value in found.items() if key.startswith("shape_")}
            blank = {key: torch.zeros(()).expand(len(rows), *shape.tolist()) for key, shape in shapes.items()}
            self._templates[name, len(rows)] = neuron.first_look(blank | inputs)[1]
        template = self._templates[name, len(rows)]
        placed = {
            key: found[key].to(neuron.device, neuron.dtype) for key in ("tokens", "pooled", "trunk") if key in found
        }
        state = NeuronState(placed["tokens"], placed["pooled"], None, template.first_state.grid)
        trunk = template.trunk
        if trunk is not None:
            given = neuron._tower_inputs(inputs) if inputs else {}
            trunk = replace(trunk, hidden_states=placed["trunk"].flatten(0, 1), inputs={**trunk.inputs, **given})
        return replace(template, trunk=trunk, first_state=state)

    def _gather(self, name: str, rows: np.ndarray) -> dict[str, Tensor]:
        """What is stored of some rows: key -> (rows, ...), read from the shards' memory maps."""
        numbers = rows // self.shard_clips
        parts: dict[str, list[np.ndarray]] = {}
        order = np.argsort(numbers, kind="stable")
        for number in np.unique(numbers):
            shard = self._shard(name, int(number))
            wanted = rows[order][numbers[order] == number] - number * self.shard_clips
            for key, tensor in shard.items():
                parts.setdefault(key, []).append(tensor[wanted])
        back = np.argsort(order)
        joined = {key: torch.from_numpy(np.concatenate(arrays)[back]) for key, arrays in parts.items()}
        return {
            key: value.view(torch.bfloat16) if value.dtype == torch.uint16 else value for key, value in joined.items()
        }

    def _shard(self, name: str, number: int) -> dict[str, np.ndarray]:
        if (name, number) not in self._shards:
            self._shards[name, number] = _map_shard(self._path(name, number))
        return self._shards[name, number]

    def _path(self, name: str, number: int) -> Path:
        return self.folders[name] / f"{number:05d}-{self._clips_digest(number)}.safetensors"

    def _clips_digest(self, number: int) -> str:
        rows = self.shard_rows(number)
        return hashlib.sha256("\n".join(self.clips[rows.start : rows.stop]).encode()).hexdigest()[:16]


def trunk_digest(neuron: Neuron, dtype: torch.dtype) -> str:
    """Of all that a stored trunk depends on: the tower's source and commit, its prompt site, its preprocessing, dtypes."""
    prompted = neuron.prompted_tower
    facts = {
        "spec": neuron.spec.to_dict(),
        "commit": neuron.commit,
        "site": None if prompted is None else prompted.site,
        "tower_dtype": str(neuron.dtype),
        "dtype": str(dtype),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _shape_rows(value: Tensor) -> Tensor:
    return torch.tensor(value.shape[1:]).expand(len(value), -1)


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # several processes may build the same shard
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"checksum": _checksum(contiguous)})
    os.replace(temporary, path)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].view(torch.uint8).numpy(), total)
    return f"{total:08x}"


def _is_whole(path: Path) -> bool:
    """Whether a shard is there and holds what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError):
        return False
    return metadata.get("checksum") == _checksum(tensors)


def _map_shard(path: Path) -> dict[str, np.ndarray]:
    """A shard's tensors as memory maps; bfloat16 as uint16, which numpy knows."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {
        name: np.memmap(
            path, _NUMPY_TYPES[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
