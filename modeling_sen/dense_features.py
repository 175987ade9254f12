# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Features for dense heads: a neuron's tokens, modulated by association, and its answers.

Association changes the tower's tokens only if a crown runs again on them. Modulation changes a head's inputs with every
variant of `PROMPT`; it is FiLM (arXiv 1709.07871), a scale and a shift per channel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_sen import NeuronSpec, SENConfig
from .neuron_registry import Grid
from .prompting import normalised

# Rank of the map from summary to scale and shift. With 8, the association of three base-size towers, all modulated, takes
# less than 20 MB.
RANK = 8


@dataclass
class DenseFeatures:
    """Features of one neuron for dense heads, on the association's device, in the tower's dtype.

    Rows of samples without the neuron are meaningless: they are computed from the zeros that [`SENProcessor`] writes. Heads
    must exclude them by `neuron_mask`.

    Attributes:
        tokens: (batch, t * h * w, width), of the last round, modulated if `config.dense_neurons` lists the neuron.
        answers: (batch, prompt_tokens, width), of the last round, for use as extra tokens; `None` with `num_rounds=0` or
            without `read_answers`.
        grid: (t, h, w), the shape of the tokens.
        token_mask: (batch, t * h * w) bool, true for tokens that are not padding; `None` if none is.
    """

    tokens: Tensor
    answers: Tensor | None
    grid: Grid
    token_mask: Tensor | None


class TokenModulation(nn.Module):
    """`T + T * scale + shift`, with scale and shift a low-rank map of the normalised summary, initialised to zero."""

    def __init__(self, config: SENConfig, spec: NeuronSpec):
        super().__init__()
        self.down = nn.Linear(config.hidden_size, RANK)
        self.weight = nn.Parameter(torch.zeros(2 * spec.hidden_size, RANK))

    def init_own_weights(self, std: float) -> None:
        init.zeros_(self.weight)

    def forward(self, tokens: Tensor, summary: Tensor) -> Tensor:
        """(batch, tokens, width), (batch, hidden_size) -> (batch, tokens, width) in the tokens' dtype."""
        hidden = self.down(normalised(summary))  # (batch, rank)
        scale, shift = nn.functional.linear(hidden, self.weight).to(tokens).unsqueeze(1).chunk(2, dim=-1)
        return tokens + (tokens * scale + shift)  # in bfloat16, 1 + scale would round small scales away


__all__ = ["DenseFeatures", "TokenModulation"]
