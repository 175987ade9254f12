# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The prompting step of recursive association: the variants of a neuron's second look.

`PROMPT` holds the variants; `recursive_association.py` documents the interface of an entry.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_sen import NeuronSpec, SENConfig
from .first_look import CROWN_INPUT, CROWN_KEYS, FirstLook, NeuronState
from .neuron import Neuron


class TokenPrompts(nn.Module):
    """Prompt tokens, made from context, are added to the crown's input tokens, and the crown runs again on all of them."""

    records: tuple[str, ...] = (CROWN_INPUT,)

    def __init__(self, config: SENConfig, spec: NeuronSpec):
        super().__init__()
        self.up = nn.Linear(config.bottleneck_size, spec.hidden_size, bias=False)
        self.tokens = nn.Parameter(torch.zeros(config.num_prompt_tokens, spec.hidden_size))

    def init_own_weights(self, std: float) -> None:
        init.normal_(self.tokens, std=std)

    def prompt_tokens(self, context: Tensor) -> Tensor:
        """(batch, prompt_tokens, bottleneck) -> (batch, prompt_tokens, width)."""
        return self.up(context) + self.tokens

    def forward(self, neuron: Neuron, look: FirstLook, context: Tensor) -> NeuronState:
        return neuron.look_again(look, self.prompt_tokens(context))


class QueryPrompts(TokenPrompts):
    """Only the prompt tokens run through the crown; they attend to the keys and values of the first look's tokens.

    Tokens and pooled output are those of the first look. The prompts' normalised outputs are added to the answers through a
    per-channel gate, initialised to zero.
    """

    records = (CROWN_INPUT, CROWN_KEYS)

    def __init__(self, config: SENConfig, spec: NeuronSpec):
        super().__init__(config, spec)
        self.gate = nn.Parameter(torch.zeros(spec.hidden_size))

    def init_own_weights(self, std: float) -> None:
        super().init_own_weights(std)
        init.zeros_(self.gate)

    def forward(self, neuron: Neuron, look: FirstLook, context: Tensor) -> NeuronState:
        outputs = neuron.query(look, self.prompt_tokens(context))  # (batch, prompt_tokens, width)
        return replace(look.state, answers=self.gate * normalised(outputs.to(self.gate)))


class AddedPrompts(TokenPrompts):
    """The mean of the prompt tokens is added to every token that enters the crown."""

    def forward(self, neuron: Neuron, look: FirstLook, context: Tensor) -> NeuronState:
        return neuron.look_again_shifted(look, self.prompt_tokens(context).mean(dim=1, keepdim=True))


class AfterTower(TokenPrompts):
    """For towers that take no prompts: tokens and pooled output of the first look plus `U` times the prompt tokens' mean.

    `U` is initialised to zero.
    """

    records = ()

    def __init__(self, config: SENConfig, spec: NeuronSpec):
        super().__init__(config, spec)
        self.weight = nn.Parameter(torch.zeros(spec.hidden_size, spec.hidden_size))

    def init_own_weights(self, std: float) -> None:
        super().init_own_weights(std)
        init.zeros_(self.weight)

    def forward(self, neuron: Neuron, look: FirstLook, context: Tensor) -> NeuronState:
        first = look.state
        shift = nn.functional.linear(self.prompt_tokens(context).mean(dim=1), self.weight)  # (batch, width)
        shift = shift.to(first.pooler_output)
        tokens = first.last_hidden_state + shift.unsqueeze(1)
        return replace(first, last_hidden_state=tokens, pooler_output=first.pooler_output + shift)


class NoPrompts(nn.Module):
    """No second look: answers are read from the tokens of the first look."""

    records: tuple[str, ...] = ()

    def __init__(self, config: SENConfig, spec: NeuronSpec):
        super().__init__()

    def forward(self, neuron: Neuron, look: FirstLook, context: Tensor) -> NeuronState:
        return look.state


PROMPT: dict[str, type[Any]] = {
    "tokens": TokenPrompts,
    "queries": QueryPrompts,
    "add": AddedPrompts,
    "after": AfterTower,
    "none": NoPrompts,
}


def normalised(vectors: Tensor) -> Tensor:
    """Layer norm over the last dimension, without parameters."""
    return nn.functional.layer_norm(vectors, vectors.shape[-1:])


__all__ = ["PROMPT", "AddedPrompts", "AfterTower", "NoPrompts", "QueryPrompts", "TokenPrompts", "normalised"]
