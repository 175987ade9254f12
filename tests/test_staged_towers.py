"""Convolutional and hierarchical towers become neurons by rule from their hub id; maps become tokens row by row."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, HGNetV2Config

from modeling_sen import SENModel, SENProcessor, neuron_by_rule, read_video
from modeling_sen.neuron_by_rule import PlaneGrid, Trial

SMALL = {"hidden_size": 8, "projection_dim": 4, "num_prompt_tokens": 2, "bottleneck_size": 4}
FOUR = {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 4, "depths": [1, 2, 1], "num_heads": [2] * 3, "window_size": 4, "image_size": 32, "patch_size": 2}
HIERA = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "image_size": [32, 32], "num_query_pool": 1}
PVT = {
    **FOUR,
    "hidden_sizes": [4, 8, 8, 8],
    "num_attention_heads": [1, 2, 2, 2],
    "mlp_ratios": [2] * 4,
    "image_size": 64,
}
SEGFORMER = {"hidden_sizes": [4, 8, 8, 12], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]}
SAM2 = {
    "hidden_size": 8,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 1, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 2, 2],
    "window_size_per_stage": [4, 4, 4, 4],
    "global_attention_blocks": [],
    "window_positional_embedding_background_size": [4, 4],
}

# class of the checkpoint -> (configuration, class of the tower, image size, width, (height, width) of the map)
TYPES = {
    "BitForImageClassification": (
        {**FOUR, "hidden_sizes": [8, 8, 16, 16], "embedding_size": 8, "num_groups": 2},
        "BitModel",
        64,
        16,
        (2, 2),
    ),
    "ConvNextV2ForImageClassification": (FOUR, "ConvNextV2Model", 64, 10, (2, 2)),
    "CvtForImageClassification": (
        {"embed_dim": [4, 6, 8], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
        "CvtModel",
        64,
        8,
        (4, 4),
    ),
    "DINOv3ConvNextModel": ({**FOUR, "image_size": 64}, "DINOv3ConvNextModel", 64, 10, (2, 2)),
    "EfficientNetForImageClassification": (
        {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128, "image_size": 64},
        "EfficientNetModel",
        64,
        128,
        (2, 2),
    ),
    "FocalNetForImageClassification": (
        {
            "embed_dim": 4,
            "hidden_sizes": [4, 8, 16],
            "depths": [1] * 3,
            "focal_levels": [1] * 3,
            "focal_windows": [3] * 3,
        }
        | {"image_size": 32},
        "FocalNetModel",
        32,
        16,
        (2, 2),
    ),
    "GLPNModel": (SEGFORMER, "GLPNModel", 64, 12, (2, 2)),
    "HieraForImageClassification": (
        HIERA | {"patch_stride": [4, 4], "masked_unit_size": [2, 2], "masked_unit_attention": [True, False]},
        "HieraModel",
        32,
        16,
        (4, 4),
    ),
    "LevitForImageClassification": (
        {"hidden_sizes": [8, 12, 16], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [4, 4, 4]}
        | {"image_size": 128},
        "LevitModel",
        128,
        16,
        (2, 2),
    ),
    "MobileNetV1ForImageClassification": ({"depth_multiplier": 0.02}, "MobileNetV1Model", 64, 20, (2, 2)),
    "MobileNetV2ForImageClassification": ({"depth_multiplier": 0.1}, "MobileNetV2Model", 64, 1280, (2, 2)),
    "MobileViTForImageClassification": (
        {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 12], "num_attention_heads": 2}
        | {"image_size": 64, "expand_ratio": 1.0},
        "MobileViTModel",
        64,
        12,
        (2, 2),
    ),
    "MobileViTV2ForImageClassification": (
        {"width_multiplier": 0.125, "base_attn_unit_dims": [64, 64, 64], "n_attn_blocks": [1, 1, 1], "image_size": 64},
        "MobileViTV2Model",
        64,
        64,
        (2, 2),
    ),
    "PoolFormerForImageClassification": (FOUR, "PoolFormerModel", 64, 10, (2, 2)),
    "PvtForImageClassification": (PVT, "PvtModel", 64, 8, (2, 2)),
    "PvtV2ForImageClassification": (PVT, "PvtV2Model", 64, 8, (2, 2)),
    "RegNetForImageClassification": (
        {**FOUR, "embedding_size": 4, "groups_width": 2},
        "RegNetModel",
        64,
        10,
        (2, 2),
    ),
    "ResNetForImageClassification": ({**FOUR, "embedding_size": 4}, "ResNetModel", 64, 10, (2, 2)),
    "Sam2HieraDetModel": (SAM2, "Sam2HieraDetModel", 64, 64, (2, 2)),
    "SegformerForImageClassification": (SEGFORMER, "SegformerModel", 64, 12, (2, 2)),
    "SwiftFormerForImageClassification": (
        {"depths": [1, 1, 1, 1], "embed_dims": [4, 6, 8, 12], "image_size": 64},
        "SwiftFormerModel",
        64,
        12,
        (2, 2),
    ),
    "SwinForImageClassification": (SWIN, "SwinModel", 32, 16, (4, 4)),
    "Swinv2ForImageClassification": (SWIN, "Swinv2Model", 32, 16, (4, 4)),
    "TextNetForImageClassification": (
        {"hidden_sizes": [4, 4, 6, 8, 10], "stem_out_channels": 4, "stem_num_channels": 3, "image_size": [64, 64]},
        "TextNetModel",
        64,
        10,
        (2, 2),
    ),
}
# One of each kind; the others are slow: rows after a class token, a convolution, rows, planes with the width last.
QUICK = (
    "DINOv3ConvNextModel",
    "EfficientNetForImageClassification",
    "HieraForImageClassification",
    "Sam2HieraDetModel",
)
QUICK += ("PvtForImageClassification", "SwinForImageClassification")
ROWS = (
    "DINOv3ConvNextModel",
    "FocalNetForImageClassification",
    "HieraForImageClassification",
    "PvtForImageClassification",
)
ROWS += ("LevitForImageClassification", "SwinForImageClassification", "Swinv2ForImageClassification")


def saved(class_name: str, folder, settings) -> str:
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**settings, num_labels=3))
    for parameter in model.parameters():
        if parameter.ndim > 1:  # norms keep their scale, so that signals pass through many layers
            torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    return str(folder)


def pictures(size: int, batch: int = 2, frames: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(0))


def map_of(class_name: str, tower, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(frames, width, height, width of the map) and the pooled output, as the tower returns them."""
    with torch.no_grad():
        outputs = tower(pixels, output_hidden_states=class_name in ROWS)
    plane, pooled = outputs.last_hidden_state, getattr(outputs, "pooler_output", None)
    if pooled is None:
        pooled = plane.flatten(2).mean(2) if plane.ndim == 4 else plane.mean(1)
    if class_name == "Sam2HieraDetModel":
        pooled = outputs.last_hidden_state.mean(dim=(1, 2))
    if class_name == "Sam2HieraDetModel":
        plane = plane.permute(0, 3, 1, 2)
    reshaped = getattr(outputs, "reshaped_hidden_states", None)
    if reshaped is not None:
        plane = reshaped[-1] if reshaped[-1].shape[1] == plane.shape[-1] else reshaped[-1].permute(0, 3, 1, 2)
        if hasattr(tower, "layernorm"):
            plane = tower.layernorm(plane.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return plane.detach(), pooled


@pytest.mark.parametrize(
    "class_name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in TYPES]
)
def test_a_staged_tower_becomes_a_neuron_from_its_hub_id(class_name, tmp_path):
    settings, tower_class, size, width, plane = TYPES[class_name]
    folder = saved(class_name, tmp_path / "tower", settings)
    model = SENModel.from_neurons([folder], **SMALL)
    spec, neuron = model.config.neuron_specs[0], model.neurons["image"]
    found = (spec.class_name, spec.hidden_size, spec.prompt_side, spec.modality)
    assert found == (tower_class, width, "after", "image")

    pixels = pictures(size)
    state = neuron.first_look({"pixel_values": pixels}).state
    expected, pooled = map_of(class_name, neuron.tower, pixels.flatten(0, 1))
    assert state.grid == (2, *plane)
    assert state.last_hidden_state.shape == (2, 2 * plane[0] * plane[1], width)
    tokens = state.last_hidden_state.unflatten(1, state.grid)  # (batch, frames, height, width of the map, width)
    if expected.ndim == 4:
        torch.testing.assert_close(tokens.flatten(0, 1), expected.permute(0, 2, 3, 1))
    pooled = pooled.reshape(4, width, -1).mean(2).unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(state.pooler_output, pooled)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: weight.clone() for name, weight in neuron.tower.state_dict().items()}
    loss = model.train()(image_pixel_values=pixels, text_embeds=torch.eye(4), labels=torch.tensor([0, 2])).loss
    loss.backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.blocks[0].prompting.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in neuron.tower.state_dict().items())

    model.eval().save_pretrained(tmp_path / "sen", include_neurons=True)
    loaded = SENModel.from_pretrained(tmp_path / "sen")
    with torch.no_grad():
        given = {"image_pixel_values": pixels}
        torch.testing.assert_close(loaded(**given).fused_embeds, model(**given).fused_embeds)

    with pytest.raises(ValueError, match=r"neuron 'image': (output_layer is -1, but the layers|\w+ has no list of)"):
        SENModel.from_neurons([{"hub_id": folder, "output_layer": -1}], **SMALL)
    weights = load_file(Path(folder, "model.safetensors"))
    own = [parameter for parameter in neuron.tower.parameters() if parameter.ndim > 1]
    lost = next(name for name, weight in weights.items() if any(torch.equal(weight, parameter) for parameter in own))
    save_file(
        {key: value for key, value in weights.items() if key != lost},
        Path(folder, "model.safetensors"),
        {"format": "pt"},
    )
    with pytest.raises(RuntimeError, match=rf"neuron 'image': .* has no weights for 1 parameters of {tower_class}"):
        SENModel.from_neurons([folder], **SMALL)


