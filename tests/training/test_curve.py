"""The curve of a run."""

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from modeling_sen.training.curve import draw_curve


def test_the_curve_shows_what_was_logged(tmp_path):
    log = [{"step": step, "loss": 5.0 / step} for step in range(1, 20)]
    draw_curve(log, tmp_path / "curve.png")
    low = Image.open(tmp_path / "curve.png").height
    draw_curve([*log, {"step": 19, "eval_top1": 0.5, "eval_loss": 1.0, "eval_runtime": 9.0}], tmp_path / "curve.png")
    picture = Image.open(tmp_path / "curve.png")
    assert picture.height > low  # a second panel, of the measures
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
    assert [each.name for each in tmp_path.iterdir()] == ["curve.png"]
