"""`sen convert languagebind`: the original's outputs from what was written, and checkpoints that are refused."""

import json
import sys

import pytest
import torch
from languagebind_originals import PARITY, add_lora, embed, parity_folder, parity_io, write_original
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_towers import clip_tokenizer
from tower_table import CHECKPOINTS
from transformers import AutoModel, AutoProcessor

import sen_cli
from modeling_sen.base_models import licence_of_repository
from modeling_sen.conversion.languagebind import convert
from modeling_sen.conversion.original_checkpoint import save
from modeling_sen.families.languagebind import configuration_languagebind as configurations
from modeling_sen.families.languagebind import modeling_languagebind as models
from modeling_sen.hub_files import HubSource
from modeling_sen.neuron_loading import load_neuron, resolve_spec


def tiny(name: str = "LanguageBindThermal"):
    settings = CHECKPOINTS[f"languagebind_{name.removeprefix('LanguageBind').lower()}"][1]
    torch.manual_seed(0)
    model = getattr(models, name)(getattr(configurations, f"{name}Config")(**settings)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def original(tmp_path):
    folder = write_original(tiny(), tmp_path / "original")
    clip_tokenizer().save_pretrained(folder)
    return folder


def run(*arguments) -> int:
    """`sen convert languagebind ...`; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sen", "convert", "languagebind", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sen_cli.main()
    return ended.value.code


@pytest.mark.parametrize("tower", PARITY)
def test_what_is_written_gives_the_originals_outputs(tower, shared_data, tmp_path, capsys):
    folder = parity_folder(shared_data, tower)
    assert run(folder, tmp_path / "out", "--verify", folder / "io.safetensors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["differences"]) == {"image_embeds", "text_embeds"}
    assert all(difference <= 1e-5 for difference in found["differences"].values())
    inputs, outputs = parity_io(folder)
    model, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    with torch.no_grad():
        given = model(**inputs)
    for name, expected in outputs.items():
        torch.testing.assert_close(given[name], expected, atol=1e-5, rtol=0)
    assert model.config.vision_config.num_frames == (4 if "video" in tower else 1)


def test_the_folder_is_whole(original, tmp_path, capsys):
    assert run(original, tmp_path / "out") == 0
    assert "tokenizer" not in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert licence_of_repository(HubSource(str(tmp_path / "out"))) == "mit"
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor(text="a dog")["input_ids"].shape == (1, 32)  # places of the text tower
    torch.testing.assert_close(embed(AutoModel.from_pretrained(tmp_path / "out")), embed(tiny()), atol=0, rtol=0)
    neuron = load_neuron(resolve_spec(str(tmp_path / "out")))
    assert (neuron.spec.modality, neuron.spec.class_name) == ("thermal", "LanguageBindThermal")


def test_lora_is_folded(tmp_path):
    folder, expected = add_lora(tmp_path / "lora", tiny(), ["q_proj", "v_proj"], rank=2, alpha=16, wrapped=False)
    conversion = convert(folder)
    save(conversion, tmp_path / "out", shard_size="20KB")
    weights = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        weights |= load_file(path)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert set(weights) == set(tiny().state_dict())
    config = json.loads((tmp_path / "out" / "config.json").read_text())["vision_config"]
    assert (config["lora_r"], config["lora_alpha"], config["model_type"]) == (0, 16, "languagebind_thermal_model")
    torch.testing.assert_close(embed(AutoModel.from_pretrained(tmp_path / "out")), expected, atol=1e-5, rtol=0)
    assert "LoRA weights folded" in (tmp_path / "out" / "README.md").read_text()


def test_the_file_alone_needs_its_configuration(original, tmp_path):
    assert run(original / "pytorch_model.bin", tmp_path / "one") == 0
    config = (original / "config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; give the checkpoint's config\.json"):
        convert(original / "pytorch_model.bin")
    assert run(original / "pytorch_model.bin", tmp_path / "two", "--config", config) == 0
    assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()


def test_shards_are_read_by_their_index(original, tmp_path):
    weights = torch.load(original / "pytorch_model.bin", weights_only=True)
    (original / "pytorch_model.bin").unlink()
    index = {}
    for number, names in enumerate((list(weights)[:40], list(weights)[40:])):
        torch.save({name: weights[name] for name in names}, original / f"part-{number}.bin")
        index |= dict.fromkeys(names, f"part-{number}.bin")
    (original / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    torch.testing.assert_close(embed(convert(original).model), embed(tiny()), atol=0, rtol=0)


def test_another_output_writes_nothing(original, tmp_path, capsys):
    embeds = embed(tiny())
    reference = {"input.pixel_values": torch.zeros(2, 3, 16, 16), "output.image_embeds": embeds}
    save_file(reference, tmp_path / "io.safetensors")
    assert run(original, tmp_path / "out", "--verify", tmp_path / "io.safetensors") == 1
    assert "nothing written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_put_beside(original, tmp_path, capsys):
    tokenizer = tmp_path / "tokenizer"
    clip_tokenizer().save_pretrained(tokenizer)
    for path in original.glob("*token*"):
        path.unlink()
    assert run(original, tmp_path / "bare") == 0
    assert "no tokenizer: texts need one" in capsys.readouterr().out
    assert run(original, tmp_path / "with", "--tokenizer", tokenizer) == 0
    assert AutoProcessor.from_pretrained(tmp_path / "with")(text="a")["input_ids"].shape == (1, 32)


# --- what is refused -------------------------------------------------------------------------------------------------


def changed(folder, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def test_a_checkpoint_of_another_family_is_refused(original):
    changed(original, model_type="clip")
    with pytest.raises(
        ValueError, match="model_type is 'clip', expected one of LanguageBindImage, LanguageBindVideo,"
    ):
        convert(original)
    (original / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="model_type is None"):
        convert(original)
    (original / "config.json").write_text("{")
    with pytest.raises(ValueError, match="found no JSON"):
        convert(original)


def test_weights_of_another_size_or_modality_are_refused(original):
    config = json.loads((original / "config.json").read_text())
    changed(original, vision_config=config["vision_config"] | {"add_time_attn": True})
    with pytest.raises(ValueError, match=r"the weights do not fit: 'vision_model.*temporal.* is missing and \d+ more"):
        convert(original)
    changed(original, vision_config=config["vision_config"], projection_dim=11)
    with pytest.raises(ValueError, match=r"has shape \(12, 16\), expected \(11, 16\)"):
        convert(original)


def test_a_weight_that_nobody_reads_is_refused(original):
    weights = torch.load(original / "pytorch_model.bin", weights_only=True)
    torch.save({**weights, "vision_model.more": torch.zeros(1)}, original / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"'vision_model\.more' is left over"):
        convert(original)


def test_a_damaged_file_is_refused(original, tmp_path):
    whole = (original / "pytorch_model.bin").read_bytes()
    (original / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="the file is truncated"):
        convert(original)
    assert run(original, tmp_path / "out") != 0
    assert not (tmp_path / "out").exists()


def test_safetensors_hold_the_card_s_number_of_parameters(original, tmp_path):
    run(original, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (not a dict)
    assert f"{count:,} parameters" in (tmp_path / "out" / "README.md").read_text()
