"""`sen info`, `sen neurons`, `sen presets`."""

import json
import shutil

import pytest
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    CLIPConfig,
    CLIPImageProcessorPil,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
)

from modeling_sen import PRESETS, SEN_TINY, SENConfig, SENModel, list_neurons
from modeling_sen.commands.info import describe, info, neurons, presets


def test_a_checkpoint_is_described_without_its_weights(sen_folder, tmp_path):
    folder = shutil.copytree(sen_folder, tmp_path / "sen")
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    found = describe(str(folder))
    trainable, everything = SENModel.from_pretrained(sen_folder).trainable_parameters()
    assert found["trainable_parameters"] == trainable
    assert found["parameters"] == everything
    assert found["trainable_share"] == pytest.approx(trainable / everything)
    assert found["model"] == str(folder)
    by_name = {neuron["name"]: neuron for neuron in found["neurons"]}
    assert list(by_name) == ["image", "video", "audio", "words"]
    assert [neuron["aligned"] for neuron in found["neurons"]] == [True, False, False, False]
    assert by_name["image"]["hub_id"] == "./neuron_image"
    assert by_name["image"]["layers"] == 4
    assert found["text_tower"]["modality"] == "text"
    first = sum(neuron["first_pass_flops"] for neuron in found["neurons"])
    rounds = 3 * sum(neuron["round_flops"] for neuron in found["neurons"])
    assert found["cost_ratio"] == pytest.approx(1 + rounds / first)
    assert json.loads(json.dumps(found)) == found


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> list[dict]:
    """Neurons of the size of a preset's: configurations only, no weights."""
    folder = tmp_path_factory.mktemp("full_size")
    clip = CLIPConfig(vision_config={"patch_size": 16})
    for name, config in (("clip", clip), ("videomae", VideoMAEConfig()), ("ast", ASTConfig())):
        config.save_pretrained(folder / name)
    CLIPImageProcessorPil().save_pretrained(folder / "clip")
    VideoMAEImageProcessorPil().save_pretrained(folder / "videomae")
    ASTFeatureExtractor().save_pretrained(folder / "ast")
    neurons = [dict(neuron) for neuron in PRESETS["clip-videomae-ast"].neurons]
    return [
        {**neuron, "hub_id": str(folder / name)}
        for neuron, name in zip(neurons, ("clip", "videomae", "ast"), strict=True)
    ]


@pytest.mark.parametrize(("depth", "lowest", "highest"), [(None, 1.74, 1.8), (1, 1.24, 1.35), ("all", 3.9, 4.1)])
def test_the_recursion_is_nearly_free(full_size, depth, lowest, highest, tmp_path):
    """Three rounds over the upper quarter cost 3/4 of a pass, and a little for the prompt tokens."""
    config = SENConfig(neurons=full_size, prompt_depth=depth)
    config.save_pretrained(tmp_path / "sen")
    found = describe(str(tmp_path / "sen"))
    assert [round(neuron["parameters"] / 1e6) for neuron in found["neurons"]] == [86, 86, 86]
    assert lowest <= found["cost_ratio"] <= highest


def test_the_checkpoint_inside_has_a_name():
    assert describe("sen-tiny") == describe(SEN_TINY) | {"model": "sen-tiny"}


def test_a_preset_offline_says_what_is_not_at_hand():
    found = describe("clip-videomae-ast")
    assert found["trainable_parameters"] * 4 <= 20 * 2**20  # float32: at most 20 MB for three base-size towers
    assert found["parameters"] is None
    assert found["cost_ratio"] is None
    assert all("cached files" in neuron["unknown"] for neuron in found["neurons"])


def test_it_prints_a_table_or_json(sen_folder, capsys):
    info(str(sen_folder))
    text = capsys.readouterr().out
    for part in ("./neuron_image", "layer 3 of 4, prefix", "class texts", "trainable", "times that with 3 rounds"):
        assert part in text
    info(str(sen_folder), as_json=True)
    assert json.loads(capsys.readouterr().out) == describe(str(sen_folder))
    info("clip-videomae-ast")
    text = capsys.readouterr().out
    assert "MIT/ast-finetuned-audioset-10-10-0.4593" in text
    assert "unknown    image: " in text


def test_what_is_no_sen_is_refused(towers, tmp_path):
    with pytest.raises(ValueError, match="model type is 'bert'"):
        describe(towers["bert"])
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        describe(str(tmp_path / "nowhere"))


def test_every_registered_type_is_listed(capsys):
    neurons(as_json=True)
    rows = {row["model_type"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == list_neurons()
    expected = {"model_type": "xclip_vision_model", "modality": "video", "prompt_side": "suffix", "grid": "image"}
    assert rows["xclip_vision_model"] == expected
    neurons()
    text = capsys.readouterr().out
    assert all(model_type in text for model_type in list_neurons())


def test_every_preset_is_listed_with_what_it_needs(capsys):
    presets(as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(PRESETS)
    row = rows["clip-videomae-ast"]
    aligned = {neuron["hub_id"]: neuron["aligned"] for neuron in row["neurons"]}
    assert aligned["openai/clip-vit-base-patch16"]
    assert not aligned["MCG-NJU/videomae-base"]
    assert row["text_tower"]["hub_id"] == "openai/clip-vit-base-patch16"
    towers = sum(neuron["parameters"] for neuron in [*row["neurons"], row["text_tower"]])
    assert row["parameters"] == towers + row["trainable_parameters"]
    assert row["weight_memory"] == 4 * row["parameters"]
    assert row["peak_memory"] == PRESETS["clip-videomae-ast"].peak_memory
    presets()
    text = capsys.readouterr().out
    for part in ("openai/clip-vit-base-patch16", "shares the text space", "class texts", "modeling-sen[pe]"):
        assert part in text
    assert all(name in text for name in PRESETS)
