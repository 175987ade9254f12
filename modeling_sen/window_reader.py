# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads videos as windows, no more of them than a prompt has room for."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from .clip_inputs import OpenedClip
from .configuration_sen_chat import SENChatConfig
from .processing_sen import SENProcessor
from .video_windows import ChatVideo, WindowPlan, fitting_windows, plan_windows, shared_budget, step_times

logger = logging.get_logger(__name__)


def read_windows(processor: SENProcessor, config: SENChatConfig, clip: OpenedClip, plan: WindowPlan) -> ChatVideo:
    """Reads the windows of a clip.

    Raises:
        ValueError, OSError: as of the processor.
    """
    rows = processor.read_windows(clip, plan.windows)
    planned = plan.step_times(config.window_frames)  # for neurons that are given no frames
    times = [
        step_times(row["frame_times"], len(middles)) if "frame_times" in row else middles
        for row, middles in zip(rows, planned, strict=True)
    ]
    sounds = {f"{spec.name}_input_features" for spec in processor.config.neuron_specs}
    return ChatVideo(rows, torch.stack(times), has_sound=any(sounds & row.keys() for row in rows))


def read_to_fit(
    processor: SENProcessor,
    config: SENChatConfig,
    videos: Sequence[Any],
    sampling: Mapping[str, Any],
    budget: int | None,
    length: Callable[[list[Tensor]], int],
) -> list[ChatVideo]:
    """Reads the videos of a prompt. An object that occurs several times is read once; videos that were read before are kept.

    Args:
        sampling: of `plan_windows`.
        budget: tokens of the prompt; where it has more, videos get fewer windows, at least one each.
        length: for each video (windows, window_frames) seconds -> tokens of the prompt.

    Raises:
        ValueError, OSError, TypeError: as of the processor and `plan_windows`.
    """
    places, size = list(map(id, videos)), config.window_frames
    found = dict(zip(places, videos, strict=True))
    with ExitStack() as stack:
        clips = {
            key: stack.enter_context(processor.open_clip(video))
            for key, video in found.items()
            if not isinstance(video, ChatVideo)
        }
        plans = [plan_windows(clip.duration, size, **sampling) for clip in clips.values()]
        counts = wanted = [plan.count for plan in plans]

        def cut(numbers: list[int]) -> dict[int, WindowPlan]:
            parts = zip(clips, plans, numbers, strict=True)
            return {key: replace(plan, count=count) for key, plan, count in parts}

        def length_with(numbers: list[int]) -> int:
            times = {key: plan.step_times(size) for key, plan in cut(numbers).items()}
            return length([times[key] if key in times else found[key].frame_times for key in places])

        if budget is not None and plans:
            counts = fitting_windows(wanted, budget // config.visual_tokens, budget, length_with)
        while True:
            read = {key: read_windows(processor, config, clips[key], plan) for key, plan in cut(counts).items()}
            fitted = [read[key] if key in read else found[key] for key in places]
            if budget is None or max(counts, default=1) == 1:
                break
            if length([video.frame_times for video in fitted]) <= budget:
                break
            counts = shared_budget(counts, sum(counts) - 1)  # times took more tokens than was reckoned with
    if sum(counts) < sum(wanted):
        log_reduction(config, sum(wanted), sum(counts), f"a prompt has room for {budget} tokens")
    return fitted


def log_reduction(config: SENChatConfig, wanted: int, kept: int, reason: str) -> None:
    """Warns that videos have fewer windows than were wanted."""
    size = config.window_frames
    logger.warning(f"{wanted * size} frames of video are reduced to {kept * size}: {reason}")


__all__ = ["log_reduction", "read_to_fit", "read_windows"]
