"""Batches of a data set of clips: which rows make a step, and a SEN's inputs for them, decoded or from the feature cache."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_sen.modeling_sen import SENModel, SENOutput
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.data import LabelledClips
from modeling_sen.training.feature_cache import FeatureCache

# Clips in a file of the cache: a shard is held in memory until it is whole, and full-size trunks take some 10 MB a clip.
SHARD_CLIPS = 64
CACHED_AT_ONCE = 8


class ClipInputs:
    """A SEN's inputs for rows of a data set.

    Args:
        clips: the data set.
        processor: of the SEN.
        unreadable: a file to which clips that cannot be read are written, one a line; the next clip takes the place of each.
            By default such a clip is an error.
    """

    def __init__(self, clips: LabelledClips, processor: SENProcessor, unreadable: Path | None = None):
        self.clips, self.processor, self.unreadable = clips, processor, unreadable
        self.rows = np.arange(len(clips))  # those that can be read, as far as is known
        self.cache: FeatureCache | None = None
        self._left_out: set[int] = set()

    def batch(self, rows: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """`rows` (batch,) int64, and without a cache the model's inputs, as the processor makes them.

        Raises:
            ValueError, OSError: a clip cannot be read, naming data set and row.
        """
        if self.cache is not None:
            return {"rows": torch.as_tensor(np.asarray(rows))}
        found = [self._read_or_next(int(row)) for row in rows]
        return {
            "rows": torch.tensor([row for row, _ in found]),
            **self.processor.collate([inputs for _, inputs in found]),
        }

    def look(self, model: SENModel, batch: Mapping[str, Tensor], **asked: Any) -> SENOutput:
        """The model's output on a batch."""
        if self.cache is None:
            return model(**{name: value for name, value in batch.items() if name != "rows"}, **asked)
        rows = batch["rows"].cpu().numpy()
        return model(trunks=self.cache.trunks(rows), neuron_mask=self.cache.neuron_mask(rows), **asked)

    def use_cache(self, model: SENModel, folder: str | os.PathLike, dtype: torch.dtype) -> None:
        """From now on trunks come from the cache; what is missing there is built first, after its size is said.

        To be called in every process: they share the work, and wait for each other.

        Raises:
            ValueError: no clip can be read.
        """
        from accelerate import PartialState

        state, config = PartialState(), self.processor.config
        # Sound is heard over the span of the frames that all neurons see, and depth may be estimated.
        seen = json.dumps(
            [config.depth_estimator, *((spec.name, spec.num_frames, spec.sampling) for spec in config.neuron_specs)],
            default=str,
        )
        suffix = hashlib.sha256(seen.encode()).hexdigest()[:8]
        cache = FeatureCache(model, folder, [f"{key}#{suffix}" for key in self.clips.keys], dtype, SHARD_CLIPS)
        missing = cache.missing_shards()
        if missing and state.is_main_process:
            size = cache.bytes_for(self.processor.collate([self._read_or_next(0)[1]])) / len(self.clips)
            clips = sum(len(cache.shard_rows(number)) for number in missing)
            print(f"{folder}: {clips} of {len(self.clips)} clips to cache, {size * clips / 1e6:,.1f} MB", flush=True)
        # By its number, as one process may see what another has written already.
        own = [number for number in missing if number % state.num_processes == state.process_index]
        cache.build(self._inputs_to_cache, CACHED_AT_ONCE, own)
        state.wait_for_everyone()
        self.cache = cache
        self.rows = np.flatnonzero(cache.neuron_mask(range(len(self.clips))).any(dim=1).numpy())
        if not len(self.rows):
            raise ValueError(f"{self.clips.source}: no clip can be read")

    def _inputs_to_cache(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return self.processor.collate([self._read(row) or {} for row in rows])

    def _read_or_next(self, row: int) -> tuple[int, dict[str, Any]]:
        for offset in range(len(self.clips)):
            candidate = (row + offset) % len(self.clips)
            inputs = self._read(candidate)
            if inputs is not None:
                return candidate, inputs
        raise ValueError(f"{self.clips.source}: no clip can be read")

    def _read(self, row: int) -> dict[str, Any] | None:
        """One clip's inputs; `None` where it cannot be read and may be left out."""
        if row in self._left_out:
            return None
        try:
            return self.processor.read_clip(self.clips.read(row))[0]
        except (OSError, ValueError) as error:
            message = f"{self.clips.source}, row {row}: {error}"
            if self.unreadable is None:
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(message) from error
            self._left_out.add(row)
            with self.unreadable.open("a") as file:  # short lines are appended whole, by however many processes
                file.write(" ".join(message.split()) + "\n")
            return None


class ClipBatches:
    """Called with a batch's number it gives the batch; in the order of epochs, each drawn anew.

    Args:
        inputs: of the data set.
        batch_size: clips of an optimiser step; what remains of an epoch is left out.
        seed: of the order.
        gradient_accumulation: batches that make a step.
        process, num_processes: which part of each batch is this process's.

    Raises:
        ValueError: fewer clips than a batch, or a batch that cannot be divided.
    """

    def __init__(
        self,
        inputs: ClipInputs,
        batch_size: int,
        seed: int,
        gradient_accumulation: int = 1,
        process: int = 0,
        num_processes: int = 1,
    ):
        self.inputs, self.batch_size, self.seed = inputs, batch_size, seed
        self.parts, self.process, self.num_processes = gradient_accumulation, process, num_processes
        if batch_size % (gradient_accumulation * num_processes):
            raise ValueError(
                f"batch_size is {batch_size}, expected a multiple of gradient_accumulation {gradient_accumulation} times "
                f"{num_processes} processes"
            )
        if len(inputs.rows) < batch_size:
            raise ValueError(f"batch_size is {batch_size}, but {inputs.clips.source} has {len(inputs.rows)} clips")

    @property
    def steps_per_epoch(self) -> int:
        return len(self.inputs.rows) // self.batch_size

    def rows(self, number: int) -> np.ndarray:
        """Rows of this process's part of a batch."""
        step, part = divmod(number, self.parts)
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.inputs.rows)
        each = self.batch_size // (self.parts * self.num_processes)
        start = in_epoch * self.batch_size + (part * self.num_processes + self.process) * each
        return order[start : start + each]

    def __call__(self, number: int) -> dict[str, Tensor]:
        return self.inputs.batch(self.rows(number))
