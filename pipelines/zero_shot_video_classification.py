# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override"
"""`pipeline("zero-shot-video-classification")`: scores text labels for a clip with sound."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.utils import logging

from modeling_sen.encoding import SENEncoder
from modeling_sen.modeling_sen import SENModel
from modeling_sen.pipelines.video_pipeline import VideoPipeline
from modeling_sen.templates import DEFAULT_TEMPLATE

logger = logging.get_logger(__name__)

CACHED_LABEL_SETS = 8


class ZeroShotVideoClassificationPipeline(VideoPipeline):
    """Scores free-text labels for videos with a [`SENModel`].

    ```python
    >>> import modeling_sen
    >>> from transformers import pipeline

    >>> classify = pipeline("zero-shot-video-classification", model=modeling_sen.SEN_TINY)
    >>> classify("clip.mp4", candidate_labels=["a red circle moving left", "a blue star bouncing"])
    ```
    """

    model: SENModel

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._text_embeds: OrderedDict[tuple, Tensor] = OrderedDict()  # cache of embedded label sets, latest last

    def __call__(
        self,
        video: Any = None,
        candidate_labels: str | Sequence[str] | None = None,
        hypothesis_template: str | Sequence[str] | None = None,
        top_k: int | None = None,
        num_views: int | None = None,
        **kwargs: Any,
    ) -> list:
        """
        Args:
            video: one or several videos, see [`VideoPipeline`].
            candidate_labels: labels, or one comma-separated string of them.
            hypothesis_template: text with `{}` in place of the label, by default "a video of {}"; the embeddings of several
                templates are averaged.
            top_k: number of best labels to return; by default all.
            num_views: number of temporal views whose probabilities are averaged; by default 1.
            kwargs: `batch_size`, `num_workers`. All arguments except `video` may also be passed to `pipeline(...)` as
                defaults.

        Returns:
            For one video a list of `{"label": str, "score": float}`, best first, with scores over all labels that sum to 1;
            for a batch a list of these (an iterator for generators and datasets).

        Raises:
            ValueError: no labels, duplicate labels, labels that are equal after truncation to the text tower's length, a
                template without `{}`, or an input that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        return super().__call__(
            video,
            candidate_labels=candidate_labels,
            hypothesis_template=hypothesis_template,
            top_k=top_k,
            num_views=num_views,
            **kwargs,
        )

    def _sanitize_parameters(
        self,
        candidate_labels: str | Sequence[str] | None = None,
        hypothesis_template: str | Sequence[str] | None = None,
        top_k: int | None = None,
        num_views: int | None = None,
    ) -> tuple[dict, dict, dict]:
        preprocess: dict[str, Any] = {}
        forward: dict[str, Any] = {}
        postprocess: dict[str, Any] = {}
        if candidate_labels is not None:
            forward["labels"] = postprocess["labels"] = _labels(candidate_labels)
        if hypothesis_template is not None:
            forward["templates"] = _templates(hypothesis_template)
        if top_k is not None:
            postprocess["top_k"] = _at_least_one("top_k", top_k)
        if num_views is not None:
            preprocess["num_views"] = forward["num_views"] = _at_least_one("num_views", num_views)
        return preprocess, forward, postprocess

    def _forward(
        self,
        inputs: Mapping[str, Tensor],
        labels: tuple[str, ...] | None = None,
        templates: tuple[str, ...] = (DEFAULT_TEMPLATE,),
        num_views: int = 1,
    ) -> dict[str, Tensor]:
        if labels is None:
            raise ValueError("candidate_labels: expected at least one label, found None")
        if self.model.is_untrained_without_start:
            logger.warning_once(
                "this SEN is untrained and has no aligned neuron: its zero-shot scores are meaningless"
            )
        output = self.model(**inputs, text_embeds=self.embed_labels(labels, templates))
        probabilities = output.logits_per_video.float().softmax(dim=-1)  # (videos * views, labels)
        return {"probabilities": probabilities.unflatten(0, (-1, num_views)).mean(dim=1)}

    def postprocess(
        self, outputs: Mapping[str, Tensor], labels: Sequence[str] = (), top_k: int | None = None
    ) -> list[dict[str, Any]]:
        scores = outputs["probabilities"].flatten().tolist()
        ranked = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in ranked[:top_k]]

    def embed_labels(self, labels: Sequence[str], templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> Tensor:
        """(labels, projection_dim) text embeddings: each label in each template, averaged and normalised; cached."""
        key = (tuple(labels), tuple(templates))
        if key not in self._text_embeds:
            self._text_embeds[key] = SENEncoder(self.model, self.processor).embed_labels(labels, templates)
            while len(self._text_embeds) > CACHED_LABEL_SETS:
                self._text_embeds.popitem(last=False)
        self._text_embeds.move_to_end(key)
        return self._text_embeds[key]


def _labels(labels: str | Sequence[str]) -> tuple[str, ...]:
    given = (
        labels.split(",") if isinstance(labels, str) else list(labels) if isinstance(labels, Iterable) else [labels]
    )
    if not all(isinstance(label, str) for label in given):
        raise ValueError(f"candidate_labels: expected strings, found {labels!r}")
    cleaned = [label.strip() for label in given]
    if not cleaned or not all(cleaned):
        raise ValueError(f"candidate_labels: expected at least one label and no empty one, found {labels!r}")
    if duplicates := sorted({label for label in cleaned if cleaned.count(label) > 1}):
        raise ValueError(f"candidate_labels: duplicate labels {duplicates}")
    return tuple(cleaned)


def _templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    given = (templates,) if isinstance(templates, str) else tuple(templates)
    if not given or not all(isinstance(template, str) and "{}" in template for template in given):
        raise ValueError(f"hypothesis_template: expected text with {{}} for the label, found {templates!r}")
    return given


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")
    return value


__all__ = ["ZeroShotVideoClassificationPipeline"]
