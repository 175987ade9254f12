"""A SEN is pushed to the Hub and loaded again with the same outputs. Trust in its code does not extend to its neurons."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import fake_hub
from hub_session import PUSHED, READER, WRITER, connected
from huggingface_hub import HfApi
from random_sen import SMALL, random_inputs, random_weights
from safetensors.torch import load_file, save_file
from test_pretrained_sen import load_toy_head
from test_remote_code import save_with_code
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_sen import SENModel, SENProcessor

PIXELS = random_inputs()["image_pixel_values"]
FRAMES = torch.arange(6 * 20 * 30 * 3).reshape(6, 20, 30, 3).remainder(256).to(torch.uint8)


@pytest.fixture(scope="module", autouse=True)
def registered():
    toy = load_toy_head()
    AutoConfig.register("sen_toy", toy.ToyConfig, exist_ok=True)
    AutoModel.register(toy.ToyConfig, toy.ToyHead, exist_ok=True)


@pytest.fixture
def hub(towers):
    with fake_hub() as hub:
        hub.large_file = 20_000  # so that weights are transferred by LFS
        hub.tokens = {WRITER: "write", READER: "read"}
        hub.upload("org/clip", towers["clip"])
        yield hub


@pytest.fixture
def model(hub, tmp_path) -> SENModel:
    """A SEN whose neuron and text tower come from the Hub."""
    torch.manual_seed(1)
    with connected(hub, tmp_path / "author", WRITER):
        neurons = [{"hub_id": "org/clip", "num_frames": 2}]
        return random_weights(SENModel.from_neurons(neurons, text_tower="org/clip", **SMALL))


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        found = model(image_pixel_values=PIXELS)
    return found["logits"] if "logits" in found else found["fused_embeds"]


def stored(hub, repo_id: str = "org/sen") -> dict[str, bytes]:
    return hub.repositories[repo_id].files


@pytest.mark.parametrize("include_neurons", [False, True])
@pytest.mark.parametrize("kind", ["model", "pipeline", "toy head", "folder"])
def test_a_pushed_object_gives_the_same_outputs_after_loading(kind, include_neurons, model, hub, tmp_path):
    pushed = PUSHED[kind](model)
    with connected(hub, tmp_path / "author", WRITER):
        pushed.push_to_hub("org/sen", include_neurons=include_neurons)
    with connected(hub, tmp_path / "reader", READER):
        again = AutoModel.from_pretrained("org/sen")
    torch.testing.assert_close(outputs(again), outputs(getattr(pushed, "model", pushed)), rtol=1e-5, atol=1e-6)
    assert ("neuron_image/model.safetensors" in stored(hub)) == include_neurons
    is_pinned = f'"revision": "{hub.repositories["org/clip"].refs["main"]}"' in stored(hub)["config.json"].decode()
    assert is_pinned != include_neurons
    assert not any(request.token for request in hub.requests if request.kind in ("store", "storage"))
    assert any(request.kind == "storage" for request in hub.requests)


def test_a_pushed_processor_is_loaded_and_leaves_the_models_configuration_unchanged(model, hub, tmp_path):
    with connected(hub, tmp_path / "author", WRITER):
        model.push_to_hub("org/sen", include_neurons=True)
        configuration = stored(hub)["config.json"]
        processor = SENProcessor(model.config)
        processor.push_to_hub("org/sen")
        expected = processor(videos=FRAMES, text=["a dog"])
    assert stored(hub)["config.json"] == configuration
    with connected(hub, tmp_path / "reader", READER):
        found = AutoProcessor.from_pretrained("org/sen")(videos=FRAMES, text=["a dog"])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_revisions_give_the_outputs_of_their_commit(model, hub, tmp_path):
    with connected(hub, tmp_path / "author", WRITER):
        api = HfApi()
        first = model.push_to_hub("org/sen").oid
        api.create_tag("org/sen", tag="v1")
        old = outputs(model)
        model.gate.data.fill_(0.1)
        api.create_branch("org/sen", branch="trial")
        model.push_to_hub("org/sen", revision="trial")
        assert hub.repositories["org/sen"].refs["main"] == first
        trial = outputs(model)
        model.gate.data.fill_(0.9)
        proposal = model.push_to_hub("org/sen", create_pr=True)
        assert proposal.pr_revision == "refs/pr/1"
        assert hub.repositories["org/sen"].refs["main"] == first
        model.push_to_hub("org/sen")
        new = outputs(model)
    assert not torch.allclose(old, new)
    expected = {first: old, "v1": old, "trial": trial, "main": new, "refs/pr/1": new}
    with connected(hub, tmp_path / "reader", READER):
        for revision, values in expected.items():
            found = outputs(AutoModel.from_pretrained("org/sen", revision=revision))
            torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-6)


def test_unchanged_files_are_not_uploaded_again(model, hub, tmp_path):
    with connected(hub, tmp_path / "author", WRITER):
        first = model.push_to_hub("org/sen", include_neurons=True).oid
        hub.requests.clear()
        assert model.push_to_hub("org/sen", include_neurons=True).oid == first
    assert not any(request.kind in ("store", "commit") for request in hub.requests)


def test_pushed_adapters_give_the_same_outputs_after_loading(model, hub, tmp_path):
    peft = pytest.importorskip("peft")
    plain = outputs(model)
    with connected(hub, tmp_path / "author", WRITER):
        model.push_to_hub("org/sen")
        settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down"], init_lora_weights=False)
        adapted = peft.get_peft_model(AutoModel.from_pretrained("org/sen"), settings).eval()
        adapted.push_to_hub("org/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(stored(hub, "org/adapter"))
    assert json.loads(stored(hub, "org/adapter")["adapter_config.json"])["base_model_name_or_path"] == "org/sen"
    with connected(hub, tmp_path / "reader", READER):
        back = peft.PeftModel.from_pretrained(AutoModel.from_pretrained("org/sen"), "org/adapter")
        with pytest.raises(ValueError, match=r"org/adapter: found an adapter .*PeftModel.from_pretrained\(model, "):
            SENModel.from_pretrained("org/adapter")
    assert torch.equal(outputs(back.eval()), outputs(adapted))
    assert not torch.allclose(outputs(back), plain)


# --- code in repositories --------------------------------------------------------------------------------------------

# `armed.py`, beside a tower: importing it creates a file.
ARMED = """
open({mark!r}, "w").close()
from transformers import ASTFeatureExtractor, CLIPConfig, CLIPModel, CLIPTokenizer
class ArmedConfig(CLIPConfig): pass
class ArmedModel(CLIPModel): pass
class ArmedTokenizer(CLIPTokenizer): pass
class ArmedExtractor(ASTFeatureExtractor): pass
"""
# File -> the classes of `armed.py` that it names, and the key of the Transformers class.
ARMED_FILES = {
    "config.json": ({"AutoConfig": "armed.ArmedConfig", "AutoModel": "armed.ArmedModel"}, "model_type"),
    "tokenizer_config.json": ({"AutoTokenizer": ["armed.ArmedTokenizer", None]}, "tokenizer_class"),
    "preprocessor_config.json": ({"AutoFeatureExtractor": "armed.ArmedExtractor"}, "feature_extractor_type"),
}


def arm(hub, mark: Path, unknown: str | None) -> None:
    """Adds a commit with code to the repositories of both towers, and makes the SEN refer to these commits.

    Args:
        unknown: the file that names no class of Transformers besides its own.
    """
    sen = hub.repositories["org/sen"]
    config = json.loads(sen.files["config.json"])
    for spec in (*config["neurons"], config["text_tower"]):
        tower = hub.repositories[spec["hub_id"]]
        files = {**tower.files, "armed.py": ARMED.format(mark=str(mark)).encode()}
        for name in ARMED_FILES.keys() & files.keys():
            classes, own = ARMED_FILES[name]
            settings = {**json.loads(files[name]), "auto_map": classes}
            if name == unknown and own in settings:
                settings[own] = "Armed"
            files[name] = json.dumps(settings).encode()
        spec["revision"] = tower.commit(files)
    sen.commit({**sen.files, "config.json": json.dumps(config).encode()})


@pytest.mark.parametrize("unknown", [None, "config.json", "preprocessor_config.json"])
def test_trust_in_the_code_of_a_sen_does_not_extend_to_its_neurons(unknown, hub, towers, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(builtins, "input", lambda *question: asked.append(question) or "y")
    hub.upload("org/ast", towers["ast"])
    with connected(hub, tmp_path / "author", WRITER):
        neurons = [{"hub_id": "org/clip", "num_frames": 2}, "org/ast"]
        SENModel.from_neurons(neurons, text_tower="org/clip", **SMALL).push_to_hub("org/sen")
    arm(hub, tmp_path / "mark", unknown)
    problems, sound = {}, {"array": [0.0, 0.5] * 4000, "sampling_rate": 16_000}
    with connected(hub, tmp_path / "reader", READER):
        processor = SENProcessor.from_pretrained("org/sen", trust_remote_code=True)
        calls = {
            "config.json": lambda: SENModel.from_pretrained("org/sen", trust_remote_code=True),
            "tokenizer_config.json": lambda: processor(text=["a dog"]),
            "preprocessor_config.json": lambda: processor(videos={"audio": sound}),
        }
        for file, call in calls.items():
            try:
                call()
            except ValueError as error:
                problems[file] = str(error)
    assert set(problems) == {unknown} - {None}
    assert all(message.startswith("neuron '") for message in problems.values())
    assert not asked
    assert not (tmp_path / "mark").exists()


CLEAN = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_sen":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

frames = load_file({work!r} + "/frames.safetensors")["frames"]
model = AutoModel.from_pretrained("org/sen", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("org/sen", trust_remote_code=True)
assert all(type(part).__module__.startswith("transformers_modules.") for part in (model, processor))
with torch.no_grad():
    logits = model(**processor(videos=frames, text=["a dog", "a man"])).logits_per_video
save_file({{"logits": logits}}, {work!r} + "/logits.safetensors")
"""


def test_a_sen_with_code_gives_the_same_outputs_without_the_package_and_runs_no_other_code(
    model, hub, tmp_path, monkeypatch
):
    save_with_code(model, tmp_path / "unused", monkeypatch)  # from here on the code is saved with the model
    with connected(hub, tmp_path / "author", WRITER):
        model.push_to_hub("org/sen")
        SENProcessor(model.config).push_to_hub("org/sen")
        prepared = SENProcessor(model.config)(videos=FRAMES, text=["a dog", "a man"])
    assert {"modeling_sen.py", "processing_sen.py", "hub_files.py"} <= set(stored(hub))
    arm(hub, tmp_path / "mark", None)
    save_file({"frames": FRAMES}, tmp_path / "frames.safetensors")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": READER}
    environment |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", CLEAN.format(work=str(tmp_path))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, input="y\n" * 9, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "_secret" not in done.stdout + done.stderr
    with torch.no_grad():
        expected = model(**prepared).logits_per_video
    assert load_file(tmp_path / "logits.safetensors")["logits"].tolist() == expected.tolist()
    assert not (tmp_path / "mark").exists()
