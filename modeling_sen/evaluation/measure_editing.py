# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Evaluates edited videos. Results are stored by video, so that an interrupted run can resume."""

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from modeling_sen.evaluation.clip_results import ClipResults, null_to_nan
from modeling_sen.evaluation.editing_alignment import ImageTextEncoder
from modeling_sen.evaluation.editing_metrics import NUMBERS, editing_metrics
from modeling_sen.evaluation.editing_sets import EditingSet
from modeling_sen.evaluation.measure import over_splits
from modeling_sen.evaluation.measure_tracking import Tracker
from modeling_sen.evaluation.tracking_metrics import mean_over_clips, standard_errors


def measure_editing(
    encoder: ImageTextEncoder,
    track: Tracker,
    sets: Sequence[EditingSet],
    results: ClipResults,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measures each edited video. Results in `results` are reused.

    Args:
        encoder: encoder of images and texts.
        track: point tracker.
        sets: sets of edited videos.
        results: stored results of this encoder and tracker.
        show_progress: whether to show a progress bar.

    Returns:
        `encoder` (its name); `splits` (for each set `source`, `clips`, the mean over edited videos of each of `NUMBERS`,
        `standard_errors`, and the same for each kind of edit in `by_kind`); `mean` and `std` over the sets.

    Raises:
        ValueError: no sets.
        ValueError, OSError: a video cannot be read or does not match its source; the results before it are kept.
    """
    if not sets:
        raise ValueError("sets: expected at least one, found none")
    splits = []
    for part in sets:
        missing = [row for row, key in enumerate(part.keys) if key not in results.rows]
        with tqdm(
            total=len(part.keys),
            initial=len(part.keys) - len(missing),
            unit="video",
            desc=part.source,
            disable=not show_progress,
        ) as progress:
            for row in missing:
                video = part.read(row)
                numbers = editing_metrics(
                    video.source, video.edited, video.source_prompt, video.edit_prompt, encoder, track, video.mask
                )
                results.add(part.keys[row], {name: numbers[name] for name in NUMBERS})
                progress.update()
        rows = [null_to_nan(results.rows[key]) for key in part.keys]
        kinds = [kind for kind in dict.fromkeys(part.kinds) if kind]
        by_kind = {
            kind: _over_rows([row for row, other in zip(rows, part.kinds, strict=True) if other == kind])
            for kind in kinds
        }
        splits.append({"source": part.source, **_over_rows(rows), "by_kind": by_kind})
    return {"encoder": encoder.name, **over_splits(splits)}


def _over_rows(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {"clips": len(rows), **mean_over_clips(rows), "standard_errors": standard_errors(rows)}


__all__ = ["measure_editing"]
