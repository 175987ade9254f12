"""A chat model and its language model on the Hub: pinned commits, files in the checkpoint's repository, pushing."""

import json

import pytest
import torch
from fake_hub import fake_hub
from hub_session import READER, WRITER, connected
from random_chat import make_chat, make_language_model, prompt
from random_sen import SMALL, random_inputs, random_weights
from safetensors.torch import load_file, save_file

from modeling_sen import SENForConditionalGeneration, SENModel


@pytest.fixture
def hub(towers, tmp_path):
    make_language_model().save_pretrained(tmp_path / "llm")
    with fake_hub() as hub:
        hub.tokens = {WRITER: "write", READER: "read"}
        hub.upload("org/clip", towers["clip"])
        hub.upload("org/llm", tmp_path / "llm")
        yield hub


def of_the_hub():
    torch.manual_seed(1)
    sen = SENModel.from_neurons([{"hub_id": "org/clip", "num_frames": 2}], text_tower="org/clip", **SMALL)
    return make_chat(random_weights(sen), "org/llm")


def of_pixels(model):
    ids, pixels = prompt(model), random_inputs(1)["image_pixel_values"]
    with torch.no_grad():
        return model(input_ids=ids, image_pixel_values=pixels).logits


def test_the_loaded_commit_is_pinned(hub, tmp_path):
    commit = hub.repositories["org/llm"].refs["main"]
    with connected(hub, tmp_path / "author", WRITER):
        model = of_the_hub()
        other = make_language_model()
        other.lm_head.weight.data.neg_()
        other.save_pretrained(tmp_path / "other")
        hub.upload("org/llm", tmp_path / "other")  # a newer commit on the branch
        model.save_pretrained(tmp_path / "chat")
        found = SENForConditionalGeneration.from_pretrained(tmp_path / "chat")
        chosen = SENForConditionalGeneration.from_llm("org/llm", model.sen, {"revision": commit})
        newest = SENForConditionalGeneration.from_llm("org/llm", model.sen)
    assert found.config.language_model == {"hub_id": "org/llm", "revision": commit, "dtype": "float32"}
    torch.testing.assert_close(of_pixels(found), of_pixels(model), rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen.language_model.lm_head.weight, model.language_model.lm_head.weight)
    assert torch.equal(newest.language_model.lm_head.weight, -model.language_model.lm_head.weight)


def test_files_in_the_repository_are_loaded_from_the_same_commit(hub, tmp_path):
    peft = pytest.importorskip("peft")
    with connected(hub, tmp_path / "author", WRITER):
        model = of_the_hub()
        settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model.add_language_model_adapter(settings)
        model.save_pretrained(tmp_path / "chat", include_language_model=True, include_neurons=True)
        commit = hub.upload("org/chat", tmp_path / "chat")
        expected = of_pixels(model)
        for file in (tmp_path / "chat").rglob("*.safetensors"):
            weights = {name: -weight for name, weight in load_file(file).items()}
            save_file(weights, file, metadata={"format": "pt"})
        hub.upload("org/chat", tmp_path / "chat")
    with connected(hub, tmp_path / "reader", READER):
        pinned = SENForConditionalGeneration.from_pretrained("org/chat", revision=commit)
        newest = SENForConditionalGeneration.from_pretrained("org/chat")
    torch.testing.assert_close(of_pixels(pinned), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(of_pixels(newest), expected, atol=1e-2)


def test_a_push_includes_the_language_model(hub, tmp_path):
    with connected(hub, tmp_path / "author", WRITER):
        model = of_the_hub()
        model.push_to_hub("org/chat", include_language_model=True)
        model.save_pretrained(tmp_path / "chat", include_language_model=True, push_to_hub=True, repo_id="org/other")
        model.push_to_hub("org/whole", include_neurons=True)
        expected = of_pixels(model)
        SENForConditionalGeneration.from_pretrained("org/whole").push_to_hub("org/again")
    commit = hub.repositories["org/llm"].refs["main"]
    for repo_id in ("org/chat", "org/other", "org/whole", "org/again"):
        files = hub.repositories[repo_id].files
        assert "language_model/model.safetensors" in files
        assert json.loads(files["config.json"])["language_model"]["base_model"] == f"org/llm@{commit}"
        is_whole = repo_id in ("org/whole", "org/again")
        assert ("neuron_image/model.safetensors" in files) == is_whole
        card = files["README.md"].decode()
        assert f"[org/llm](https://huggingface.co/org/llm) | `{commit[:12]}` | " in card
        assert f"This repository holds {'all of them' if is_whole else 'language_model'}, in" in card
        with connected(hub, tmp_path / "reader", READER):
            found = SENForConditionalGeneration.from_pretrained(repo_id)
        torch.testing.assert_close(of_pixels(found), expected, rtol=1e-5, atol=1e-5)
