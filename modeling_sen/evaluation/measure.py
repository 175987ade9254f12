# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Evaluates a SEN on test sets under a protocol: recognition, by class texts or a fitted head, and retrieval.

Embeddings are stored in the output folder, so that an interrupted run can resume.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.clip_embeddings import embed_clips, mean_embeddings
from modeling_sen.evaluation.dataset_lists import TestSet, take_clips
from modeling_sen.evaluation.few_shot import Head
from modeling_sen.evaluation.protocols import Protocol
from modeling_sen.evaluation.recognition_metrics import (
    confusion_matrix,
    mean_and_spread,
    mean_class_accuracy,
    retrieval_metrics,
    top_k_accuracy,
)
from modeling_sen.evaluation.recognition_plots import plot_confusion, plot_per_class
from modeling_sen.training.data import LabelledClips
from modeling_sen.whole_file import whole_file


def measure_recognition(
    encoder: SENEncoder,
    protocol: Protocol,
    sets: Sequence[TestSet],
    templates: Sequence[str],
    output: Path,
    head: Head | None = None,
    num: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    plot: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Classifies the clips of each test set, and writes confusion matrices as CSV.

    Args:
        encoder: embeds the clips.
        protocol: frames, preprocessing and averaging.
        sets: the test sets.
        templates: texts with `{}` for the class name, whose embeddings are averaged; ignored with a head.
        output: folder for embeddings, confusion matrices and plots.
        head: classifies clips instead of class texts.
        num, seed: number of clips per set, and seed for their selection; default: all clips.
        batch_size: clips per forward pass.
        plot: whether to plot the confusion matrix and the accuracy of each class.
        show_progress: whether to show progress bars.

    Returns:
        JSON-serialisable: `data` (contents of each set), `splits` (`source`, `clips`, `top1`, `top5`, `mean_class_accuracy`
        of each set), `mean` and `std` over the sets.

    Raises:
        ValueError: a template without `{}`, or a class that is not in the head.
        ValueError, OSError: a clip cannot be read; embeddings of earlier clips are kept.
    """
    for text in templates if head is None else ():
        if "{}" not in text:
            raise ValueError(f"template {text!r}: expected {{}} where the label goes")
    data, splits = [], []
    for number, part in enumerate(sets, 1):
        data.append(
            {
                "listed": part.listed,
                "clips": len(part.clips),
                "missing": part.missing,
                "classes": len(part.class_names),
            }
        )
        drawn = replace(part, clips=draw_clips(part.clips, num, seed))
        if head is not None and (unknown := sorted(set(part.class_names) - set(head.class_names))):
            raise ValueError(
                f"{part.clips.source}: class {unknown[0]!r} is not among the {len(head.class_names)} of the head"
            )
        embeddings = embed_clips(encoder, protocol, drawn.clips, output / "embeddings", batch_size, show_progress)
        if head is not None:
            columns = [head.class_names.index(name) for name in part.class_names]
            scores = head.scores(mean_embeddings(embeddings))[:, columns]
        else:
            class_embeds = encoder.embed_labels(part.class_names, templates).float().cpu().numpy()
            scale = encoder.model.logit_scale.exp().item()
            scores = class_scores(embeddings, class_embeds, scale, protocol.aggregation)
        splits.append(_recognition(scores, drawn, output, f"-{number}" if len(sets) > 1 else "", plot))
    return {"data": data, **over_splits(splits)}


def measure_retrieval(
    encoder: SENEncoder,
    protocol: Protocol,
    sets: Sequence[LabelledClips],
    output: Path,
    num: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Retrieves clips by texts, and texts by clips, in each set. Rows with the same key are texts of one clip.

    Args:
        encoder, protocol, sets, output, num, seed, batch_size, show_progress: as in [`measure_recognition`]; `num` counts
            texts.

    Returns:
        JSON-serialisable: `data`, `splits` (`source`, `clips`, `texts` and the results of [`retrieval_metrics`]), `mean` and
        `std`.

    Raises:
        ValueError, OSError: a clip cannot be read; embeddings of earlier clips are kept.
    """
    data = [{"file": clips.source, "clips": len(set(clips.keys)), "texts": len(clips)} for clips in sets]
    splits = []
    for drawn in (draw_clips(clips, num, seed) for clips in sets):
        embeddings = embed_clips(encoder, protocol, drawn, output / "embeddings", batch_size, show_progress)
        first: dict[str, int] = {}
        for key in drawn.keys:
            first.setdefault(key, len(first))
        clip_of_text = np.array([first[key] for key in drawn.keys])
        rows = np.unique(clip_of_text, return_index=True)[1]  # one row per clip
        similarity = encoder.encode_text(drawn.targets) @ mean_embeddings(embeddings)[rows].T
        metrics = retrieval_metrics(similarity, clip_of_text)
        splits.append({"source": drawn.source, "clips": len(rows), "texts": len(clip_of_text), **metrics})
    return {"data": data, **over_splits(splits)}


def class_scores(embeddings: np.ndarray, class_embeds: np.ndarray, logit_scale: float, aggregation: str) -> np.ndarray:
    """Scores (clips, classes) float64 of embeddings (clips, views, width); `aggregation` as for [`Protocol`]."""
    logits = logit_scale * embeddings.astype(np.float64) @ class_embeds.T.astype(np.float64)  # (clips, views, classes)
    if aggregation == "probabilities":
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        logits = powers / powers.sum(axis=-1, keepdims=True)
    return logits.mean(axis=1)


def draw_clips(clips: LabelledClips, num: int | None, seed: int) -> LabelledClips:
    """`num` randomly selected clips in their original order; all clips if there are no more."""
    if num is None or num >= len(clips):
        return clips
    return take_clips(clips, draw_rows(len(clips), num, seed))


def draw_rows(count: int, num: int, seed: int) -> list[int]:
    """`num` randomly selected rows of 0 .. count - 1, sorted."""
    return sorted(np.random.default_rng(seed).permutation(count)[:num].tolist())


def _recognition(scores: np.ndarray, part: TestSet, output: Path, suffix: str, plot: bool) -> dict[str, Any]:
    """Writes the files of one test set, and returns its metrics."""
    labels, predicted = np.array(part.labels), scores.argmax(axis=1)
    counts = confusion_matrix(predicted, labels, len(part.class_names))
    output.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    csv.writer(table).writerows([["", *part.class_names]])
    csv.writer(table).writerows([name, *row] for name, row in zip(part.class_names, counts.tolist(), strict=True))
    with whole_file(output / f"confusion{suffix}.csv") as unfinished:
        unfinished.write_text(table.getvalue())
    if plot:
        plot_confusion(counts, part.class_names, output / f"confusion{suffix}.png")
        plot_per_class(counts, part.class_names, output / f"per_class{suffix}.png")
    return {
        "source": part.clips.source,
        "clips": len(labels),
        "top1": top_k_accuracy(scores, labels),
        "top5": top_k_accuracy(scores, labels, 5),
        "mean_class_accuracy": mean_class_accuracy(predicted, labels),
    }


def over_splits(splits: list[dict[str, Any]]) -> dict[str, Any]:
    """The splits, with mean and standard deviation over them of each float entry; JSON-serialisable."""
    numbers = [{name: value for name, value in part.items() if isinstance(value, float)} for part in splits]
    mean, spread = mean_and_spread(numbers)
    return {"splits": splits, "mean": mean, "std": spread}


__all__ = ["class_scores", "draw_clips", "draw_rows", "measure_recognition", "measure_retrieval", "over_splits"]
