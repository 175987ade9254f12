"""A type that neither the package nor Transformers knows: one line in a script of the user's, and it works everywhere."""

import json
import subprocess
import sys

import numpy as np
import pytest

# The classes are Transformers' own way to add a model; the neuron is the last line.
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

USE = """
import json, sys, torch
from my_neurons import GazeConfig, GazeModel
from modeling_sen import SENEncoder, SENModel, SENProcessor, list_neurons
from transformers import pipeline

tower, clip, text, work = sys.argv[1:]
assert "gaze" in list_neurons()
neuron = {"hub_id": tower, "num_frames": 3, "preprocessing": {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}}
torch.manual_seed(0)
layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
GazeModel(GazeConfig(**layers, image_size=16, patch_size=8)).save_pretrained(tower)
sizes = {"hidden_size": 8, "num_prompt_tokens": 2, "bottleneck_size": 4}
model = SENModel.from_neurons([neuron], text_tower=text, **sizes)
model.fusion.up.bias.data.normal_()  # as if it had been trained
processor = SENProcessor(model.config)
state = model(**processor(videos=clip)).neuron_states["image"]
assert state.grid == (3, 2, 2) and state.answers.shape == (1, 2, 16)
expected = SENEncoder(model, processor).encode(clip)
model.save_pretrained(work + "/sen", include_neurons=True)
processor.save_pretrained(work + "/sen")
again = SENEncoder.from_pretrained(work + "/sen", device="cpu").encode(clip)
assert (again == expected).all()
scores = pipeline("zero-shot-video-classification", model=work + "/sen")(clip, candidate_labels=["a dog", "a cat"])
print(json.dumps({"scores": scores, "embedding": expected.tolist()}))
"""


def run(*arguments: str, cwd) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outside(towers, clips, tmp_path_factory):
    """The user's folder with script and saved SEN, and what the Python interface made of a clip."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_neurons.py").write_text(SCRIPT)
    (folder / "use.py").write_text(USE)
    done = run("use.py", str(folder / "tower"), str(clips[0]), towers["clip"], str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "by rule" not in done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_the_command_line_runs_the_file_first(outside, clips):
    folder, found = outside
    command = ["-m", "sen_cli", "--import", "my_neurons.py", "classify", str(clips[0]), "--labels", "a dog,a cat"]
    done = run(*command, "--json", "--model", "sen", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(done.stdout)
    assert {score["label"]: score["score"] for score in row["scores"]} == pytest.approx(
        {score["label"]: score["score"] for score in found["scores"]}, abs=1e-6
    )


def test_the_command_line_imports_a_module_by_name(outside, clips):
    folder, found = outside
    command = ["-m", "sen_cli", "--import", "my_neurons", "encode", str(clips[0]), "-o", "out.npz", "--model", "sen"]
    done = run(*command, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    embeddings = np.load(folder / "out.npz")["embedding"]
    np.testing.assert_allclose(embeddings, found["embedding"], atol=1e-6)


def test_the_list_of_types_has_it(outside):
    folder, _ = outside
    assert "gaze" in run("-m", "sen_cli", "--import", "my_neurons.py", "neurons", cwd=folder).stdout


def test_without_the_script_the_type_is_named(outside, clips):
    folder, _ = outside
    done = run("-m", "sen_cli", "classify", str(clips[0]), "--labels", "a,b", "--model", "sen", cwd=folder)
    assert done.returncode == 2
    assert "'GazeModel' is neither a model of transformers" in done.stderr
    assert "sen --import FILE" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--import"], "expected a Python file or module"),
        (["--import", "gone.py", "neurons"], "gone.py"),
        (["--import", "no_such_module", "neurons"], "no_such_module"),
    ],
)
def test_a_script_that_is_not_there(given, said, tmp_path):
    done = run("-m", "sen_cli", *given, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("sen --import: ")
    assert done.stderr.count("\n") == 1
