"""A torch data set of clips: a SEN's inputs for each row, or with a feature cache only the row's number."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modeling_sen.modeling_sen import SENModel
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.data import LabelledClips
from modeling_sen.training.feature_cache import FeatureCache

# Clips per file of the cache: a shard is kept in memory until it is complete, at about 10 MB per clip for full-size trunks.
SHARD_CLIPS = 64
CACHED_AT_ONCE = 8

Item = tuple[int, dict[str, Any] | None]  # a row's number, and its inputs unless they are cached


class ClipDataset(Dataset):
    """A SEN's inputs for the clips of a data set.

    Args:
        clips: the data set.
        processor: the SEN's processor.
        first_row: number of the first row; row numbers distinguish training from validation clips.
        unreadable: a file to which unreadable clips are logged, one per line; each is replaced by the next readable clip.
            Default: an unreadable clip is an error.
    """

    def __init__(
        self, clips: LabelledClips, processor: SENProcessor, first_row: int = 0, unreadable: Path | None = None
    ):
        self.clips, self.processor, self.first_row, self.unreadable = clips, processor, first_row, unreadable
        self.rows = np.arange(len(clips))  # rows that are not known to be unreadable
        self.cache: FeatureCache | None = None
        self._left_out: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """
        Raises:
            ValueError, OSError: a clip cannot be read, naming data set and row.
        """
        row = int(self.rows[index])
        if self.cache is not None:
            return self.first_row + row, None
        found, inputs = self._read_or_next(row)
        return self.first_row + found, inputs

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """`rows` (batch,) int64 and, without a cache, the model's inputs from the processor."""
        inputs = [inputs for _, inputs in items if inputs is not None]
        rows = torch.tensor([row for row, _ in items])
        return {"rows": rows, **(self.processor.collate(inputs) if inputs else {})}

    def use_cache(self, model: SENModel, folder: str | os.PathLike, dtype: torch.dtype) -> None:
        """Uses cached trunks from now on; prints the size of missing shards and builds them first.

        It must be called in every process. Processes share the work and wait for each other.

        Raises:
            ValueError: no clip can be read.
        """
        from accelerate import PartialState

        state, config = PartialState(), self.processor.config
        # Cached sound depends on all neurons' sampling, and depth on the estimator.
        inputs_key = json.dumps(
            [config.depth_estimator, *((spec.name, spec.num_frames, spec.sampling) for spec in config.neuron_specs)],
            default=str,
        )
        suffix = hashlib.sha256(inputs_key.encode()).hexdigest()[:8]
        cache = FeatureCache(model, folder, [f"{key}#{suffix}" for key in self.clips.keys], dtype, SHARD_CLIPS)
        missing = cache.missing_shards()
        if missing and state.is_main_process:
            size = cache.bytes_for(self.processor.collate([self._read_or_next(0)[1]])) / len(self.clips)
            clips = sum(len(cache.shard_rows(number)) for number in missing)
            print(f"{folder}: {clips} of {len(self.clips)} clips to cache, {size * clips / 1e6:,.1f} MB", flush=True)
        # Assigned by number, because the processes' lists of missing shards may differ.
        shards = [number for number in missing if number % state.num_processes == state.process_index]
        cache.build(self._inputs_to_cache, CACHED_AT_ONCE, shards)
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
        """One clip's inputs; `None` if it cannot be read and unreadable clips are allowed."""
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
            with self.unreadable.open("a") as file:  # appending short lines is atomic across processes
                file.write(" ".join(message.split()) + "\n")
            return None
