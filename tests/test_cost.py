"""Cost estimates: exact operation counts of the matrix products, computed without weights."""

import json
import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    CLIPConfig,
    CLIPImageProcessorPil,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
)

from modeling_sen import PRESETS, SEN_TINY, NeuronSpec, SENConfig, SENModel, SENProcessor
from modeling_sen.cost import describe, neuron_cost
from modeling_sen.prompting import PROMPT

WIDTH, MLP, PATCHES, PATCH = 16, 32, 4, 3 * 8 * 8  # sizes of the tiny towers


def layer_flops(tokens: int) -> int:
    """Four projections and the MLP for each token, and attention between all tokens."""
    return 2 * tokens * (4 * WIDTH**2 + 2 * WIDTH * MLP) + 4 * tokens**2 * WIDTH


def costs_of(model: SENModel) -> dict:
    processor = SENProcessor(model.config)
    return {spec.name: neuron_cost(spec, processor) for spec in model.config.neuron_specs}


def test_an_image_tower_costs_its_layers_and_its_patch_embedding(make_sen):
    cost = costs_of(make_sen(num_prompt_tokens=3, prompt="tokens"))["image"]
    assert cost.unknown is None
    assert (cost.layers, cost.prompt_depth, cost.prompt) == (4, 1, "tokens")
    frames, tokens = 2, PATCHES + 1
    assert cost.first_pass_flops == frames * (4 * layer_flops(tokens) + 2 * PATCHES * PATCH * WIDTH)
    assert cost.round_flops == frames * layer_flops(tokens + 3)
    assert cost.cache_bytes == 0


@pytest.mark.parametrize("depth", [1, "all"])
def test_queries_cost_only_the_prompts_and_cache_keys_and_values(depth, make_sen):
    cost = costs_of(make_sen(num_prompt_tokens=3, prompt="queries", prompt_depth=depth))["image"]
    frames, tokens, layers = 2, PATCHES + 1, 4 if depth == "all" else 1
    of_prompts = 2 * 3 * (4 * WIDTH**2 + 2 * WIDTH * MLP) + 4 * 3 * (tokens + 3) * WIDTH
    assert (cost.prompt_depth, cost.prompt, cost.round_flops) == (layers, "queries", frames * layers * of_prompts)
    assert cost.cache_bytes == 4 * layers * frames * 2 * tokens * WIDTH  # float32


def test_cached_keys_and_values_have_the_dtype_of_the_tower(make_sen, towers):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2, "dtype": "bfloat16"}]
    model = make_sen(neurons=neurons, prompt="queries")
    cost = costs_of(model)["image"]
    pixels = torch.zeros(1, 2, 3, 16, 16)
    records = model.config.prompt_of(model.config.neuron_specs[0])
    look = model.neurons["image"].first_look({"pixel_values": pixels}, PROMPT[records].records)
    calls = [call for layer in look.trunk.layers for call in layer.calls]
    assert cost.cache_bytes == sum(call.keys.nbytes + call.values.nbytes for call in calls) == 2 * 2 * 2 * 5 * WIDTH


def test_the_cost_of_the_crown_grows_with_the_prompt_depth(make_sen, towers):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}]
    quarter, half, everything = (
        costs_of(make_sen(neurons=neurons, prompt="tokens", prompt_depth=depth))["image"].round_flops
        for depth in (None, 2, "all")
    )
    assert half == 2 * quarter
    assert everything == 4 * quarter  # the patch embedding is not repeated


def test_counts_equal_those_of_the_loaded_neurons(make_sen, towers, clips):
    """On a real clip, which the processor resizes to the tower's input size."""
    model = make_sen(
        neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["xclip"]],
        prompt="tokens",
    )
    model.set_attn_implementation("eager")
    inputs = SENProcessor(model.config)(videos=clips[0])
    for name, cost in costs_of(model).items():
        neuron = model.neurons[name]
        given = {neuron.spec.input_name: inputs[f"{name}_{neuron.spec.input_name}"]}
        with FlopCounterMode(display=False) as first:
            trunk = neuron.first_look(given)
        with FlopCounterMode(display=False) as again, torch.no_grad():
            neuron.look_again(trunk, torch.zeros(1, model.config.num_prompt_tokens, neuron.spec.hidden_size))
        assert (cost.first_pass_flops, cost.round_flops) == (first.get_total_flops(), again.get_total_flops())


def test_parameters_equal_those_of_the_loaded_neurons(make_sen):
    model = make_sen()
    for name, cost in costs_of(model).items():
        assert cost.parameters == sum(weight.numel() for weight in model.neurons[name].parameters())
    processor = SENProcessor(model.config)
    text = neuron_cost(model.config.text_tower_spec, processor)
    assert text.parameters == sum(weight.numel() for weight in model.neurons.text_tower.parameters())
    assert text.first_pass_flops is None  # class texts are embedded once, not for each clip


