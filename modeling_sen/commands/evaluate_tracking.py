# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen eval --task tracking`: scores of a point tracker on clips with true tracks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_sen.commands.tables import print_table

# Column heading -> metric: shares are printed in per cent, others unchanged.
SHARES = {
    "AJ": "average_jaccard",
    "delta": "average_pts_within_thresh",
    **{f"<{threshold} px": f"pts_within_{threshold}" for threshold in (1, 2, 4, 8, 16)},
    "OA": "occlusion_accuracy",
    "AJ re-appeared": "average_jaccard_reappeared",
    "calibration error": "calibration_error",
}
OTHERS = {"TC": "temporal_coherence", "seconds": "seconds"}


def evaluate_tracking(
    model: str,
    sources: Sequence[str],
    query_mode: str,
    num: int | None,
    seed: int,
    output: Path,
    device: str | None,
    dtype: str | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Evaluates the model on each test set; returns scores and settings, JSON-serialisable.

    Args:
        model: folder or Hub id of a checkpoint.
        sources, query_mode, num, seed: see `open_tracking_set`.
        output: folder for stored results, which are reused for equal weights, query mode and clips.
        device, dtype: of the model.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: no test set, or the model does not track points.
        ValueError, OSError: a test set or the checkpoint cannot be read.
    """
    if not sources:
        raise ValueError("expected DATA: presets or output folders of `sen world`, or TAP-Vid pickles")
    from modeling_sen.auto import register
    from modeling_sen.evaluation.clip_embeddings import describe_model
    from modeling_sen.evaluation.clip_results import ClipResults, nan_to_null
    from modeling_sen.evaluation.measure_tracking import load_tracker, measure_tracking
    from modeling_sen.evaluation.tracking_sets import open_tracking_set

    register()
    sets = [open_tracking_set(source, query_mode, num, seed) for source in sources]
    tracker = load_tracker(model, device, dtype)
    run = describe_model(tracker, model, getattr(tracker.config, "_commit_hash", None))
    kept = ClipResults(output / "clips" / f"{query_mode}-{run['model']['sha1'][:16]}.json")
    found = measure_tracking(tracker.track, sets, kept, show_progress=show_progress)
    return nan_to_null({**run, "query_mode": query_mode, "num": num, "seed": seed, **found})


def print_tracking(results: dict[str, Any], file: Path) -> None:
    """Prints a table with a row for each test set and the mean of several sets (shares in per cent), and the results file."""
    rows = [[part["source"], str(part["clips"]), *_cells(part)] for part in results["splits"]]
    if len(rows) > 1:
        rows.append(["mean", str(sum(part["clips"] for part in results["splits"])), *_cells(results["mean"])])
    print_table(["test set", "clips", *SHARES, *OTHERS], rows)
    print(file)


def _cells(numbers: dict[str, float | None]) -> list[str]:
    shares = [_shown(numbers[name], 100, 1) for name in SHARES.values()]
    return [*shares, *(_shown(numbers[name], 1, 2) for name in OTHERS.values())]


def _shown(number: float | None, factor: int, digits: int) -> str:
    return "-" if number is None or math.isnan(number) else f"{factor * number:.{digits}f}"


__all__ = ["evaluate_tracking", "print_tracking"]
