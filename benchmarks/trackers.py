"""Trackers by name, for the benchmarks of tracking.

`static`: a point that stays where it was queried. `lk`, `dis`: pyramidal Lucas-Kanade and DIS optical flow, see
`flow_chains.py` (OpenCV). They are sure of what they show: confidence 1 where visible, 0 elsewhere. `sen-tiny`: the tracker
inside the package. Any other name is a checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.evaluation.measure_tracking import Tracker, load_tracker
from modeling_sen.presets import SEN_TINY_TRACKING, resolve_checkpoint


@dataclass(frozen=True, eq=False)
class SureTracks:
    tracks: np.ndarray
    visibility: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        return self.visibility.astype(np.float32)


def static() -> Tracker:
    def track(frames: np.ndarray, queries: np.ndarray) -> SureTracks:
        tracks = np.repeat(queries[None, :, 1:], len(frames), axis=0)
        return SureTracks(tracks, np.ones(tracks.shape[:2], dtype=bool))

    return track


def lk() -> Tracker:
    from flow_chains import chain, lucas_kanade

    return lambda frames, queries: SureTracks(*chain(frames, queries, lucas_kanade))


def dis() -> Tracker:
    from flow_chains import DenseFlow, chain

    return lambda frames, queries: SureTracks(*chain(frames, queries, DenseFlow()))


TRACKERS: dict[str, Callable[[], Tracker]] = {"static": static, "lk": lk, "dis": dis}


def make_tracker(name: str) -> tuple[Tracker, str]:
    """The tracker, and a name for its results: of a checkpoint with the sum of its weights.

    Raises:
        ImportError: it needs OpenCV.
        OSError, RuntimeError, ValueError: no such name, and no whole checkpoint that tracks points.
    """
    if name in TRACKERS:
        return TRACKERS[name](), name
    model = load_tracker(resolve_checkpoint(name, SEN_TINY_TRACKING))
    return model.track, f"model-{model_sha1(model)[:16]}"
