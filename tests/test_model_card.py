"""The model card: encoders with commits and licences, parameter counts, training, exact results, and text by its authors."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from random_sen import SMALL, random_weights
from safetensors.torch import load_file
from test_pretrained_sen import load_toy_head

from modeling_sen import SEN_TINY, SEN_TINY_CHAT, SEN_TINY_EDITING, SEN_TINY_TRACKING, SENModel, base_models
from modeling_sen.card_results import eval_results
from modeling_sen.model_card import is_generated, keeping_text, model_card, training_text
from modeling_sen.upload_files import saved_config
from recipes.sen_tiny.card import (
    CARD,
    CHAT_CARD,
    EDITING_CARD,
    TRACKING_CARD,
    card_text,
    chat_card_text,
    editing_card_text,
    tracking_card_text,
)

# Pipeline tags of the Hub (huggingface.js, packages/tasks/src/pipelines.ts) for video and features.
HUB_TASKS = {"video-classification", "video-text-to-text", "video-to-video", "text-to-video", "feature-extraction"}
HUB_TASKS |= {"keypoint-detection"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"

RESULTS = {
    "task": "recognition",
    "protocol": {"name": "own", "version": 1},
    "model": {"sha1": "f" * 40},
    "versions": {"modeling-sen": "0.1.0"},
    "split": "test",
    "column": None,
    "num": None,
    "seed": 0,
    "dataset": None,
    "head": None,
    "data": [{"listed": [{"file": "/home/me/val1.txt", "sha1": "a" * 40, "known_as": None}], "classes": 3}],
    "splits": [{"source": "/home/me/val1.txt", "clips": 7, "top1": 2 / 7, "text_to_video_MdR": 1.5}],
    "mean": {"top1": 2 / 7, "text_to_video_MdR": 1.5},
    "std": {"top1": None, "text_to_video_MdR": None},
}


def config_on_hub(model):
    """The model's configuration as if its towers came from the Hub."""
    config = copy.deepcopy(model.config)
    for spec in [*config.neurons, config.text_tower]:
        spec["hub_id"], spec["revision"] = f"org/{spec['name']}", COMMIT
    return config


@pytest.fixture
def licences(monkeypatch):
    """Repository -> licence, as the repositories' cards give it."""
    stated: dict[str, str | None] = {}
    monkeypatch.setattr(base_models, "licence_of_repository", lambda source: stated.get(source.location))
    return stated


def metadata(card) -> dict:
    return yaml.safe_load(str(card).split("---")[1])


def section(card, name: str) -> str:
    return re.search(rf"## {name}\n\n(.*?)(?=\n## |\n<!-- )", card.text, re.DOTALL)[1].strip()


def test_encoders_are_listed_with_commit_licence_and_size(make_sen, licences):
    model = make_sen()
    licences |= {"org/image": "mit", "org/video": "cc-by-4.0"}
    card = model_card(model, config_on_hub(model), "org/sen")
    rows = {row.split("|")[1].strip(" `"): row for row in section(card, "Base models").splitlines()[2:] if "|" in row}
    assert rows.keys() == {"image", "video", "audio", "class_text"}
    parameters = sum(weight.numel() for weight in model.neurons["image"].parameters())
    assert rows["image"] == (
        f"| `image` | 2 frames | [org/image](https://huggingface.co/org/image) | `{COMMIT[:12]}` | mit | {parameters:,} |"
    )
    assert "| cc-by-4.0 |" in rows["video"]
    assert "| unknown |" in rows["audio"]  # not guessed
    data = metadata(card)
    assert data["base_model"] == ["org/image", "org/video", "org/audio", "org/class_text"]
    assert (data["base_model_relation"], data["license"]) == ("adapter", "apache-2.0")
    assert "Not for commercial use" not in card.text


def test_copied_towers_are_listed_with_their_origin(make_sen, tmp_path, licences):
    model = make_sen()
    for spec in (model.config.neurons[0], model.config.text_tower):
        spec["base_model"] = f"org/clip@{COMMIT}"
    model.save_pretrained(tmp_path, include_neurons=True)
    licences["org/clip"] = "mit"
    again = SENModel.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    for config in (saved_config(tmp_path), saved_config(tmp_path / "again")):
        assert config.neuron_specs[0].hub_id == "./neuron_image"
        card = model_card(again, config, "org/sen")
        assert metadata(card)["base_model"] == ["org/clip"]
        assert f"[org/clip](https://huggingface.co/org/clip) | `{COMMIT[:12]}` | mit |" in card.text
        assert "This repository holds all of them, in `neuron_NAME`." in card.text


