# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Visual tokens of a video, computed a few windows at a time to bound memory for long videos."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_sen.first_look import FirstLook
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.video_windows import ChatVideo

WINDOWS_AT_ONCE = 8


class VideoFeatures:
    """Runs the encoders on a video once, and provides its visual tokens for any question.

    Without a `question_neuron`, the visual tokens are computed at construction; with one, the first looks are stored, and
    [`visual_tokens`] runs the association for each question.
    """

    def __init__(self, model: SENForConditionalGeneration, processor: SENChatProcessor, video: ChatVideo):
        self.model, self.processor = model, processor
        self.num_windows = video.num_windows
        # With a question neuron: first looks and neuron mask (windows, neurons) of each part.
        self.looks: list[tuple[dict[str, FirstLook], Tensor]] = []
        # Without one: visual tokens (windows, visual_tokens, width).
        self.features: Tensor | None = None
        starts = range(0, self.num_windows, WINDOWS_AT_ONCE)
        rows = [{name: value for name, value in row.items() if name != self._question} for row in video.inputs]
        parts = [rows[start : start + WINDOWS_AT_ONCE] for start in starts]
        if processor.config.question_neuron is None:
            self.features = torch.cat([self._features(**self._inputs(part)) for part in parts])
        else:
            for part in parts:
                inputs = self._inputs(part)
                mask = inputs.pop("neuron_mask")
                inputs.pop("frame_times", None)
                self.looks.append((model.encode_trunks(**inputs), mask))

    def visual_tokens(self, question: str) -> Tensor:
        """(windows, visual_tokens, width of the language model)."""
        if self.features is not None:
            return self.features
        parts = []
        for looks, mask in self.looks:
            asked = self._inputs([{self._question: question}] * len(mask))
            mask = mask | asked.pop("neuron_mask")
            parts.append(self._features(trunks=looks, neuron_mask=mask, **asked))
        return torch.cat(parts)

    @property
    def _question(self) -> str:
        """Name of the model input that contains the question."""
        return f"{self.processor.config.question_neuron}_input_ids"

    def _inputs(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        collated = self.processor.sen_processor.collate(rows)
        return {name: value.to(self.model.device) for name, value in collated.items()}

    @torch.inference_mode()
    def _features(self, **inputs: Any) -> Tensor:
        return self.model.get_video_features(**inputs).pooler_output  # type: ignore[return-value]


def as_encoder_outputs(features: Sequence[Tensor]) -> dict[str, Any]:
    """An argument of `generate` with the visual tokens of all windows in order of the prompts; empty without windows."""
    if not features:
        return {}
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=torch.cat(list(features)))}}


__all__ = ["VideoFeatures", "as_encoder_outputs"]
