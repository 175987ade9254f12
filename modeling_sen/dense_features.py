# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What heads with an output at each token read of a neuron: its tokens, modulated by association, and its answers.

Association changes the tower's own tokens only where a crown runs again. Modulation lets it change what a head reads with
every variant of `PROMPT`; it is FiLM (arXiv 1709.07871), a scale and a shift of each channel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_sen import NeuronSpec, SENConfig
from .neuron_registry import Grid
from .prompting import normalised

# Of the map from summary to scale and shift. The association of three base-size towers, all three modulated, then stays under
# 20 MB.
RANK = 8


@dataclass
class DenseFeatures:
    """Features of one neuron for dense heads, on the association's device, in the tower's dtype.

    Where a sample lacks the neuron, its row holds what was computed of the inputs in its place, for which [`SENProcessor`]
    writes zeros. Such a row has no meaning; heads leave it out by `neuron_mask`.

    Attributes:
        tokens: (batch, t * h * w, width), of the last round, modulated where `config.dense_neurons` lists the neuron.
        answers: (batch, prompt_tokens, width), of the last round, to be read as extra tokens; `None` with `num_rounds=0` or
            without `read_answers`.
        grid: (t, h, w), the shape of the tokens.
        token_mask: (batch, t * h * w) bool, which tokens are not padding, where some may be.
    """

    tokens: Tensor
    answers: Tensor | None
    grid: Grid
    token_mask: Tensor | None


class TokenModulation(nn.Module):
    """`T + T * scale + shift`, with scale and shift a low-rank map of the normalised summary, zero at first."""

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
        return tokens + (tokens * scale + shift)  # in this order small scales are not lost in bfloat16


__all__ = ["DenseFeatures", "TokenModulation"]
