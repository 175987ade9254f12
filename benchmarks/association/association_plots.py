"""Draws the figures of docs/association.md and docs/association_details.md from the results of `ablation.py`.

python -m benchmarks.association.association_plots OUT/results.json docs
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.association.ablation_report import Row, collect_rows

matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "sen", "font.size": 9}
SEN, FUSION = "SEN K=3, no second look", "late fusion, {} resampled trunk tokens"
ALL_TOKENS = "late fusion, all trunk tokens"
DEPTHS = [
    "frozen mean",
    *(f"SEN K={rounds}" for rounds in range(5)),
    *(f"SEN K={rounds}, no second look" for rounds in (1, 2, 3)),
    FUSION.format(4),
    ALL_TOKENS,
]
BUDGETS = {tokens: (SEN + (f", {tokens} answers" if tokens != 4 else "")) for tokens in (1, 2, 4, 8, 16)}
SETS = {"test_3": 3, "test_5": 5, "test_8": 8}


def line(axes: Axes, places: list[float], rows: list[Row | None], key: tuple[str, int], label: str, **style) -> None:
    """Means with their standard deviation over seeds, of the rows that are there."""
    found = [(place, row.shares[key]) for place, row in zip(places, rows, strict=True) if row is not None]
    means = [100 * np.mean(shares) for _, shares in found]
    spread = [100 * np.std(shares, ddof=1) if len(shares) > 1 else 0.0 for _, shares in found]
    axes.errorbar(
        [place for place, _ in found], means, spread, label=label, capsize=2, marker="o", markersize=3, **style
    )


def depth_figure(rows: dict[tuple[str, str], Row], towers: str) -> Figure:
    """One, two and three hops among five objects, by model."""
    names = [name for name in DEPTHS if (towers, name) in rows]
    figure = Figure(figsize=(7.5, 0.6 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    for place, hops in enumerate((1, 2, 3)):
        shares = [rows[towers, name].shares["test_5", hops] for name in names]
        spread = [100 * np.std(each, ddof=1) if len(each) > 1 else 0.0 for each in shares]
        label = f"{hops} hop{'s' * (hops > 1)}"
        heights = np.arange(len(names)) + 0.27 * (place - 1)
        axes.barh(heights, [100 * np.mean(each) for each in shares], 0.25, xerr=spread, label=label)
    axes.axvline(20, color="grey", linestyle=":", label="chance")
    axes.set_yticks(range(len(names)), [f"{name} ({len(rows[towers, name].seeds)})" for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel=f"right among five objects, % ({towers} towers; seeds in brackets)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def budget_figure(rows: dict[tuple[str, str], Row], towers: str) -> Figure:
    """One to three hops by tokens of each tower that are read, a panel for each number of objects; of `SEN`."""
    figure = Figure(figsize=(7.5, 2.9), layout="constrained")
    places = [float(np.log2(tokens)) for tokens in BUDGETS]
    for axes, (name, objects) in zip(figure.subplots(1, 3, sharey=True), SETS.items(), strict=True):
        for hops, style in ((1, ":"), (2, "--"), (3, "-")):
            asked = f"{hops} hop{'s' * (hops > 1)}"
            sen = [rows.get((towers, row)) for row in BUDGETS.values()]
            fusion = [rows.get((towers, FUSION.format(tokens))) for tokens in BUDGETS]
            line(axes, places, sen, (name, hops), f"SEN, {asked}", color="C0", linestyle=style)
            line(axes, places, fusion, (name, hops), f"late fusion, {asked}", color="C1", linestyle=style)
        axes.axhline(100 / objects, color="grey", linewidth=0.8, label="chance")
        axes.set(title=f"{objects} objects", ylim=(0, 100), xlabel="tokens read of each tower")
        axes.set_xticks(places, [str(tokens) for tokens in BUDGETS])
    figure.axes[0].set_ylabel("right, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def sample_figure(rows: dict[tuple[str, str], Row], towers: str) -> Figure:
    """Among five objects, by training clips."""
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    clips = [1000, 4000, 32_000]
    for axes, hops in zip(figure.subplots(1, 3, sharey=True), (1, 2, 3), strict=True):
        for number, name in enumerate((SEN, FUSION.format(4), ALL_TOKENS)):
            found = [rows.get((towers, name if each == 32_000 else f"{name}, {each} clips")) for each in clips]
            line(axes, [float(each) for each in clips], found, ("test_5", hops), name, color=f"C{number}")
        axes.axhline(20, color="grey", linestyle=":", label="chance")
        axes.set(title=f"{hops} hop{'s' * (hops > 1)}", ylim=(0, 100), xscale="log", xlabel="training clips")
        axes.set_xticks(clips, ["1k", "4k", "32k"])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("right among five, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--towers", default="local", choices=["local", "global"])
    options = parser.parse_args()
    rows = {(row.towers, row.name): row for row in collect_rows(json.loads(options.results.read_text()))}
    figures = {"hops": depth_figure, "budget": budget_figure, "clips": sample_figure}
    for name, draw in figures.items():
        figure = draw(rows, options.towers)
        figure.savefig(options.output / f"association_{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