def test_neurons_with_prompts_after_the_tower_add_no_cost_per_round(make_sen, towers):
    spec = {"hub_id": towers["clip"], "prompt_side": "after", "num_frames": 2}
    cost = costs_of(make_sen(neurons=[spec]))["image"]
    assert (cost.prompt, cost.layers, cost.prompt_depth, cost.round_flops) == ("after", None, None, 0)
    assert cost.first_pass_flops > 0


def test_a_registered_variant_without_its_own_count_is_counted_like_tokens(make_sen, monkeypatch):
    class FixedPrompts(torch.nn.Module):
        records = PROMPT["tokens"].records

        def __init__(self, config, spec):
            super().__init__()
            self.tokens = torch.nn.Parameter(torch.zeros(config.num_prompt_tokens, spec.hidden_size))

        def forward(self, neuron, look, context):
            return neuron.look_again(look, self.tokens.expand(len(context), -1, -1))

    monkeypatch.setitem(PROMPT, "fixed", FixedPrompts)
    costs, tokens = costs_of(make_sen(prompt="fixed")), costs_of(make_sen(prompt="tokens"))
    assert {name: cost.round_flops for name, cost in costs.items()} == {n: c.round_flops for n, c in tokens.items()}


def test_without_prompts_rounds_cost_nothing(make_sen):
    prompted = costs_of(make_sen())
    for name, cost in costs_of(make_sen(prompt="none")).items():
        assert cost.first_pass_flops == prompted[name].first_pass_flops
        assert (cost.prompt, cost.prompt_depth, cost.round_flops) == ("none", None, 0)


def test_unknown_figures_are_none_and_the_reason_is_given(towers, tmp_path):
    spec = NeuronSpec("eye", "image", "nobody/nothing", 16, "CLIPVisionModel")
    cost = neuron_cost(spec, SENProcessor(SENConfig(neurons=[spec.to_dict()])))
    assert cost.parameters is None
    assert cost.first_pass_flops is None
    assert "cached files" in cost.unknown

    # A tower without a processor file: its size is known, the size of its input is not.
    folder = shutil.copytree(towers["clip"], tmp_path / "clip")
    (folder / "preprocessor_config.json").unlink()
    spec = NeuronSpec("eye", "image", str(folder), 16, "CLIPVisionModel")
    cost = neuron_cost(spec, SENProcessor(SENConfig(neurons=[spec.to_dict()])))
    assert cost.parameters > 0
    assert cost.first_pass_flops is None
    assert "no image processor configuration" in cost.unknown


@pytest.mark.parametrize("depth", [5, 100])
def test_a_prompt_depth_beyond_the_tower_is_reported(make_sen, depth):
    config = make_sen().config
    config.prompt_depth = depth
    assert f"prompt_depth is {depth}" in neuron_cost(config.neuron_specs[0], SENProcessor(config)).unknown


# --- a whole SEN -----------------------------------------------------------------------------------------------------


def test_describing_a_checkpoint_reads_no_weights(sen_folder, tmp_path):
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
    """Neurons of the size of a preset's, from configurations without weights."""
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


@pytest.mark.parametrize(
    ("depth", "lowest", "highest"),
    [
        (None, 1.74, 1.8),
        pytest.param(1, 1.24, 1.35, marks=pytest.mark.slow),
        pytest.param("all", 3.9, 4.1, marks=pytest.mark.slow),
    ],
)
def test_three_rounds_add_about_the_cost_of_the_repeated_layers(full_size, depth, lowest, highest, tmp_path):
    """Three rounds over the upper quarter of the layers cost 3/4 of a pass, plus a little for the prompt tokens."""
    config = SENConfig(neurons=full_size, prompt="tokens", prompt_depth=depth)
    config.save_pretrained(tmp_path / "sen")
    found = describe(str(tmp_path / "sen"))
    assert [round(neuron["parameters"] / 1e6) for neuron in found["neurons"]] == [86, 86, 86]
    assert lowest <= found["cost_ratio"] <= highest


def test_the_packaged_checkpoint_can_be_described_by_its_name():
    assert describe("sen-tiny") == describe(SEN_TINY) | {"model": "sen-tiny"}


def test_an_offline_preset_reports_what_is_not_cached():
    found = describe("clip-videomae-ast")
    assert found["trainable_parameters"] * 4 <= 20 * 2**20  # float32: at most 20 MB for three base-size towers
    assert found["parameters"] is None
    assert found["cost_ratio"] is None
    assert all("cached files" in neuron["unknown"] for neuron in found["neurons"])


def test_a_path_without_a_sen_is_refused(towers, tmp_path):
    with pytest.raises(ValueError, match="model type is 'bert'"):
        describe(towers["bert"])
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        describe(str(tmp_path / "nowhere"))
