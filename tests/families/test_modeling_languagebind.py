"""LanguageBind's models: the original's outputs, checkpoints in the published layout, LoRA, and what is refused."""

import copy
import os
import pickle

import pytest
import torch
from fake_hub import fake_hub
from hub_session import connected
from languagebind_originals import PARITY, TOWERS, add_lora, embed, parity_folder, parity_io, pixels_of, write_original
from safetensors.torch import save_file
from tower_table import CHECKPOINTS, TEXT, VISION
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, CLIPTextModelWithProjection

from modeling_sen.families.languagebind import configuration_languagebind as configurations
from modeling_sen.families.languagebind import modeling_languagebind as models
from modeling_sen.families.languagebind.lora_languagebind import fold_lora
from modeling_sen.neuron_loading import load_neuron, resolve_spec


def tiny(tower: str, **tower_settings):
    class_name, settings = CHECKPOINTS[f"languagebind_{tower}"]
    settings = copy.deepcopy(settings)
    settings["vision_config"] |= tower_settings
    torch.manual_seed(2)
    model = getattr(models, class_name)(getattr(configurations, f"{class_name}Config")(**settings)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


# --- the original ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tower", PARITY)
def test_a_folder_in_the_published_layout_gives_the_originals_outputs(tower, attention, shared_data):
    folder = parity_folder(shared_data, tower)
    inputs, outputs = parity_io(folder)
    model, loading = AutoModel.from_pretrained(folder, attn_implementation=attention, output_loading_info=True)
    assert not any(loading.values())
    with torch.no_grad():
        found = model(**inputs)
    for name, expected in outputs.items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)
    assert (outputs["image_embeds"][0] - outputs["image_embeds"][1]).abs().max() > 1e-3


@pytest.mark.parametrize("tower", PARITY)
def test_a_neuron_gives_the_originals_embedding(tower, shared_data):
    """As SENModel hands frames over: (batch, time, channels, height, width)."""
    folder = parity_folder(shared_data, tower)
    inputs, outputs = parity_io(folder)
    pixels = inputs["pixel_values"]
    neuron = load_neuron(resolve_spec({"hub_id": str(folder), "name": "n"}))
    given = {"input_features": pixels} if tower == "audio" else {"pixel_values": pixels[:, None]}
    if pixels.ndim == 5:
        given = {"pixel_values": pixels.transpose(1, 2)}
    state = neuron.first_look(given).state
    embeds = torch.nn.functional.normalize(neuron.project(state.pooler_output))
    torch.testing.assert_close(embeds, outputs["image_embeds"], atol=1e-5, rtol=0)


def test_the_text_tower_is_clips_own_class(shared_data):
    folder = parity_folder(shared_data, "depth")
    inputs, outputs = parity_io(folder)
    neuron = load_neuron(resolve_spec(str(folder), "text_tower"))
    assert type(neuron.tower).__name__ == "CLIPTextModel"
    look = neuron.first_look({name: inputs[name] for name in ("input_ids", "attention_mask")})
    embeds = torch.nn.functional.normalize(neuron.project(look.state.pooler_output))
    torch.testing.assert_close(embeds, outputs["text_embeds"], atol=1e-5, rtol=0)


