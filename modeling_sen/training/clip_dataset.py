"""Clips as a torch data set: a SEN's inputs for a row, or with a feature cache the row's number alone."""

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

# Clips in a file of the cache: a shard is held in memory until it is whole, and full-size trunks take some 10 MB a clip.
SHARD_CLIPS = 64
CACHED_AT_ONCE = 8

Item = tuple[int, dict[str, Any] | None]  # a row's number, and its inputs where they are not cached


class ClipDataset(Dataset):
    """A SEN's inputs for the clips of a data set.

    Args:
        clips: the data set.
        processor: of the SEN.
        first_row: number of the first row. A task tells training clips from validation clips by their numbers.
        unreadable: a file to which clips that cannot be read are written, one a line; the next clip takes the place of each.
            By default such a clip is an error.
    """

    def __init__(
        self, clips: LabelledClips, processor: SENProcessor, first_row: int = 0, unreadable: Path | None = None
    ):
        self.clips, self.processor, self.first_row, self.unreadable = clips, processor, first_row, unreadable
        self.rows = np.arange(len(clips))  # those that can be read, as far as is known
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
        """`rows` (batch,) int64, and without a cache the model's inputs, as the processor makes them."""
        inputs = [given for _, given in items if given is not None]
        rows = torch.tensor([row for row, _ in items])
        return {"rows": rows, **(self.processor.collate(inputs) if inputs else {})}

    def use_cache(self, model: SENModel, folder: str | os.PathLike, dtype: torch.dtype) -> None:
        """Takes trunks from the cache from now on; builds what is missing there first, and says its size before.

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
