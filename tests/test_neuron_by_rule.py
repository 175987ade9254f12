"""Unregistered tower types: their inputs are derived from the class, and a trial run shows whether they take prompts."""

import logging

import pytest
import torch
import transformers
from neuron_families import look_again
from tower_table import LAYERS, VISION, WAVES
from transformers import (
    BigBirdConfig,
    BigBirdModel,
    DacConfig,
    DacModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Speech2TextConfig,
    ViTConfig,
    ViTModel,
)
from transformers import logging as transformers_logging
from transformers.models.speech_to_text.modeling_speech_to_text import Speech2TextEncoder

from modeling_sen import SENModel, list_neurons
from modeling_sen.neuron_by_rule import adapter_for, find_layers, patch_grid
from modeling_sen.neuron_registry import NEURON_ADAPTERS
from modeling_sen.prompt_injection import _extend_mask

SEVEN = {"conv_dim": [8] * 7, "conv_kernel": [10, *[3] * 6], "conv_stride": [5, *[2] * 6]}
SMALL = {"hidden_size": 8, "projection_dim": 4, "num_prompt_tokens": 2, "bottleneck_size": 4}
WORDS = {**LAYERS, "vocab_size": 40, "max_position_embeddings": 32}
STAGES = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 16, "patch_size": 2}
PICTURES, SOUNDS, TEXTS = (2, 3, 3, 16, 16), (2, 1600), (2, 9)

