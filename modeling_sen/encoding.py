# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENEncoder: embeds clips as vectors, for retrieval, clustering and linear probes."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from modeling_sen.clip_inputs import listed_clips, naming_clip
from modeling_sen.modeling_sen import SENModel
from modeling_sen.presets import SEN_TINY
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.templates import DEFAULT_TEMPLATE

# Columns of a batch that are parts of a clip.
COLUMNS = ("video", "image", "audio", "depth", "thermal", "imu", "text")
TEXTS_AT_ONCE = 128


class SENEncoder:
    """Embeds clips and texts with a [`SENModel`].

    It can be called on batches of columns: `dataset.map(encoder, batched=True)`, `ray_dataset.map_batches(encoder)`.

    Args:
        model: a loaded SEN.
        processor: its processor.
    """

    def __init__(self, model: SENModel, processor: SENProcessor):
        self.model, self.processor = model.eval(), processor

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike = SEN_TINY,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        **kwargs: Any,
    ) -> "SENEncoder":
        """
        Args:
            pretrained_model_name_or_path: Hub id or folder of a SEN; default: the included sen-tiny.
            device: the model's device; default: the first GPU if there is one, else the CPU.
            dtype: the model's dtype, e.g. `"bfloat16"`; default: the dtype it was saved in.
            kwargs: as for [`SENModel.from_pretrained`].

        Raises:
            OSError, RuntimeError, ValueError: the checkpoint cannot be found or is not a complete SEN.
        """
        processor = SENProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if dtype is not None:
            kwargs["dtype"] = dtype
        model = SENModel.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "device_map" not in kwargs:
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        return cls(model, processor)

    def encode(self, inputs: Any, batch_size: int = 8, show_progress: bool = False) -> np.ndarray:
        """Embeds clips. The next batch is decoded while the model runs.

        Args:
            inputs: one clip or a list of clips, as [`SENProcessor`] takes them; `[]` gives no rows.
            batch_size: clips per forward pass.
            show_progress: whether to show a progress bar.

        Returns:
            (n, projection_dim) float32, each row of length 1.

        Raises:
            ValueError: a batch size below 1; a clip that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        clips = listed_clips(inputs)
        batches = [range(len(clips))[start : start + batch_size] for start in range(0, len(clips), batch_size)]
        rows = [np.empty((0, self.model.config.projection_dim), dtype=np.float32)]
        with tqdm(total=len(clips), unit="clip", disable=not show_progress) as progress:
            for batch, read in zip(batches, self._read_ahead(clips, batches), strict=True):
                rows.append(self._embed(read))
                progress.update(len(batch))
        return np.concatenate(rows)

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Embeds texts in the same space as clips.

        Returns:
            (n, projection_dim) float32, each row of length 1.

        Raises:
            ValueError: the SEN has no text tower, or a text is not a string.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = [np.empty((0, self.model.config.projection_dim), dtype=np.float32)]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = self.processor.tokenize(texts[start : start + TEXTS_AT_ONCE])
            embeds = self.model.get_text_features(tokens["text_input_ids"], tokens["text_attention_mask"])
            rows.append(_as_rows(embeds.pooler_output))
        return np.concatenate(rows)

    def embed_labels(self, labels: Sequence[str], templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> Tensor:
        """Embeds labels: embeds each label in each template, and averages and normalises a label's embeddings.

        Args:
            labels: at least one. Labels whose texts exceed the text tower's longest input are cut, with a warning.
            templates: texts with `{}` for the label.

        Returns:
            (labels, projection_dim), on the model's device and in its dtype, each row of length 1.

        Raises:
            ValueError: the SEN has no text tower, or two labels differ only in the part that is cut.
        """
        reader = self.processor.text_reader
        reader.check_labels(labels, templates)
        rows = []
        labels_at_once = max(1, TEXTS_AT_ONCE // len(templates))
        for start in range(0, len(labels), labels_at_once):
            some = labels[start : start + labels_at_once]
            texts = [template.replace("{}", label) for label in some for template in templates]
            embeds: Any = self.model.get_text_features(*reader(texts, warn=False))
            rows.append(embeds.pooler_output.unflatten(0, (len(some), len(templates))).mean(dim=1))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)

    def similarity(self, first: Any, second: Any) -> np.ndarray:
        """Cosine similarities (n, m) float32 of embeddings (n, e) and (m, e)."""
        unit = [np.asarray(rows, dtype=np.float32) for rows in (first, second)]
        unit = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in unit]
        return unit[0] @ unit[1].T

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds the column `embedding` (n, projection_dim) float32 to a batch of columns, or (projection_dim,) to one row.

        Args:
            batch: name -> column, all of equal length, or one row of a dataset. The columns `video`, `image`, `audio`,
                `depth`, `thermal`, `imu` and `text` are the clips' parts, in any form that the processor takes, or `None`
                for absent ones.

        Raises:
            ValueError: no such column.
        """
        columns = {name: batch[name] for name in COLUMNS if name in batch}
        if not columns:
            raise ValueError(f"batch: expected some of the columns {', '.join(COLUMNS)}, found {', '.join(batch)}")
        if _is_row(batch, columns.values()):
            row = self({name: [value] for name, value in columns.items()})
            return {**batch, "embedding": row["embedding"][0]}
        clips = [
            {name: _from_nested_lists(value) for name, value in zip(columns, values, strict=True)}
            for values in zip(*columns.values(), strict=True)
        ]
        return {**batch, "embedding": self.encode(clips, batch_size=max(1, len(clips)))}

    def _read(self, clips: Sequence[Any], numbers: Iterable[int]) -> dict[str, Tensor]:
        """The inputs of some of the clips; errors name the position of a clip among all."""
        rows = []
        for number in numbers:
            with naming_clip(number, len(clips)):
                rows += self.processor.read_clip(clips[number])
        return self.processor.collate(rows)

    def _read_ahead(self, clips: Sequence[Any], batches: Sequence[Sequence[int]]) -> Iterator[Mapping[str, Tensor]]:
        """Each batch's inputs; a background thread reads the next batch while the caller processes the current one."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = None
            for batch in batches:
                current, ahead = ahead, reader.submit(self._read, clips, batch)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()

    @torch.no_grad()
    def _embed(self, inputs: Mapping[str, Tensor]) -> np.ndarray:
        return _as_rows(self.model.get_video_features(**inputs).pooler_output)


def _as_rows(embeds: Tensor | None) -> np.ndarray:
    assert embeds is not None
    return embeds.float().cpu().numpy()


def _is_row(batch: Mapping[str, Any], values: Iterable[Any]) -> bool:
    """Whether `dataset.map` was called without `batched=True`, or a part of the clip cannot be a column."""
    row_type = getattr(sys.modules.get("datasets.formatting.formatting"), "LazyRow", ())
    return isinstance(batch, row_type) or any(
        isinstance(value, str | bytes) or (value is not None and not isinstance(value, Sequence | np.ndarray))
        for value in values
    )


def _from_nested_lists(value: Any) -> Any:
    """Converts nested lists to uint8 arrays, because `datasets` returns arrays as nested lists."""
    return (
        np.asarray(value, dtype=np.uint8)
        if isinstance(value, list) and value and isinstance(value[0], list)
        else value
    )


__all__ = ["COLUMNS", "SENEncoder"]
