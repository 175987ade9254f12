"""A run's log and its curve."""

import json

import pytest
from PIL import Image

from modeling_sen.training.run_log import RunLog, plot_log, read_log


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    RunLog(path, 2).write(3, {"loss": 0.25})
    assert read_log(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl: expected a JSON object a line"):
        read_log(path)


def test_the_curve_shows_what_was_logged(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "log.jsonl"
    lines = [{"step": step, "loss": 5.0 / step} for step in range(1, 20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_log(path, tmp_path / "curve.png")
    low = Image.open(tmp_path / "curve.png").height
    lines.append({"step": 19, "validation": {"top1": 0.5}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_log(path, tmp_path / "curve.png")
    picture = Image.open(tmp_path / "curve.png")
    assert picture.height > low  # a second panel, of the validation
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
    assert sorted(each.name for each in tmp_path.iterdir()) == ["curve.png", "log.jsonl"]


def test_a_log_without_a_loss_cannot_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="lines with a loss, found none"):
        plot_log(tmp_path / "log.jsonl", tmp_path / "curve.png")
