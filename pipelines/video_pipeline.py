# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override, assignment"
"""Base class of all SEN pipelines: input types, batches, streams, saving and pushing.

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

from modeling_sen.clip_inputs import is_clip_batch, naming_clip
from modeling_sen.processing_sen import SENProcessor


class VideoPipeline(Pipeline):
    """A pipeline for videos. A subclass defines

    - `_forward(inputs, **options)`, which maps the model's inputs, (clips * views, ...) tensors on the model's device, to a
      dict of tensors or lists with one row per clip;
    - `postprocess(outputs, **options)`, which maps this dict for one clip, with rows of length 1, to the result;
    - `_sanitize_parameters`, if it has options.

    A subclass whose model does not take a processor's inputs also overrides `preprocess` and `collate`, and sets
    `_load_processor` to False if it has no processor.
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
                (clips, T, H, W, 3) array, a generator or a dataset is a batch; `[]` returns `[]`. The names `videos` and
                `inputs` are accepted, too.
            kwargs: `batch_size`, `num_workers` and the options of the task. They may also be passed to `pipeline(...)` as
                defaults.

        Returns:
            The result for one video; a list of results for a list; an iterator for generators and datasets.

        Raises:
            ValueError: an input that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        given = [
            clips for clips in (video, kwargs.pop("videos", None), kwargs.pop("inputs", None)) if clips is not None
        ]
        if len(given) != 1:
            found = "several of video, videos and inputs" if given else "None"
            raise ValueError(f"video: expected a clip or several, found {found}")
        video = given[0]
        if isinstance(video, np.ndarray | Tensor) and is_clip_batch(video):
            video = list(video)
        if isinstance(video, list | tuple | KeyDataset) and not len(video):  # the base class would read the first item
            return []
        if isinstance(video, list | tuple) and not is_clip_batch(video):
            return super().__call__([video], **kwargs)[0]  # a list of images is one video
        if isinstance(video, tuple):
            video = list(video)
        elif _is_stream(video):  # the base class accepts only generators and torch's datasets as streams
            video = (clip for clip in video)
        return super().__call__(video, **kwargs)

    def _sanitize_parameters(self) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, video: Any, num_views: int = 1) -> dict[str, Any]:
        return {"rows": self.processor.read_clip(video, num_views)}

    def forward(self, model_inputs: Mapping[str, Any], **forward_params: Any) -> Any:
        return super().forward(self.collate(model_inputs["rows"]), **forward_params)

    def collate(self, rows: Sequence[Any]) -> Mapping[str, Any]:
        """Joins the rows of `preprocess` for a batch of clips to the inputs of `_forward`."""
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
        # The base class collates only with a tokenizer or a feature extractor; here the processor joins the rows.
        sized = hasattr(inputs, "__len__")
        dataset = (_ListedClips if sized else _StreamedClips)(inputs, self.preprocess, preprocess_params)
        loader = DataLoader(
            dataset,
            num_workers=num_workers if sized else min(num_workers, 1),
            batch_size=batch_size,
            collate_fn=_join_rows,
        )
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and processor only: Transformers' method also writes local paths of the pipeline into config.json."""
        self.model.save_pretrained(save_directory, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, *, include_neurons: bool = False, **kwargs: Any) -> None:
        """Pushes model and processor in one commit, without the pipeline.

        Args:
            repo_id: the repository.
            include_neurons, kwargs: arguments of the model's `push_to_hub`.
        """
        self.model.push_to_hub(repo_id, include_neurons=include_neurons, processor=self.processor, **kwargs)  # type: ignore


class _ListedClips(PipelineDataset):
    """Errors name the position of the clip."""

    def __getitem__(self, i: int) -> Any:
        with naming_clip(i, len(self)):
            return super().__getitem__(i)


class _StreamedClips(PipelineIterator):
    """Errors name the position of the clip."""

    def __iter__(self) -> "_StreamedClips":
        self.number = -1
        return super().__iter__()

    def __next__(self) -> Any:
        self.number += 1
        with naming_clip(self.number):
            return super().__next__()


def _is_stream(video: Any) -> bool:
    """Whether `video` is an iterable of clips that the base class does not accept, such as a `datasets.Dataset`."""
    single = str | bytes | bytearray | memoryview | Mapping | np.ndarray | Tensor
    accepted = list | GeneratorType | TorchDataset
    return isinstance(video, Iterable) and not isinstance(video, single | accepted) and not hasattr(video, "read")


def _join_rows(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"rows": [row for item in items for row in item["rows"]]}


__all__ = ["VideoPipeline"]
