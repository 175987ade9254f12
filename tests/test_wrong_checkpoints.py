"""Checkpoints in unusual layouts work, and unsuitable ones give an error that says what was found."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPVisionModel, PeVideoConfig

from modeling_sen import SENModel

SMALL = {"hidden_size": 8, "projection_dim": 12, "num_prompt_tokens": 2, "bottleneck_size": 4}
PICTURES = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def copied(source: str, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "checkpoint"))


def first_look(neuron) -> torch.Tensor:
    model = SENModel.from_neurons([neuron], **SMALL)
    return model.neurons["image"].first_look({"pixel_values": PICTURES}).state.pooler_output


# --- layouts that work -----------------------------------------------------------------------------------------------


def test_a_whole_clip_model_can_be_used_as_a_vision_tower(towers):
    stock = CLIPVisionModel.from_pretrained(towers["clip"]).eval()
    with torch.no_grad():
        expected = stock(PICTURES[0]).pooler_output.mean(0, keepdim=True)
    torch.testing.assert_close(first_look({"hub_id": towers["clip"], "class_name": "CLIPVisionModel"}), expected)
    torch.testing.assert_close(first_look(towers["clip"]), expected)


def test_shards_pytorch_files_and_renamed_keys_give_the_same_tower(towers, tmp_path):
    expected = first_look(towers["clip"])
    CLIPModel.from_pretrained(towers["clip"]).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert torch.equal(first_look(str(tmp_path / "shards")), expected)
    folder = copied(towers["clip"], tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(first_look(str(folder)), expected)
    (folder / "pytorch_model.bin").unlink()
    save_file(
        {f"student.{name}": value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(RuntimeError, match=r"neuron 'image'.*no weights for \d+ parameters"):
        first_look(str(folder))
    assert torch.equal(first_look({"hub_id": str(folder), "key_mapping": {r"^student\.": ""}}), expected)


def test_neurons_from_one_source_share_its_tower(towers):
    depth = {"hub_id": towers["clip"], "name": "depth", "modality": "depth", "num_frames": 2}
    other = {"hub_id": towers["clip"], "name": "thermal", "modality": "thermal", "num_frames": 2}
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, depth, other]
    model = SENModel.from_neurons(neurons, neuron_kwargs={"thermal": {"attn_implementation": "eager"}}, **SMALL).eval()
    image, depth, thermal = model.neurons.values()
    assert image.tower is depth.tower
    assert image.tower is not thermal.tower  # loaded with other arguments
    inputs = {"image_pixel_values": PICTURES, "depth_pixel_values": PICTURES.flip(1), "thermal_pixel_values": PICTURES}
    with torch.no_grad():
        states = model(**inputs).neuron_states
        single = SENModel.from_neurons([depth.spec.to_dict()], **SMALL).eval()
        expected = single.neurons["depth"].first_look({"pixel_values": PICTURES.flip(1)}).state
        found = depth.first_look({"pixel_values": PICTURES.flip(1)}).state
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert states["image"].pooler_output.isfinite().all()


def test_a_shared_tower_is_saved_once(towers, tmp_path):
    depth = {"hub_id": towers["clip"], "name": "depth", "modality": "depth", "num_frames": 2}
    model = SENModel.from_neurons([{"hub_id": towers["clip"], "num_frames": 2}, depth], **SMALL)
    inputs = {"image_pixel_values": PICTURES, "depth_pixel_values": PICTURES.flip(1)}
    for folder in (tmp_path / "sen", tmp_path / "again"):
        model.save_pretrained(folder, include_neurons=True)
        assert [path.name for path in folder.glob("neuron_*")] == ["neuron_image"]
        loaded = SENModel.from_pretrained(folder)
        assert loaded.neurons["image"].tower is loaded.neurons["depth"].tower
        for one, two in (
            (model, loaded),
            (model.neurons["image"].tower, loaded.neurons["image"].tower),
        ):
            weights, others = one.state_dict(), two.state_dict()
            assert weights.keys() == others.keys()
            assert all(torch.equal(weights[key], others[key]) for key in weights)
        # Weights mapped from a file have another memory alignment, which can change the last bit of a product.
        torch.testing.assert_close(loaded(**inputs).fused_embeds, model(**inputs).fused_embeds, rtol=0, atol=1e-6)
        model = loaded


def test_the_class_text_tower_can_also_be_a_neuron(towers):
    words = {"hub_id": towers["bert"], "name": "words"}
    model = SENModel.from_neurons([words], text_tower=towers["bert"], hidden_size=8)
    assert model.neurons["words"].tower is model.neurons.text_tower.tower


# --- unsuitable checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "modality", "found"),
    [
        ("bert", "video", "BertModel reads text"),
        ("bert", "audio", "BertModel reads text"),
        ("ast", "image", "ASTModel reads audio"),
        ("clip", "audio", "reads image"),
        ("videomae", "text", "reads video"),
    ],
)
def test_a_tower_of_another_modality_raises(checkpoint, modality, found, towers):
    neuron = {"hub_id": towers[checkpoint], "name": "n", "modality": modality, "num_frames": 4}
    with pytest.raises(ValueError, match=rf"neuron 'n': its modality is '{modality}', but .*{found}"):
        SENModel.from_neurons([neuron], **SMALL)


def test_text_towers_must_read_text(towers):
    with pytest.raises(ValueError, match=r"'class_text': its modality is 'text', but VideoMAEModel reads video"):
        SENModel.from_neurons([towers["ast"]], text_tower=towers["videomae"], hidden_size=8)
    with pytest.raises(ValueError, match=r"no text tower of model type 'xclip' is known; give class_name"):
        SENModel.from_neurons([towers["ast"]], text_tower=towers["xclip"], hidden_size=8)


def test_an_adapter_without_its_model_is_refused(tmp_path):
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"{tmp_path}: found an adapter of org/base .*merge_and_unload"):
        SENModel.from_neurons([str(tmp_path)], **SMALL)


def test_quantised_checkpoints_name_the_library_that_they_need(towers, tmp_path):
    folder = copied(towers["clip"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportError, match=r"neuron 'image' \(.*bitsandbytes"):
        SENModel.from_neurons([str(folder)], **SMALL)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_pe_video_names_timm_in_the_error(tmp_path):
    PeVideoConfig().save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ImportError, match=r"(?s)neuron 'video'.*timm.*modeling-sen\[pe\]"):
        SENModel.from_neurons([str(tmp_path)], **SMALL)


def test_a_pickle_with_other_objects_than_tensors_is_not_loaded(towers, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    folder = copied(towers["clip"], tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"neuron 'image'.*more than tensors, and is not read"):
        SENModel.from_neurons([str(folder)], **SMALL)
    assert not (tmp_path / "run").exists()


# --- missing checkpoints ---------------------------------------------------------------------------------------------


def test_a_missing_shard_or_file_is_named_in_the_error(towers, tmp_path):
    CLIPModel.from_pretrained(towers["clip"]).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    lost = sorted((tmp_path / "shards").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(OSError, match=rf"neuron 'image'.*{lost.name}"):
        SENModel.from_neurons([str(tmp_path / "shards")], **SMALL)
    folder = copied(towers["clip"], tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"neuron 'image'.*no file named model\.safetensors"):
        SENModel.from_neurons([str(folder)], **SMALL)


@pytest.mark.parametrize("folder", ["/no/such/folder", "~/no_such_folder", "some/deep/folder"])
def test_a_missing_folder_is_not_taken_for_a_repository(folder):
    with pytest.raises(FileNotFoundError, match=f"{folder}: no such folder"):
        SENModel.from_neurons([folder], **SMALL)


def test_a_tower_missing_in_the_checkpoint_folder_raises(towers, tmp_path):
    SENModel.from_neurons([towers["clip"]], **SMALL).save_pretrained(tmp_path / "sen", include_neurons=True)
    shutil.rmtree(tmp_path / "sen" / "neuron_image")
    with pytest.raises(FileNotFoundError, match=r"neuron 'image': the checkpoint .*sen has no folder 'neuron_image'"):
        SENModel.from_pretrained(tmp_path / "sen")


def test_a_repository_that_is_not_cached_is_named_in_offline_mode():
    with pytest.raises(OSError, match=r"(?s)org/never-loaded: .*offline"):
        SENModel.from_neurons(["org/never-loaded"], **SMALL)


def test_a_missing_revision_is_named_in_the_error(towers, tmp_path):
    repository = tmp_path / "cache" / "models--org--sight"
    shutil.copytree(towers["clip"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    kwargs = {"image": {"cache_dir": str(tmp_path / "cache")}}
    sight = {"hub_id": "org/sight", "name": "image"}
    assert SENModel.from_neurons([sight], neuron_kwargs=kwargs, **SMALL).neurons["image"].commit == COMMIT
    with pytest.raises(OSError, match=r"org/sight.*no-such-revision"):
        SENModel.from_neurons([{**sight, "revision": "no-such-revision"}], neuron_kwargs=kwargs, **SMALL)


# --- shapes ----------------------------------------------------------------------------------------------------------


def reshaped(file: Path) -> tuple[str, tuple, tuple]:
    """Adds a row to one weight of a file; returns its name, the new shape and the old shape."""
    weights = load_file(file)
    name = next(name for name, weight in weights.items() if weight.ndim == 2)
    before = tuple(weights[name].shape)
    weights[name] = torch.zeros(before[0] + 1, before[1])
    save_file(weights, file, {"format": "pt"})
    return name, tuple(weights[name].shape), before


def test_a_weight_of_another_shape_is_named_with_both_shapes(towers, tmp_path):
    SENModel.from_neurons([towers["clip"]], **SMALL).save_pretrained(tmp_path / "sen", include_neurons=True)
    for part in ("model.safetensors", "neuron_image/model.safetensors"):
        folder = Path(shutil.copytree(tmp_path / "sen", tmp_path / part.replace("/", "_")))
        name, found, expected = reshaped(folder / part)
        with pytest.raises(RuntimeError) as caught:
            SENModel.from_pretrained(folder)
        assert f"{name} has shape {found}, expected {expected}" in str(caught.value)
        assert ("neuron 'image'" if "/" in part else str(folder)) in str(caught.value)


def test_a_weight_of_a_changed_width_is_named_in_the_error(towers, tmp_path):
    SENModel.from_neurons([towers["clip"]], **SMALL).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "hidden_size": 16}))
    with pytest.raises(RuntimeError, match=r"has shape \(.*8.*\), expected \(.*16.*\), like \d+ more weights"):
        SENModel.from_pretrained(tmp_path)
