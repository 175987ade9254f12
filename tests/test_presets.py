"""Presets: what is recorded beside them is what their configurations give."""

import pytest
import torch
from full_size_checkpoints import CHECKPOINTS
from preset_cost import count_parameters, hub_ids
from transformers.models.videomae import modeling_videomae

from modeling_sen import PRESETS, SENConfig
from modeling_sen.neuron_loading import resolve_spec


@pytest.mark.parametrize("name", PRESETS)
def test_recorded_parameters_are_those_of_the_configurations(name, tmp_path, monkeypatch):
    # No parameter, and computed number by number for seconds.
    monkeypatch.setattr(modeling_videomae, "get_sinusoid_encoding_table", lambda *shape: torch.zeros(1, *shape))
    preset = PRESETS[name]
    if preset.extra == "pe":
        pytest.importorskip("timm")
    assert count_parameters(name, tmp_path) == preset.parameters


@pytest.mark.parametrize("name", PRESETS)
def test_every_part_of_a_preset_has_its_size_recorded(name):
    preset = PRESETS[name]
    assert set(preset.parameters) == {*(neuron["name"] for neuron in preset.neurons), "class_text", "association"}
    assert all(count > 1e6 for count in preset.parameters.values())
    assert preset.weight_memory / 2 < preset.peak_memory < 3 * preset.weight_memory
    assert set(hub_ids(name)) <= set(CHECKPOINTS)


def test_imagebind_is_cut_out_as_the_registry_cuts_it_out(towers):
    """But for sizes, the preset's neurons are those that modalities name."""
    for neuron in PRESETS["imagebind"].neurons:
        found = resolve_spec(
            {"hub_id": towers["imagebind"], "modality": neuron["modality"], "aligned": True}
        ).to_dict()
        own = {name: value for name, value in neuron.items() if name not in ("hub_id", "hidden_size", "num_frames")}
        assert {name: found.get(name) for name in own} == own


def test_a_preset_whose_weights_are_not_on_the_hub_says_what_to_convert():
    with pytest.raises(ValueError, match=r"preset 'imagebind': .* `sen convert imagebind imagebind_huge.pth FOLDER"):
        SENConfig.from_preset("imagebind")
    config = SENConfig.from_preset("imagebind", checkpoint="converted/imagebind")
    assert {spec.hub_id for spec in [*config.neuron_specs, config.text_tower_spec]} == {"converted/imagebind"}
    with pytest.raises(ValueError, match="preset 'small': checkpoint is 'x', expected none"):
        SENConfig.from_preset("small", checkpoint="x")