@pytest.mark.parametrize("class_name", ["PvtForImageClassification", "DINOv3ConvNextModel"])
def test_tokens_in_rows_have_the_position_that_they_encode(class_name, tmp_path):
    """For towers that return no map: a spot in a corner changes the token of that corner most."""
    settings, _, size, _, (height, width) = TYPES[class_name]
    neuron = SENModel.from_neurons([saved(class_name, tmp_path / "tower", settings)], **SMALL).neurons["image"]
    blank = torch.zeros(1, 1, 3, size, size)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        spot, side = blank.clone(), size // 2
        spot[..., row * side : (row + 1) * side, column * side : (column + 1) * side] = 0.3
        states = [neuron.first_look({"pixel_values": each}).state.last_hidden_state for each in (blank, spot)]
        change = (states[1] - states[0]).norm(dim=-1).unflatten(1, (height, width))[0]
        assert divmod(int(change.argmax()), width) == (row, column), change


def test_the_grid_has_the_proportions_of_the_image():
    grid = PlaneGrid((224, 224), (7, 7), 1)

    def found(num_tokens: int, height: int, width: int):
        return grid(None, {"pixel_values": torch.empty(1, 3, height, width), "num_tokens": num_tokens})

    assert found(50, 224, 224) == (1, 7, 7)
    assert found(29, 128, 224) == (1, 4, 7)
    assert found(25, 100, 200) == (1, 1, 25)  # neither 3 nor 4 rows of 6 or 7 tokens, after one class token
    assert found(29, 100, 200) == (1, 4, 7)  # rows and columns rounded up
    assert found(19, 100, 200) == (1, 3, 6)  # rows and columns rounded down


