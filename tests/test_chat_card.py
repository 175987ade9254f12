"""The card of a chat model: the language model is among the base models, and the training run is described."""

import pytest
import yaml
from test_model_card import COMMIT, config_on_hub, metadata, section
from tiny_language_model import write_language_model

from modeling_sen import SENForConditionalGeneration, base_models
from modeling_sen.model_card import model_card, training_text


@pytest.fixture
def chat(make_sen, tmp_path):
    llm = write_language_model(tmp_path / "llm")
    return SENForConditionalGeneration.from_llm(llm, make_sen(), window_frames=2, tokens_per_frame=4)


def card_of(chat):
    return model_card(chat, config_on_hub(chat.sen), "org/chat")


def test_the_language_model_is_a_base_model_with_its_licence(chat, monkeypatch):
    stated = {"org/llm": "cc-by-nc-4.0"}
    monkeypatch.setattr(base_models, "licence_of_repository", lambda source: stated.get(source.location))
    chat.config.language_model = {"hub_id": "org/llm", "revision": COMMIT}
    card = card_of(chat)
    size = sum(weight.numel() for weight in chat.language_model.parameters())
    row = (
        f"| `language_model` | text and visual tokens | [org/llm](https://huggingface.co/org/llm) | `{COMMIT[:12]}` |"
    )
    assert f"{row} cc-by-nc-4.0 | {size:,} |" in section(card, "Base models")
    data = metadata(card)
    assert "org/llm" in data["base_model"]
    assert (data["license"], data["license_name"]) == ("other", "cc-by-nc-4.0")
    assert (data["pipeline_tag"], data["tags"]) == ("video-text-to-text", ["sen", "video-chat"])
    assert 'pipeline("video-chat", model="org/chat")' in card.text
    assert "3 frozen encoders (image, video, audio)" in card.text
    assert "are the association and projector" in section(card, "Trained")


def test_a_language_model_in_the_repository_is_named(chat):
    chat.config.language_model = {"hub_id": "./language_model"}
    card = card_of(chat)
    assert "This repository holds language_model, in `language_model`." in card.text
    assert "org/llm" not in card.text


def test_parameters_of_adapters_are_counted_separately(chat):
    peft = pytest.importorskip("peft")
    size = sum(weight.numel() for weight in chat.language_model.parameters())
    assert "Adapters" not in section(card_of(chat), "Trained")
    chat.add_language_model_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    card = card_of(chat)
    assert f"| {size:,} |" in section(card, "Base models").splitlines()[-3]
    # Maps in two layers, with 32 inputs and outputs.
    assert "Adapters of the language model, 256 more parameters" in section(card, "Trained")


def test_the_card_names_task_models_and_settings_of_the_run(tmp_path):
    settings = {
        "task": "chat",
        "train": "/home/me/chat.json",
        "model": "sen-tiny",
        "llm": "org/llm",
        "sen": "sen-tiny",
    }
    settings |= {"preset": "instruct", "learning_rate": 2e-5, "llm_learning_rate": None, "seed": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    text = training_text(tmp_path)
    assert "- task: chat (instruct), from the language model `org/llm` and the SEN `sen-tiny`" in text
    assert "- learning rate 2e-05, seed 1" in text
    assert "/home/me" not in text
    (tmp_path / "train.yaml").write_text(
        yaml.safe_dump({**settings, "llm": None, "preset": None, "model": "org/chat"})
    )
    assert "- task: chat (align), from `org/chat`" in training_text(tmp_path)
