# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Converts the JSON of `sen eval` to entries of a card's model-index, at full precision, and to a table.

Results are files `results.json` in `evaluation/` of a checkpoint's folder, or in folders below. Each has the SHA-1 of the
evaluated weights; results of other weights are not put on a card.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

FOLDER = "evaluation"
_RANKS = ("MdR", "MnR")  # metrics that are ranks, not fractions


def read_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """File -> content, for all results of `sen eval` in `evaluation/` of a checkpoint's folder.

    Raises:
        ValueError: a file is not a result of `sen eval`.
    """
    found = {}
    for file in sorted((folder / FOLDER).rglob("results.json")):
        try:
            results = json.loads(file.read_text())
            results["model"]["sha1"], results["protocol"]["name"], results["mean"], results["splits"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: expected the results of `sen eval` ({error!r})") from error
        found[file] = results
    return found


def is_of_checkpoint(results: Mapping[str, Any]) -> bool:
    """Whether a result depends only on the checkpoint, and not on a fitted head."""
    return results.get("head") is None


def eval_results(results: Mapping[str, Any], task_name: str | None, pipeline_tag: str) -> list[EvalResult]:
    """One entry per metric; with several splits, its value is their mean."""
    sources = [shown_source(part["source"]) for part in results["splits"]]
    listed = [entry for part in results["data"] for entry in part.get("listed", [])]
    on_hub = next((entry for entry in listed if entry.get("id")), None)
    args: dict[str, Any] = {
        "protocol": results["protocol"]["name"],
        "protocol_version": results["protocol"]["version"],
        "clips": sum(part["clips"] for part in results["splits"]),
        "model_sha1": results["model"]["sha1"],
        "modeling_sen": results["versions"]["modeling-sen"],
    }
    if classes := [part["classes"] for part in results["data"] if "classes" in part]:
        args["classes"] = max(classes)
    if lists := [entry["sha1"] for entry in listed if entry.get("sha1")]:
        args["lists_sha1"] = lists
    if results["num"] is not None:
        args |= {"drawn": results["num"], "seed": results["seed"]}
    entries = []
    for name, value in results["mean"].items():
        spread = results["std"][name]
        entries.append(
            EvalResult(
                task_type=pipeline_tag,
                task_name=task_name or results["task"],
                dataset_type=on_hub["id"] if on_hub else results.get("dataset") or _kind(sources[0]),
                dataset_name=results.get("dataset") or ", ".join(sources),
                dataset_config=results.get("column"),
                dataset_split=_split(results, sources),
                dataset_revision=on_hub["revision"] if on_hub else None,
                dataset_args=args,
                metric_type="accuracy" if name == "top1" else name,
                metric_name=name,
                metric_value=value,
                metric_args=None if spread is None else {"splits": len(sources), "std": spread},
            )
        )
    return entries


def merged(ours: Sequence[EvalResult], theirs: Sequence[EvalResult], sha1: str) -> list[EvalResult]:
    """The existing card's entries for the same weights (`sha1`) that were not measured again, followed by the new entries."""
    again = {_identity(entry) for entry in ours}
    kept = [
        entry
        for entry in theirs
        if (entry.dataset_args or {}).get("model_sha1") == sha1 and _identity(entry) not in again
    ]
    return [*kept, *ours]


def results_table(entries: Sequence[EvalResult]) -> str:
    """Markdown table with a row per entry; fractions are in per cent with two decimals."""
    rows = ["| data | clips | classes | protocol | metric | value |", "|---|---|---|---|---|---|"]
    for entry in entries:
        args, spread = entry.dataset_args or {}, entry.metric_args or {}
        factor, unit = (1, "") if str(entry.metric_name).endswith(_RANKS) else (100, " %")
        value = f"{factor * entry.metric_value:.2f}"
        value += f" ± {factor * spread['std']:.2f}{unit} over {spread['splits']} splits" if spread else unit
        column = f" ({entry.dataset_config})" if entry.dataset_config else ""
        drawn = f", drawn by seed {args['seed']}" if "drawn" in args else ""
        cells = (
            f"{entry.dataset_name}{column}",
            f"{args['clips']:,}{drawn}",
            args.get("classes", ""),
            f"{args['protocol']}, version {args['protocol_version']}",
            entry.metric_name,
            value,
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def shown_source(source: str) -> str:
    """Name of a data set on a card; for local files and folders only the last part of the path."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).exists()
    return Path(source).name if is_path and not source.startswith("world:") else source


def _kind(source: str) -> str:
    return "world" if source.startswith("world:") else source


def _split(results: Mapping[str, Any], sources: Sequence[str]) -> str | None:
    splits = {source.removeprefix("world:").partition("?")[0] for source in sources if source.startswith("world:")}
    return ", ".join(sorted(splits)) or results.get("split")


def _identity(entry: EvalResult) -> tuple[Any, ...]:
    args = entry.dataset_args or {}
    names = (entry.dataset_type, entry.dataset_name, entry.dataset_config, entry.dataset_split, entry.metric_name)
    return (*names, args.get("protocol"), args.get("drawn"), args.get("seed"))


__all__ = ["FOLDER", "eval_results", "is_of_checkpoint", "merged", "read_results", "results_table", "shown_source"]
