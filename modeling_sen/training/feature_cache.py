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
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from modeling_sen.modeling_sen import SENModel
from modeling_sen.neuron import Neuron, NeuronState, NeuronTrunk

SHARD_CLIPS = 2048
OPEN_SHARDS = 4096  # memory maps that a process keeps, of the 65,530 that Linux allows
# Of a batch what belongs to no neuron.
_BESIDE = ("neuron_mask", "frame_times", "text_input_ids", "text_attention_mask")
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
        self._templates: dict[tuple, NeuronTrunk] = {}

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
        size = sum(tensor.nbytes for tensors in stored.values() for tensor in tensors.values())
        return size * len(self.clips) // _count(inputs)

    @torch.no_grad()
    def build(
        self,
        inputs_of: Callable[[Sequence[int]], Mapping[str, Tensor]],
        batch_size: int = 32,
        shards: Sequence[int] | None = None,
    ) -> None:
        """Writes shards. Interrupted, it goes on with the shard it was at.

        Args:
            inputs_of: the model's inputs for some rows, as `SENProcessor` makes them.
            shards: which to write, where several processes share the work; by default all that are missing.

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
                        # Of a neuron that no clip of the batch has inputs for, only that.
                        tensors.append(stored.get(name, {"present": torch.zeros(len(batch), dtype=torch.bool)}))
                    progress.update(len(batch))
                for name, batches in parts.items():
                    _write_shard(self._path(name, number), _joined(batches, name))

    def _look(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Neuron -> what is stored of its first look, each (clips, ...)."""
        stored = {}
        mask = inputs.get("neuron_mask")
        given_of = self.model._split_inputs({key: value for key, value in inputs.items() if key not in _BESIDE})
        for number, (name, neuron) in enumerate(self.model.neurons.by_name.items()):
            if name not in given_of:
                continue
            given = given_of[name]
            state, look = neuron.first_look(given)
            stored[name] = {
                "tokens": state.last_hidden_state.to(self.dtype),
                "pooled": state.pooler_output.to(self.dtype),
                "present": torch.ones(_count(inputs), dtype=torch.bool) if mask is None else mask[:, number].clone(),
            }
            if look.trunk is not None:
                folded = look.trunk.hidden_states  # (clips * frames, tokens, width)
                stored[name]["trunk"] = folded.unflatten(0, (look.batch_size, -1)).to(self.dtype)
            for key, value in given.items():
                # Attention masks are made of ids and masks. Of pixels and sound the shape does: they are not looked at again.
                if value.is_floating_point():
                    stored[name][f"shape_{key}"] = _shape_rows(value)
                else:
                    stored[name][f"input_{key}"] = value.bool() if key == "attention_mask" else value
        return {name: {key: value.cpu() for key, value in tensors.items()} for name, tensors in stored.items()}

    def trunks(self, rows: Sequence[int] | np.ndarray) -> dict[str, NeuronTrunk]:
        """What `SENModel.forward(trunks=...)` takes, for some clips; a neuron that none of them has inputs for is left out.

        Raises:
            FileNotFoundError: a shard is not built.
        """
        found = {name: self._gather(name, np.asarray(rows)) for name in self.folders}
        return {name: self._trunk(name, stored) for name, stored in found.items() if "pooled" in stored}

    def neuron_mask(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """(rows, neurons) bool: which neurons each clip has inputs for, as `SENModel.forward(neuron_mask=...)` takes it.

        Raises:
            FileNotFoundError: a shard is not built.
        """
        every = {name: self._gather(name, np.asarray(rows), ("present",))["present"] for name in self.folders}
        return torch.stack([every[name] for name in self.folders], dim=1)

    def drop_trunks(self) -> int:
        """Frees the layers below the prompt sites, which a model that is called on stored trunks only does not run.

        Whole stay towers that stand beside their checkpoint, as saving it writes them, the text tower, and towers whose lower
        layers hand on more than hidden states (WavLM).

        Returns:
            bytes freed.

        Raises:
            FileNotFoundError: a shard is not built.
        """
        freed, text_tower = 0, self.model.neurons.text_tower
        for name, neuron in self.model.neurons.by_name.items():
            prompted = neuron.prompted_tower
            if prompted is None or neuron.spec.is_relative or (text_tower and text_tower.tower is neuron.tower):
                continue
            rest = None
            for number in range(self.num_shards):
                present = self._gather(name, np.asarray(self.shard_rows(number)), ("present",))["present"]
                if present.any():
                    row = self.shard_rows(number)[int(present.int().argmax())]
                    rest = self.trunks([row])[name].trunk.rest  # type: ignore[union-attr]
                    break
            if any(isinstance(value, Tensor) for value in rest or ()):
                continue
            for layer in prompted.layers[: prompted.site]:
                layer.forward = partial(_hand_on, rest)
                for parameter in layer.parameters():
                    freed += parameter.nbytes
                    parameter.data = parameter.new_empty(0)
        return freed

    def _trunk(self, name: str, found: dict[str, Tensor]) -> NeuronTrunk:
        neuron = self.model.neurons.by_name[name]
        count = len(found["pooled"])
        inputs = {key.removeprefix("input_"): value for key, value in found.items() if key.startswith("input_")}
        inputs |= {key: value.long() for key, value in inputs.items() if key == "attention_mask"}
        shapes = {
            key.removeprefix("shape_"): tuple(value.amax(0).tolist())  # rows without inputs have none
            for key, value in found.items()
            if key.startswith("shape_")
        }
        template_key = (name, count, *shapes.items(), *((key, tuple(value.shape)) for key, value in inputs.items()))
        blank = {key: torch.zeros(()).expand(count, *shape) for key, shape in shapes.items()}
        if template_key not in self._templates:  # for all of a trunk that does not depend on the clip
            self._templates[template_key] = neuron.first_look(blank | inputs)[1]
        template = self._templates[template_key]
        placed = {
            key: found[key].to(neuron.device, neuron.dtype) for key in ("tokens", "pooled", "trunk") if key in found
        }
        given = neuron._tower_inputs(blank | inputs) if inputs else {}
        mask = neuron._token_mask(placed["tokens"], given)
        state = NeuronState(placed["tokens"], placed["pooled"], template.first_state.grid, mask)
        trunk = template.trunk
        if trunk is not None:
            trunk = replace(trunk, hidden_states=placed["trunk"].flatten(0, 1), inputs={**trunk.inputs, **given})
        return replace(template, trunk=trunk, first_state=state)

    def _gather(self, name: str, rows: np.ndarray, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What is stored of some rows: key -> (rows, ...), read from the shards' memory maps."""
        numbers = rows // self.shard_clips
        parts: list[dict[str, Tensor]] = []
        order = np.argsort(numbers, kind="stable")
        for number in np.unique(numbers):
            shard = self._shard(name, int(number))
            wanted = rows[order][numbers[order] == number] - number * self.shard_clips
            part = {key: _as_tensor(tensor[wanted]) for key, tensor in shard.items() if key in (keys or shard)}
            if "present" not in shard:  # written by an earlier version, for clips that had all
                part["present"] = torch.ones(len(wanted), dtype=torch.bool)
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        back = torch.from_numpy(np.argsort(order))
        with torch.autocast("cpu", enabled=False):  # under which the CPU does not concatenate float16
            return {key: value[back] for key, value in _joined(parts, name).items()}

    def _shard(self, name: str, number: int) -> dict[str, np.ndarray]:
        if (name, number) not in self._shards:
            if len(self._shards) >= OPEN_SHARDS:
                del self._shards[next(iter(self._shards))]
            self._shards[name, number] = _map_shard(self._path(name, number))
        return self._shards[name, number]

    def _path(self, name: str, number: int) -> Path:
        return self.folders[name] / f"{number:05d}-{self._clips_digest(number)}.safetensors"

    def _clips_digest(self, number: int) -> str:
        rows = self.shard_rows(number)
        return hashlib.sha256("\n".join(self.clips[rows.start : rows.stop]).encode()).hexdigest()[:16]


def _hand_on(rest: tuple | None, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple:
    """What a layer without weights does."""
    return hidden_states if rest is None else (hidden_states, *rest)


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


def _count(inputs: Mapping[str, Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _shape_rows(value: Tensor) -> Tensor:
    return torch.tensor(value.shape[1:]).expand(len(value), -1)


def _joined(parts: Sequence[Mapping[str, Tensor]], name: str) -> dict[str, Tensor]:
    """Parts one after the other: zeros for what a part lacks, and behind what is shorter, as a batch of them would have.

    Raises:
        ValueError: lengths differ and no attention mask says what is padding.
    """
    joined = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        found = [part[key] for part in parts if key in part]
        largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in found), strict=True)]
        if any(list(value.shape[1:]) != largest for value in found) and not any(
            "input_attention_mask" in part for part in parts
        ):
            shapes = sorted({tuple(value.shape[1:]) for value in found})
            raise ValueError(
                f"neuron {name!r}: clips have {key.partition('_')[2] or key} of shapes {shapes}, and the tower takes no "
                "attention mask that would say what is padding; give inputs of one length"
            )
        whole = [part.get(key, found[0].new_zeros(len(part["present"]), *largest)) for part in parts]
        joined[key] = torch.cat([_padded(value, largest) for value in whole])
    return joined


def _padded(value: Tensor, sizes: Sequence[int]) -> Tensor:
    missing = [wanted - size for size, wanted in zip(value.shape[1:], sizes, strict=True)]
    return F.pad(value, [each for amount in reversed(missing) for each in (0, amount)]) if any(missing) else value


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # several processes may build the same shard
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"checksum": _checksum(contiguous)})
    os.replace(temporary, path)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].view(torch.uint8).numpy().data, total)
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


def _as_tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


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
