# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Plots of a recognition result: confusion matrix and accuracy per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeling_sen.whole_file import whole_file

NAMED_CLASSES = 60  # largest number of classes with readable names beside the matrix
INCHES_PER_CLASS = 0.18


def plot_confusion(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draws a confusion matrix from (classes, classes) counts, one row per true class, normalised by row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(figsize=(max(4.0, min(len(class_names), NAMED_CLASSES) * INCHES_PER_CLASS + 2),) * 2)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the clips of a class")
    axes.set_xlabel("named")
    axes.set_ylabel("is")
    if len(class_names) <= NAMED_CLASSES:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(class_names)), class_names, fontsize=6)
    _save(figure, path)


def plot_per_class(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draws the accuracy of each class with clips, best first, and the number of its clips.

    Raises:
        ImportError: matplotlib is not installed.
    """
    clips = counts.sum(axis=1)
    accuracy = np.diagonal(counts) / np.maximum(clips, 1)
    order = [number for number in np.argsort(-accuracy, kind="stable") if clips[number]]
    figure = _figure(figsize=(6, max(2.5, len(order) * INCHES_PER_CLASS + 1)))
    axes = figure.subplots()
    axes.barh(range(len(order)), accuracy[order])
    axes.set_yticks(range(len(order)), [f"{class_names[number]} ({clips[number]})" for number in order], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy (number of clips in brackets)")
    _save(figure, path)


def _figure(**settings: Any) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs the extra `plot`: pip install 'modeling-sen[plot]'") from error
    return Figure(layout="constrained", **settings)


def _save(figure: Any, path: Path) -> None:
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
