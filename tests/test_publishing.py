"""Pushes to a small local Hub: the uploaded files, the card, and the changes of a second push."""

import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import fake_hub
from huggingface_hub import ModelCard
from random_sen import SMALL, random_inputs, random_weights
from test_hub import run_observer
from test_pretrained_sen import load_toy_head
from tiny_language_model import write_language_model
from transformers import AutoModel

from modeling_sen import (
    SEN_TINY,
    SENChatProcessor,
    SENForConditionalGeneration,
    SENForVideoTracking,
    SENModel,
    SENProcessor,
    SENTrackingConfig,
    publishing,
)
from modeling_sen.pipelines.video_pipeline import VideoPipeline
from modeling_sen.publishing import push_folder

DATA = "world:test?num=6&num_objects=1&size=32&num_frames=8"


class AnyPipeline(VideoPipeline):
    _forward = postprocess = None


def measure(checkpoint: Path, output: Path) -> dict:
    from modeling_sen.commands.evaluate import main

    main(str(checkpoint), [DATA], column="shape", output=output)
    return json.loads((output / "results.json").read_text())


def observe(work: str) -> dict:
    """The results of pushes to the small Hub in a process that is online."""
    found: dict = {}
    publishing.run_example = lambda *_, **__: ""
    root = Path(work)
    neurons = [{"hub_id": "org/clip", "num_frames": 2}]
    model = random_weights(SENModel.from_neurons(neurons, text_tower="org/clip", **SMALL))
    model.save_pretrained(root / "sen")
    found["results"] = measure(root / "sen", root / "sen" / "evaluation")
    push_folder(root / "sen", "org/sen", private=True, licence="mit")
    found["pulled"] = measure("org/sen", root / "pulled")

    # Results for other data from another machine are added to the existing ones; after training all are dropped.
    shutil.move(root / "sen" / "evaluation", root / "first")
    results = json.loads((root / "first" / "results.json").read_text())
    results |= {"dataset": "other", "mean": {"top1": 1 / 3}, "std": {"top1": None}}
    (root / "sen" / "evaluation").mkdir()
    (root / "sen" / "evaluation" / "results.json").write_text(json.dumps(results))
    push_folder(root / "sen", "org/sen", private=True)
    SENModel.from_pretrained("org/sen").push_to_hub("org/sen")
    loaded = SENModel.from_pretrained(root / "sen")
    loaded.push_to_hub("org/same", tags=["birds"])
    loaded.gate.data += 0.1
    loaded.push_to_hub("org/sen")

    # A card written by a person is kept.
    from huggingface_hub import HfApi

    mine = b"---\nlicense: mit\nlanguage: en\n---\n# Mine\n\nAbout birds.\n"
    HfApi().create_repo("org/mine")
    HfApi().upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id="org/mine")
    push_folder(root / "sen", "org/mine")

    processor = SENProcessor(model.config)
    AnyPipeline(model=model, processor=processor, device="cpu").push_to_hub("org/pipeline", include_neurons=True)
    copy = SENModel.from_pretrained("org/pipeline")
    copy.push_to_hub("org/again")

    found["trained"] = train(root, copy)
    found["adapter"] = adapt(root)
    toy = load_toy_head()
    head = toy.ToyHead(toy.ToyConfig(sen_config=model.config.to_dict()))
    head.base_model.load_neurons()
    head.push_to_hub("org/toy")
    found["tracks"] = push_trackers(root, model)
    return found


def push_trackers(root: Path, sen) -> list[list]:
    """Tracks of a tracker and of its two pushed copies: with the towers' original repositories, and with towers included."""
    pixels = SENForVideoTracking(SENTrackingConfig(sen_config=sen.config.to_dict()))
    tracker = SENForVideoTracking.from_sen(sen, pixels, window=2)
    for parameter in (tracker.network.semantic_scale, tracker.network.semantic_score):
        parameter.data.fill_(0.7)
    tracker.save_pretrained(root / "tracker")
    push_folder(root / "tracker", "org/tracker")
    push_folder(root / "tracker", "org/alone", include_neurons=True)
    frames = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        return [
            model(frames, torch.tensor([[0.0, 9.0, 20.0]])).tracks.tolist()
            for model in (tracker, *map(AutoModel.from_pretrained, ("org/tracker", "org/alone")))
        ]