def test_the_licence_of_a_local_tower_is_read_from_the_card_in_its_folder(make_sen, towers, tmp_path):
    folder = shutil.copytree(towers["clip"], tmp_path / "clip")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: some-nc-licence\n---\n")
    neurons = [{"hub_id": str(folder), "num_frames": 2}]
    model = SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL)
    image, text = base_models.base_models(model, model.config, {})
    assert (image.licence, image.hub_id, image.is_non_commercial) == ("some-nc-licence", None, True)
    assert (text.licence, text.is_non_commercial) == (None, False)
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")  # damaged YAML
    assert base_models.base_models(model, model.config, {})[0].licence is None


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("cc-by-nc-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("fair-noncommercial-research-license", True),
        ("Non-Commercial", True),
        ("apple-amlr", True),
        ("cc-by-4.0", False),
        ("apache-2.0", False),
        ("ncsa", False),
    ],
)
def test_licences_that_forbid_commercial_use_are_recognised(licence, expected):
    assert base_models.is_non_commercial(licence) is expected


def test_a_non_commercial_encoder_marks_the_card(make_sen, licences):
    model = make_sen()
    licences |= {"org/image": "mit", "org/audio": "cc-by-nc-4.0"}
    card = model_card(model, config_on_hub(model), "org/sen", licence="mit")
    data = metadata(card)
    assert (data["license"], data["license_name"]) == ("other", "cc-by-nc-4.0")
    assert data["license_link"] == "https://huggingface.co/org/audio"
    top = card.text.split("## Use")[0]
    assert "**Not for commercial use.** `audio` (org/audio) is under cc-by-nc-4.0" in top
    assert "What was trained on top is under mit." in top


def test_parameter_counts_are_those_of_the_saved_file(make_sen, tmp_path):
    model = random_weights(make_sen())
    model.save_pretrained(tmp_path)
    own = sum(weight.numel() for weight in load_file(tmp_path / "model.safetensors").values())
    frozen = {weight for neuron in model.neurons.values() for weight in neuron.parameters()}
    total = own + sum(weight.numel() for weight in frozen)
    text = section(model_card(model, model.config, "org/sen"), "Trained")
    assert text.startswith(f"{own:,} of {total:,} parameters ({100 * own / total:.2f} %)")


def test_results_are_exact_in_the_metadata(make_sen):
    model = make_sen()
    entries = eval_results(RESULTS, "zero-shot-video-classification", "video-classification")
    card = model_card(model, model.config, "org/sen", results=entries)
    (index,) = metadata(card)["model-index"]
    assert index["name"] == "sen"
    (result,) = index["results"]
    assert {metric["name"]: metric["value"] for metric in result["metrics"]} == RESULTS["mean"]
    assert result["dataset"]["name"] == "val1.txt"
    assert result["dataset"]["args"]["model_sha1"] == "f" * 40
    again = ModelCard(str(card))
    assert again.data.eval_results == entries
    assert "| val1.txt | 7 | 3 | own, version 1 | top1 | 28.57 % |" in section(card, "Measured")
    assert "| text_to_video_MdR | 1.50 |" in card.text
    assert "/home/me" not in str(card)
    assert "No measurements are recorded." in model_card(model, model.config, "org/sen").text


def test_the_packages_task_is_a_tag_and_the_hubs_task_the_pipeline_tag(make_sen):
    model = make_sen()
    data = metadata(model_card(model, model.config, "org/sen"))
    assert data["pipeline_tag"] in HUB_TASKS
    assert {"sen", "zero-shot-video-classification"} <= set(data["tags"])
    assert data["library_name"] == "transformers"


def test_the_card_of_a_sen_without_class_texts_shows_how_to_embed(towers):
    model = SENModel.from_neurons([{"hub_id": towers["clip"], "num_frames": 2}], projection_dim=12, **SMALL)
    card = model_card(model, model.config, "org/sen")
    assert metadata(card)["pipeline_tag"] in HUB_TASKS
    assert 'SENEncoder.from_pretrained("org/sen")' in section(card, "Use")


def test_the_card_of_a_head_loads_it_with_its_own_class(make_sen):
    toy, sen = load_toy_head(), make_sen()
    head = toy.ToyHead(toy.ToyConfig(sen_config=sen.config.to_dict()))
    head.base_model.load_neurons()
    card = model_card(head, head.config.sen_config, "org/toy")
    assert "from modeling_sen.toy_head import ToyHead" in card.text
    assert card.text.strip().startswith(
        "# toy\n\n`ToyHead`, a head on a Super Encoding Network (SEN): 3 frozen encoders"
    )
    assert "are the association and head" in card.text
    assert metadata(card)["pipeline_tag"] in HUB_TASKS


def test_the_card_of_a_tracker_shows_its_pipeline(tiny_tracker):
    card = model_card(tiny_tracker, tiny_tracker.sen.config, "org/tracker")
    data = metadata(card)
    assert data["pipeline_tag"] in HUB_TASKS
    assert {"sen", "video-tracking"} <= set(data["tags"])
    assert 'track = pipeline("video-tracking", model="org/tracker")' in section(card, "Use")
    assert "pip install 'modeling-sen[tracking]'" in section(card, "Use")
    assert "are the association and head" in section(card, "Trained")
    assert "untrained" not in section(card, "Limits")  # a tracker has no gate of the fused embedding


