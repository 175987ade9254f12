"""The report of a grid: rows over seeds, their mean and deviation, one table, one plot."""

import json

import pytest

from benchmarks.association.ablation_report import (
    HOPS,
    SETS,
    collect_rows,
    missing_table,
    percent,
    plot,
    table,
    write_report,
)


def result(row, towers, seed, right, missing=()):
    shares = {f"hops_{hops}": right / hops for hops in (1, 2, 3)}
    return {
        "row": row,
        "towers": towers,
        "seed": seed,
        "parameters": 1234,
        "train_seconds": 10.0 * (seed + 1),
        "accuracy": dict.fromkeys(SETS, shares),
        "missing": dict.fromkeys(missing, shares),
    }


RESULTS = [
    result("SEN", "global", 0, 0.8, ["audio"]),
    result("late", "global", 0, 0.4),
    result("SEN", "global", 1, 0.6, ["audio"]),
    result("SEN", "local", 0, 0.9, ["audio"]),
]


def test_runs_that_differ_by_seed_are_one_row():
    rows = collect_rows(RESULTS)
    assert [(row.towers, row.name, row.seeds) for row in rows] == [
        ("global", "SEN", (0, 1)),
        ("global", "late", (0,)),
        ("local", "SEN", (0,)),
    ]
    assert rows[0].train_seconds == 15.0
    assert rows[0].shares["test_5", 2] == (0.4, 0.3)


def test_mean_and_deviation_over_seeds():
    assert percent((0.8, 0.6)) == "70.0 ± 14.1"  # the sample's: 0.2 / sqrt(2)
    assert percent((0.8,)) == "80.0"


def test_the_table_has_a_line_for_each_row():
    lines = table(collect_rows(RESULTS), [("test_5", 1)]).splitlines()
    assert lines[0] == "| towers |  | seeds | trainable | train s | test_5, 1 hop |"
    assert lines[2] == "| global | SEN | 2 | 1,234 | 15 | 70.0 ± 14.1 |"
    assert lines[3] == "| global | late | 1 | 1,234 | 10 | 40.0 |"
    assert len(lines) == 5
    assert len(table(collect_rows(RESULTS)).splitlines()[0].split("|")) == 7 + len(SETS) * len(HOPS)


def test_rows_of_several_neurons_say_what_is_missing():
    lines = missing_table(collect_rows(RESULTS)).splitlines()
    assert lines[0] == "| towers |  | hops | all | without audio |"
    assert lines[2] == "| global | SEN | 1 | 70.0 ± 14.1 | 70.0 ± 14.1 |"
    assert len(lines) == 2 + 2 * len(HOPS)


@pytest.mark.parametrize("results", [RESULTS, RESULTS[:2]], ids=["two sets of towers", "one"])
def test_plot_is_a_picture(tmp_path, results):
    pytest.importorskip("matplotlib")
    plot(collect_rows(results), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_is_written_whole(tmp_path):
    write_report(RESULTS, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    assert "A neuron missing at test time" in (tmp_path / "table.md").read_text()
    assert not list(tmp_path.glob("*.tmp"))
