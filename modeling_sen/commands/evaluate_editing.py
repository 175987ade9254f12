# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen eval --task editing`: compares edited videos with their sources, and prints all metrics in one table."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_sen.commands.tables import print_table

# Column heading -> metric, factor and number of digits.
SHOWN = {
    "text": ("loveu_text_alignment", 1, 2),
    "frames": ("loveu_frame_consistency", 100, 2),
    "FateZero acc": ("fatezero_frame_accuracy", 100, 1),
    "FateZero frames": ("fatezero_temporal_consistency", 100, 2),
    "direction": ("directional_similarity", 1, 3),
    "PSNR": ("psnr_outside_mask", 1, 2),
    "SSIM": ("ssim_outside_mask", 1, 3),
    "warp": ("warp_error", 1000, 2),
    "of source": ("source_warp_error", 1000, 2),
    "motion": ("motion_fidelity", 100, 1),
    "px": ("motion_distance", 1, 2),
}


def evaluate_editing(
    encoder: str,
    sources: Sequence[str],
    tracker: str,
    num: int | None,
    seed: int,
    output: Path,
    device: str | None,
    dtype: str | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Measures each set of edited videos; returns scores and settings, JSON-serialisable.

    Args:
        encoder: folder or Hub id of a CLIP or a SEN.
        sources, num, seed: see `open_editing_set`.
        tracker: folder or Hub id of a model that tracks points.
        output: folder for stored results, which are reused for equal encoder, tracker and files.
        device, dtype: of encoder and tracker.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: no sets; the encoder does not encode images and texts; or the tracker does not track points.
        ValueError, OSError: a set or a checkpoint cannot be read.
    """
    if not sources:
        raise ValueError("expected DATA: tables of edited videos, folders with edits.csv, loveu:... or world:...")
    from modeling_sen.auto import register
    from modeling_sen.evaluation.clip_embeddings import describe_model
    from modeling_sen.evaluation.clip_results import ClipResults, nan_to_null
    from modeling_sen.evaluation.editing_encoders import load_encoder
    from modeling_sen.evaluation.editing_sets import open_editing_set
    from modeling_sen.evaluation.measure_editing import measure_editing
    from modeling_sen.evaluation.measure_tracking import load_tracker

    register()
    sets = [open_editing_set(source, num, seed) for source in sources]
    loaded = load_encoder(encoder, device, dtype)
    follower = load_tracker(tracker, device, dtype)
    run = describe_model(follower, tracker, getattr(follower.config, "_commit_hash", None))
    kept = ClipResults(output / "clips" / f"{loaded.sha1[:16]}-{run['model']['sha1'][:16]}.json")
    found = measure_editing(loaded.encoder, follower.track, sets, kept, show_progress)
    described = {"name": encoder, "revision": loaded.revision, "sha1": loaded.sha1}
    settings = {"num": num, "seed": seed, "versions": run["versions"]}
    return nan_to_null({**found, "encoder": described, "tracker": run["model"], **settings})


def print_editing(results: dict[str, Any], file: Path) -> None:
    """Prints encoder and tracker, a table with a row for each set and each kind of edit, and the results file."""
    print(f"encoder {results['encoder']['name']}, tracker {results['tracker']['name']}")
    rows = []
    for part in results["splits"]:
        rows.append([part["source"], "all", str(part["clips"]), *editing_cells(part)])
        rows += [
            ["", kind, str(numbers["clips"]), *editing_cells(numbers)] for kind, numbers in part["by_kind"].items()
        ]
    print_table(["edits of", "kind", "videos", *SHOWN], rows)
    print(file)


def editing_cells(numbers: Mapping[str, float | None]) -> list[str]:
    """Formatted values for the columns of `SHOWN`, `-` for NaN and `None`."""
    shown = []
    for name, factor, digits in SHOWN.values():
        number = numbers[name]
        shown.append("-" if number is None or math.isnan(number) else f"{factor * number:.{digits}f}")
    return shown


__all__ = ["SHOWN", "editing_cells", "evaluate_editing", "print_editing"]
