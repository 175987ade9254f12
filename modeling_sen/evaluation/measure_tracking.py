# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Evaluates a point tracker on clips with true tracks. Results are stored by clip, so that an interrupted run can resume."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from modeling_sen.evaluation.clip_results import ClipResults, null_to_nan
from modeling_sen.evaluation.measure import over_splits
from modeling_sen.evaluation.tracking_calibration import error_of_bins
from modeling_sen.evaluation.tracking_data import TrackedClip
from modeling_sen.evaluation.tracking_metrics import mean_over_clips, standard_errors
from modeling_sen.evaluation.tracking_sets import TrackingSet


class PointTracks(Protocol):
    """Interface of a tracker's result in numpy, with a point for each query in each frame."""

    @property
    def tracks(self) -> np.ndarray:
        """(T, N, 2) x, y, finite."""

    @property
    def visibility(self) -> np.ndarray:
        """(T, N) bool."""

    @property
    def confidence(self) -> np.ndarray:
        """(T, N) in 0..1, that the point is visible and close to the position."""


# Maps frames (T, H, W, 3) uint8 and queries (N, 3) t, x, y to tracks.
Tracker: TypeAlias = Callable[[np.ndarray, np.ndarray], PointTracks]


def load_tracker(checkpoint: str, device: str | None = None, dtype: str | None = None) -> Any:
    """Loads a model with a method `track`, which is a [`Tracker`].

    Args:
        checkpoint: folder or Hub id.
        device: device of the model; by default the first GPU, or the CPU.
        dtype: dtype of the model, e.g. `"bfloat16"`; by default that of the checkpoint.

    Raises:
        ValueError: the model has no such method.
        OSError, RuntimeError: the checkpoint cannot be found or is incomplete.
    """
    model = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    if not hasattr(model, "track"):
        raise ValueError(
            f"{checkpoint}: expected a model that tracks points, found one of type {model.config.model_type!r}"
        )
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def measure_tracking(
    track: Tracker,
    sets: Sequence[TrackingSet],
    results: ClipResults,
    clock: Callable[[], float] = time.perf_counter,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Tracks the queries of each clip and compares the tracks with the truth. Results in `results` are reused.

    Args:
        track: the tracker.
        sets: sets of clips.
        results: stored results of this tracker and query mode.
        clock: returns seconds; by default wall-clock time.
        show_progress: whether to show a progress bar.

    Returns:
        `data` (for each set `source`, `clips`, `queries`); `splits` (for each set `source`, `clips`, the means over clips of
        `tracking_metrics`, `calibration_error`, `seconds` per clip, and `standard_errors` of the means); `mean` and `std`
        over the sets. The calibration error is computed over all frames of a set, and has no standard error.

    Raises:
        ValueError: no sets; tracks of other shapes or values than [`PointTracks`] requires.
        ValueError, OSError: a clip cannot be read; the results before it are kept.
    """
    if not sets:
        raise ValueError("sets: expected at least one, found none")
    data, splits = [], []
    for part in sets:
        missing = [number for number, key in enumerate(part.keys) if key not in results.rows]
        with tqdm(
            total=len(part.keys),
            initial=len(part.keys) - len(missing),
            unit="clip",
            desc=part.source,
            disable=not show_progress,
        ) as progress:
            for number in missing:
                results.add(part.keys[number], measure_clip(track, part.read(number), clock))
                progress.update()
        rows = [results.rows[key] for key in part.keys]
        data.append({"source": part.source, "clips": len(rows), "queries": sum(row["queries"] for row in rows)})
        splits.append({"source": part.source, "clips": len(rows), **_over_rows(rows)})
    return {"data": data, **over_splits(splits)}


def measure_clip(track: Tracker, clip: TrackedClip, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Results of a clip, JSON-serialisable: `frames`, `queries`, `metrics`, `calibration` (`calibration_bins`), `seconds`."""
    frames = clip.read_frames()
    start = clock()
    found = track(frames, clip.queries)
    seconds = clock() - start
    return {
        "frames": len(frames),
        "queries": len(clip.queries),
        "metrics": clip.metrics(found.tracks, found.visibility),
        "calibration": clip.calibration(found.tracks, found.confidence).tolist(),
        "seconds": seconds,
    }


def _over_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    numbers = [{**null_to_nan(row["metrics"]), "seconds": row["seconds"]} for row in rows]
    mean = mean_over_clips(numbers)
    seconds = mean.pop("seconds")
    error = error_of_bins(np.sum([row["calibration"] for row in rows], axis=0))
    return {**mean, "calibration_error": error, "seconds": seconds, "standard_errors": standard_errors(numbers)}


__all__ = ["PointTracks", "Tracker", "load_tracker", "measure_clip", "measure_tracking"]
