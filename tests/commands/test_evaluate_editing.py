"""`sen eval --task editing`: sen-tiny and its tracker on exact edits of the world; what is wrong is said in one line."""

import json
import sys

import pytest

pytest.importorskip("cv2")

from modeling_sen import SEN_TINY
from modeling_sen.commands.evaluate import main
from modeling_sen.evaluation import measure_editing
from modeling_sen.evaluation.editing_metrics import NUMBERS

SOURCE = "world:test?num=1&num_frames=3&num_objects=1"


def test_results_state_all_settings_and_are_stored(tmp_path, capsys, monkeypatch):
    main("sen-tiny", [SOURCE], task="editing", output=tmp_path)
    table = capsys.readouterr().out.splitlines()
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["task"] == "editing"
    assert results["encoder"]["name"] == SEN_TINY
    assert results["tracker"]["name"].startswith(SEN_TINY)
    assert len({results["encoder"]["sha1"], results["tracker"]["sha1"]}) == 2
    assert (results["num"], results["seed"]) == (None, 0)
    (part,) = results["splits"]
    assert (part["source"], part["clips"]) == (SOURCE, 3)
    assert part.keys() >= set(NUMBERS)
    assert part["psnr_outside_mask"] == 100
    assert list(part["by_kind"]) == ["colour", "shape", "background"]
    assert 0 < part["motion_fidelity"] <= 1

    assert table[0] == f"encoder {SEN_TINY}, tracker {results['tracker']['name']}"
    for head in ("text", "frames", "FateZero acc", "direction", "PSNR", "SSIM", "warp", "motion"):
        assert head in table[1]
    rows = [line.split() for line in table[2:6]]
    assert [row[-12] for row in rows] == ["3", "1", "1", "1"]
    assert rows[0][-11] == f"{part['loveu_text_alignment']:.2f}"
    assert table[-1] == str(tmp_path / "results.json")

    monkeypatch.setattr(measure_editing, "editing_metrics", pytest.fail)
    main("sen-tiny", [SOURCE], task="editing", output=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == results


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SEN_TINY], "expected DATA: tables of edited videos, folders with edits.csv, loveu:... or world:..."),
        ([SEN_TINY, "nowhere"], "nowhere: expected a table of edits, a folder with edits.csv, .jsonl or .parquet"),
        ([SEN_TINY, SOURCE, "--plot"], "--task editing does not support --protocol"),
        ([SEN_TINY, SOURCE, "--query-mode", "first"], "--query-mode requires --task tracking, found --task editing"),
        ([SEN_TINY, SOURCE, "--tracker", SEN_TINY], "expected a model that tracks points, found one of type 'sen'"),
        (
            [SEN_TINY, "base", "--task", "tracking", "--tracker", "x"],
            "--tracker requires --task editing, found --task",
        ),
    ],
)
def test_user_errors_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    import sen_cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sen", "eval", "--task", "editing", *arguments])
    with pytest.raises(SystemExit) as exit:
        sen_cli.main()
    assert exit.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sen eval: ")]
    assert len(errors) == 1
    assert message in errors[0]