def test_a_swin_neuron_accepts_images_that_are_not_square(tmp_path):
    folder = saved("SwinForImageClassification", tmp_path / "tower", SWIN)
    neuron = SENModel.from_neurons([folder], **SMALL).neurons["image"]
    pixels = torch.randn(1, 1, 3, 64, 36)  # 4.5 tokens per row, so rows are padded
    state = neuron.first_look({"pixel_values": pixels}).state
    expected, _ = map_of("SwinForImageClassification", neuron.tower, pixels[0])
    assert state.grid == (1, 8, 5)
    torch.testing.assert_close(state.last_hidden_state.unflatten(1, (8, 5)), expected.permute(0, 2, 3, 1))


def test_a_given_width_is_used_if_none_can_be_derived(tmp_path, monkeypatch):
    settings = TYPES["EfficientNetForImageClassification"][0]
    folder = saved("EfficientNetForImageClassification", tmp_path / "tower", settings)
    with pytest.raises(ValueError, match=r"neuron 'image': hidden_size is 7, but .*tower has 128"):
        SENModel.from_neurons([{"hub_id": folder, "hidden_size": 7}], **SMALL)
    monkeypatch.setattr(neuron_by_rule, "_TRIALS", {})
    # As for a tower on which trial runs fail.
    monkeypatch.setattr(neuron_by_rule, "_try", lambda tower, modality: Trial())
    with pytest.raises(
        ValueError, match="'efficientnet' has no width of tokens in its configuration; give hidden_size"
    ):
        SENModel.from_neurons([folder], **SMALL)
    model = SENModel.from_neurons([{"hub_id": folder, "hidden_size": 128}], **SMALL)
    neuron = model.neurons["image"]
    assert neuron.first_look({"pixel_values": pictures(64)}).state.last_hidden_state.shape == (2, 8, 128)
    neuron.spec = replace(neuron.spec, hidden_size=7)
    with pytest.raises(
        ValueError, match="hidden_size is 7, but its tower's tokens and pooled output have widths 2 and 128"
    ):
        neuron.first_look({"pixel_values": pictures(64)})


