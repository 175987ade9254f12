"""A training run's log: JSON lines, one object a line, and the curve drawn of them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RunLog:
    """Appends to a run's JSON lines. Lines of steps after the resumed checkpoint are dropped, a torn last one too."""

    def __init__(self, path: Path, start: int):
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= start] if path.exists() else []
        replace_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one is left out where its writing was cut short.

    Raises:
        ValueError: another line is not JSON.
    """
    *lines, rest = path.read_text().split("\n")
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a JSON object a line ({error}); after {rest!r}") from error


def plot_log(log: Path, picture: Path) -> None:
    """Draws the loss over the steps, and below it every number that validation gave.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the log holds no loss.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing the curve needs the extra `plot`: pip install 'modeling-sen[plot]'") from error
    lines = read_log(log)
    trained = [line for line in lines if "loss" in line]
    validated = [line for line in lines if "validation" in line]
    if not trained:
        raise ValueError(f"{log}: expected lines with a loss, found none")
    figure = Figure(figsize=(7, 6 if validated else 3.2), layout="constrained")
    axes = figure.subplots(2 if validated else 1, sharex=True, squeeze=False)[:, 0]
    axes[0].plot([line["step"] for line in trained], [line["loss"] for line in trained])
    axes[0].set_ylabel("training loss")
    for name in validated[0]["validation"] if validated else ():
        steps, values = zip(*((line["step"], line["validation"][name]) for line in validated), strict=True)
        axes[1].plot(steps, values, marker="o", markersize=3, label=name)
    if validated:
        axes[1].set_ylabel("validation")
        axes[1].legend()
    axes[-1].set_xlabel("step")
    unfinished = picture.with_name(f".{picture.name}.unfinished")
    figure.savefig(unfinished, format=picture.suffix.removeprefix(".") or "png", dpi=120)
    os.replace(unfinished, picture)


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole: whoever looks finds the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
