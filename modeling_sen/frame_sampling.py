"""Selects frames of a video for a neuron: sampling rules, and the time span to which they are applied."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

# Containers round times to milliseconds, so a frame that starts this close after an instant counts as shown at it.
TIME_TOLERANCE = 1e-3


@dataclass(frozen=True)
class FrameRequest:
    """The frames that one neuron needs.

    Attributes:
        num_frames: number of frames.
        sampling: a rule of `SAMPLING_RULES`.
        stretch: (start, end) in seconds; the rule is applied to the frames that start inside it or, if there are none, to the
            frame shown at its start. `None`: the whole clip.
    """

    num_frames: int
    sampling: str = "uniform"
    stretch: tuple[float, float] | None = None


def _uniform(num_frames: int, total: int, frame_times: np.ndarray) -> np.ndarray:
    """The middle frame of each of num_frames equal segments."""
    return (2 * np.arange(num_frames) + 1) * total // (2 * num_frames)


def _linspace(num_frames: int, total: int, frame_times: np.ndarray) -> np.ndarray:
    """Evenly spaced from the first frame to the last, both included."""
    return np.arange(num_frames) * (total - 1) // max(1, num_frames - 1)


def _linspace_rounded(num_frames: int, total: int, frame_times: np.ndarray) -> np.ndarray:
    """Evenly spaced from first to last frame, rounded to the nearest; in a shorter clip, adjacent frames are repeated."""
    if total < num_frames:
        return np.arange(num_frames) * total // num_frames
    return np.linspace(0, total - 1, num_frames).round().astype(np.int64)


def _stride(num_frames: int, total: int, frame_times: np.ndarray, stride: float) -> np.ndarray:
    """Every stride-th frame, centred in the clip."""
    if stride != int(stride):
        raise ValueError(f"sampling rule 'stride:{stride}': expected a whole number of frames")
    first = max(0, (total - (num_frames - 1) * int(stride) - 1) // 2)
    return first + np.arange(num_frames) * int(stride)


def _fps(num_frames: int, total: int, frame_times: np.ndarray, rate: float) -> np.ndarray:
    """The frames shown at `rate` instants per second, from the beginning."""
    instants = np.arange(num_frames) / rate + TIME_TOLERANCE
    return np.searchsorted(frame_times, instants, side="right") - 1


def _window_of_3(num_frames: int, total: int, frame_times: np.ndarray, view: float) -> np.ndarray:
    """View 1, 2 or 3 of three windows of 8 x 16 frames at 30 per second, at the clip's start, middle and end."""
    if view not in (1, 2, 3):
        raise ValueError(f"sampling rule 'window-of-3:{view:g}': expected 1, 2 or 3 after the colon")
    rate = (total - 1) / float(frame_times[-1]) if total > 1 else 30.0
    length = max(1.0, 16 * 8 / 30 * rate)
    start = (int(view) - 1) * ((max(total - length, 0.0)) // 2)
    # Rounded as in Open-VCLIP and SlowFast: float32, truncated.
    return torch.linspace(start, start + length - 1, num_frames).clamp(0, total - 1).long().numpy()


# name -> rule(num_frames, total, frame_times) -> (num_frames,) frame numbers, which are then clamped to the clip. A name
# that ends in a colon takes a positive number, as in "stride:16", which is the rule's fourth argument.
SAMPLING_RULES: dict[str, Callable[..., np.ndarray]] = {
    "uniform": _uniform,
    "linspace": _linspace,
    "linspace-rounded": _linspace_rounded,
    "stride:": _stride,
    "fps:": _fps,
    "window-of-3:": _window_of_3,
}


def sample_indices(sampling: str, num_frames: int, total: int, frame_times: np.ndarray) -> np.ndarray:
    """The numbers of the frames that a sampling rule selects.

    Args:
        sampling: a name from `SAMPLING_RULES`, with a number if it ends in a colon: "uniform", "stride:16", "fps:2".
        num_frames: number of frames to select.
        total: number of frames in the clip, at least 1.
        frame_times: (total,) float64, seconds from the first frame.

    Returns:
        (num_frames,) int64 in 0..total-1, not decreasing; a shorter clip repeats frames.

    Raises:
        ValueError: the rule or its number is unknown, or num_frames is not positive.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames: expected at least 1, found {num_frames}")
    name, colon, number = sampling.partition(":")
    rule = SAMPLING_RULES.get(name + colon)
    if rule is None:
        expected = ", ".join(f"{rule}NUMBER" if rule.endswith(":") else rule for rule in SAMPLING_RULES)
        raise ValueError(f"sampling rule {sampling!r}: expected one of {expected}")
    arguments = []
    if colon:
        try:
            arguments = [float(number)]
        except ValueError:
            arguments = [0.0]
        if not 0 < arguments[0] < float("inf"):
            raise ValueError(f"sampling rule {sampling!r}: expected a positive number after the colon")
    return np.clip(rule(num_frames, total, frame_times, *arguments), 0, total - 1).astype(np.int64)


def requested_indices(request: FrameRequest, frame_times: np.ndarray) -> np.ndarray:
    """The numbers of the frames that a request selects.

    Args:
        request: the request.
        frame_times: (total,) float64, seconds from the first frame, increasing.

    Returns:
        (num_frames,) int64 in 0..total-1, not decreasing.

    Raises:
        ValueError: as `sample_indices`, or a stretch that ends before it starts or starts before the clip.
    """
    if request.stretch is None:
        return sample_indices(request.sampling, request.num_frames, len(frame_times), frame_times)
    start, end = request.stretch
    if not 0 <= start < end:
        raise ValueError(f"stretch: expected (start, end) seconds with 0 <= start < end, found {request.stretch}")
    first, last = np.searchsorted(frame_times, [start - TIME_TOLERANCE, end - TIME_TOLERANCE])
    if first == last:
        first, last = max(last - 1, 0), max(last, 1)
    inside = frame_times[first:last]
    return first + sample_indices(request.sampling, request.num_frames, len(inside), inside - inside[0])
