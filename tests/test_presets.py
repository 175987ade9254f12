"""Presets: the recorded figures agree with their configurations."""

import pytest
import torch
from full_size_checkpoints import CHECKPOINTS
from preset_cost import count_parameters, hub_ids
from transformers.models.videomae import modeling_videomae

from modeling_sen import PRESETS, SENConfig
from modeling_sen.neuron_loading import resolve_spec


@pytest.mark.parametrize("name", PRESETS)
def test_recorded_parameters_equal_those_of_the_configurations(name, tmp_path, monkeypatch):
    # This table is not a parameter, and computing it takes seconds.
    monkeypatch.setattr(modeling_videomae, "get_sinusoid_encoding_table", lambda *shape: torch.zeros(1, *shape))
    preset = PRESETS[name]
    if preset.extra == "pe":
        pytest.importorskip("timm")
    assert count_parameters(name, tmp_path) == preset.parameters


@pytest.mark.parametrize("name", PRESETS)
def test_the_size_of_every_part_of_a_preset_is_recorded(name):
    preset = PRESETS[name]
    assert set(preset.parameters) == {*(neuron["name"] for neuron in preset.neurons), "class_text", "association"}
    assert all(count > 1e6 for count in preset.parameters.values())
    assert preset.weight_memory / 2 < preset.peak_memory < 3 * preset.weight_memory
    assert set(hub_ids(name)) <= set(CHECKPOINTS)


def test_the_imagebind_preset_agrees_with_the_registry(towers):
    """Except for sizes, its neurons equal those resolved from a modality."""
    for neuron in PRESETS["imagebind"].neurons:
        found = resolve_spec(
            {"hub_id": towers["imagebind"], "modality": neuron["modality"], "aligned": True}
        ).to_dict()
        own = {name: value for name, value in neuron.items() if name not in ("hub_id", "hidden_size", "num_frames")}
        assert {name: found.get(name) for name in own} == own


def test_a_preset_with_converted_weights_names_the_command_that_converts_them():
    with pytest.raises(ValueError, match=r"preset 'imagebind': .* `sen convert imagebind imagebind_huge.pth FOLDER"):
        SENConfig.from_preset("imagebind")
    config = SENConfig.from_preset("imagebind", checkpoint="converted/imagebind")
    assert {spec.hub_id for spec in [*config.neuron_specs, config.text_tower_spec]} == {"converted/imagebind"}
    with pytest.raises(ValueError, match="preset 'small': checkpoint is 'x', expected none"):
        SENConfig.from_preset("small", checkpoint="x")