def train(root: Path, model) -> list[str]:
    """Trains with SENTrainer and with Transformers' Trainer and the package's card; returns the first run's file names."""
    from transformers import Trainer, TrainingArguments

    from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments

    inputs = {"image_pixel_values": random_inputs()["image_pixel_values"][0]}
    texts = torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513]])
    rows = [{**inputs, "labels": torch.tensor(0)}, {**inputs, "labels": torch.tensor(1)}]

    def collate(batch):
        joined = {name: torch.stack([row[name] for row in batch]) for name in batch[0]}
        return {**joined, "text_input_ids": texts}

    settings = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "save_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    settings |= {"push_to_hub": True, "hub_token": os.environ["HF_TOKEN"], "remove_unused_columns": False}
    settings |= {"report_to": "none", "hub_strategy": "every_save"}
    for kind, arguments_of, name in (
        (SENTrainer, SENTrainingArguments, "own"),
        (Trainer, TrainingArguments, "stock"),
    ):
        arguments = arguments_of(str(root / name), hub_model_id=f"org/{name}", **settings)
        trainer = kind(model, arguments, data_collator=collate, train_dataset=rows)
        if kind is Trainer:
            trainer.create_model_card = types.MethodType(publishing.write_trainer_card, trainer)
        trainer.train()
        trainer.push_to_hub()
    return sorted(path.name for path in (root / "own").iterdir())


def adapt(root: Path) -> list:
    peft = pytest.importorskip("peft")
    base = SENModel.from_pretrained("org/pipeline")
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))
    model.save_pretrained(root / "adapter")
    push_folder(root / "adapter", "org/adapter")
    back = peft.PeftModel.from_pretrained(SENModel.from_pretrained("org/pipeline"), "org/adapter")
    inputs = {"image_pixel_values": random_inputs()["image_pixel_values"]}
    with torch.no_grad():
        return [each.eval()(**inputs).fused_embeds.tolist() for each in (model, back)]


@pytest.fixture(scope="module")
def hub(towers, tmp_path_factory):
    folder = shutil.copytree(towers["clip"], tmp_path_factory.mktemp("clip") / "clip")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Clip\n")
    with fake_hub() as hub:
        hub.upload("org/clip", folder)
        yield hub


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory) -> dict:
    return run_observer("test_publishing", hub.url, tmp_path_factory.mktemp("work"))


def commits(hub, name: str) -> list[dict[str, bytes]]:
    """The files of each commit, oldest first, except for the one that creates the repository."""
    return list(hub.repositories[f"org/{name}"].commits.values())[1:]


def card_of(files: dict[str, bytes]) -> ModelCard:
    return ModelCard(files["README.md"].decode())


def metrics_of(card: ModelCard) -> dict[tuple[str, str], float]:
    return {(each.dataset_name, each.metric_name): each.metric_value for each in card.data.eval_results or []}


def test_a_pulled_model_gives_exactly_the_same_results(online):
    assert online["pulled"]["mean"] == online["results"]["mean"]
    assert online["pulled"]["model"]["sha1"] == online["results"]["model"]["sha1"]


def test_the_card_lists_commit_licence_and_results(online, hub):
    files = commits(hub, "sen")[0]
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors", "processor_config.json"}
    card = card_of(files)
    assert metrics_of(card) == {(DATA, name): value for name, value in online["results"]["mean"].items()}
    (clip,) = hub.repositories["org/clip"].commits
    assert card.data["base_model"] == ["org/clip"]
    assert f"[org/clip](https://huggingface.co/org/clip) | `{clip[:12]}` | cc-by-nc-4.0 |" in card.text
    assert (card.data["license"], card.data["license_name"]) == ("other", "cc-by-nc-4.0")
    assert "**Not for commercial use.**" in card.text


