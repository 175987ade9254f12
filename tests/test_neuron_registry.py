"""The registry: every type is tested, a type is registered in one line, an unknown type is used by rule."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from neuron_families import FAMILIES, look_again, make_inputs, make_neuron
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel, ViTConfig, ViTModel
from transformers import logging as transformers_logging

from modeling_sen import NeuronSpec, SENModel, list_neurons, register_neuron
from modeling_sen.configuration_sen import MODALITIES
from modeling_sen.neuron import Neuron
from modeling_sen.neuron_by_rule import adapter_for, find_layers
from modeling_sen.neuron_loading import load_neuron, resolve_spec, tower_class_of
from modeling_sen.neuron_registry import CHECKPOINT_SPECS, NEURON_ADAPTERS, image_grid


def test_every_registered_type_has_a_tiny_tower():
    assert sorted(set(list_neurons()) - set(FAMILIES)) == [], "registered, but not in neuron_families.FAMILIES"
    assert set(FAMILIES) == set(list_neurons())
    assert list_neurons() == sorted(NEURON_ADAPTERS)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_second_look_has_the_same_shapes(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type)
    assert neuron.tower.config.model_type == model_type
    trunk = neuron.first_look(inputs)
    state = trunk.state
    t, h, w = state.grid
    assert state.last_hidden_state.shape == (2, t * h * w, neuron.spec.hidden_size)
    assert state.pooler_output.shape == (2, neuron.spec.hidden_size)
    for prompt in ("tokens", "add"):
        context = torch.randn(2, 3 if neuron.prompted_tower else 1, neuron.spec.hidden_size)
        again = look_again(neuron, trunk, context, prompt)
        assert again.last_hidden_state.shape == state.last_hidden_state.shape
        assert again.pooler_output.shape == state.pooler_output.shape
        assert again.grid == state.grid
        assert (again.pooler_output - state.pooler_output).abs().max() > 1e-4


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.written_out])
def test_a_prompt_depth_beyond_the_tower_raises(model_type, towers):
    with pytest.raises(ValueError, match=r"neuron '\w+': prompt_depth is 5, expected 1 to 4, the tower's layers"):
        make_neuron(model_type, towers, 5)


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.build is None])
def test_a_layer_without_weights_raises(model_type, towers, tmp_path):
    family = FAMILIES[model_type]
    folder = Path(shutil.copytree(towers[family.checkpoint], tmp_path / "damaged"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if ".1." not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"has no weights for \d+ parameters of .* would stay random"):
        load_neuron(resolve_spec({"hub_id": str(folder), **family.given}, family.role))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_half_precision_is_close(model_type, towers):
    neuron, inputs = (
        make_neuron(model_type, towers, 2 if FAMILIES[model_type].written_out else None),
        make_inputs(model_type),
    )
    context = torch.randn(2, 3 if neuron.prompted_tower else 1, 16, generator=torch.Generator().manual_seed(1))
    exact = look_again(neuron, neuron.first_look(inputs), context).pooler_output
    half = neuron.to(torch.bfloat16)
    state = look_again(half, half.first_look(inputs), context)
    assert state.pooler_output.dtype == torch.bfloat16
    assert (state.pooler_output.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if NEURON_ADAPTERS[name].layers is None])
def test_layers_can_also_be_found_by_rule(model_type, towers):
    neuron = make_neuron(model_type, towers)
    layers = find_layers(neuron.tower)
    assert len(layers) == neuron.tower.config.num_hidden_layers
    if neuron.prompted_tower is not None:
        assert neuron.prompted_tower.all_layers is layers


def test_one_line_registers_a_type(monkeypatch):
    monkeypatch.delitem(NEURON_ADAPTERS, "vit", raising=False)
    register_neuron("vit", "image", image_grid, folds_frames=True)
    try:
        assert "vit" in list_neurons()
        assert adapter_for(_vit()).grid is image_grid
    finally:
        del NEURON_ADAPTERS["vit"]


def _vit() -> ViTModel:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    return ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8))


def test_an_unregistered_type_is_used_by_rule_with_a_warning(tmp_path, caplog):
    assert "vit" not in NEURON_ADAPTERS
    _vit().save_pretrained(tmp_path / "vit")
    logger = transformers_logging.get_logger("modeling_sen.neuron_registry")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        model = SENModel.from_neurons([str(tmp_path / "vit")], hidden_size=8, projection_dim=4, num_prompt_tokens=2)
    logger.removeHandler(caplog.handler)
    assert any("'vit' is not registered" in message and "3 layers" in message for message in caplog.messages)
    spec = model.config.neuron_specs[0]
    assert (spec.name, spec.modality, spec.class_name, spec.num_frames) == ("image", "image", "ViTModel", 8)
    state = model(image_pixel_values=torch.randn(2, 3, 3, 16, 16)).neuron_states["image"]
    assert state.grid == (3, 2, 2)
    assert state.answers.shape == (2, 2, 16)


def test_a_tower_without_transformer_layers_takes_no_prompts():
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"model_type": "convolutional", "hidden_size": 8})()
            self.stages = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

    tower = Tower()
    assert find_layers(tower) is None
    assert not adapter_for(tower).takes_prompts
    with pytest.raises(ValueError, match=r"Tower.stages.0: found Linear, expected a ModuleList"):
        find_layers(tower, "stages.0")


def test_towers_from_whole_checkpoints_equal_the_stock_ones(towers):
    """Transformers leaves X-CLIP's tower random when it loads a whole checkpoint; the registered key mapping avoids this."""
    whole = AutoModel.from_pretrained(towers["xclip"]).eval()
    neuron, inputs = make_neuron("xclip_vision_model", towers), make_inputs("xclip_vision_model")
    with torch.no_grad():
        expected = whole.vision_model(inputs["pixel_values"].flatten(0, 1)).pooler_output.unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(neuron.first_look(inputs).state.pooler_output, expected)


def test_every_checkpoint_type_names_an_existing_model_class():
    for (model_type, role), fields in CHECKPOINT_SPECS.items():
        # A modality where the checkpoint has one tower per modality.
        assert role in ("tower", "text_tower", *MODALITIES)
        spec = NeuronSpec("a", "image", "a/b", hidden_size=1, class_name=fields["class_name"])
        assert issubclass(tower_class_of(spec, False), PreTrainedModel), model_type


def test_the_prompt_side_can_be_chosen(towers):
    first = make_neuron("videomae", towers)
    spec = NeuronSpec.from_dict({**first.spec.to_dict(), "prompt_side": "suffix"})
    neuron = Neuron(spec, first.tower, None, None)
    assert neuron.prompted_tower.prompt_side == "suffix"
    prompts, inputs = torch.randn(2, 3, 16), make_inputs("videomae")
    prefix = first.look_again(first.first_look(inputs), prompts)
    suffix = neuron.look_again(neuron.first_look(inputs), prompts)
    # The tower adds no positions in its layers, so the side of the prompts does not matter.
    torch.testing.assert_close(prefix.last_hidden_state, suffix.last_hidden_state)
    torch.testing.assert_close(prefix.pooler_output, suffix.pooler_output)
