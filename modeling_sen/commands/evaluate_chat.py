# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen eval --task chat`: accuracy of a model on questions about videos, by type of question."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_sen.commands.tables import print_table


def evaluate_chat(
    model: str,
    sources: Sequence[str],
    mapping: str,
    prompt: str | None,
    root: Path | None,
    skip_missing: bool,
    num: int | None,
    seed: int,
    num_frames: int | None,
    output: Path,
    device: str | None,
    dtype: str | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Evaluates the model on each set of questions; returns scores and settings, JSON-serialisable.

    Args:
        model: folder or Hub id of a checkpoint.
        sources, mapping, prompt, root, skip_missing, num, seed: see `open_question_set`.
        num_frames: number of time steps of each video, by default one window.
        output: folder for `answers.csv` and stored answers, which are reused for equal weights and clips.
        device, dtype: of the model.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: no questions, or the model is not a chat model.
        ValueError, OSError: a table, a video or the checkpoint cannot be read.
    """
    if not sources:
        raise ValueError("expected DATA: tables of questions about videos, or world:...")
    from modeling_sen.auto import register
    from modeling_sen.evaluation.chat_answerer import load_answerer
    from modeling_sen.evaluation.clip_embeddings import describe_model
    from modeling_sen.evaluation.clip_results import ClipResults, nan_to_null
    from modeling_sen.evaluation.measure_chat import measure_chat
    from modeling_sen.evaluation.question_sets import open_question_set

    register()
    sets = [open_question_set(source, mapping, root, prompt, num, seed, skip_missing) for source in sources]
    answerer = load_answerer(model, num_frames, device, dtype)
    run = describe_model(answerer.model, model, getattr(answerer.model.config, "_commit_hash", None))
    frames = "window" if num_frames is None else num_frames
    kept = ClipResults(output / "answers" / f"{frames}-{run['model']['sha1'][:16]}.json")
    found = measure_chat(answerer, sets, kept, output, show_progress=show_progress)
    settings = {"num": num, "seed": seed, "num_frames": num_frames, "max_new_tokens": answerer.max_new_tokens}
    return nan_to_null({**run, **settings, **found})


def print_chat(results: dict[str, Any], file: Path) -> None:
    """Prints the settings, a table in per cent with a row for each set and each type of question, and the results file."""
    for part in results["data"]:
        mapping, prompt = (" version ".join(map(str, (part[name]["name"], part[name]["version"]))) for name in KINDS)
        sums = ", ".join(f"{Path(one['file']).name} {one['sha1'][:12]}" for one in part["listed"] if one["sha1"])
        missing = f", {part['missing']} without video left out" if part["missing"] else ""
        print(
            f"{part['source']}: mapping {mapping}, prompt {prompt}, seed {results['seed']}{missing}"
            + (f"; sha1 {sums}" if sums else "")
        )
    rows = []
    for part in results["splits"]:
        unread = f"{part['empty']} empty, {part['unreadable']} unreadable"
        rows.append([part["source"], "all", *_cells(part), unread])
        for name, values in part["by_type"].items():
            rows += [["", f"{name}: {value}", *_cells(numbers), ""] for value, numbers in values.items()]
    if len(results["splits"]) > 1:
        rows.append(["mean", "", "", f"{100 * results['mean']['accuracy']:.1f}", "", "", ""])
    print_table(["questions of", "type", "questions", "accuracy", "+-", "chance", "answers"], rows)
    print(file)


KINDS = ("mapping", "prompt")


def _cells(numbers: dict[str, Any]) -> list[str]:
    error = numbers["standard_errors"]["accuracy"]
    return [
        str(numbers["questions"]),
        f"{100 * numbers['accuracy']:.1f}",
        "-" if error is None or math.isnan(error) else f"{100 * error:.1f}",
        f"{100 * numbers['chance']:.1f}",
    ]


__all__ = ["evaluate_chat", "print_chat"]
