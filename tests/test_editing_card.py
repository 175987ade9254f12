"""The card of an editing model: its base model with licence and commit, the clip of the tuning, and the uploaded files."""

import json
from pathlib import Path

import pytest
from random_editing import make_editing, make_unet, randomize
from test_model_card import COMMIT, HUB_TASKS, config_on_hub, metadata, section
from tiny_editing import save_tiny_editing

pytest.importorskip("diffusers")

from modeling_sen import SENForVideoEditing, base_models, publishing
from modeling_sen.hub_files import HubSource
from modeling_sen.model_card import model_card
from modeling_sen.publishing import push_folder
from modeling_sen.upload_files import checkpoint_files

RECORD = {
    "video": "jeep.mp4",
    "prompt": 'a "jeep" is moving',
    "frames": 24,
    "frame_size": [64, 112],
    "steps": 180,
    "best_step": 120,
    "learning_rate": 3e-5,
    "seed": 7,
}


@pytest.fixture
def editing(make_sen):
    return make_editing(make_sen())


def card_of(model):
    return model_card(model, config_on_hub(model.sen), "org/editing")


def test_the_diffusion_model_is_a_base_model_with_its_licence(editing, monkeypatch):
    stated = {"org/sd": "creativeml-openrail-m"}
    monkeypatch.setattr(base_models, "licence_of_repository", lambda source: stated.get(source.location))
    editing.config.base_model_id = "org/sd"
    editing.base_source = HubSource("org/sd", COMMIT)
    card = card_of(editing)
    size = sum(weight.numel() for weight in make_unet().parameters())
    row = f"| `unet` | noisy frames, text and features | [org/sd](https://huggingface.co/org/sd) | `{COMMIT[:12]}` |"
    assert f"{row} creativeml-openrail-m | {size:,} |" in section(card, "Base models")
    data = metadata(card)
    assert "org/sd" in data["base_model"]
    assert data["pipeline_tag"] in HUB_TASKS
    assert data["tags"] == ["sen", "video-editing"]
    assert "pip install 'modeling-sen[editing]'" in card.text


def test_the_card_of_an_untuned_adapter_says_that_it_is_tuned_on_each_clip(editing):
    card = card_of(editing)
    size = editing.adapter.num_parameters()
    assert f"The adapter of the diffusion model, {size:,} more parameters, is in `adapter`. It is tuned on each" in (
        section(card, "Trained")
    )
    assert "How it was trained is not recorded." in section(card, "Training data")
    assert 'source_prompt="a person cooking"' in section(card, "Use")


def test_the_card_names_the_clip_that_the_adapter_was_tuned_on(editing):
    editing.adapter.register_to_config(tuning=RECORD)
    card = card_of(editing)
    assert section(card, "Training data") == (
        'The adapter was tuned on one clip, `jeep.mp4`: 24 frames of 112 x 64, with the prompt "a \\"jeep\\" is moving"; 120 '
        "steps (of 180 that were run), learning rate 3e-05, seed 7."
    )
    assert 'source_prompt="a \\"jeep\\" is moving"' in section(card, "Use")
    assert "The adapter is tuned on one clip" in section(card, "Limits")
    assert "It is tuned on each clip" not in card.text
    editing.adapter.register_to_config(tuning={"converted_from": "Tune-A-Video"})
    assert section(card_of(editing), "Training data") == "The adapter was tuned with Tune-A-Video, and converted."


def test_the_record_of_the_tuning_is_saved_with_the_adapter(editing, tmp_path):
    editing.adapter.register_to_config(tuning=RECORD)
    editing.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "adapter" / "config.json").read_text())["tuning"] == RECORD
    found = SENForVideoEditing.from_pretrained(tmp_path / "saved", unet=make_unet())
    assert found.adapter.config.tuning == RECORD


def test_the_adapter_is_uploaded_and_a_local_base_model_is_refused(make_sen, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "run_example", lambda *_, **__: "")
    make_unet().save_pretrained(tmp_path / "base" / "unet")
    model = make_editing(make_sen(), str(tmp_path / "base"))
    randomize(model.adapter)
    model.save_pretrained(tmp_path / "saved", include_neurons=True)
    assert "adapter/diffusion_pytorch_model.safetensors" in checkpoint_files(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"base_model_id: the base model is the folder .*/base of this machine"):
        push_folder(tmp_path / "saved", "org/editing", dry_run=True)
    make_unet().save_pretrained(tmp_path / "saved" / "base" / "unet")
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**settings, "base_model_id": "./base"}))
    planned = push_folder(tmp_path / "saved", "org/editing", dry_run=True)
    assert {"adapter/config.json", "adapter/diffusion_pytorch_model.safetensors", "base/unet/config.json"} <= set(
        planned.files
    )
    assert "in `neuron_NAME` and `base`." in planned.card
    row = "| `unet` | noisy frames, text and features | [base](base), in this repository |  |"
    assert f"{row} unknown |" in planned.card

    (tmp_path / "saved" / "base" / "README.md").write_text("---\nlicense: openrail\n---\n")
    planned = push_folder(tmp_path / "saved", "org/editing", dry_run=True)
    assert f"{row} openrail |" in planned.card
    assert "base/README.md" in planned.files


def test_the_example_on_the_card_runs_on_a_clip(sen_folder, tmp_path):
    """With 16 frames and 20 steps, and a base model of a few thousand weights."""
    folder = Path(save_tiny_editing(tmp_path / "checkpoint", sen_folder))
    file = folder / "adapter" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tuning": RECORD}))
    planned = push_folder(folder, "org/editing", dry_run=True)
    assert "Before the upload this ran on a generated clip" in planned.card
    assert '"clip.mp4",\n    source_prompt="a \\"jeep\\" is moving",\n    edit_prompt=' in planned.card
    assert {"base/vae/config.json", "base/tokenizer/tokenizer.json", "neuron_image/config.json"} <= set(planned.files)
