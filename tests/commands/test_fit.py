"""`sen fit`: a head that `sen eval` then names clips by."""

import json

import pytest

from modeling_sen import SEN_TINY
from modeling_sen.commands.evaluate import main as evaluate
from modeling_sen.commands.fit import main as fit


@pytest.mark.parametrize("kind", ["cache", "linear"])
def test_fitting_on_the_command_line_helps(tmp_path, capsys, kind):
    """Clips that the head has seen are named right; their class texts are hidden behind a template that says nothing."""
    pytest.importorskip("sklearn")
    data = "world:train?num=8&num_objects=1"
    fit(SEN_TINY, data, tmp_path / "head", kind=kind, template=["{}"], residual=100.0, strength=1000.0, shots=16)
    evaluate(SEN_TINY, [data], head=tmp_path / "head", split="train", output=tmp_path / "out", as_json=True)
    printed = capsys.readouterr().out
    results = json.loads(printed[printed.index("{") :])
    assert results["mean"]["top1"] == 1.0
    assert results["head"]["data"]["clips"] == 8
    assert results["templates"] is None
    with pytest.raises(ValueError, match=r"class '.*' is not among the"):
        evaluate(SEN_TINY, ["world:test?num=4&num_objects=1"], head=tmp_path / "head", output=tmp_path / "out")
    with pytest.raises(ValueError, match="expected one of cache, linear"):
        fit(SEN_TINY, data, tmp_path / "head", kind="tree")
