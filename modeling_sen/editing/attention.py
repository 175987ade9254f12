# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Attention layers of an editing adapter: sparse-causal and temporal attention of Tune-A-Video (arXiv 2212.11565, released
under Apache-2.0), and attention to a SEN's tokens.

Frames are folded into the batch, one video after the other: (batch * frames, tokens, width). Weights are cast to the dtype of
the hidden states, so that float32 weights can be trained with a bfloat16 base model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class CastLinear(nn.Linear):
    """A linear map in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return nn.functional.linear(input, self.weight.to(input.dtype), bias)


class CastLayerNorm(nn.LayerNorm):
    """A layer norm in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return nn.functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def attend(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of (batch, queries, width) to (batch, keys, width); the width holds all heads."""
    query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    hidden = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return hidden.transpose(1, 2).flatten(2)


def attend_to_first_and_previous(heads: int, query: Tensor, key: Tensor, value: Tensor, num_frames: int) -> Tensor:
    """Attention of each frame to the first and the previous frame; all tensors are (batch * frames, tokens, width).

    For the first two frames, the first and the previous frame are both frame 0. They attend to it once, which gives the same
    result as attending to it twice.
    """
    query, key, value = (each.unflatten(0, (-1, num_frames)) for each in (query, key, value))
    early = attend(heads, query[:, :2].flatten(1, 2), key[:, 0], value[:, 0])  # (batch, 2 * tokens, width)
    early = early.unflatten(1, (-1, query.shape[2]))
    if num_frames < 3:
        return early.flatten(0, 1)
    later = [
        torch.cat([each[:, :1].expand_as(each[:, 2:]), each[:, 1:-1]], dim=2).flatten(0, 1) for each in (key, value)
    ]
    hidden = attend(heads, query[:, 2:].flatten(0, 1), *later).unflatten(0, (-1, num_frames - 2))
    return torch.cat([early, hidden], dim=1).flatten(0, 1)


class QueryDelta(nn.Module):
    """A weight added to the query projection of an attention layer of the base model, initialised to zero."""

    def __init__(self, width: int):
        super().__init__()
        self.to_q_delta = CastLinear(width, width, bias=False)
        nn.init.zeros_(self.to_q_delta.weight)


class TemporalAttention(nn.Module):
    """Self-attention over the frames at each position, without position encoding; the output layer is initialised to zero.

    Weights have the names of Tune-A-Video's `attn_temp`, which does not initialise the output bias to zero.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (CastLinear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([CastLinear(width, width)])
        nn.init.zeros_(self.to_out[0].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.to_out[0].bias)  # type: ignore[arg-type]

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(batch * frames, tokens, width) -> the same shape."""
        states = hidden_states.unflatten(0, (-1, num_frames)).transpose(1, 2)  # (batch, tokens, frames, width)
        batch = states.shape[:2]
        states = states.flatten(0, 1)
        states = attend(self.heads, self.to_q(states), self.to_k(states), self.to_v(states))
        return self.to_out[0](states).unflatten(0, batch).transpose(1, 2).flatten(0, 1)


class SENAttention(nn.Module):
    """Attention of the UNet's positions to the SEN's tokens of the same frame, with a gate initialised to zero.

    The layer has its own query projection and position encoding, because the base model's queries do not encode position.
    """

    def __init__(self, width: int, heads: int, token_width: int):
        super().__init__()
        self.heads, self.token_width = heads, token_width
        self.to_q = CastLinear(width, width, bias=False)
        self.to_q_position = CastLinear(token_width, width, bias=False)
        self.to_k, self.to_v = (CastLinear(token_width, width, bias=False) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(frames, rows * columns, width), (frames, tokens, token_width) -> (frames, rows * columns, width)."""
        positions = grid_positions(1, *grid, self.token_width).to(hidden_states)
        query = self.to_q(hidden_states) + self.to_q_position(positions)
        attended = attend(self.heads, query, self.to_k(tokens), self.to_v(tokens))
        return self.gate.tanh().to(attended.dtype) * attended


def grid_positions(frames: int, rows: int, columns: int, width: int) -> Tensor:
    """(frames * rows * columns, width) float32: sines and cosines of time, row and column, a third of the width each.

    Rows and columns are fractions of the picture size, so that cells at the same place in different grids have equal
    encodings. Remaining channels are zero.
    """
    number = width // 6
    time = torch.arange(frames) / 10000.0 ** (torch.arange(number).unsqueeze(-1) / number)  # as in Transformers
    # From a quarter of a period to 16 periods across the picture.
    waves = torch.pi * 2.0 ** torch.linspace(-1, 5, number).unsqueeze(-1)
    places = [waves * (torch.arange(cells) + 0.5) / cells for cells in (rows, columns)]
    shape, parts = (frames, rows, columns), []
    for axis, angles in enumerate((time, *places)):
        encoded = torch.cat([angles.sin(), angles.cos()]).t()  # (places on this axis, 2 * number)
        view = [1, 1, 1, 2 * number]
        view[axis] = len(encoded)
        parts.append(encoded.view(view).expand(*shape, -1))
    rest = torch.zeros(*shape, width - 6 * number)
    return torch.cat([*parts, rest], dim=-1).flatten(0, 2)


def grid_at(tokens: int, latent_size: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of the UNet level with this number of tokens; each level halves the latent size, rounded up."""
    rows, columns = latent_size
    while rows * columns > tokens:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return rows, columns


class SparseCausalAttention:
    """Processor of self-attention: keys and values of the first and the previous frame.

    Diffusers passes only keyword arguments that `__call__` names, so both processors name the same ones.
    """

    def __init__(self, delta: QueryDelta | None):
        self.delta = delta

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_frames: int = 1,
        sen_tokens: Tensor | None = None,
        latent_size: Sequence[int] = (),
    ) -> Tensor:
        query = projected_query(attn, hidden_states, self.delta)
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        attended = attend_to_first_and_previous(attn.heads, query, key, value, num_frames)
        return attn.to_out[1](attn.to_out[0](attended))


class TextAttention:
    """Processor of attention to the text, plus attention to a SEN's tokens, as in IP-Adapter (arXiv 2308.06721)."""

    def __init__(self, delta: QueryDelta | None, sen_attention: SENAttention | None):
        self.delta, self.sen_attention = delta, sen_attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_frames: int = 1,
        sen_tokens: Tensor | None = None,
        latent_size: Sequence[int] = (),
    ) -> Tensor:
        query = projected_query(attn, hidden_states, self.delta)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        if attention_mask is not None:  # as in Diffusers' processor
            batch, length, _ = encoder_hidden_states.shape
            attention_mask = attn.prepare_attention_mask(attention_mask, length, batch).unflatten(0, (batch, -1))
        attended = attend(attn.heads, query, key, value, attention_mask)
        if self.sen_attention is not None and sen_tokens is not None:
            grid = grid_at(hidden_states.shape[1], latent_size)
            attended = attended + self.sen_attention(hidden_states, sen_tokens, grid)
        return attn.to_out[1](attn.to_out[0](attended))


def projected_query(attn: Any, hidden_states: Tensor, delta: QueryDelta | None) -> Tensor:
    """Queries of the base model's projection, plus those of `delta` if any."""
    query = attn.to_q(hidden_states)
    return query if delta is None else query + delta.to_q_delta(hidden_states)


__all__ = [
    "CastLayerNorm",
    "CastLinear",
    "QueryDelta",
    "SENAttention",
    "SparseCausalAttention",
    "TemporalAttention",
    "TextAttention",
    "attend",
    "attend_to_first_and_previous",
    "grid_at",
    "grid_positions",
    "projected_query",
]
