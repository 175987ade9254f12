"""ImageBind's original checkpoint: every weight arrives, and every output is the original's."""

import json

import pytest
import torch
from original_imagebind import constructor, in_original_layout
from transformers import AutoModel

from modeling_sen.conversion.imagebind import RULES, UNREAD, convert, in_shape, read_constructor
from modeling_sen.conversion.original_checkpoint import rename, save
from modeling_sen.families.imagebind import ImageBindConfig, ImageBindModel


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Folder with an original file, its constructor's arguments, and the model that it should become."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "config.json").write_text(json.dumps(constructor()))
    torch.manual_seed(0)
    model = ImageBindModel(read_constructor(folder / "config.json")).eval()
    for weight in [*model.parameters(), *model.buffers()]:
        torch.nn.init.normal_(weight.data, std=0.25)
    torch.save(in_original_layout(model), folder / "imagebind.pth")
    return folder, model


def test_every_output_is_the_originals(shared_data, tmp_path):
    parity = shared_data / "parity"
    found = convert(parity / "imagebind_original.pth", parity / "imagebind_config.json")
    differences = save(found, tmp_path / "out", parity / "imagebind_io.safetensors")
    expected = {"vision", "vision_video", "text", "audio", "depth", "thermal", "imu"}
    assert set(differences) == expected
    assert max(differences.values()) <= 1e-5


def test_every_weight_arrives(original, tmp_path):
    folder, model = original
    found = convert(folder / "imagebind.pth", folder / "config.json")
    save(found, tmp_path / "out")
    weights = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    assert set(weights) == set(model.state_dict())
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


def test_the_published_size_has_the_published_number_of_weights():
    with torch.device("meta"):
        model = ImageBindModel(ImageBindConfig())
    weights = in_original_layout(model)
    assert len(weights) == 1311
    assert weights["modality_trunks.vision.blocks.31.attn.in_proj_weight"].shape == (3840, 1280)
    assert weights["modality_preprocessors.audio.pos_embedding_helper.pos_embed"].shape == (1, 229, 768)
    renamed = in_shape(rename(weights, RULES, UNREAD, "ImageBind"))
    assert {name: weight.shape for name, weight in renamed.items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }


def test_the_card_names_the_licence_and_no_tokenizer_is_said(original):
    found = convert(original[0] / "imagebind.pth", original[0] / "config.json")
    assert "license: cc-by-nc-sa-4.0" in found.card
    assert "imagebind.pth" in found.card
    assert "--tokenizer" in found.notes[0]


def test_other_sizes_and_families_raise(original, tmp_path):
    folder, model = original
    with pytest.raises(ValueError, match=r"do not fit: .*; give the original constructor's arguments by --config"):
        convert(folder / "imagebind.pth")
    (tmp_path / "config.json").write_text(json.dumps({**constructor(), "vision_num_blocks": 2}))
    with pytest.raises(
        ValueError, match=r"vision_model.layers.1.* is missing and 15 more; .*config.json has other sizes"
    ):
        convert(folder / "imagebind.pth", tmp_path / "config.json")
    torch.save({"vision_model.embeddings.class_embedding": torch.zeros(4)}, tmp_path / "clip.bin")
    with pytest.raises(ValueError, match=r"not a checkpoint of ImageBind: found weight 'vision_model.embeddings"):
        convert(tmp_path / "clip.bin", folder / "config.json")
    weights = in_original_layout(model)
    del weights["modality_heads.imu.3.weight"]
    torch.save(weights, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"'imu_projection.weight' is missing"):
        convert(tmp_path / "less.pth", folder / "config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "found no JSON"),
        ("[1]", "found list, expected an object of constructor arguments"),
        ('{"vision_width": 3}', r"unknown arguments \['vision_width'\], expected some of video_frames"),
        ('{"imu_num_heads": "2"}', "imu_num_heads is '2', expected a whole number like 8"),
        ('{"kernel_size": [2, 14, 7]}', r"kernel_size is \[2, 14, 7\], expected \[2, N, N\]"),
        ('{"imu_num_heads": 5}', "hidden_size is 512, expected a multiple of 5 heads"),
    ],
)
def test_bad_arguments_of_the_constructor_raise(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Exception, match=message):
        read_constructor(tmp_path / "config.json")
