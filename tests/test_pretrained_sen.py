"""What every model that contains a SEN inherits, shown with a head of one linear layer."""

import importlib.util
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import fake_hub
from random_sen import SMALL, random_inputs, random_weights
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import modeling_sen
from modeling_sen import SENConfig, SENModel
from modeling_sen.hub_files import CheckpointError

PACKAGE, TESTS = Path(modeling_sen.__file__).parent, Path(__file__).parent


def load_toy_head():
    """The module `toy_head`, loaded as a module of the package."""
    name = "modeling_sen.toy_head"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / "toy_head.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def toy():
    module = load_toy_head()
    AutoConfig.register("sen_toy", module.ToyConfig, exist_ok=True)
    AutoModel.register(module.ToyConfig, module.ToyHead, exist_ok=True)
    return module


@pytest.fixture
def head(toy, towers):
    torch.manual_seed(1)
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"]]
    sen = SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL)
    model = toy.ToyHead(toy.ToyConfig(sen_config=sen.config.to_dict(), num_classes=5)).eval()
    model.base_model.load_neurons()
    return random_weights_of(model)


def random_weights_of(model):
    random_weights(model.sen)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_()
    return model


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**random_inputs())["logits"]


def test_a_head_takes_few_lines(toy):
    code = [line for line in (TESTS / "toy_head.py").read_text().splitlines() if line.strip()]
    assert len(code[code.index("class ToyConfig(PreTrainedConfig):") :]) <= 25


@pytest.mark.parametrize("include_neurons", [False, True])
def test_auto_classes_load_a_saved_head_with_its_neurons(head, toy, tmp_path, include_neurons):
    head.save_pretrained(tmp_path / "toy", include_neurons=include_neurons)
    keys = set(load_file(tmp_path / "toy" / "model.safetensors"))
    assert keys == {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert {"classifier.weight", "sen.gate"} <= keys
    assert not any("neurons." in key for key in keys)
    loaded = AutoModel.from_pretrained(tmp_path / "toy")
    assert type(loaded) is toy.ToyHead
    assert type(loaded.config.sen_config) is SENConfig
    assert torch.equal(logits_of(loaded), logits_of(head))
    beside = {path.name for path in (tmp_path / "toy").iterdir() if path.is_dir()}
    assert beside == ({f"neuron_{name}" for name in head.sen.neurons} if include_neurons else set())
    assert {spec.is_relative for spec in loaded.config.sen_config.neuron_specs} == {include_neurons}


def test_saving_and_loading_modify_neither_model_nor_configuration(head, tmp_path):
    before, methods = head.config.to_dict(), set(vars(head))
    head.save_pretrained(tmp_path / "toy", include_neurons=True)
    after = head.config.to_dict()
    for config in (before, after):  # fields that Transformers adds to a saved model
        for part in (config, config["sen_config"]):
            part.pop("architectures", None), part.pop("dtype", None)
    assert after == before
    assert set(vars(head)) == methods
    saved = AutoConfig.from_pretrained(tmp_path / "toy").to_dict()
    loaded = AutoModel.from_pretrained(tmp_path / "toy").config.to_dict()
    assert loaded["sen_config"]["neurons"] == saved["sen_config"]["neurons"]
    assert loaded["sen_config"]["logit_scale_init_value"] == saved["sen_config"]["logit_scale_init_value"]


@pytest.mark.parametrize("missing", ["classifier.bias", "sen.fusion.up.weight"])
def test_missing_weights_of_a_head_raise(head, tmp_path, missing):
    head.save_pretrained(tmp_path / "toy")
    path = tmp_path / "toy" / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != missing}, path, {"format": "pt"})
    with pytest.raises(RuntimeError, match=rf"toy: 1 weights of ToyHead are missing \(e.g. {missing}\)"):
        AutoModel.from_pretrained(tmp_path / "toy")


def test_a_sen_can_be_loaded_from_a_heads_checkpoint_but_not_a_head_from_a_sens(head, toy, tmp_path):
    head.save_pretrained(tmp_path / "toy", include_neurons=True)
    sen = SENModel.from_pretrained(tmp_path / "toy")
    with torch.no_grad():
        assert torch.equal(sen(**random_inputs()).fused_embeds, head.sen(**random_inputs()).fused_embeds)
    sen.save_pretrained(tmp_path / "sen")
    with pytest.raises(ValueError, match="sen: its model type is 'sen', expected 'sen_toy'"):
        toy.ToyHead.from_pretrained(tmp_path / "sen")


def test_neuron_kwargs_apply_to_the_neurons_of_a_head(head, tmp_path):
    head.save_pretrained(tmp_path / "toy")
    loaded = AutoModel.from_pretrained(tmp_path / "toy", neuron_kwargs={"video": {"dtype": "bfloat16"}})
    assert {name: neuron.dtype for name, neuron in loaded.sen.neurons.items()}["video"] == torch.bfloat16
    with pytest.raises(ValueError, match=r"no neurons \['vidoe'\]"):
        AutoModel.from_pretrained(tmp_path / "toy", neuron_kwargs={"vidoe": {}})


