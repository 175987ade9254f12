# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override, assignment"
"""What all pipelines of a SEN share: forms of input, batches, streams, saving and pushing.

A pipeline of one task inherits from `VideoPipeline` and adds its options, `_forward` and `postprocess`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from types import GeneratorType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import KeyDataset, PipelineDataset, PipelineIterator

from modeling_sen.clip_inputs import is_clip_batch
from modeling_sen.processing_sen import SENProcessor


class VideoPipeline(Pipeline):
    """A pipeline that takes videos. A subclass whose model takes something else than a processor's inputs also overrides
    `preprocess` and `collate`, and sets `_load_processor` to False where it has no processor. A subclass defines

    - `_forward(inputs, **options)`, from the model's inputs, (clips * views, ...) tensors on the model's device, to a dict of
      tensors or lists with one row for each clip;
    - `postprocess(outputs, **options)`, from this dict for one clip, rows of length 1, to the result;
    - `_sanitize_parameters`, where it has options.
    """

    processor: SENProcessor  # None for a task without one
    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, video: Any = None, **kwargs: Any) -> Any:
        """
        Args:
            video: path, URL, bytes, file object, (T, H, W, 3) uint8 array, list of PIL images or (H, W, 3) arrays (one
                video), or a dict of modalities (`video`, `audio`, `depth`, `thermal`, `imu`, `text`). Any other list, a
                generator or a dataset is a batch; `[]` gives `[]`.
            kwargs: `batch_size`, `num_workers` and the options of the task. They may also be given to `pipeline(...)` once
                and for all.

        Returns:
            The result of one video; a list of results for a list; an iterator for generators and datasets.

        Raises:
            ValueError: an input that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        if video is None:
            raise ValueError("video: expected a clip or several, found None")
        if isinstance(video, list | tuple | KeyDataset) and not len(video):  # the base class reads the first one
            return []
        if isinstance(video, list | tuple) and not is_clip_batch(video):
            return super().__call__([video], **kwargs)[0]  # a list of images is one video
        if isinstance(video, tuple):
            video = list(video)
        elif _is_stream(video):  # the base class knows generators and torch's datasets only
            video = (clip for clip in video)
        return super().__call__(video, **kwargs)

    def _sanitize_parameters(self) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, video: Any, num_views: int = 1) -> dict[str, Any]:
        return {"rows": self.processor.read_clip(video, num_views)}

    def forward(self, model_inputs: Mapping[str, Any], **forward_params: Any) -> Any:
        return super().forward(self.collate(model_inputs["rows"]), **forward_params)

    def collate(self, rows: Sequence[Any]) -> Mapping[str, Any]:
        """What `preprocess` made of some clips -> what `_forward` takes."""
        return self.processor.collate(rows)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> PipelineIterator:
        # The base class collates with a tokenizer or a feature extractor only; rows are joined by the processor instead.
        sized = hasattr(inputs, "__len__")
        dataset = (PipelineDataset if sized else PipelineIterator)(inputs, self.preprocess, preprocess_params)
        loader = DataLoader(
            dataset,
            num_workers=num_workers if sized else min(num_workers, 1),
            batch_size=batch_size,
            collate_fn=_join_rows,
        )
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and processor, and nothing of the pipeline: the stock method writes local paths into config.json."""
        self.model.save_pretrained(save_directory, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, *, include_neurons: bool = False, **kwargs: Any) -> None:
        """Pushes model and processor in one commit, and nothing of the pipeline.

        Args:
            include_neurons, kwargs: as of the model.
        """
        self.model.push_to_hub(repo_id, include_neurons=include_neurons, processor=self.processor, **kwargs)  # type: ignore


def _is_stream(video: Any) -> bool:
    """Whether clips come out of something that is no clip itself, such as a `datasets.Dataset`."""
    single = str | bytes | bytearray | memoryview | Mapping | np.ndarray | Tensor
    known = list | GeneratorType | TorchDataset
    return isinstance(video, Iterable) and not isinstance(video, single | known) and not hasattr(video, "read")


def _join_rows(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"rows": [row for item in items for row in item["rows"]]}


__all__ = ["VideoPipeline"]
