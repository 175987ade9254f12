"""What a grid of runs comes to: one JSON file of all runs, one table and one plot, with the spread over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_sen.whole_file import whole_file

SETS = ("test_3", "test_5", "test_8", "unseen_pairs")
HOPS = (1, 2, 3)


@dataclass(frozen=True)
class Row:
    """Runs that differ by their seed only.

    Attributes:
        shares: (set, hops) -> one share of right answers a seed, among the values present in a clip.
        missing: neuron left out at test time -> hops -> one share a seed, on clips of five objects.
    """

    towers: str
    name: str
    seeds: tuple[int, ...]
    parameters: int
    train_seconds: float
    shares: Mapping[tuple[str, int], tuple[float, ...]]
    missing: Mapping[str, Mapping[int, tuple[float, ...]]]


def collect_rows(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows in the order of their first run."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["towers"], result["row"]), []).append(result)
    rows = []
    for (towers, name), runs in groups.items():
        shares = {(each, hops): _shares(run["accuracy"][each] for run in runs)[hops] for each in SETS for hops in HOPS}
        missing = {neuron: _shares(run["missing"][neuron] for run in runs) for neuron in runs[0]["missing"]}
        seconds = float(np.mean([run["train_seconds"] for run in runs]))
        seeds = tuple(run["seed"] for run in runs)
        rows.append(Row(towers, name, seeds, runs[0]["parameters"], seconds, shares, missing))
    return rows


def _shares(accuracies: Any) -> dict[int, tuple[float, ...]]:
    found = list(accuracies)
    return {hops: tuple(each[f"hops_{hops}"] for each in found) for hops in HOPS}


def percent(shares: Sequence[float]) -> str:
    """`"71.3 ± 1.2"`, mean and standard deviation over seeds; `"71.3"` of one seed."""
    mean = f"{100 * np.mean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * np.std(shares, ddof=1):.1f}"


def table(rows: Sequence[Row], columns: Sequence[tuple[str, int]] | None = None) -> str:
    """Markdown, one line a row; columns are (set, hops)."""
    columns = columns or [(each, hops) for each in SETS for hops in HOPS]
    head = [
        "towers",
        "",
        "seeds",
        "trainable",
        "train s",
        *(f"{each}, {hops} hop{'s' * (hops > 1)}" for each, hops in columns),
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        numbers = [percent(row.shares[column]) for column in columns]
        cells = [
            row.towers,
            row.name,
            str(len(row.seeds)),
            f"{row.parameters:,}",
            f"{row.train_seconds:.0f}",
            *numbers,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def missing_table(rows: Sequence[Row]) -> str:
    """Markdown: five objects, each neuron left out at test time, for rows that have several neurons."""
    neurons = list(dict.fromkeys(name for row in rows for name in row.missing))
    head = ["towers", "", "hops", "all", *(f"without {name}" for name in neurons)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        for hops in HOPS if row.missing else ():
            left = [percent(row.missing[name][hops]) if name in row.missing else "" for name in neurons]
            lines.append(
                f"| {' | '.join([row.towers, row.name, str(hops), percent(row.shares['test_5', hops]), *left])} |"
            )
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy of every row by hops on clips of five objects, a bar for each, with the standard deviation over seeds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the plot needs the extra `plot`: pip install 'modeling-sen[plot]'") from error

    kinds = list(dict.fromkeys(row.towers for row in rows))
    tallest = max(sum(row.towers == kind for row in rows) for kind in kinds)
    figure = Figure(figsize=(5.5 * len(kinds), 1.4 + 0.55 * tallest), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds), squeeze=True)), kinds, strict=True):
        shown = [row for row in rows if row.towers == kind]
        for place, hops in enumerate(HOPS):
            values = [row.shares["test_5", hops] for row in shown]
            heights = np.arange(len(shown)) + 0.26 * (place - 1)
            spread = [100 * np.std(each, ddof=1) if len(each) > 1 else 0.0 for each in values]
            label = f"{hops} hop{'s' * (hops > 1)}"
            axes.barh(heights, [100 * np.mean(each) for each in values], 0.24, xerr=spread, label=label)
        axes.axvline(20, color="grey", linestyle=":", label="chance")
        axes.set_yticks(range(len(shown)), [row.name for row in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("right among the five objects, %")
        axes.set_title(f"{kind} towers")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def write_tables(results: Sequence[Mapping[str, Any]], output: Path) -> list[Row]:
    """Writes results.json and table.md to `output`; returns the table's rows."""
    rows = collect_rows(results)
    tables = f"{table(rows)}\nA neuron missing at test time:\n\n{missing_table(rows)}"
    for name, text in (("results.json", json.dumps(list(results), indent=1)), ("table.md", tables)):
        with whole_file(output / name) as unfinished:
            unfinished.write_text(text)
    return rows


def write_report(results: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes results.json, table.md and, where matplotlib is installed, plot.png to `output`."""
    rows = write_tables(results, output)
    try:
        plot(rows, output / "plot.png")
    except ImportError as error:
        print(error)