def test_a_square_tower_without_attention_over_time_is_clips(tmp_path):
    """Stock CLIP reads the same weights, and gives the same; of a clip the frames' mean."""
    model = tiny("thermal")
    settings = {**VISION, "hidden_act": "gelu", "projection_dim": 12}
    clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=settings, projection_dim=12)).eval()
    clip.load_state_dict(model.state_dict())
    frames = torch.randn(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = clip.vision_model(frames.flatten(0, 1)).pooler_output.unflatten(0, (2, 5)).mean(1)
        found = model.vision_model(frames.transpose(1, 2)).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_new_weights_are_spread_as_clips():
    class_name, settings = CHECKPOINTS["languagebind_video"]
    torch.manual_seed(0)
    model = getattr(models, class_name)(configurations.LanguageBindVideoConfig(**settings))
    layer = model.vision_model.encoder.layers[0]
    for attention in (layer.self_attn, layer.temporal_attn):
        assert attention.q_proj.weight.std().item() == pytest.approx(16**-0.5 * 8**-0.5, rel=0.2)
        assert attention.out_proj.weight.std().item() == pytest.approx(16**-0.5, rel=0.2)
    assert layer.temporal_embedding.std().item() == pytest.approx(16**-0.5, rel=0.3)
    assert model.logit_scale == 2.0


# --- the Hub's layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", TOWERS)
def test_a_hub_id_is_enough(tower, tmp_path, monkeypatch):
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")  # Transformers asks a robot for it, behind the back
    model = tiny(tower)
    folder = write_original(model, tmp_path / "original")
    with fake_hub() as hub, connected(hub, tmp_path / "home"):
        hub.upload("LanguageBind/LanguageBind_Some", folder)
        loaded = AutoModel.from_pretrained("LanguageBind/LanguageBind_Some")
        neuron = load_neuron(resolve_spec("LanguageBind/LanguageBind_Some"))
    assert type(loaded) is type(model)
    torch.testing.assert_close(embed(loaded), embed(model), atol=0, rtol=0)
    assert neuron.spec.modality == tower
    assert (neuron.spec.submodule, neuron.spec.projection) == ("vision_model", "visual_projection")


@pytest.mark.parametrize("tower", ["video", "audio"])
def test_a_saved_model_comes_back_with_its_settings(tower, tmp_path):
    model = AutoModel.from_pretrained(write_original(tiny(tower), tmp_path / "original", lora_alpha=7))
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert again.config.vision_config.to_dict() == model.config.vision_config.to_dict()
    assert again.config.vision_config.lora_alpha == 7
    assert again.config.vision_config.model_type == f"languagebind_{tower}_model"
    assert again.config.vision_config.force_patch_dropout == 0.5  # fields that are not ours stay
    torch.testing.assert_close(embed(again), embed(model), atol=0, rtol=0)


def test_the_size_of_a_spectrogram_follows_its_numbers(tmp_path):
    folder = write_original(tiny("audio"), tmp_path / "original", image_size=224)
    config = AutoConfig.from_pretrained(folder)
    assert config.vision_config.input_size == (16, 64)


# --- LoRA ------------------------------------------------------------------------------------------------------------

SPATIAL, TEMPORAL = (
    ["k_proj", "v_proj", "q_proj", "out_proj"],
    [f"temporal_attn.{name}_proj" for name in ("k", "v", "q", "out")],
)


@pytest.mark.parametrize("wrapped", [False, True], ids=["peft of 2023", "peft of today"])
@pytest.mark.parametrize(("tower", "targets"), [("depth", SPATIAL), ("audio", SPATIAL), ("video", TEMPORAL)])
def test_lora_weights_are_folded_when_a_checkpoint_is_loaded(tower, targets, wrapped, tmp_path):
    model = tiny(tower)
    without = embed(model)
    folder, expected = add_lora(tmp_path / "lora", model, targets, rank=2, alpha=16, wrapped=wrapped)
    assert (expected - without).abs().max() > 1e-2
    loaded, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    torch.testing.assert_close(embed(loaded), expected, atol=1e-5, rtol=0)
    assert (loaded.config.vision_config.lora_r, loaded.vision_model.config.lora_r) == (0, 0)
    assert not any("lora" in name or "base_layer" in name for name in loaded.state_dict())
    neuron = load_neuron(resolve_spec(str(folder)))
    for name, weight in neuron.tower.state_dict().items():
        torch.testing.assert_close(weight, loaded.vision_model.state_dict()[name], atol=0, rtol=0)


def test_lora_weights_are_folded_from_safetensors_too(tmp_path):
    folder, expected = add_lora(tmp_path / "lora", tiny("thermal"), SPATIAL, rank=3, alpha=5, wrapped=True)
    save_file(torch.load(folder / "pytorch_model.bin"), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "pytorch_model.bin").unlink()
    torch.testing.assert_close(embed(AutoModel.from_pretrained(folder)), expected, atol=1e-5, rtol=0)


def test_a_text_tower_is_read_out_of_a_checkpoint_with_lora(tmp_path):
    model = tiny("depth")
    folder, _ = add_lora(tmp_path / "lora", model, SPATIAL, rank=2, alpha=16, wrapped=False)
    neuron = load_neuron(resolve_spec(str(folder), "text_tower"))
    torch.testing.assert_close(neuron.projection.weight, model.text_projection.weight, atol=0, rtol=0)
    assert CLIPTextModelWithProjection.__name__ == neuron.spec.class_name


W, A, B = "layers.0.q_proj.weight", "layers.0.q_proj.lora_A.default.weight", "layers.0.q_proj.lora_B.default.weight"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({W: (4, 4), A: (2, 4)}, "found layers.0.q_proj.lora_A.default.weight, expected .* beside each other"),
        ({W: (4, 4), B: (4, 2)}, "found layers.0.q_proj.lora_B.default.weight, expected .* beside each other"),
        ({A: (2, 4), B: (4, 2)}, "found layers.0.q_proj.lora_A.default.weight, expected .* beside each other"),
        ({W: (4, 4), A: (2, 5), B: (4, 2)}, r"LoRA weights of layers.0.q_proj have shapes \(4, 2\) and \(2, 5\)"),
        ({W: (4, 4), A: (3, 4), B: (4, 2)}, r"LoRA weights of layers.0.q_proj have shapes \(4, 2\) and \(3, 4\)"),
        ({W: (4, 4), "layers.0.q_proj.lora_magnitude_vector": (4,)}, "found layers.0.q_proj.lora_magnitude_vector"),
    ],
)
def test_lora_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        fold_lora({name: torch.zeros(shape) for name, shape in weights.items()}, 16)


