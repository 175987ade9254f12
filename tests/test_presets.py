"""Presets: what is recorded beside them is what their configurations give."""

import pytest
import torch
from full_size_checkpoints import CHECKPOINTS
from preset_cost import count_parameters, hub_ids
from transformers.models.videomae import modeling_videomae

from modeling_sen import PRESETS


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
