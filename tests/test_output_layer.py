"""`output_layer`: the output of an inner layer as the neuron's tokens; the layers above it do not run."""

import copy
from dataclasses import replace

import pytest
import torch
from neuron_families import FAMILIES, make_inputs, make_neuron
from random_sen import random_inputs, random_weights

from modeling_sen import NeuronSpec, SENConfig, SENModel
from modeling_sen.neuron import Neuron

CHOSEN = [
    "clip_vision_model",
    "dinov2",
    "videomae",
    "vjepa2",
    "audio-spectrogram-transformer",
    "whisper",
    "wavlm",
    "bert",
]


def inner(neuron: Neuron, output_layer: int, prompt_depth=1) -> Neuron:
    """A neuron on the same tower with the output of an inner layer as tokens."""
    spec = replace(neuron.spec, output_layer=output_layer, aligned=False, projection=None)
    return Neuron(spec, neuron.tower, None, prompt_depth)


def recorded_outputs(neuron):
    """Records the outputs of each layer from now on."""
    found = [[] for _ in neuron.prompted_tower.all_layers]
    for layer, outputs in zip(neuron.prompted_tower.all_layers, found, strict=True):
        layer.register_forward_hook(
            lambda module, args, output, outputs=outputs: outputs.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
    return found


@pytest.mark.parametrize("model_type", CHOSEN)
def test_tokens_equal_the_layers_output_and_the_pooled_output_their_mean(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type)
    whole, outputs = neuron.first_look(inputs).state, recorded_outputs(neuron)
    for output_layer in (2, -3):  # both are the second of four
        state = inner(neuron, output_layer).first_look(inputs).state
        expected = outputs[1][-1]  # (batch * frames, tokens, width)
        tokens = expected[:, expected.shape[1] - whole.last_hidden_state.shape[1] * 2 // len(expected) :]
        torch.testing.assert_close(state.last_hidden_state, tokens.reshape_as(whole.last_hidden_state))
        if state.token_mask is None:
            mean = expected.mean(1).unflatten(0, (2, -1)).mean(1)
            torch.testing.assert_close(state.pooler_output, mean)
        assert state.grid == whole.grid


@pytest.mark.parametrize("model_type", CHOSEN)
def test_layers_above_the_output_layer_do_not_run(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type)
    calls = [[] for _ in neuron.prompted_tower.all_layers]
    for layer, count in zip(neuron.prompted_tower.all_layers, calls, strict=True):
        child = next(module for module in layer.modules() if isinstance(module, torch.nn.LayerNorm))
        child.register_forward_hook(lambda *_, count=count: count.append(1))
    below = inner(neuron, 2)
    look = below.first_look(inputs)
    again = below.look_again(look, torch.randn(2, 3, 16))
    assert [bool(count) for count in calls] == [True, True, False, False]
    assert len(calls[1]) == 2 * len(calls[0])  # the crown is the layer at `output_layer`
    assert (again.last_hidden_state - look.state.last_hidden_state).abs().max() > 1e-4
    calls[2].clear()
    neuron.first_look(inputs)
    assert calls[2]  # the hooks on the shared tower are removed


def test_prompts_give_the_same_as_in_a_tower_cut_off_at_the_output_layer(towers):
    neuron, inputs = make_neuron("clip_vision_model", towers), make_inputs("clip_vision_model")
    short = copy.deepcopy(neuron.tower)
    del short.encoder.layers[3:]  # so its tokens are the output of the third layer
    cut = Neuron(replace(neuron.spec, aligned=False, projection=None), short, None, 2)
    prompts = torch.randn(2, 3, 16)
    expected = cut.look_again(cut.first_look(inputs), prompts)
    below = inner(neuron, 3, prompt_depth=2)
    found = below.look_again(below.first_look(inputs), prompts)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    packed = below.unpack(below.first_look(inputs).pack())
    torch.testing.assert_close(below.look_again(packed, prompts).last_hidden_state, expected.last_hidden_state)


def test_the_prompt_depth_refers_to_the_layers_that_run(towers):
    neuron = make_neuron("clip_vision_model", towers)
    assert inner(neuron, -1, None).prompted_tower.prompt_depth == 1
    assert inner(neuron, 3, "all").prompted_tower.prompt_depth == 3
    with pytest.raises(ValueError, match=r"prompt_depth is 3, expected 1 to 2, the tower's layers"):
        inner(neuron, 2, 3)


def test_a_sen_on_inner_layers_is_trained_saved_and_loaded(make_sen, towers, tmp_path):
    neurons = [
        {"hub_id": towers["clip"], "num_frames": 2, "output_layer": -2, "aligned": False},
        {"hub_id": towers["timesformer"], "output_layer": 2},  # prompts after that layer
    ]
    model = random_weights(make_sen(neurons=neurons))
    inputs = {name: value for name, value in random_inputs().items() if not name.startswith("audio")}
    output = model(**inputs, text_embeds=torch.eye(12)[:3], labels=torch.tensor([0, 2]))
    output.loss.backward()
    assert all(p.grad is not None for p in model.blocks[0].prompting.parameters())
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    loaded = SENModel.from_pretrained(tmp_path / "sen")
    assert [spec.output_layer for spec in loaded.config.neuron_specs] == [-2, 2]
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).fused_embeds, output.fused_embeds)


def test_layers_that_do_not_exist_are_named_in_the_error(towers):
    neuron = make_neuron("clip_vision_model", towers)
    for output_layer in (5, -5):
        with pytest.raises(
            ValueError, match=f"neuron 'n': output_layer is {output_layer}, but the tower has 4 layers"
        ):
            inner(replace_name(neuron), output_layer)
    with pytest.raises(
        ValueError, match="output_layer is 0, expected 1 or more from the bottom, -1 or less from the top"
    ):
        NeuronSpec("n", "image", "org/clip", 16, "CLIPVisionModel", output_layer=0)
    with pytest.raises(ValueError, match="output_layer -2 is not aligned, only the tower's own output is"):
        NeuronSpec("n", "image", "org/clip", 16, "CLIPVisionModel", output_layer=-2, aligned=True)
    spec = {"name": "n", "modality": "image", "hub_id": "org/clip", "hidden_size": 16, "class_name": "CLIPVisionModel"}
    assert SENConfig(neurons=[{**spec, "output_layer": -2}]).to_dict()["neurons"][0]["output_layer"] == -2


def replace_name(neuron):
    neuron.spec = replace(neuron.spec, name="n")
    return neuron


def test_every_chosen_type_is_registered():
    assert set(CHOSEN) <= set(FAMILIES)
