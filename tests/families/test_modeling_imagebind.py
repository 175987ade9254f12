"""ImageBind's towers and its whole model, on tiny random weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tower_table import CHECKPOINTS
from transformers import AutoConfig, AutoModel

from modeling_sen.families.imagebind import ImageBindConfig, ImageBindModel
from modeling_sen.families.imagebind.configuration_imagebind import MODALITIES, TOWER_CONFIGS
from modeling_sen.families.imagebind.imagebind_towers import TOWERS
from modeling_sen.hub_files import family_classes

INPUTS = {
    "vision": ("pixel_values", (3, 16, 16)),
    "audio": ("input_features", (1, 16, 20)),
    "depth": ("depth_values", (1, 16, 16)),
    "thermal": ("thermal_values", (1, 16, 16)),
    "imu": ("imu_values", (6, 32)),
}


def tiny_config() -> ImageBindConfig:
    return ImageBindConfig(**copy.deepcopy(CHECKPOINTS["imagebind"][1]))


@pytest.fixture
def model(towers) -> ImageBindModel:
    return ImageBindModel.from_pretrained(towers["imagebind"]).eval()


def random_inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(batch, *shape, generator=generator) for name, shape in INPUTS.values()}
    ids = torch.randint(1, 500, (batch, 9), generator=generator)
    ids[:, -1] = 513
    return {**found, "input_ids": ids}


def test_auto_classes_know_model_and_towers(towers):
    assert type(AutoModel.from_pretrained(towers["imagebind"])) is ImageBindModel
    for modality, kind in TOWER_CONFIGS.items():
        assert AutoConfig.for_model(kind.model_type) == kind()
        assert AutoModel._model_mapping[kind] is TOWERS[modality]


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = ImageBindModel(ImageBindConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_200_781_057


def test_embeddings_have_the_length_of_their_factor(model):
    with torch.no_grad():
        output = model(**random_inputs())
    for modality in MODALITIES:
        scale = getattr(model, f"{modality}_logit_scale", torch.tensor(0.0)).exp().clamp(max=100)
        embeds = output[f"{modality}_embeds"]
        assert embeds.shape == (2, 12)
        torch.testing.assert_close(embeds.norm(dim=-1), scale.expand(2))


def test_clips_are_averaged_behind_the_factor(model):
    with torch.no_grad():
        for modality, (name, shape) in INPUTS.items():
            if modality == "imu":  # has no clips: three dimensions
                continue
            clips = torch.randn(2, 3, *((3, 2, 16, 16) if modality == "vision" else shape))
            together = model(**{name: clips})[f"{modality}_embeds"]
            if modality == "vision":
                each = [model(**{name: clips[:, [clip]]}).vision_embeds for clip in range(3)]
            else:
                each = [model(**{name: clips[:, clip]})[f"{modality}_embeds"] for clip in range(3)]
            torch.testing.assert_close(together, torch.stack(each).mean(0), atol=1e-5, rtol=1e-5)
            assert (together.norm(dim=-1) < each[0].norm(dim=-1) - 1e-4).all()


def test_an_image_is_a_clip_of_the_same_frame_twice(model):
    images = torch.randn(2, 3, 16, 16)
    clips = torch.stack([images, images], dim=2).unsqueeze(1)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=images).vision_embeds, model(pixel_values=clips).vision_embeds)
        several = model(pixel_values=torch.stack([images, images], dim=1)).vision_embeds
    torch.testing.assert_close(several, model(pixel_values=images).vision_embeds)


def test_the_largest_factor_is_a_hundred(model):
    with torch.no_grad():
        model.text_logit_scale.fill_(7.0)
        lengths = model(input_ids=random_inputs()["input_ids"]).text_embeds.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((2,), 100.0))


def test_padding_behind_a_text_changes_nothing(model):
    ids = random_inputs()["input_ids"]
    padded = F.pad(ids, (0, 7))
    with torch.no_grad():
        unpadded = model(input_ids=ids).text_embeds
        torch.testing.assert_close(model(input_ids=padded).text_embeds, unpadded)
        masked = model(input_ids=padded, attention_mask=(padded > 0).long()).text_embeds
    torch.testing.assert_close(masked, unpadded)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_tower_with_its_projection_loads_from_the_whole_checkpoint(modality, model, towers):
    config = getattr(model.config, f"{modality}_config")
    tower_class = family_classes()[f"ImageBind{modality.title()}ModelWithProjection"]
    tower, loading = tower_class.from_pretrained(towers["imagebind"], config=config, output_loading_info=True)
    assert not loading["missing_keys"]
    name = "input_ids" if modality == "text" else INPUTS[modality][0]
    values = random_inputs()[name]
    with torch.no_grad():
        expected = model(**{name: values})[f"{modality}_embeds"]
        torch.testing.assert_close(tower.eval()(values).pooler_output, expected, atol=0, rtol=0)


@pytest.mark.parametrize("modality", MODALITIES)
def test_eager_and_sdpa_agree_and_attention_has_a_row_more_where_there_is_one(modality, model):
    inputs = random_inputs()
    name = "input_ids" if modality == "text" else INPUTS[modality][0]
    tower = getattr(model, f"{modality}_model")
    with torch.no_grad():
        expected = tower(inputs[name]).pooler_output
        tower.set_attn_implementation("eager")
        output = tower(inputs[name], output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.pooler_output, expected, atol=1e-5, rtol=1e-5)
    tokens, extra = output.last_hidden_state.shape[1], int(modality not in ("vision", "text"))
    assert len(output.attentions) == 4
    assert len(output.hidden_states) == 5
    assert output.attentions[0].shape == (2, 2, tokens, tokens + extra)


def test_checkpointing_gives_the_same_gradients(model):
    inputs = random_inputs()
    grads = []
    for checkpointed in (False, True):
        model.train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        sum(embeds.square().mean() + embeds.sum() for embeds in model(**inputs).values()).backward()
        grads.append(
            {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        )
    assert set(grads[0]) == set(grads[1])
    assert set(grads[0]) == {name for name, _ in model.named_parameters()}
    assert {name for name in grads[0] if "logit_scale" in name} == {
        "text_logit_scale"
    }  # of the others none was trained
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_what_is_made_without_a_checkpoint_is_initialised():
    torch.manual_seed(0)
    with torch.device("meta"):
        model = ImageBindModel(tiny_config())
    model = model.to_empty(device="cpu")
    model.init_weights()
    spread = {name: float(weight.detach().std()) for name, weight in model.named_parameters() if weight.numel() > 100}
    assert all(0.015 < each < 0.025 for name, each in spread.items() if "norm" not in name), spread
    assert float(model.audio_logit_scale.exp()) == pytest.approx(20)
    assert "bias_k" in "".join(name for name, _ in model.named_parameters())


def test_a_saved_model_comes_back(model, tmp_path):
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path).eval()(**random_inputs())
        for name, expected in model(**random_inputs()).items():
            torch.testing.assert_close(found[name], expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "pixel_values",
            (2, 3, 24, 16),
            r"pixel_values: found shape \(2, 3, 2, 24, 16\), expected \(batch, 3, 2, 16, 16\)",
        ),
        ("pixel_values", (2, 1, 3, 4, 16, 16), r"pixel_values: found shape \(2, 3, 4, 16, 16\)"),
        ("depth_values", (2, 3, 16, 16), r"found shape \(2, 3, 16, 16\), expected \(batch, 1, 16, 16\)"),
        ("input_features", (2, 1, 16, 21), r"input_features: found shape"),
        ("imu_values", (2, 32, 6), r"imu_values: found shape \(2, 32, 6\), expected \(batch, 6, 32\)"),
        ("input_ids", (2, 33), r"input_ids: found shape \(2, 33\), expected \(batch, at most 32\)"),
    ],
)
def test_inputs_of_another_shape_raise(name, shape, message, model):
    with pytest.raises(ValueError, match=message):
        model(**{name: torch.zeros(shape, dtype=torch.long if name == "input_ids" else torch.float32)})


def test_no_input_raises(model):
    with pytest.raises(ValueError, match="ImageBindModel: found no input, expected some of pixel_values"):
        model()


def test_widths_that_the_heads_do_not_divide_raise():
    with pytest.raises(Exception, match="hidden_size is 30, expected a multiple of 4 heads"):
        ImageBindConfig(audio_config={"hidden_size": 30, "num_attention_heads": 4})
