"""A type that neither the package nor Transformers has: one line in a user's script registers it for the whole package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_sen_cli import sen

# The classes are added to Transformers in its standard way; the last line registers the neuron.
SCRIPT = """
from transformers import AutoConfig, AutoModel, ViTConfig, ViTModel

class GazeConfig(ViTConfig):
    model_type = "gaze"

class GazeModel(ViTModel):
    config_class = GazeConfig

AutoConfig.register("gaze", GazeConfig)
AutoModel.register(GazeConfig, GazeModel)

from modeling_sen import image_grid, register_neuron

register_neuron("gaze", "image", image_grid, folds_frames=True)
"""

# Calls the Python interface and other verbs after the script above, in the process of the command.
USE = """
import contextlib, io, json, pathlib, sys, torch
import sen_cli
from my_neurons import GazeConfig, GazeModel
from modeling_sen import SENEncoder, SENModel, SENProcessor, list_neurons
from transformers import pipeline

given, command = json.loads(pathlib.Path("given.json").read_text()), sys.argv
assert "gaze" in list_neurons()
preprocessing = {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
torch.manual_seed(0)
layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
GazeModel(GazeConfig(**layers, image_size=16, patch_size=8)).save_pretrained("tower")
sizes = {"hidden_size": 8, "num_prompt_tokens": 2, "bottleneck_size": 4}
neuron = {"hub_id": "tower", "num_frames": 3, "preprocessing": preprocessing}
model = SENModel.from_neurons([neuron, *given["others"]], text_tower=given["text"], **sizes)
model.fusion.up.bias.data.normal_()  # as if it had been trained
processor = SENProcessor(model.config)
state = model(**processor(videos=given["clip"])).neuron_states["image"]
assert state.grid == (3, 2, 2) and state.answers.shape == (1, 2, 16)
expected = SENEncoder(model, processor).encode(given["clip"])
model.save_pretrained("sen", include_neurons=True)
processor.save_pretrained("sen")
again = SENEncoder.from_pretrained("sen", device="cpu").encode(given["clip"])
assert (again == expected).all()
scores = pipeline("zero-shot-video-classification", model="sen")(given["clip"], candidate_labels=["a dog", "a cat"])
shown = {}
for verb, *arguments in (["neurons"], ["encode", given["clip"], "-o", "out.npz", "--model", "sen"]):
    sys.argv = ["sen", verb, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        sen_cli.main()
    shown[verb] = text.getvalue()
sys.argv = command
found = {"scores": scores, "embedding": expected.tolist(), "shown": shown}
pathlib.Path("found.json").write_text(json.dumps(found))
print("now the command itself", file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def outside(towers, clips, tmp_path_factory):
    """The user's folder with script and SEN, the outputs of the Python interface for a clip, and the command's run."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_neurons.py").write_text(SCRIPT)
    (folder / "use.py").write_text(USE)
    given = {
        "clip": str(clips[0]),
        "text": towers["clip"],
        "others": [towers[name] for name in ("videomae", "ast", "bert")],
    }
    (folder / "given.json").write_text(json.dumps(given))
    files = ["--import", "my_neurons.py", "--import", "use.py"]
    command = ["classify", str(clips[0]), "--labels", "a dog,a cat", "--json", "--model", "sen"]
    done = subprocess.run(
        [sys.executable, "-m", "sen_cli", *files, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "by rule" not in done.stderr
    return folder, json.loads((folder / "found.json").read_text()), done


def test_the_command_line_runs_imported_files_first(outside):
    _, found, done = outside
    (row,) = json.loads(done.stdout)
    assert {score["label"]: score["score"] for score in row["scores"]} == pytest.approx(
        {score["label"]: score["score"] for score in found["scores"]}, abs=1e-6
    )


def test_the_installed_command_prints_only_json(outside):
    """From a shell, with neurons for frames, motion, sound and words."""
    _, _, done = outside
    assert done.stderr.rpartition("now the command itself\n")[2] == ""
    assert "now the command itself\n" in done.stderr
    assert done.stdout.startswith('[{"video": "')
    assert done.stdout.count("\n") == 1


def test_imported_files_apply_to_the_other_verbs(outside):
    folder, found, _ = outside
    assert "gaze" in found["shown"]["neurons"]
    np.testing.assert_allclose(np.load(folder / "out.npz")["embedding"], found["embedding"], atol=1e-6)


def test_without_the_script_the_type_is_named_in_the_error(outside, clips, monkeypatch, capsys):
    folder, _, _ = outside
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert sen("classify", str(clips[0]), "--labels", "a,b", "--model", "sen", monkeypatch=monkeypatch) == 2
    errors = capsys.readouterr().err
    assert "'GazeModel' is neither a model of transformers" in errors
    assert "sen --import FILE" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["printing_script", "printing_script.py"])
def test_an_imported_module_or_file_is_run_before_the_verb(name, tmp_path, monkeypatch, capsys):
    Path(tmp_path, "printing_script.py").write_text("print('first')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "printing_script", None)
    del sys.modules["printing_script"]
    assert sen("--import", name, "--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.splitlines()[0] == "first"
    assert sys.modules["printing_script"].__file__.endswith("printing_script.py")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--import"], "expected a Python file or module"),
        (["--import", "gone.py", "neurons"], "gone.py"),
        (["--import", "no_such_module", "neurons"], "no_such_module"),
    ],
)
def test_a_missing_script_is_named_in_the_error(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert sen(*given, monkeypatch=monkeypatch) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("sen --import: ")
    assert errors.count("\n") == 1