def test_a_model_without_token_outputs_is_named_in_the_error(tmp_path):
    HGNetV2Config().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="HGNetV2Backbone returns feature_maps, expected an encoder's last_hidden_state"
    ):
        SENModel.from_neurons([str(tmp_path)], **SMALL)


@pytest.mark.slow
def test_a_trained_efficientnet_gives_the_logits_of_the_whole_model(tmp_path):
    shared = Path(__file__).resolve().parents[2] / "shared"
    if not (shared / "real_models" / "build.py").is_file():
        pytest.skip("the scripts that build trained encoders are not here")
    command = [sys.executable, str(shared / "real_models" / "build.py"), str(tmp_path), "cnn"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"not built: {built.stderr[-200:]}")
    folder = tmp_path / "cnn"
    model = SENModel.from_neurons([{"hub_id": str(folder)}], **SMALL)
    spec = model.config.neuron_specs[0]
    assert (spec.class_name, spec.hidden_size) == ("EfficientNetModel", 1280)

    stock = AutoModelForImageClassification.from_pretrained(folder).eval()
    clips = sorted((shared / "data" / "recognition").rglob("*.mp4"))[:5]
    frames = [read_video(clip, num_frames=3).frames[1] for clip in clips]  # (height, width, 3) uint8
    processor, own = SENProcessor(model.config), AutoImageProcessor.from_pretrained(folder, backend="pil")
    for frame in frames:
        pixels = processor(videos=np.stack([frame] * 2))["image_pixel_values"]
        with torch.no_grad():
            pooled = model.neurons["image"].first_look({"pixel_values": pixels}).state.pooler_output
            mine = stock.classifier(pooled)
            theirs = stock(**own(Image.fromarray(frame), return_tensors="pt")).logits
        assert mine.argmax() == theirs.argmax()
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0)
