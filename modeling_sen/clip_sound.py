# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Converts a clip's sound to a neuron's inputs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from .audio_io import read_audio
from .configuration_sen import NeuronSpec
from .neuron_registry import adapter_of_class

logger = logging.get_logger(__name__)

# Longest input of a waveform tower in seconds.
LONGEST_SOUND = 30.0


def sound_inputs(
    spec: NeuronSpec, extractor: Any, source: Any, span: tuple[float, float] | None, view: tuple[int, int]
) -> dict[str, Tensor]:
    """A neuron's inputs for the sound of a span; empty if the source has no sound.

    Args:
        spec: the neuron's specification.
        extractor: the neuron's feature extractor.
        source: an input of `read_audio`.
        span: (start, end) in seconds of the clip; `None` for the whole clip.
        view: (number of the view, number of views); selects a part of a span that is too long for the neuron.

    Returns:
        `{neuron}_input_features` float32 and, if the extractor makes one, `{neuron}_attention_mask` int64, without a batch
        dimension.
    """
    longest = longest_sound(spec, extractor)
    sound = read_audio(source, extractor.sampling_rate, part_of_span(span, longest, *view), longest)
    if not sound.present:
        logger.warning_once(f"some clips have no sound: neuron {spec.name!r} is left out for them")
        return {}
    samples = sound.samples[: round(longest * extractor.sampling_rate)]
    features = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
    values = np.asarray(features[extractor.model_input_names[0]][0], dtype=np.float32)
    inputs = {f"{spec.name}_input_features": torch.from_numpy(values)}
    if "attention_mask" in features:  # some towers need it to ignore padding
        inputs[f"{spec.name}_attention_mask"] = torch.from_numpy(features["attention_mask"][0]).to(torch.int64)
    return inputs


def part_of_span(
    span: tuple[float, float] | None, longest: float, view: int, num_views: int
) -> tuple[float, float] | None:
    """At most `longest` seconds of a span, around the middle of the view's part of it."""
    if span is None or span[1] - span[0] <= longest:
        return span
    middle = span[0] + (span[1] - span[0]) * (view + 0.5) / num_views
    start = min(max(middle - longest / 2, span[0]), span[1] - longest)
    return start, start + longest


def longest_sound(spec: NeuronSpec, extractor: Any) -> float:
    """Longest sound in seconds for one input of a neuron; `LONGEST_SOUND` for feature extractors without a limit."""
    adapter = adapter_of_class(spec.class_name)
    if adapter is not None and adapter.seconds is not None:
        return adapter.seconds(extractor)
    return getattr(extractor, "chunk_length", None) or LONGEST_SOUND


__all__ = ["longest_sound", "part_of_span", "sound_inputs"]