# class -> (configuration, shape of its inputs, grid, whether it takes prompts)
TYPES = {
    "ViTModel": (VISION, PICTURES, (3, 2, 2), True),
    "IJepaModel": (VISION, PICTURES, (3, 2, 2), True),
    "Aimv2VisionModel": (VISION, PICTURES, (3, 2, 2), True),
    "Dinov2WithRegistersModel": (VISION, PICTURES, (3, 2, 2), True),
    "BeitModel": (VISION, PICTURES, (3, 2, 2), True),
    "ViTMSNModel": (VISION, PICTURES, (3, 2, 2), True),
    "UniSpeechModel": (WAVES, SOUNDS, (1, 1, 10), True),
    "UniSpeechSatModel": (WAVES, SOUNDS, (1, 1, 10), True),
    "Data2VecAudioModel": ({**WAVES, "num_conv_pos_embeddings": 2}, SOUNDS, (1, 1, 10), True),
    "Wav2Vec2BertModel": (
        {**LAYERS, "feature_projection_input_dim": 12, "conv_depthwise_kernel_size": 3},
        (2, 10, 12),
        (1, 1, 10),
        True,
    ),
    "RobertaModel": (WORDS, TEXTS, (1, 1, 9), True),
    "ElectraModel": (WORDS, TEXTS, (1, 1, 9), True),
    "T5EncoderModel": (
        {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_heads": 2, "vocab_size": 40},
        TEXTS,
        (1, 1, 9),
        True,
    ),
    # The tower builds and applies its own attention mask of ones.
    "MegatronBertModel": (WORDS, TEXTS, (1, 1, 9), True),
    # A part of a larger model; it inherits `input_ids` as its main input, although it takes pixels.
    "Idefics3VisionTransformer": (VISION, PICTURES, (3, 2, 2), True),
    # Spectrograms with bins first; after the layers the mean of every two tokens.
    "Qwen2AudioEncoder": (
        {
            **{"d_model": 16, "encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
            **{"num_mel_bins": 8, "max_source_positions": 10},
        },
        (2, 8, 20),
        (1, 1, 5),
        True,
    ),
    # Half as many output tokens as input tokens.
    "FunnelBaseModel": (
        {
            **{"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "vocab_size": 40},
            **{"block_sizes": [1, 1], "hidden_dropout": 0.0},
        },
        TEXTS,
        (1, 1, 5),
        False,
    ),
    # No prompts possible: windows, convolutions, biases of fixed size, one layer that runs several times.
    "SwinModel": (STAGES, PICTURES, (3, 4, 4), False),
    "ConvNextModel": (
        {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 2, 1], "image_size": 32},
        (2, 3, 3, 32, 32),
        (3, 1, 1),
        False,
    ),
    "ResNetModel": (
        {"embedding_size": 4, "hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]},
        (2, 3, 3, 64, 64),
        (3, 2, 2),
        False,
    ),
    "DebertaV2Model": ({**WORDS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, TEXTS, (1, 1, 9), False),
    "MPNetModel": (WORDS, TEXTS, (1, 1, 9), False),
    "AlbertModel": ({**WORDS, "embedding_size": 8}, TEXTS, (1, 1, 9), False),
}


def saved(class_name: str, folder, settings) -> str:
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    return str(folder)


def inputs_of(spec, shape) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if spec.modality == "text":
        return {"input_ids": torch.randint(2, 40, shape, generator=generator)}
    return {spec.input_name: torch.randn(shape, generator=generator)}


@pytest.fixture
def warnings(caplog):
    """Returns the warnings about use by rule so far; the warning is reset for each test."""
    transformers_logging.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield lambda: [message for message in caplog.messages if "used by rule" in message]


RETURN_MORE = ("T5EncoderModel", "MegatronBertModel")  # position biases, and attention weights
# Architectures close to one that is always tested: ViT, UniSpeech, RoBERTa, DINOv2.
ALIKE = ("IJepaModel", "ViTMSNModel", "UniSpeechSatModel", "ElectraModel", "Dinov2WithRegistersModel")


@pytest.mark.parametrize(
    "class_name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in TYPES]
)
def test_unregistered_types_are_used_by_rule(class_name, tmp_path, warnings):
    settings, shape, grid, takes_prompts = TYPES[class_name]
    folder = saved(class_name, tmp_path / "tower", settings)
    model = SENModel.from_neurons([{"hub_id": folder, "class_name": class_name}], **SMALL)
    spec, neuron = model.config.neuron_specs[0], next(iter(model.neurons.values()))
    assert neuron.tower.config.model_type not in list_neurons()
    assert spec.prompt_side == (None if takes_prompts else "after")
    (warning,) = warnings()
    assert ("after the tower" in warning) == (not takes_prompts)
    trunk = neuron.first_look(inputs_of(spec, shape))
    state = trunk.state
    assert state.grid == grid
    assert state.last_hidden_state.shape == (2, grid[0] * grid[1] * grid[2], 16)
    context = torch.randn(2, 2 if takes_prompts else 1, 16).requires_grad_()
    again = look_again(neuron, trunk, context)
    assert (again.pooler_output - state.pooler_output).abs().max() > 1e-4
    (again.last_hidden_state.square().sum() + again.pooler_output.sum()).backward()
    assert bool((context.grad.abs().amax(-1) > 0).all())
    if trunk.storable:
        stored = neuron.unpack(trunk.pack())
        with torch.no_grad():
            torch.testing.assert_close(look_again(neuron, stored, context).pooler_output, again.pooler_output)
    else:
        assert class_name in RETURN_MORE
        with pytest.raises(ValueError, match="layers return more than hidden states, which cannot be stored"):
            trunk.pack()
    if takes_prompts:
        naive = neuron.tower(**neuron.tower_inputs(inputs_of(spec, shape))).last_hidden_state
        assert torch.equal(state.last_hidden_state[:, -1], naive.reshape(2, -1, 16)[:, -1])
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    back = SENModel.from_pretrained(tmp_path / "sen").neurons[spec.name]
    assert torch.equal(back.first_look(inputs_of(spec, shape)).state.pooler_output, state.pooler_output)


@pytest.mark.parametrize(
    ("checkpoint", "model_type", "takes_prompts", "grid"),
    [
        ("videomae", "videomae", True, (2, 2, 2)),
        ("vivit", "vivit", True, None),
        ("timesformer", "timesformer", False, None),
    ],
)
def test_towers_of_whole_clips_are_used_by_rule(
    checkpoint, model_type, takes_prompts, grid, towers, monkeypatch, warnings
):
    monkeypatch.delitem(NEURON_ADAPTERS, model_type)
    model = SENModel.from_neurons([towers[checkpoint]], **SMALL)
    spec, neuron = model.config.neuron_specs[0], model.neurons["video"]
    assert (spec.modality, spec.num_frames, neuron.adapter.folds_frames) == ("video", 4, False)
    assert (neuron.prompted_tower is not None) == takes_prompts
    assert len(warnings()) == 1
    trunk = neuron.first_look({"pixel_values": torch.randn(2, 4, 3, 16, 16)})
    state = trunk.state
    again = look_again(neuron, trunk, torch.randn(2, 2 if takes_prompts else 1, 16))
    assert again.last_hidden_state.shape == state.last_hidden_state.shape
    if grid is not None:
        assert state.grid == grid


def test_a_relative_bias_of_the_image_size_prevents_prompts(tmp_path, warnings):
    folder = saved("BeitModel", tmp_path / "tower", {**VISION, "use_relative_position_bias": True})
    model = SENModel.from_neurons([folder], **SMALL)
    assert model.config.neuron_specs[0].prompt_side == "after"
    assert "take no other tokens" in warnings()[0]


def test_a_trial_run_restores_the_attention_of_the_tower(tmp_path):
    model = SENModel.from_neurons([saved("ViTModel", tmp_path / "tower", VISION)], **SMALL)
    assert model.neurons["image"].tower.config._attn_implementation == "sdpa"


def test_masks_of_ones_and_zeros_are_extended_for_the_prompts():
    """Float masks that are multiplied instead of added: the largest value means visible."""
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    expected = torch.tensor([[1.0, 1.0, 0.0]] * 3), torch.ones(3, 3)
    for scale, shift in ((1.0, 0.0), (1e9, -1e9)):  # as it is, and as an additive mask
        extended = _extend_mask(mask * scale + shift, 1, 2, "prefix")
        torch.testing.assert_close(extended[:, 0], torch.stack(expected) * scale + shift)
    assert _extend_mask(mask.bool(), 1, 2, "suffix").tolist() == [
        [[[True, False, True]] * 3],
        [[[True, True, True]] * 3],
    ]
    assert _extend_mask(torch.tensor([[1, 0]]), 2, 2, "prefix").tolist() == [[1, 1, 1, 0]]


def test_an_unregistered_image_tower_gets_single_frames_for_any_modality(tmp_path):
    folder = saved("ViTModel", tmp_path / "tower", VISION)
    model = SENModel.from_neurons([{"hub_id": folder, "modality": "depth", "num_frames": 3}], **SMALL)
    state = model(depth_pixel_values=torch.randn(2, 3, 3, 16, 16)).neuron_states["depth"]
    assert state.grid == (3, 2, 2)


class NoAttention(torch.nn.Module):
    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states, None


class HalfAttended(ViTModel):
    """Two layers of one class; the first one does not call attention."""

    def __init__(self, config):
        super().__init__(config)
        find_layers(self)[0].attention = NoAttention()


def test_convolutions_of_one_class_do_not_count_as_transformer_layers():
    """Data2Vec has seven equal convolutions before its two layers."""
    tower = Data2VecAudioModel(Data2VecAudioConfig(**{**WAVES, "num_hidden_layers": 2, **SEVEN}))
    assert len(find_layers(tower)) == 2


@pytest.mark.parametrize(("num_tokens", "grid"), [(4, (1, 2, 2)), (9, (1, 2, 2)), (3, (1, 1, 3)), (104, (1, 1, 104))])
def test_patches_form_a_plane_if_their_number_agrees_with_the_tokens(num_tokens, grid):
    """Fewer tokens than patches (groups of GroupViT) or a hundred more (detection tokens of YOLOS) form no plane."""
    inputs = {"pixel_values": torch.empty(1, 3, 16, 16), "num_tokens": num_tokens}
    assert patch_grid(ViTConfig(**VISION), inputs) == grid


def test_block_sparse_attention_prevents_prompts():
    """BigBird uses it for long texts only; on short ones, as in a trial run, it attends to all tokens."""
    assert not adapter_for(BigBirdModel(BigBirdConfig(**LAYERS, vocab_size=40))).takes_prompts


def test_a_failed_trial_run_logs_nothing(caplog):
    """The tower reads sound with 12 features, which the trial run does not try."""
    config = Speech2TextConfig(d_model=16, encoder_layers=1, encoder_ffn_dim=16, input_feat_per_channel=12)
    with caplog.at_level(logging.DEBUG):
        assert adapter_for(Speech2TextEncoder(config)).width is None
    assert [record.name for record in caplog.records if "fake_tensor" in record.name] == []


def test_a_codec_is_named_in_the_error():
    tower = DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=16, hidden_size=64))
    with pytest.raises(ValueError, match=r"DacModel returns .*audio_codes.*, expected an encoder's last_hidden_state"):
        adapter_for(tower)


def test_a_tower_without_token_outputs_is_named_when_it_runs(tmp_path):
    folder = saved("DPRQuestionEncoder", tmp_path / "tower", {**WORDS, "projection_dim": 0})
    with pytest.raises(
        ValueError, match="DPRQuestionEncoder returns pooler_output, expected an encoder's last_hidden"
    ):
        SENModel.from_neurons([{"hub_id": folder, "class_name": "DPRQuestionEncoder"}], **SMALL)


@pytest.mark.parametrize(
    ("class_name", "settings", "message"),
    [
        (
            "PixtralVisionModel",
            {**VISION, "head_dim": 8},
            "'image': its tower returns tokens of batch size 1, expected a multiple of 2",
        ),
        (
            "ViTModel",
            {**VISION, "pooler_output_size": 32},
            "'image': hidden_size is 16, but its tower's tokens and pooled output have widths 16 and 32",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_named_in_the_error(class_name, settings, message, tmp_path):
    """Pixtral returns one row of tokens for all frames; this ViT's pooled output is twice as wide as its tokens."""
    folder = saved(class_name, tmp_path / "tower", settings)
    model = SENModel.from_neurons([{"hub_id": folder, "class_name": class_name}], **SMALL)
    with pytest.raises(ValueError, match=message):
        model.neurons["image"].first_look({"pixel_values": torch.randn(PICTURES)})


def test_a_given_width_is_used_after_a_failed_trial_run(tmp_path):
    """Reformer's tokens are twice as wide as its hidden states, and it reads position indices, so trials fail."""
    settings = {"hidden_size": 16, "attention_head_size": 8, "num_attention_heads": 2, "feed_forward_size": 32}
    settings |= {"axial_pos_shape": (4, 8), "axial_pos_embds_dim": (8, 8), "attn_layers": ["local"], "vocab_size": 40}
    folder = saved("ReformerModel", tmp_path / "tower", {**settings, "local_attn_chunk_length": 4})
    texts = {"input_ids": torch.randint(2, 40, TEXTS)}
    with pytest.raises(ValueError, match="hidden_size is 16, but its tower's tokens and pooled output have widths 32"):
        SENModel.from_neurons([folder], **SMALL).neurons["words"].first_look(texts)
    neuron = SENModel.from_neurons([{"hub_id": folder, "hidden_size": 32}], **SMALL).neurons["words"]
    assert neuron.first_look(texts).state.last_hidden_state.shape == (2, 9, 32)


@pytest.mark.parametrize(("tower_class", "takes_queries"), [(ViTModel, True), (HalfAttended, False)])
def test_queries_are_tried_in_all_layers(tower_class, takes_queries):
    adapter = adapter_for(tower_class(ViTConfig(**VISION)))
    assert (adapter.takes_prompts, adapter.takes_queries) == (True, takes_queries)
