"""Attention layers of the editing adapter, against references that are computed in another way."""

import pytest
import torch
from torch import nn

from modeling_sen.editing.attention import (
    CastLayerNorm,
    CastLinear,
    SENAttention,
    TemporalAttention,
    attend,
    attend_to_first_and_previous,
    grid_at,
    grid_positions,
)


def random_layer(layer):
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return layer


def test_temporal_attention_is_that_of_torch_over_the_frames_of_each_position():
    layer, batch, frames, tokens, width = random_layer(TemporalAttention(12, 3)), 2, 4, 5, 12
    states = torch.randn(batch * frames, tokens, width)
    reference = nn.MultiheadAttention(width, 3, batch_first=True, bias=True)
    reference.in_proj_weight.data = torch.cat([layer.to_q.weight, layer.to_k.weight, layer.to_v.weight]).data
    reference.in_proj_bias.data.zero_()
    reference.out_proj.load_state_dict(layer.to_out[0].state_dict())
    found = layer(states, frames)
    for video in range(batch):
        for position in range(tokens):
            rows = states[video * frames : (video + 1) * frames, position].unsqueeze(0)
            expected = reference(rows, rows, rows, need_weights=False)[0][0]
            torch.testing.assert_close(found[video * frames : (video + 1) * frames, position], expected)


def test_temporal_attention_is_zero_at_first():
    assert not TemporalAttention(12, 3)(torch.randn(6, 5, 12), 3).any()


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_frames_attend_to_the_first_and_the_previous_one(frames):
    """The reference reads the first frame twice where it is the previous one as well."""
    query, key, value = torch.randn(3, 2 * frames, 4, 6)
    found = attend_to_first_and_previous(2, query, key, value, frames)
    for row in range(2 * frames):
        first, previous = row - row % frames, max(row - row % frames, row - 1)
        keys, values = (torch.cat([each[first], each[previous]]).unsqueeze(0) for each in (key, value))
        torch.testing.assert_close(found[row : row + 1], attend(2, query[row : row + 1], keys, values))


@pytest.mark.parametrize("layer", [CastLinear(4, 6), CastLinear(4, 6, bias=False), CastLayerNorm(4)])
def test_layers_compute_in_the_dtype_of_their_input_and_keep_their_own(layer):
    random_layer(layer)
    states = torch.randn(3, 4)
    found = layer(states.bfloat16())
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    plain = nn.Linear.forward if isinstance(layer, nn.Linear) else nn.LayerNorm.forward
    assert torch.equal(layer(states), plain(layer, states))
    torch.testing.assert_close(found.float(), plain(layer, states), rtol=0.05, atol=0.05)


def test_the_gate_scales_attention_to_tokens_of_the_sen():
    layer = random_layer(SENAttention(8, 2, 18))
    states, tokens = torch.randn(3, 6, 8), torch.randn(3, 4, 18)
    reference = nn.MultiheadAttention(8, 2, kdim=18, vdim=18, batch_first=True, bias=False)
    reference.q_proj_weight.data.copy_(torch.eye(8))
    reference.k_proj_weight.data, reference.v_proj_weight.data = layer.to_k.weight.data, layer.to_v.weight.data
    reference.out_proj.weight.data.copy_(torch.eye(8))
    query = states @ layer.to_q.weight.t() + grid_positions(1, 2, 3, 18) @ layer.to_q_position.weight.t()
    expected = torch.tanh(layer.gate) * reference(query, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(layer(states, tokens, (2, 3)), expected)
    assert not SENAttention(8, 2, 18)(states, tokens, (2, 3)).any()


def test_positions_encode_time_row_and_column():
    found = grid_positions(2, 3, 4, 20).view(2, 3, 4, 20)
    time, row, column, rest = found.split([6, 6, 6, 2], dim=-1)
    assert torch.equal(time, time[:, :1, :1].expand_as(time))
    assert torch.equal(row, row[:1, :, :1].expand_as(row))
    assert torch.equal(column, column[:1, :1].expand_as(column))
    assert not rest.any()
    assert len(found.flatten(0, 2).unique(dim=0)) == 24
    # The middle of the picture, wherever the grid has a cell there.
    assert torch.equal(grid_positions(1, 1, 1, 18)[0], grid_positions(1, 3, 5, 18)[7])


@pytest.mark.parametrize(("tokens", "grid"), [(64, (8, 8)), (16, (4, 4)), (4, (2, 2))])
def test_the_grid_of_a_layer_is_found_by_its_number_of_tokens(tokens, grid):
    assert grid_at(tokens, (8, 8)) == grid


def test_the_grid_of_a_layer_with_odd_sizes():
    assert grid_at(9 * 7, (9, 7)) == (9, 7)
    assert grid_at(5 * 4, (9, 7)) == (5, 4)
    assert grid_at(3 * 2, (9, 7)) == (3, 2)