def test_the_signature_of_forward_lists_the_inputs_of_the_neurons(head):
    inputs = ["image_pixel_values", "video_pixel_values", "audio_input_features", "audio_attention_mask"]
    own = list(inspect.signature(head.forward).parameters)
    assert own == ["labels", *inputs, "inputs"]
    assert list(inspect.signature(head.sen.forward).parameters)[-5:] == [*inputs, "inputs"]


def test_a_head_reports_trainable_parameters_and_returns_the_text_towers_embeddings(head, capsys):
    trainable = sum(p.numel() for p in head.parameters() if p.requires_grad)
    head.print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable params: {trainable:,} || all params: ")
    text = head.sen.neurons["class_text"].tower
    assert head.get_input_embeddings() is text.get_input_embeddings()


PUSH = """
import sys, torch
sys.path.insert(0, {tests!r})
import modeling_sen.toy_head as toy
from random_sen import SMALL, random_inputs, random_weights
from modeling_sen import SENConfig, SENModel
from modeling_sen.hub_files import CheckpointError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

AutoConfig.register("sen_toy", toy.ToyConfig)
AutoModel.register(toy.ToyConfig, toy.ToyHead)
toy.ToyConfig.register_for_auto_class()
toy.ToyHead.register_for_auto_class("AutoModel")
sen = SENModel.from_neurons([{{"hub_id": "org/clip", "num_frames": 2}}, {ast!r}], text_tower="org/clip", **SMALL)
head = toy.ToyHead(toy.ToyConfig(sen_config=sen.config.to_dict())).eval()
random_weights(head.sen.load_neurons())
torch.nn.init.normal_(head.classifier.weight)
head.push_to_hub("org/toy", include_neurons=True)
inputs = {{name: value for name, value in random_inputs().items() if not name.startswith("video")}}
with torch.no_grad():
    save_file({{**inputs, "logits": head(**inputs)["logits"]}}, {work!r} + "/pushed.safetensors")
    again = AutoModel.from_pretrained("org/toy")
    assert torch.equal(again(**inputs)["logits"], head(**inputs)["logits"])
assert again.sen.neurons["image"].commit == again.sen.neurons["audio"].commit == {commit}
head.save_pretrained({work!r} + "/by-id")
pinned = toy.ToyConfig.from_pretrained({work!r} + "/by-id").sen_config.neuron_specs[0]
assert (pinned.hub_id, pinned.revision) == ("org/clip", {clip_commit!r}), pinned
from modeling_sen.publishing import push_folder
toy.ToyConfig._auto_class = toy.ToyHead._auto_class = None
head.save_pretrained({work!r} + "/folder")
push_folder({work!r} + "/folder", "org/coded", with_code=True, include_neurons=True)
"""

PULL = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_sen":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import load_file
from transformers import AutoModel

stored = load_file({work!r} + "/pushed.safetensors")
logits = stored.pop("logits")
for name in ("org/toy", "org/coded"):
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        assert torch.equal(model(**stored)["logits"], logits)
"""


def run(code: str, url: str, work: Path, path: Path | None) -> None:
    """Runs the code in a new process that uses the small Hub; the package is imported from `path`, or cannot be imported."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(work / "home"), "HF_TOKEN": "hf_of_nobody"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_MODULES_CACHE": str(work / "modules"), "OMP_NUM_THREADS": "1"}
    options = ["-I"] if path is None else []
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_pushed_head_with_code_is_loaded_without_the_package(towers, tmp_path):
    """The head's file is placed in a copy of the package, as for a head of the package."""
    package = shutil.copytree(PACKAGE, tmp_path / "copy" / "modeling_sen", symlinks=False)
    for name in ("pipelines", "conversion", "model_cards"):
        if not (package / name).exists():
            shutil.copytree(PACKAGE.parent / name, package / name)
    shutil.copy(TESTS / "toy_head.py", package)
    with fake_hub() as hub:
        clip_commit = hub.upload("org/clip", towers["clip"])
        commit = "__import__('huggingface_hub').HfApi().model_info('org/toy').sha"
        code = PUSH.format(
            tests=str(TESTS), ast=towers["ast"], work=str(tmp_path), commit=commit, clip_commit=clip_commit
        )
        run(code, hub.url, tmp_path, package.parent)
        for name in ("org/toy", "org/coded"):
            files = hub.repositories[name].files
            assert {"config.json", "model.safetensors", "toy_head.py", "README.md"} <= set(files)
            assert {"neuron_image/model.safetensors", "neuron_bank.py", "pretrained_sen.py"} <= set(files)
            assert f"# {name.removeprefix('org/')}\n\n`ToyHead`, a head on".encode() in files["README.md"]
        run(PULL.format(work=str(tmp_path)), hub.url, tmp_path, None)


def test_weights_of_another_size_raise_a_checkpoint_error(sen_folder, tmp_path):
    folder = shutil.copytree(sen_folder, tmp_path / "sen")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "hidden_size": 32}))
    with pytest.raises(CheckpointError, match=rf"{folder}: .* has shape \(.*\), expected \("):
        SENModel.from_pretrained(folder)