def test_results_are_added_by_a_second_push_and_dropped_when_the_weights_change(online, hub):
    first, second, from_hub, changed = (metrics_of(card_of(files)) for files in commits(hub, "sen"))
    assert second == from_hub == {**first, ("other", "top1"): 1 / 3}
    assert changed == {}


def test_a_model_equal_to_its_folder_is_pushed_with_the_folders_results(online, hub):
    (files,) = commits(hub, "same")
    assert metrics_of(card_of(files)) == {("other", "top1"): 1 / 3}
    assert {"birds", "sen", "zero-shot-video-classification"} <= set(card_of(files).data["tags"])


def test_a_card_written_by_a_person_keeps_its_text(online, hub):
    card = card_of(commits(hub, "mine")[-1])
    assert card.text.strip() == "# Mine\n\nAbout birds."
    assert card.data["language"] == "en"
    assert card.data["base_model"] == ["org/clip"]
    assert metrics_of(card) == {("other", "top1"): 1 / 3}


def test_a_pipeline_is_pushed_in_one_commit(online, hub):
    (files,) = commits(hub, "pipeline")
    assert {"README.md", "model.safetensors", "processor_config.json", "neuron_image/model.safetensors"} <= set(files)


def test_copies_of_copies_name_their_origin(online, hub):
    for name in ("pipeline", "again"):
        card = card_of(commits(hub, name)[0])
        assert card.data["base_model"] == ["org/clip"]
        assert card.data["license_name"] == "cc-by-nc-4.0"


@pytest.mark.parametrize("name", ["own", "stock"])
def test_trainers_write_the_card(online, hub, name):
    card = card_of(commits(hub, name)[-1])
    assert card.data["base_model"] == ["org/clip"]
    assert "- 2 steps of 2 clips in each process" in card.text
    assert f'pipeline("zero-shot-video-classification", model="org/{name}")' in card.text


def test_the_trainer_pushes_a_card_with_each_checkpoint_and_no_token(online, hub):
    token = b"hf_of_nobody"
    assert "README.md" in online["trained"]
    for files in commits(hub, "own"):
        assert "README.md" in files
        assert not any(token in content for content in files.values())


