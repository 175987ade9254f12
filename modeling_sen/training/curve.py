# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Plots the Trainer's log of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from modeling_sen.whole_file import whole_file

TIMINGS = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")


def draw_curve(log_history: Sequence[Mapping[str, float]], picture: Path) -> None:
    """Plots training and validation loss over the steps, and below them all other metrics; the file is replaced atomically.

    Args:
        log_history: the Trainer's log.
        picture: path of the PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing the curve needs the extra `plot`: pip install 'modeling-sen[plot]'") from error
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in log_history:
        for name, value in line.items():
            if (name == "loss" or name.startswith("eval_")) and not name.endswith(TIMINGS):
                curves.setdefault(name, []).append((line["step"], value))
    losses = {"loss": "training", "eval_loss": "validation"}
    measures = [name for name in curves if name not in losses]
    figure = Figure(figsize=(7, 6 if measures else 3.2), layout="constrained")
    axes = figure.subplots(2 if measures else 1, sharex=True, squeeze=False)[:, 0]
    for name, label in losses.items():
        if name in curves:
            axes[0].plot(*zip(*curves[name], strict=True), label=label)
    for name in measures:
        axes[1].plot(*zip(*curves[name], strict=True), marker="o", markersize=3, label=name.removeprefix("eval_"))
    for each, label in zip(axes, ("loss", "validation"), strict=False):
        each.set_ylabel(label)
        if each.lines:
            each.legend()
    axes[-1].set_xlabel("step")
    with whole_file(picture) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
