"""First looks are packed into tensors and unpacked; later looks are the same, also if the rows come from several batches."""

import pytest
import torch
from neuron_families import FAMILIES, look_again, make_inputs, make_neuron

from modeling_sen.first_look import pack_shapes, unpack_shapes


def rows_of(tensors, rows):
    return {name: value[rows] for name, value in tensors.items()}


def both_looks(neuron, look):
    prompts = torch.randn(look.batch_size, 2 if neuron.prompted_tower else 1, neuron.spec.hidden_size)
    prompts = torch.arange(prompts.numel()).view_as(prompts).sin()  # the same in all calls
    return look.state, look_again(neuron, look, prompts)


def assert_same(found, expected):
    for first, second in zip(found, expected, strict=True):
        assert first.grid == second.grid
        torch.testing.assert_close(first.last_hidden_state, second.last_hidden_state, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(first.pooler_output, second.pooler_output, atol=1e-5, rtol=1e-4)
        assert (first.token_mask is None) == (second.token_mask is None)
        assert first.token_mask is None or torch.equal(first.token_mask, second.token_mask)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_rows_of_packed_first_looks_equal_first_looks_at_these_clips(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type, batch_size=3)
    packed = neuron.first_look(inputs).pack()
    assert all(len(value) == 3 for value in packed.values())
    chosen = rows_of(inputs, [2, 0])
    expected = both_looks(neuron, neuron.first_look(chosen))
    assert_same(both_looks(neuron, neuron.unpack(rows_of(packed, [2, 0]))), expected)
    one_by_one = [neuron.first_look(rows_of(inputs, [row])).pack() for row in (2, 0)]
    joined = {name: torch.cat([part[name] for part in one_by_one]) for name in one_by_one[0]}
    assert_same(both_looks(neuron, neuron.unpack(joined)), expected)


def test_pixels_and_sound_are_not_stored(towers):
    for model_type in ("clip_vision_model", "wav2vec2"):
        neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type)
        (name,) = [name for name, value in inputs.items() if value.is_floating_point()]
        packed = neuron.first_look(inputs).pack()
        assert packed[f"input.{name}.shape"].tolist() == [list(inputs[name].shape[1:])] * 2
        assert f"input.{name}.values" not in packed


def test_shapes_of_outputs_below_the_layers_are_packed_and_unpacked():
    batch = 2
    output = (torch.empty(4, 3, 8, device="meta"), None, (torch.ones(2, 5, dtype=torch.bool), torch.empty(7, 6)))
    packed = pack_shapes("below.0", output, batch)
    again = unpack_shapes("below.0", {name: value[[1, 0, 1]] for name, value in packed.items()}, torch.device("cpu"))
    assert again[0].shape == (6, 3, 8)  # two frames per clip
    assert again[1] is None
    assert again[2][0].tolist() == [[True] * 5] * 3
    assert again[2][1].shape == (7, 6)  # equal for all clips
    with pytest.raises(ValueError, match=r"below\.0: found int, expected tensors"):
        pack_shapes("below.0", 3, batch)
