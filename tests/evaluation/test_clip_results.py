"""Results of clips: kept one by one, NaN and back, nothing but results is read."""

import json
import math

import pytest

from modeling_sen.evaluation import clip_results
from modeling_sen.evaluation.clip_results import ClipResults, nan_to_null, null_to_nan


def test_results_are_read_again_and_nan_is_null(tmp_path):
    file = tmp_path / "new" / "results.json"
    ClipResults(file).add("a", {"metrics": {"x": 1.5, "y": math.nan}, "bins": [[1.0, math.nan]]})
    again = ClipResults(file)
    assert again.rows == {"a": {"metrics": {"x": 1.5, "y": None}, "bins": [[1.0, None]]}}
    assert math.isnan(null_to_nan(again.rows["a"]["metrics"])["y"])
    again.add("b", 2)
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {"clips": ClipResults(file).rows}
    assert list(ClipResults(file).rows) == ["a", "b"]


def test_an_interrupted_write_leaves_the_results_before_it(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    results = ClipResults(file)
    results.add("a", 1)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(clip_results.json, "dumps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.add("b", 2)
    monkeypatch.undo()
    assert ClipResults(file).rows == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"clips": '])
def test_another_file_is_refused(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"results\.json: expected results of clips, found"):
        ClipResults(file)


def test_nan_inside_lists_and_dicts():
    assert nan_to_null({"a": [math.nan, 1], "b": "text", "c": None}) == {"a": [None, 1], "b": "text", "c": None}
