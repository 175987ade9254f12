"""A SEN saved with its code, loaded with `trust_remote_code=True` where the package is not installed."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_sen import random_inputs, random_weights
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_sen import SENConfig, SENModel, SENProcessor
from modeling_sen.upload_files import add_code

PACKAGE = Path(__file__).resolve().parents[1] / "modeling_sen"
ALLOWED = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy"}

LOAD = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_sen":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import modeling_sen
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package can be imported")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

try:
    AutoModel.from_pretrained({folder!r}, trust_remote_code=False)
except ValueError:
    pass
else:
    raise SystemExit("remote code ran without trust")

model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
inputs = load_file({work!r} + "/inputs.safetensors")
texts = inputs.pop("texts")
with torch.no_grad():
    output = model(**inputs, text_input_ids=texts)
save_file({{"logits": output.logits_per_video, "fused": output.fused_embeds}}, {work!r} + "/found.safetensors")
prepared = load_file({work!r} + "/prepared.safetensors")
processor = AutoProcessor.from_pretrained({folder!r}, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
clip = {{"video": prepared.pop("frames"), "text": "a dog barks"}}
for name, tensor in processor(videos=clip, text=["a dog", "a man speaks"]).items():
    assert torch.equal(tensor, prepared[name]), name
model.save_pretrained({work!r} + "/again", include_neurons=True)
again = AutoModel.from_pretrained({work!r} + "/again", trust_remote_code=True)
with torch.no_grad():
    assert torch.equal(again(**inputs, text_input_ids=texts).logits_per_video, output.logits_per_video)
"""


LAYOUT = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def run_isolated(code: str, work: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_MODULES_CACHE": str(work / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


def save_with_code(model: SENModel, folder: Path, monkeypatch) -> None:
    for registered, auto_class in (
        (SENConfig, "AutoConfig"),
        (SENModel, "AutoModel"),
        (SENProcessor, "AutoProcessor"),
    ):
        monkeypatch.setattr(registered, "_auto_class", None)  # restored after the test
        registered.register_for_auto_class(auto_class)
    model.save_pretrained(folder, include_neurons=True)
    SENProcessor(model.config).save_pretrained(folder)


def with_layout(tower: str, folder: Path) -> Path:
    """A text tower in the layout of sentence-transformers, with pooling of the first token and a prompt."""
    shutil.copytree(tower, folder)
    (folder / "1_Pooling").mkdir()
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in LAYOUT]
    settings = {"prompts": {"own": "a man "}, "default_prompt_name": "own"}
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls", "include_prompt": False}))
    return folder


def test_a_checkpoint_with_code_works_without_the_package(make_sen, towers, tmp_path, monkeypatch):
    words = str(with_layout(towers["bert"], tmp_path / "words"))
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], words]
    model, folder = random_weights(make_sen(neurons=neurons)), tmp_path / "sen"
    assert model.neurons["words"].sentence.prompt_tokens == 3
    save_with_code(model, folder, monkeypatch)
    shutil.rmtree(words)
    assert {path.name for path in reached("modeling_sen")} <= {path.name for path in folder.iterdir()}
    frames = torch.randint(0, 255, (6, 20, 30, 3), dtype=torch.uint8)
    clip = {"video": frames, "text": "a dog barks"}
    prepared = SENProcessor.from_pretrained(folder)(videos=clip, text=["a dog", "a man speaks"])
    prepared = {name: tensor.contiguous() for name, tensor in prepared.items()}
    save_file({"frames": frames, **prepared}, tmp_path / "prepared.safetensors")
    inputs = {**random_inputs(), "words_input_ids": torch.tensor([[2, 5, 8, 6, 3], [2, 5, 8, 9, 3]])}
    texts = torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513]])
    with torch.no_grad():
        output = model(**inputs, text_input_ids=texts)
    save_file({**inputs, "texts": texts}, tmp_path / "inputs.safetensors")
    run_isolated(LOAD.format(folder=str(folder), work=str(tmp_path)), tmp_path)
    found = load_file(tmp_path / "found.safetensors")
    assert found["logits"].tolist() == output.logits_per_video.tolist()
    assert found["fused"].tolist() == output.fused_embeds.tolist()


TRACK = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
given = load_file({work!r} + "/given.safetensors")
with torch.no_grad():
    save_file({{"tracks": model(**given).tracks}}, {work!r} + "/found.safetensors")
try:
    model.track(given["frames"].numpy(), given["query_points"].numpy())
except ImportError as error:
    assert "modeling-sen" in str(error), error
else:
    raise SystemExit("the search for paths ran without the package")
"""


def test_a_tracker_with_code_refines_tracks_without_the_package(tiny_tracker, tmp_path):
    tiny_tracker.network.semantic_scale.data.fill_(0.7)
    folder = tmp_path / "tracker"
    tiny_tracker.save_pretrained(folder, include_neurons=True)
    add_code(tiny_tracker, folder)
    given = {
        "frames": torch.randint(256, (5, 32, 48, 3), dtype=torch.uint8),
        "query_points": torch.tensor([[0, 9.0, 20.0], [3, 30.0, 8.0]]),
    }
    save_file(given, tmp_path / "given.safetensors")
    hidden = LOAD.format(folder="", work="").partition("try:")[0]  # blocks imports of the package
    run_isolated(hidden + TRACK.format(folder=str(folder), work=str(tmp_path)), tmp_path)
    with torch.no_grad():
        expected = tiny_tracker(**given).tracks
    assert torch.equal(load_file(tmp_path / "found.safetensors")["tracks"], expected)


def reached(name: str) -> list[Path]:
    """The module's file and all files that Transformers copies with it."""
    first = PACKAGE / f"{name}.py"
    return [first, *map(Path, get_relative_import_files(str(first)))]


@pytest.mark.parametrize("name", ["configuration_sen", "modeling_sen"])
def test_copied_code_is_small_and_flat_and_imports_only_allowed_packages(name):
    files = reached(name)
    assert len({path.name for path in files}) <= 21
    for path in files:
        assert path.is_file(), path
        assert path.parent == PACKAGE
        for module in imported(path):
            assert module in sys.stdlib_module_names or module in ALLOWED, f"{path.name} imports {module}"


@pytest.mark.parametrize("name", ["configuration_sen", "modeling_sen", "processing_sen"])
def test_every_relative_import_is_found_for_the_copy(name):
    """Transformers finds `from .name import x` by a regular expression; a file that it overlooks would not be copied."""
    names = {path.stem for path in reached(name)}
    for path in reached(name):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module in names, f"{path.name}: from .{node.module} import"


def imported(path: Path) -> set[str]:
    """Modules that a file requires; imports inside `try` are optional."""
    modules, tree = set(), ast.parse(path.read_text())
    tried = {part for node in ast.walk(tree) if isinstance(node, ast.Try) for part in node.body}
    for node in ast.walk(tree):
        if node in tried:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.split(".")[0])
    return modules
