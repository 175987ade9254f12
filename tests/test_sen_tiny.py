"""The embedded checkpoint: small, offline, and better than the mean of its towers on unseen clips."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

import modeling_sen
from modeling_sen.world import make_scene, render, sound_of
from modeling_sen.world.vocabulary import describe
from modeling_sen.world.write import write_world
from recipes.sen_tiny.train_tiny_association import (
    NEURONS,
    description_embeds,
    description_number,
    model_inputs,
    validate,
)

FOLDER = Path(modeling_sen.SEN_TINY)
# The size limit of the base checkpoint and its towers, with training records.
BUDGET = 6_000_000
CHAT_BUDGET = 7_000_000
EDITING_BUDGET = 9_000_000


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


def test_the_checkpoint_is_within_its_size_limit_and_has_a_folder_for_each_tower():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    sizes = dict.fromkeys(("tracking", "chat", "editing", ""), 0)
    for path in files:
        part = path.relative_to(FOLDER).parts[0]
        sizes[part if part in sizes else ""] += path.stat().st_size
    assert sizes[""] <= BUDGET
    assert sizes["chat"] <= CHAT_BUDGET
    assert sizes["editing"] <= EDITING_BUDGET
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} >= {*NEURONS, "text"}


def test_the_inputs_of_training_equal_those_of_the_processor(model, processor):
    scenes = [make_scene("test", 3, index, num_objects=2, hops=2) for index in range(3)]
    clips = [
        {
            "video": render(scene).frames,
            "audio": (sound_of(scene).astype(np.float32) / 32768, 16_000),
            "depth": render(scene).depth,
            "times": np.arange(16) / 8,
        }
        for scene in scenes
    ]
    wanted, found = model_inputs(scenes), processor(videos=clips)
    for name in NEURONS:
        key = next(key for key in wanted if key.startswith(f"{name}_"))
        assert (wanted[key] - found[key]).abs().max() <= 1e-4, key
    assert torch.equal(wanted["neuron_mask"], found["neuron_mask"])


@pytest.mark.parametrize("count", [32, pytest.param(256, marks=pytest.mark.slow)])
@torch.no_grad()
def test_association_beats_the_frozen_mean_on_unseen_clips(model, processor, count):
    embeds = description_embeds(model, processor.text_reader.tokenizer, ("a video of {}",))[0]
    shares = validate(model, embeds, count=count)
    assert shares["one"] > shares["one_frozen"] + 0.2
    assert shares["three_mixtures"] > shares["three_mixtures_frozen"] + 0.2


def test_the_checkpoint_is_the_default_of_the_pipeline(tmp_path):
    write_world(tmp_path / "clips", split="test", num=8, seed=5, num_objects=1)
    rows = [json.loads(line) for line in (tmp_path / "clips" / "metadata.jsonl").read_text().splitlines()]
    true = [describe(row["objects"][0]) for row in rows]
    colours = ["red", "yellow", "green", "cyan", "blue", "purple", "pink", "grey"]
    classify = pipeline("zero-shot-video-classification")
    best = [
        classify(
            str(tmp_path / "clips" / row["file_name"]), candidate_labels=[f"something {colour}" for colour in colours]
        )
        for row in rows
    ]
    right = [result[0]["label"].removeprefix("something ") in text for result, text in zip(best, true, strict=True)]
    assert sum(right) >= 7


def test_unknown_words_get_different_scores():
    clip = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    scores = pipeline("zero-shot-video-classification")(clip, candidate_labels=["a dog", "Überraschung", "🎉"])
    assert len({entry["score"] for entry in scores}) == 3


def test_description_numbers_agree_with_the_scenes():
    scene = make_scene("test", 0, 0, num_objects=1)
    sprite = scene.sprites[0]
    from modeling_sen.world.vocabulary import all_descriptions

    assert all_descriptions()[description_number(scene)] == describe(sprite)