def test_a_fold_is_computed_in_float32():
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator).half() for name, shape in ((W, (4, 4)), (A, (2, 4)), (B, (4, 2)))
    }
    folded = fold_lora(weights, 16)
    assert list(folded) == [W]
    expected = (weights[W].double() + 8 * weights[B].double() @ weights[A].double()).half()
    torch.testing.assert_close(folded[W], expected, atol=0, rtol=1e-3)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tower", "shape", "message"),
    [
        ("image", (1, 16, 16), r"pixel_values: found \(1, 16, 16\), expected \(batch, channels, height, width\) or"),
        ("image", (1, 3, 24, 16), r"found channels, height and width \(3, 24, 16\), expected \(3, 16, 16\)"),
        ("audio", (1, 3, 16, 16), r"found channels, height and width \(3, 16, 16\), expected \(3, 16, 64\)"),
        ("depth", (1, 1, 16, 16), r"found channels, height and width \(1, 16, 16\), expected \(3, 16, 16\)"),
        ("video", (2, 3, 3, 16, 16), "found 3 frames, expected clips of 4"),
        ("video", (6, 3, 16, 16), "found 6 frames, expected clips of 4"),
        ("video", (1, 3, 8, 16, 16), "found 8 frames, expected clips of 4"),
    ],
)
def test_pixels_of_another_shape_are_refused(tower, shape, message):
    with pytest.raises(ValueError, match=message):
        tiny(tower).vision_model(torch.zeros(shape))


def test_no_pixels_and_interpolated_positions_are_refused():
    model = tiny("image")
    with pytest.raises(ValueError, match="pixel_values: found None"):
        model.vision_model()
    with pytest.raises(ValueError, match="interpolate_pos_encoding is True, expected False"):
        model.get_image_features(pixels_of(model), interpolate_pos_encoding=True)


def test_an_unknown_clip_type_is_refused():
    for settings in ({"clip_type": "new"}, {"clip_type": "vl_new", "add_time_attn": False}):
        with pytest.raises(Exception, match="clip_type is"):
            configurations.LanguageBindVideoTowerConfig(**settings)


def test_a_pickle_that_holds_code_is_not_run(tmp_path):
    folder = write_original(tiny("image"), tmp_path / "original")

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"weight": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        AutoModel.from_pretrained(folder)
    with pytest.raises(OSError, match="its weights file holds more than tensors, and is not read"):
        load_neuron(resolve_spec(str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_refused(tmp_path):
    folder = write_original(tiny("image"), tmp_path / "original")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((OSError, RuntimeError), match=r"neuron 'image' \(.*original\): "):
        load_neuron(resolve_spec(str(folder)))


# --- full size -------------------------------------------------------------------------------------------------------

LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE_TEXT |= {"projection_dim": 768}
HUGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
HUGE_TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CLIP_LARGE = 427_616_513  # OpenAI's and OpenCLIP's ViT-L/14
CLIP_HUGE = 986_109_441  # OpenCLIP's ViT-H/14


@pytest.mark.parametrize(
    ("name", "tower", "text", "projection_dim", "count"),
    [
        ("Image", {}, LARGE_TEXT, 768, CLIP_LARGE),
        ("Depth", {}, LARGE_TEXT, 768, CLIP_LARGE),
        ("Thermal", {}, LARGE_TEXT, 768, CLIP_LARGE),
        # Positions of 9 x 74 and 8 x 74 patches instead of 16 x 16.
        ("Audio", {"num_mel_bins": 126}, LARGE_TEXT, 768, CLIP_LARGE + (9 * 74 - 256) * 1024),
        ("Audio", {"num_mel_bins": 112}, LARGE_TEXT, 768, CLIP_LARGE + (8 * 74 - 256) * 1024),
        # In each layer one attention, its norm and 8 time embeddings more.
        ("Video", {}, LARGE_TEXT, 768, CLIP_LARGE + 24 * (4 * (1024 * 1024 + 1024) + 2 * 1024 + 8 * 1024)),
        (
            "Video",
            {**HUGE, "clip_type": "vl_new"},
            HUGE_TEXT,
            1024,
            CLIP_HUGE + 32 * (4 * (1280 * 1280 + 1280) + 2 * 1280 + 8 * 1280) + 7 * 1280,
        ),
    ],
)
def test_models_of_published_size_have_as_many_parameters(name, tower, text, projection_dim, count):
    config = getattr(configurations, f"LanguageBind{name}Config")(
        vision_config=tower, text_config=text, projection_dim=projection_dim
    )
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
