# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a video, or a stretch of it, is cut into windows of equal length in time, each of which becomes one clip."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Seconds that an end may lie behind the video's own: durations are often given rounded to a tenth.
END_TOLERANCE = 0.1


@dataclass
class ChatVideo:
    """A video as it was read for a chat.

    Attributes:
        inputs: a row for each window, as [`SENProcessor.collate`] takes them; none where only prompts are to be made.
        frame_times: (windows, window_frames) float64, seconds of the original video.
        has_sound: whether a neuron was given sound.
    """

    inputs: list[dict[str, Any]]
    frame_times: Tensor
    has_sound: bool

    @property
    def num_windows(self) -> int:
        return len(self.frame_times)


@dataclass(frozen=True)
class WindowPlan:
    """`count` windows of equal length from `start` to `end` seconds."""

    start: float
    end: float
    count: int

    @property
    def windows(self) -> list[tuple[float, float]]:
        edges = [self.start + (self.end - self.start) * number / self.count for number in range(self.count)]
        return list(zip(edges, [*edges[1:], self.end], strict=True))

    def step_times(self, window_frames: int) -> Tensor:
        """(count, window_frames) float64: the middle of each step."""
        steps = torch.arange(self.count * window_frames, dtype=torch.float64) + 0.5
        seconds = self.start + (self.end - self.start) * steps / len(steps)
        return seconds.unflatten(0, (self.count, window_frames))


def check_sampling(num_frames: int | None, fps: float | None, start: float | None, end: float | None) -> None:
    """
    Raises:
        ValueError: one that no video could have, or both num_frames and fps.
    """
    if num_frames is not None and fps is not None:
        raise ValueError(f"num_frames, fps: expected at most one of them, found num_frames={num_frames} and fps={fps}")
    if num_frames is not None and (isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1):
        raise ValueError(f"num_frames: expected a whole number of at least 1, found {num_frames!r}")
    if fps is not None and not (_is_number(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number of frames per second, found {fps!r}")
    for name, seconds in (("start", start), ("end", end)):
        if seconds is not None and not (_is_number(seconds) and seconds >= 0):
            raise ValueError(f"{name}: expected seconds from the video's beginning, at least 0, found {seconds!r}")
    if end is not None and not (start or 0.0) < end:
        raise ValueError(f"start: expected less than end, which is {end} s, found {start or 0.0} s")


def plan_windows(
    duration: float,
    window_frames: int,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> WindowPlan:
    """The windows for a number of frames, or of frames per second, rounded up to whole windows; one without either.

    Args:
        duration: of the video, in seconds.
        start, end: seconds; the whole video without them.

    Raises:
        ValueError: a stretch outside of the video, and as `check_sampling`.
    """
    check_sampling(num_frames, fps, start, end)
    first, last = start or 0.0, duration if end is None else end
    if first >= duration:
        raise ValueError(f"start: expected less than the video's duration of {duration:.3f} s, found {first} s")
    if last > duration + END_TOLERANCE:
        raise ValueError(f"end: expected at most the video's duration of {duration:.3f} s, found {last} s")
    last = min(last, duration)
    if fps is not None:
        num_frames = math.ceil((last - first) * fps - 1e-6)  # 0.1 s ten times a second is one frame
    return WindowPlan(first, last, max(1, math.ceil((num_frames or 1) / window_frames)))


def shared_budget(wanted: Sequence[int], budget: int) -> list[int]:
    """Windows for each video, at most `wanted` and together at most `budget`; the largest numbers are reduced first.

    Each keeps at least one, also where that is more than the budget.
    """
    low, high = 1, max(wanted)
    while low < high:  # the largest number that all can be bounded by
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(count, middle) for count in wanted) <= budget else (low, middle - 1)
    return [min(count, low) for count in wanted]


def fitting_windows(wanted: Sequence[int], most: int, budget: int, length: Callable[[list[int]], int]) -> list[int]:
    """The largest numbers of windows with which a prompt fits, as `shared_budget` shares them out; at least one each.

    Args:
        most: windows that could fit together if the prompt had nothing else.
        budget: tokens.
        length: numbers of windows -> tokens of the prompt.
    """
    totals = range(len(wanted) + 1, min(sum(wanted), most) + 1)
    found = bisect_right(totals, budget, key=lambda total: length(shared_budget(wanted, total)))
    return shared_budget(wanted, len(wanted) + found)


def step_times(frame_times: Tensor, window_frames: int) -> Tensor:
    """(window_frames,) float64: the mean time of the frames in each step of a window.

    Args:
        frame_times: (T,) float64 seconds; each is in one step, or in some neighbouring ones where there are more steps than
            frames.
    """
    return torch.nn.functional.adaptive_avg_pool1d(frame_times[None], window_frames)[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = [
    "ChatVideo",
    "WindowPlan",
    "check_sampling",
    "fitting_windows",
    "plan_windows",
    "shared_budget",
    "step_times",
]
