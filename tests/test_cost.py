"""Cost estimates: exact counts of matrix products, without weights."""

import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_sen import NeuronSpec, SENConfig, SENModel, SENProcessor
from modeling_sen.cost import neuron_cost

WIDTH, MLP, PATCHES, PATCH = 16, 32, 4, 3 * 8 * 8  # of the tiny towers


def layer_flops(tokens: int) -> int:
    """Four projections and the MLP for each token, and attention among all."""
    return 2 * tokens * (4 * WIDTH**2 + 2 * WIDTH * MLP) + 4 * tokens**2 * WIDTH


def costs_of(model: SENModel) -> dict:
    processor = SENProcessor(model.config)
    return {spec.name: neuron_cost(spec, processor) for spec in model.config.neuron_specs}


def test_an_image_tower_costs_its_layers_and_its_patches(make_sen):
    cost = costs_of(make_sen(num_prompt_tokens=3))["image"]
    assert cost.unknown is None
    assert (cost.layers, cost.crown_layers, cost.prompt_side) == (4, 1, "prefix")
    frames, tokens = 2, PATCHES + 1
    assert cost.first_pass_flops == frames * (4 * layer_flops(tokens) + 2 * PATCHES * PATCH * WIDTH)
    assert cost.round_flops == frames * layer_flops(tokens + 3)


def test_crowns_grow_with_the_prompt_depth(make_sen, towers):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}]
    quarter, half, everything = (
        costs_of(make_sen(neurons=neurons, prompt_depth=depth))["image"].round_flops for depth in (None, 2, "all")
    )
    assert half == 2 * quarter
    assert everything == 4 * quarter  # patches are embedded once


def test_counts_equal_those_of_the_loaded_neurons(make_sen, towers, clips):
    """Run for real on a clip of any size: the tower's input has one size."""
    model = make_sen(
        neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["xclip"]]
    )
    model.set_attn_implementation("eager")
    inputs = SENProcessor(model.config)(videos=clips[0])
    for name, cost in costs_of(model).items():
        neuron = model.neurons.by_name[name]
        given = {neuron.spec.input_name: inputs[f"{name}_{neuron.spec.input_name}"]}
        with FlopCounterMode(display=False) as first:
            _, trunk = neuron.first_look(given)
        with FlopCounterMode(display=False) as again, torch.no_grad():
            neuron.look_again(trunk, torch.zeros(1, model.config.num_prompt_tokens, neuron.spec.hidden_size))
        assert (cost.first_pass_flops, cost.round_flops) == (first.get_total_flops(), again.get_total_flops())


def test_parameters_equal_those_of_the_loaded_neurons(make_sen):
    model = make_sen()
    for name, cost in costs_of(model).items():
        assert cost.parameters == sum(weight.numel() for weight in model.neurons.by_name[name].parameters())
    processor = SENProcessor(model.config)
    text = neuron_cost(model.config.text_tower_spec, processor)
    assert text.parameters == sum(weight.numel() for weight in model.neurons.text_tower.parameters())
    assert text.first_pass_flops is None  # class texts are embedded once, not for each clip


def test_neurons_re_associated_after_their_tower_cost_nothing_more(make_sen, towers):
    spec = {"hub_id": towers["clip"], "prompt_side": "after", "num_frames": 2}
    cost = costs_of(make_sen(neurons=[spec]))["image"]
    assert (cost.prompt_side, cost.layers, cost.crown_layers, cost.round_flops) == ("after", None, None, 0)
    assert cost.first_pass_flops > 0


def test_without_prompts_no_crown_runs_again(make_sen):
    prompted = costs_of(make_sen())
    for name, cost in costs_of(make_sen(prompt="none")).items():
        assert cost.first_pass_flops == prompted[name].first_pass_flops
        assert (cost.prompt_side, cost.crown_layers, cost.round_flops) == ("none", None, 0)


def test_what_cannot_be_known_is_said(towers, tmp_path):
    spec = NeuronSpec("eye", "image", "nobody/nothing", 16, "CLIPVisionModel")
    cost = neuron_cost(spec, SENProcessor(SENConfig(neurons=[spec.to_dict()])))
    assert cost.parameters is None
    assert cost.first_pass_flops is None
    assert "cached files" in cost.unknown

    # A tower without a processor's file: its size is known, its input is not.
    folder = shutil.copytree(towers["clip"], tmp_path / "clip")
    (folder / "preprocessor_config.json").unlink()
    spec = NeuronSpec("eye", "image", str(folder), 16, "CLIPVisionModel")
    cost = neuron_cost(spec, SENProcessor(SENConfig(neurons=[spec.to_dict()])))
    assert cost.parameters > 0
    assert cost.first_pass_flops is None
    assert "no image processor configuration" in cost.unknown


@pytest.mark.parametrize("depth", [5, 100])
def test_a_prompt_depth_beyond_the_tower_is_said(make_sen, depth):
    config = make_sen().config
    config.prompt_depth = depth
    assert f"prompt_depth is {depth}" in neuron_cost(config.neuron_specs[0], SENProcessor(config)).unknown
