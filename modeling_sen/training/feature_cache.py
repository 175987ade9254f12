# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Disk cache of first looks, so that training neither decodes video nor runs trunks.

Each neuron has a folder, named by a digest of everything its first look depends on. The folder holds safetensors shards of a
fixed number of clips, named by a digest of the clips. Shards are written atomically with a checksum; damaged shards are
rebuilt.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from modeling_sen.first_look import CROWN_KEYS, FirstLook
from modeling_sen.modeling_sen import SENModel
from modeling_sen.neuron import Neuron
from modeling_sen.recursive_association import PROMPT

SHARD_CLIPS = 2048
OPEN_SHARDS = 4096  # files that a process keeps mapped; Linux allows 65,530 maps
# Keys of a batch that belong to no neuron.
_SHARED_KEYS = ("neuron_mask", "frame_times", "text_input_ids", "text_attention_mask")


class FeatureCache:
    """Stored first looks of all neurons, indexed by clip.

    Args:
        model: the SEN whose neurons are cached; its neurons are loaded.
        folder: folder of the cache; several models and processes may share it.
        clips: one identifier per clip, such as a path with its modification time, or a dataset's name and index.
        dtype: dtype of stored floating-point tensors: `torch.float32`, `torch.float16` or `torch.bfloat16`.
        shard_clips: number of clips per file.

    Raises:
        ValueError: a tower is trained or has adapters, so its first looks change during training.
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
        specs = model.neurons.neuron_specs
        for name in specs:
            added, parameters = model.neurons.added_names(name), model.neurons[name].tower.parameters()
            if added or any(parameter.requires_grad for parameter in parameters):
                found = f"has adapters (e.g. {added[0]})" if added else "is trained"
                raise ValueError(
                    f"neuron {name!r}: its tower {found}, and its first looks cannot be stored; train without a cache, or "
                    "merge and freeze it first"
                )
        self.neurons: dict[str, Neuron] = {name: model.neurons[name] for name in specs}  # type: ignore[misc]
        variants = {name: PROMPT[model.config.prompt_of(spec)] for name, spec in specs.items()}
        # Keys and values are not stored, see `FirstLook.pack`.
        self.records = {
            name: [record for record in variant.records if record != CROWN_KEYS] for name, variant in variants.items()
        }
        self.folders = {
            name: Path(folder) / f"{name}-{look_digest(neuron, self.records[name], dtype)}"
            for name, neuron in self.neurons.items()
        }
        self._shards: dict[tuple[str, int], Any] = {}

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.shard_clips)

    def shard_rows(self, number: int) -> range:
        return range(number * self.shard_clips, min((number + 1) * self.shard_clips, len(self.clips)))

    def missing_shards(self) -> list[int]:
        """Numbers of the shards whose file is absent or damaged for at least one neuron."""
        return [
            number
            for number in range(self.num_shards)
            if not all(_is_whole(self._path(name, number)) for name in self.folders)
        ]

    def bytes_for(self, inputs: Mapping[str, Tensor]) -> int:
        """Size in bytes of the whole cache, estimated from the inputs of one batch."""
        stored = self._look(inputs)
        size = sum(tensor.nbytes for tensors in stored.values() for tensor in tensors.values())
        return size * len(self.clips) // _count(inputs)

    @torch.no_grad()
    def build(
        self,
        inputs_of: Callable[[Sequence[int]], Mapping[str, Tensor]],
        batch_size: int = 32,
        shards: Sequence[int] | None = None,
    ) -> None:
        """Writes shards. After an interruption, the next call resumes with the first missing shard.

        Args:
            inputs_of: returns the inputs of `SENModel` for the given rows, as `SENProcessor` makes them.
            batch_size: clips per forward pass.
            shards: numbers of the shards to write, to split the work among processes; default: all missing ones.

        Raises:
            ValueError: sounds of different lengths for a tower that takes no attention mask.
        """
        missing = self.missing_shards() if shards is None else shards
        total = sum(len(self.shard_rows(number)) for number in missing)
        with tqdm(total=total, desc="caching trunks", unit="clip", disable=not missing) as progress:
            for number in missing:
                parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self.folders}
                rows = self.shard_rows(number)
                for start in range(0, len(rows), batch_size):
                    batch = rows[start : start + batch_size]
                    stored = self._look(inputs_of(batch))
                    for name, tensors in parts.items():
                        # A neuron without inputs in the whole batch stores only its presence mask.
                        tensors.append(stored.get(name, {"present": torch.zeros(len(batch), dtype=torch.bool)}))
                    progress.update(len(batch))
                for name, batches in parts.items():
                    _write_shard(self._path(name, number), _joined(batches, name))

    def _look(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Neuron -> its packed first look; all tensors are (clips, ...)."""
        stored, mask = {}, inputs.get("neuron_mask")
        by_neuron = self.model.neurons.split_inputs(
            {key: value for key, value in inputs.items() if key not in _SHARED_KEYS}
        )
        for number, (name, neuron) in enumerate(self.neurons.items()):
            if name in by_neuron:
                present = torch.ones(_count(inputs), dtype=torch.bool) if mask is None else mask[:, number].clone()
                packed = neuron.first_look(by_neuron[name], self.records[name]).pack()
                stored[name] = {"present": present, **{key: self._stored(value) for key, value in packed.items()}}
        return stored

    def _stored(self, value: Tensor) -> Tensor:
        return value.to("cpu", self.dtype if value.is_floating_point() else None)

    def trunks(self, rows: Sequence[int] | np.ndarray) -> dict[str, FirstLook]:
        """First looks at some clips, for `SENModel.forward(trunks=...)`; without neurons that have no inputs in any clip.

        Raises:
            FileNotFoundError: a shard has not been built.
        """
        found = {name: self._gather(name, np.asarray(rows)) for name in self.folders}
        return {name: self.neurons[name].unpack(stored) for name, stored in found.items() if "pooled" in stored}

    def neuron_mask(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """(rows, neurons) bool, whether a clip has inputs for a neuron, for `SENModel.forward(neuron_mask=...)`.

        Raises:
            FileNotFoundError: a shard has not been built.
        """
        present = [self._gather(name, np.asarray(rows), ("present",))["present"] for name in self.folders]
        return torch.stack(present, dim=1)

    def drop_trunks(self) -> int:
        """Frees the weights below the prompt site, which a model that runs on stored first looks only does not need.

        Towers saved beside the checkpoint, the text tower, and towers whose layers return more than hidden states (WavLM) are
        left intact.

        Returns:
            Number of bytes freed.
        """
        freed, text_tower = 0, self.model.neurons.text_tower
        for neuron in self.neurons.values():
            shared = text_tower is not None and text_tower.tower is neuron.tower
            if neuron.prompted_tower is None or neuron.spec.is_relative or shared or neuron.adapter.returned_beside:
                continue
            freed += neuron.prompted_tower.drop_trunk()
        return freed

    def _gather(self, name: str, rows: np.ndarray, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Stored tensors of some rows: key -> (rows, ...). Only these rows are read from the shards."""
        numbers = rows // self.shard_clips
        parts: list[dict[str, Tensor]] = []
        order = np.argsort(numbers, kind="stable")
        for number in np.unique(numbers):
            shard = self._shard(name, int(number))
            local = (rows[order][numbers[order] == number] - number * self.shard_clips).tolist()
            parts.append({key: shard.get_slice(key)[local] for key in shard.keys() if key in (keys or [key])})  # noqa: SIM118
        if len(parts) == 1:
            return parts[0]
        inverse = torch.from_numpy(np.argsort(order))
        with torch.autocast("cpu", enabled=False):  # under autocast the CPU does not concatenate float16
            return {key: value[inverse] for key, value in _joined(parts, name).items()}

    def _shard(self, name: str, number: int) -> Any:
        if (name, number) not in self._shards:
            if len(self._shards) >= OPEN_SHARDS:
                del self._shards[next(iter(self._shards))]
            self._shards[name, number] = safe_open(self._path(name, number), framework="pt")
        return self._shards[name, number]

    def _path(self, name: str, number: int) -> Path:
        return self.folders[name] / f"{number:05d}-{self._clips_digest(number)}.safetensors"

    def _clips_digest(self, number: int) -> str:
        rows = self.shard_rows(number)
        return hashlib.sha256("\n".join(self.clips[rows.start : rows.stop]).encode()).hexdigest()[:16]


def look_digest(neuron: Neuron, records: Sequence[str], dtype: torch.dtype) -> str:
    """Digest of all that a stored first look depends on: source, weights, prompt site, pooling, preprocessing and dtypes."""
    prompted, training_only = neuron.prompted_tower, neuron.adapter.training_only
    weights = {name: value.cpu() for name, value in neuron.tower.state_dict().items() if not value.is_meta}
    weights = {name: value for name, value in weights.items() if name not in training_only}
    facts = {
        "spec": neuron.spec.to_dict(),
        "commit": neuron.commit,
        # The weights in memory, because a local folder has no commit, and weights may have changed since loading.
        "weights": _checksum(weights),
        "records": list(records),
        "prompt_depth": None if prompted is None else prompted.prompt_depth,
        "tower_dtype": str(neuron.dtype),
        "dtype": str(dtype),
        **({} if neuron.sentence is None else {"sentence": neuron.sentence.layout.facts}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _count(inputs: Mapping[str, Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _joined(parts: Sequence[Mapping[str, Tensor]], name: str) -> dict[str, Tensor]:
    """Concatenates parts along the first dimension. Absent keys are filled, and shorter tensors padded, with zeros.

    Sizes of tensors (grids, shapes) become the largest in all rows, because the tensors are padded to them.

    Raises:
        ValueError: lengths differ and no attention mask marks the padding.
    """
    joined = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        found = [part[key] for part in parts if key in part]
        if key == "grid" or key.endswith((".shape", ".constant")):
            # A later read of only the shorter rows still gets the padded tensors.
            rows = sum(len(part["present"]) for part in parts)
            joined[key] = torch.cat(found).amax(dim=0).expand(rows, -1)
            continue
        largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in found), strict=True)]
        if any(list(value.shape[1:]) != largest for value in found) and not any(
            "input.attention_mask.values" in part for part in parts
        ):
            shapes = sorted({tuple(value.shape[1:]) for value in found})
            raise ValueError(
                f"neuron {name!r}: clips have {key} of shapes {shapes}, and the tower takes no "
                "attention mask that would mark the padding; give inputs of one length"
            )
        filled = [part.get(key, found[0].new_zeros(len(part["present"]), *largest)) for part in parts]
        joined[key] = torch.cat([_padded(value, largest) for value in filled])
    return joined


def _padded(value: Tensor, sizes: Sequence[int]) -> Tensor:
    padding = [target - size for size, target in zip(value.shape[1:], sizes, strict=True)]
    return F.pad(value, [each for amount in reversed(padding) for each in (0, amount)]) if any(padding) else value


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # several processes may build the same shard
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"checksum": _checksum(contiguous)})
    os.replace(temporary, path)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def _is_whole(path: Path) -> bool:
    """Whether a shard exists and matches its checksum."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError):
        return False
    return metadata.get("checksum") == _checksum(tensors)