def test_training_is_described_without_local_paths(tmp_path):
    run = tmp_path / "run"
    best = run / "best"
    best.mkdir(parents=True)
    assert training_text(best) == ""
    clips = tmp_path / "clips.csv"
    clips.write_text("")
    settings = {
        "train": str(clips),
        "task": "recognition",
        "validation": "world:validation?num=4",
        "model": "clip-videomae-ast",
        "learning_rate": 0.002,
        "train_sha256": "b" * 64,
    }
    (run / "train.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {"eval_top1": 0.25, "eval_runtime": 1.0, "step": 2},
        {"eval_top1": 0.125, "step": 4},
        {"loss": 1.0, "step": 4},
    ]
    state = {"global_step": 4, "best_global_step": 2, "train_batch_size": 8, "log_history": rows}
    text = training_text(best, state=state)
    assert str(tmp_path) not in text
    assert f"`clips.csv` (sha256 of clips and targets `{'b' * 64}`)" in text
    assert "`world:validation?num=4`" in text
    assert "recognition, from `clip-videomae-ast`" in text
    assert "4 steps of 8 clips" in text
    assert "learning rate 0.002" in text
    assert "top1 0.2500 (step 2)" in text
    assert "runtime" not in text


def test_texts_in_the_card_folder_are_added_to_their_sections(make_sen, tmp_path):
    model = make_sen()
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "introduction.md").write_text("For birds.\n")
    (tmp_path / "card" / "limits.md").write_text("- No penguins.\n")
    (tmp_path / "card" / "limits_2.md").write_text("- No owls.\n")
    card = model_card(model, model.config, "org/sen", tmp_path)
    assert "For birds." in card.text.split("## Use")[0]
    assert "- No penguins.\n\n- No owls." in section(card, "Limits")
    assert "have recorded none" not in card.text


def test_an_untrained_association_is_marked(make_sen):
    model = make_sen()
    assert "The association is untrained" in model_card(model, model.config, "org/sen").text
    trained = random_weights(model)
    assert "untrained" not in model_card(trained, trained.config, "org/sen").text


def test_an_edited_card_keeps_its_text(make_sen):
    model = make_sen()
    card = model_card(model, model.config, "org/sen")
    pushed = ModelCard(str(card))
    assert is_generated(pushed.text)
    pushed.text = pushed.text.replace("## Limits", "## Limits, honestly")
    pushed.data["language"] = "en"
    pushed.data["tags"] = [*pushed.data["tags"], "birds"]
    changed = ModelCard(str(pushed))
    assert not is_generated(changed.text)
    entries = eval_results(RESULTS, None, "video-classification")
    kept = ModelCard(str(keeping_text(model_card(model, model.config, "org/sen", results=entries), changed)))
    assert "## Limits, honestly" in kept.text
    assert kept.data["language"] == "en"
    assert {"birds", "sen"} <= set(kept.data["tags"])
    assert kept.data["eval_results"] == entries
    without = ModelCard(str(keeping_text(card, kept)))  # results are dropped, as after further training
    assert without.data["eval_results"] is None


def test_only_generated_cards_are_replaced():
    assert is_generated("\n")
    assert is_generated(
        "This is the model card of a transformers model. This model card has been automatically generated."
    )
    assert not is_generated("# My model\n\nAbout birds.\n")


def test_the_card_of_sen_tiny_is_up_to_date():
    assert CARD.read_text() == card_text()
    text = CARD.read_text()
    assert all(words.read_text().strip() in text for words in Path(SEN_TINY, "card").glob("*.md"))


@pytest.mark.skipif(not Path(SEN_TINY_TRACKING, "config.json").is_file(), reason="the tracker is not trained yet")
def test_the_card_of_sen_tinys_tracker_is_up_to_date():
    assert TRACKING_CARD.read_text() == tracking_card_text()
    text = TRACKING_CARD.read_text()
    assert all(words.read_text().strip() in text for words in Path(SEN_TINY_TRACKING, "card").glob("*.md"))


def test_the_card_of_sen_tinys_chat_is_up_to_date():
    assert CHAT_CARD.read_text() == chat_card_text()
    text = CHAT_CARD.read_text()
    assert all(words.read_text().strip() in text for words in Path(SEN_TINY_CHAT, "card").glob("*.md"))


def test_the_card_of_sen_tinys_editing_is_up_to_date():
    assert EDITING_CARD.read_text() == editing_card_text()
    text = EDITING_CARD.read_text()
    assert all(words.read_text().strip() in text for words in Path(SEN_TINY_EDITING, "card").glob("*.md"))
