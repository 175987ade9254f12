# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Point tracking in `sen eval`: a model that tracks points on clips with true tracks, and its table."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_sen.commands.tables import print_table

# Heads of the table, and the numbers below them: shares in per cent, others as they are.
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
    """What the model reaches on each test set, and what it depends on, JSON-able.

    Args:
        model: folder or Hub id of a checkpoint.
        sources, query_mode, num, seed: as of `open_tracking_set`.
        output: folder for the results of clips; those there of the same weights, query mode and clip are taken.

    Raises:
        ValueError: no test set, or the model does not track points.
        ValueError, OSError: a test set or the checkpoint cannot be read.
    """
    if not sources:
        raise ValueError("expected DATA: presets of `sen world`, folders that it wrote, or TAP-Vid pickles")
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
    """Prints a row for each test set, their mean where there are several, and where the results are; shares in per cent."""
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
