"""`--device` and `--dtype` of the commands that run a model."""

import inspect
import json

import numpy as np
import pytest
import torch

import sen_cli
from modeling_sen.commands import classify, encode, evaluate, fit
from modeling_sen.commands.model_options import DTYPES, model_arguments


@pytest.mark.parametrize("command", [classify.classify, encode.encode, evaluate.main, fit.main])
def test_every_command_that_runs_a_model_has_both(command):
    assert {"device", "dtype"} <= set(inspect.signature(command).parameters)


def test_a_precision_changes_the_numbers_a_little(sen_folder, clips, tmp_path, capsys):
    for dtype in (None, "bfloat16"):
        encode.encode([str(clips[0])], tmp_path / f"{dtype}.npz", str(sen_folder), device="cpu", dtype=dtype)
    whole, half = (np.load(tmp_path / f"{dtype}.npz")["embedding"] for dtype in (None, "bfloat16"))
    assert 0 < np.abs(whole - half).max() < 0.05
    capsys.readouterr()
    scores = []
    for dtype in (None, "bfloat16"):
        classify.classify([str(clips[0])], labels="a,b", model=str(sen_folder), dtype=dtype, as_json=True)
        found = json.loads(capsys.readouterr().out)[0]["scores"]
        scores.append({entry["label"]: entry["score"] for entry in found})
    assert 0 < abs(scores[0]["a"] - scores[1]["a"]) < 0.05


def test_a_missing_device_is_reported_in_one_line(clips, monkeypatch, capsys):
    assert model_arguments("cpu", "float16") == {"device": "cpu", "dtype": "float16"}
    with pytest.raises(ValueError, match=rf"--dtype 'int8': expected one of {', '.join(DTYPES)}"):
        model_arguments(None, "int8")
    with pytest.raises(ValueError, match="--device 'gpu': expected a device of this machine"):
        model_arguments("gpu", None)
    if not torch.cuda.is_available():
        monkeypatch.setattr("sys.argv", ["sen", "classify", str(clips[0]), "--labels", "a", "--device", "cuda"])
        with pytest.raises(SystemExit) as stop:
            sen_cli.main()
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("sen classify: --device 'cuda': expected a device of this machine (")
        assert shown.count("\n") == 1
