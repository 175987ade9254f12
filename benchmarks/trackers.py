"""Trackers by name, for the benchmarks of tracking.

`static`: a point that stays where it was queried. `lk`, `dis`: pyramidal Lucas-Kanade and DIS optical flow, see
`flow_chains.py` (OpenCV). They are sure of what they show: confidence 1 where visible, 0 elsewhere. `sen-tiny`: the tracker
inside the package. Any other name is a checkpoint; after `stream:` it sees frame by frame.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.evaluation.measure_tracking import Tracker, load_tracker
from modeling_sen.presets import SEN_TINY_TRACKING, resolve_checkpoint


@dataclass(frozen=True, eq=False)
class FoundTracks:
    tracks: np.ndarray
    visibility: np.ndarray
    confidence: np.ndarray


def sure(tracks: np.ndarray, visibility: np.ndarray) -> FoundTracks:
    return FoundTracks(tracks, visibility, visibility.astype(np.float32))


def static() -> Tracker:
    def track(frames: np.ndarray, queries: np.ndarray) -> FoundTracks:
        tracks = np.repeat(queries[None, :, 1:], len(frames), axis=0)
        return sure(tracks, np.ones(tracks.shape[:2], dtype=bool))

    return track


def lk() -> Tracker:
    from flow_chains import chain, lucas_kanade

    return lambda frames, queries: sure(*chain(frames, queries, lucas_kanade))


def dis() -> Tracker:
    from flow_chains import DenseFlow, chain

    return lambda frames, queries: sure(*chain(frames, queries, DenseFlow()))


TRACKERS: dict[str, Callable[[], Tracker]] = {"static": static, "lk": lk, "dis": dis}


def streamed(model) -> Tracker:
    """Frame by frame: before its query's frame a point is hidden, afterwards where it was found as the frame came."""

    def track(frames: np.ndarray, queries: np.ndarray) -> FoundTracks:
        stream, order = model.stream(), np.zeros(0, dtype=np.int64)
        tracks = np.repeat(queries[None, :, 1:], len(frames), axis=0).astype(np.float32)
        visibility = np.zeros(tracks.shape[:2], dtype=bool)
        confidence = np.zeros(tracks.shape[:2], dtype=np.float32)
        for number, frame in enumerate(frames):
            found = stream.step(frame)
            tracks[number, order], visibility[number, order] = found.points, found.visibility
            confidence[number, order] = found.confidence
            new = np.flatnonzero(queries[:, 0] == number)
            stream.add(queries[new, 1:])
            visibility[number, new], confidence[number, new] = True, 1
            order = np.concatenate([order, new])
        return FoundTracks(tracks, visibility, confidence)

    return track


def make_tracker(name: str) -> tuple[Tracker, str]:
    """The tracker, and a name for its results: of a checkpoint with the sum of its weights.

    Raises:
        ImportError: it needs OpenCV.
        OSError, RuntimeError, ValueError: no such name, and no whole checkpoint that tracks points.
    """
    if name in TRACKERS:
        return TRACKERS[name](), name
    model = load_tracker(resolve_checkpoint(name.removeprefix("stream:"), SEN_TINY_TRACKING))
    label = f"model-{model_sha1(model)[:16]}"
    return (streamed(model), f"stream-{label}") if name.startswith("stream:") else (model.track, label)
