# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Measures a SEN on test sets under a protocol: naming clips, by class texts or a fitted head, and finding them by text.

Embeddings are kept in the output folder, so that an interrupted run goes on.
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
    """Names the clips of each test set, and writes their confusion matrix as csv.

    Args:
        templates: texts with `{}` for the class name, averaged; not read with a head.
        output: folder for embeddings, confusion and pictures.
        head: names clips in the place of class texts.
        num, seed: only so many clips of each set, drawn by the seed.
        plot: draw confusion and the accuracy of each class too.

    Returns:
        JSON-able: `data` (what each set holds), `splits` (`source`, `clips`, `top1`, `top5`, `mean_class_accuracy` of each),
        `mean` and `std` over the sets.

    Raises:
        ValueError: a template without `{}`; a class that the head does not know.
        ValueError, OSError: a clip cannot be read; the embeddings of those before it are kept.
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
    """Finds the clips of each set by their texts, and texts by their clips. Rows with one key are texts of one clip.

    Args:
        output, num, seed: as in [`measure_recognition`]; `num` counts texts.

    Returns:
        JSON-able: `data`, `splits` (`source`, `clips`, `texts` and what [`retrieval_metrics`] returns), `mean` and `std`.

    Raises:
        ValueError, OSError: a clip cannot be read; the embeddings of those before it are kept.
    """
    data = [{"file": clips.source, "clips": len(set(clips.keys)), "texts": len(clips)} for clips in sets]
    splits = []
    for drawn in (draw_clips(clips, num, seed) for clips in sets):
        embeddings = embed_clips(encoder, protocol, drawn, output / "embeddings", batch_size, show_progress)
        first: dict[str, int] = {}
        for key in drawn.keys:
            first.setdefault(key, len(first))
        of = np.array([first[key] for key in drawn.keys])
        rows = np.unique(of, return_index=True)[1]  # one of each clip
        similarity = encoder.encode_text(drawn.targets) @ mean_embeddings(embeddings)[rows].T
        metrics = retrieval_metrics(similarity, of)
        splits.append({"source": drawn.source, "clips": len(rows), "texts": len(of), **metrics})
    return {"data": data, **over_splits(splits)}


def class_scores(embeddings: np.ndarray, class_embeds: np.ndarray, logit_scale: float, aggregation: str) -> np.ndarray:
    """(clips, classes) float64 scores of embeddings (clips, views, width), views averaged as the protocol says."""
    logits = logit_scale * embeddings.astype(np.float64) @ class_embeds.T.astype(np.float64)  # (clips, views, classes)
    if aggregation == "probabilities":
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        logits = powers / powers.sum(axis=-1, keepdims=True)
    return logits.mean(axis=1)


def draw_clips(clips: LabelledClips, num: int | None, seed: int) -> LabelledClips:
    """`num` clips drawn by a seed, in their order; all where there are no more."""
    if num is None or num >= len(clips):
        return clips
    return take_clips(clips, draw_rows(len(clips), num, seed))


def draw_rows(count: int, num: int, seed: int) -> list[int]:
    """`num` of the rows 0 .. count - 1, drawn by a seed, in their order."""
    return sorted(np.random.default_rng(seed).permutation(count)[:num].tolist())


def _recognition(scores: np.ndarray, part: TestSet, output: Path, suffix: str, plot: bool) -> dict[str, Any]:
    """Writes the files of one test set, and returns its numbers."""
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
    """JSON-able: the splits, and mean and standard deviation over them of each float that they name."""
    numbers = [{name: value for name, value in part.items() if isinstance(value, float)} for part in splits]
    mean, spread = mean_and_spread(numbers)
    return {"splits": splits, "mean": mean, "std": spread}


__all__ = ["class_scores", "draw_clips", "draw_rows", "measure_recognition", "measure_retrieval", "over_splits"]