def test_a_pushed_adapter_names_its_model_and_gives_the_same_outputs(online, hub):
    np.testing.assert_allclose(*online["adapter"], rtol=1e-5, atol=1e-6)
    (files,) = commits(hub, "adapter")
    assert set(files) == {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"}
    card = card_of(files)
    assert (card.data["base_model"], card.data["base_model_relation"]) == ("org/pipeline", "adapter")
    assert (card.data["library_name"], card.data["license_name"]) == ("peft", "cc-by-nc-4.0")
    assert 'PeftModel.from_pretrained(SENModel.from_pretrained("org/pipeline"), "org/adapter")' in card.text
    assert "LORA of rank 2, on `q_proj`" in card.text


def test_a_head_is_pushed_with_its_card(online, hub):
    (files,) = commits(hub, "toy")
    assert "processor_config.json" not in files
    card = card_of(files)
    assert "`ToyHead`, a head on a Super Encoding Network" in card.text
    assert card.data["base_model"] == ["org/clip"]


def test_a_pushed_tracker_gives_the_same_tracks_with_and_without_its_towers(online, hub):
    sent, *back = online["tracks"]
    for tracks in back:  # another memory alignment of the weights changes the last bit
        np.testing.assert_allclose(tracks, sent, rtol=1e-5, atol=1e-4)
    (files,), (self_contained,) = commits(hub, "tracker"), commits(hub, "alone")
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert {"neuron_image/model.safetensors", "neuron_class_text/model.safetensors"} <= set(self_contained)
    card = card_of(files)
    assert card.data["pipeline_tag"] == "keypoint-detection"
    assert card.data["base_model"] == ["org/clip"]
    assert 'pipeline("video-tracking", model="org/tracker")' in card.text


# --- refused before anything is sent: this process is offline -----------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Records the examples instead of running them: (code, arguments)."""
    ran = []
    monkeypatch.setattr(
        publishing, "run_example", lambda code, *arguments, **named: ran.append((code, arguments, named))
    )
    return ran


def test_a_dry_run_lists_the_files_and_sends_nothing(sen_folder, quick, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", None)  # no request is made
    planned = push_folder(sen_folder, "org/sen", dry_run=True)
    assert planned.url is None
    assert planned.files["model.safetensors"] == (sen_folder / "model.safetensors").stat().st_size
    assert planned.files["README.md"] == len(planned.card.encode())
    assert "neuron_words/model.safetensors" in planned.files
    ((_, (_, offline), _),) = quick
    assert offline


def test_with_code_both_examples_run_and_the_second_without_the_package(sen_folder, quick):
    planned = push_folder(sen_folder, "org/sen", with_code=True, dry_run=True)
    assert {"modeling_sen.py", "processing_sen.py"} <= set(planned.files)
    assert [named for _, _, named in quick] == [{}, {"without_package": True}]
    assert "trust_remote_code=True" in planned.card


def test_towers_are_copied_on_request(quick):
    assert not any(name.startswith("neuron_") for name in push_folder(SEN_TINY, "org/tiny", dry_run=True).files)
    planned = push_folder(SEN_TINY, "org/tiny", include_neurons=True, dry_run=True)
    assert {"neuron_audio/model.safetensors", "neuron_class_text/tokenizer.json"} <= set(planned.files)
    assert "a tower of the package modeling-sen" in planned.card


def test_results_of_other_weights_are_refused(sen_folder, tmp_path, quick):
    folder = shutil.copytree(sen_folder, tmp_path / "sen")
    results = measure(folder, folder / "evaluation")
    assert metrics_of(ModelCard(push_folder(folder, "org/sen", dry_run=True).card)).keys() == {
        (DATA, name) for name in results["mean"]
    }
    model = SENModel.from_pretrained(folder)
    model.gate.data += 0.1
    model.save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"evaluation/results.json: found the sha1 \w{40} of the weights that were measured"
    ):
        push_folder(folder, "org/sen", dry_run=True)


def test_a_local_tower_is_refused(make_sen, tmp_path, quick):
    model = make_sen()
    with pytest.raises(ValueError, match=r"neuron 'image': its tower is the folder .* by include_neurons"):
        model.push_to_hub("org/sen")  # refused before any request, since this process is offline
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"neuron 'image': its tower is the folder .*--include-neurons"):
        push_folder(tmp_path, "org/sen", dry_run=True)
    assert quick == []


def test_a_local_language_model_is_refused_or_included(tmp_path, quick):
    llm, folder = write_language_model(tmp_path / "llm"), tmp_path / "chat"
    model = SENForConditionalGeneration.from_llm(llm, SEN_TINY, window_frames=2, tokens_per_frame=4)
    with pytest.raises(ValueError, match=r"language model: it is the folder .* by include_neurons"):
        model.push_to_hub("org/chat")
    model.save_pretrained(folder)
    SENChatProcessor.from_llm(llm, model.config).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"language model: it is the folder .*--include-neurons"):
        push_folder(folder, "org/chat", dry_run=True)
    assert quick == []
    planned = push_folder(folder, "org/chat", include_neurons=True, dry_run=True)
    expected = {"language_model/model.safetensors", "neuron_audio/model.safetensors", "tokenizer.json"}
    assert expected <= set(planned.files)
    assert "This repository holds all of them, in `neuron_NAME` and `language_model`" in planned.card
    assert str(tmp_path) not in planned.card


def test_an_adapter_of_a_local_model_is_refused(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(SENModel.from_pretrained(SEN_TINY), peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the adapter's model is '.*sen_tiny', expected a repository of the Hub"):
        push_folder(tmp_path, "org/adapter", dry_run=True)


@pytest.mark.parametrize("repo_id", ["sen", "org/sen/more", ""])
def test_a_repository_without_organisation_is_refused(repo_id):
    with pytest.raises(ValueError, match=r"expected ORGANISATION/NAME"):
        push_folder(SEN_TINY, repo_id, dry_run=True)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"found no config.json, expected the folder of a saved model or adapter"
    ):
        push_folder(tmp_path, "org/sen", dry_run=True)
