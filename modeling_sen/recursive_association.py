# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Recursive Association: integrate all neurons' features, distribute the result to each neuron, prompt it to look again.

The paper (arXiv 2506.07576) names the three steps; the equations are our reading of it. Each step is a dictionary of module
classes. The configuration selects an entry by name, and users can add entries:

- `INTEGRATE`: `module(config, first)`, called with (states, present), returns knowledge (batch, hidden_size);
- `DISTRIBUTE`: `module(config, spec, first)`, one per neuron, called with (knowledge, summary), returns the neuron's context
  (batch, prompt_tokens, bottleneck);
- `PROMPT`: `module(config, spec)`, one per neuron, called with (neuron, look, context), returns the neuron's next state.
  Its class attribute `records` lists what the first look must record for it. If the state has answers, they are added to
  the answers read from its tokens.

`first` is true in the first round, whose states have no answers. A module with bare parameters initialises them in
`init_own_weights(std)`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_sen import NeuronSpec, SENConfig
from .first_look import FirstLook, NeuronState
from .neuron_bank import NeuronBank
from .prompting import PROMPT, normalised


def masked_mean(vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """Mean over the present neurons of each sample.

    Args:
        vectors: neuron -> (batch, width).
        present: neuron -> (batch,) bool.

    Returns:
        (batch, width); zeros if no neuron is present. Absent neurons do not change the result by a single bit.
    """
    total: Tensor | None = None
    count: Tensor | None = None
    for name, vector in vectors.items():
        here = present[name].unsqueeze(-1)  # (batch, 1)
        vector = vector.masked_fill(~here, 0.0)
        total = vector if total is None else total + vector
        count = here.to(vector.dtype) if count is None else count + here
    if total is None or count is None:
        raise ValueError("masked_mean: no vectors")
    return total / count.clamp(min=1)


class StateReader(nn.Module):
    """`LayerNorm(W r + [W_1 A_1; ...; W_P A_P])`: a neuron's pooled output plus its concatenated, projected answers.

    Each answer has its own slice of the output, so that prompts can query different things. With the mean of the answers
    instead, only some seeds learned chains of two encoders (docs/association_details.md). The number of weights is the same.

    Args:
        width: width of the neuron's features.
        hidden_size: width of knowledge.
        num_answers: number of answers, 0 for none; absent answers count as zero.
    """

    def __init__(self, width: int, hidden_size: int, num_answers: int):
        super().__init__()
        self.linear = nn.Linear(width, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.answer_weight = (
            nn.Parameter(torch.zeros(num_answers, width, hidden_size // num_answers)) if num_answers else None
        )

    def init_own_weights(self, std: float) -> None:
        if self.answer_weight is not None:
            init.normal_(self.answer_weight, std=std)

    def forward(self, state: NeuronState) -> Tensor:
        read = self.linear(state.pooler_output.to(self.linear.weight))  # (batch, hidden_size)
        if self.answer_weight is not None and state.answers is not None:
            slices = torch.einsum("bpw,pwh->bph", state.answers.to(self.answer_weight), self.answer_weight).flatten(1)
            read = read + nn.functional.pad(slices, (0, read.shape[-1] - slices.shape[-1]))
        return self.norm(read)


class StateReaders(nn.ModuleDict):
    """One [`StateReader`] for each neuron."""

    def __init__(self, config: SENConfig, first: bool):
        readers = {}
        for spec in config.neuron_specs:
            num_answers = 0 if first or not config.read_answers else config.num_prompt_tokens
            readers[spec.name] = StateReader(spec.hidden_size, config.hidden_size, num_answers)
        super().__init__(readers)

    def forward(self, states: Mapping[str, NeuronState]) -> dict[str, Tensor]:
        return {name: self[name](state) for name, state in states.items()}  # neuron -> (batch, hidden_size)


class MeanIntegration(nn.Module):
    """Knowledge is the mean of the [`StateReader`] outputs of the present neurons."""

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        self.readers = StateReaders(config, first)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        return masked_mean(self.readers(states), present)  # (batch, hidden_size)


class ConcatIntegration(nn.Module):
    """Knowledge is a linear map of all neurons' [`StateReader`] outputs, concatenated; absent neurons are zeros."""

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        self.readers = StateReaders(config, first)
        self.linear = nn.Linear(len(self.readers) * config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        read = self.readers(states)
        zeros = torch.zeros_like(next(iter(read.values())))
        slots = [
            read[name].masked_fill(~present[name].unsqueeze(-1), 0.0) if name in read else zeros
            for name in self.readers
        ]
        return self.norm(self.linear(torch.cat(slots, dim=-1)))  # (batch, hidden_size)


class AttentionIntegration(nn.Module):
    """Learned queries attend over the [`StateReader`] outputs of the present neurons; knowledge is the mean result."""

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        self.readers = StateReaders(config, first)
        self.queries = nn.Parameter(torch.zeros(config.num_prompt_tokens, config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def init_own_weights(self, std: float) -> None:
        init.normal_(self.queries, std=std)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        read = self.readers(states)
        tokens = torch.stack(list(read.values()), dim=1)  # (batch, neurons, hidden_size)
        mask = torch.stack([present[name] for name in read], dim=1).unsqueeze(1)  # (batch, 1, neurons)
        queries = self.queries.expand(tokens.shape[0], -1, -1)  # (batch, queries, hidden_size)
        attended = nn.functional.scaled_dot_product_attention(
            queries, self.key(tokens), self.value(tokens), attn_mask=mask.expand(-1, queries.shape[1], -1)
        )
        return attended.mean(dim=1)  # (batch, hidden_size)


class LinearDistribution(nn.Module):
    """`C = D(g, s)`: a linear map of knowledge and the previous round's summary to one neuron's context.

    Context is a bottleneck of `bottleneck_size` values per prompt token. There is no activation: with one, accuracy on
    combinations absent from training was lower (docs/association_details.md).

    Each neuron has its own weights for the summary. All neurons' gradients shape knowledge, so one neuron's signal is lost in
    it: without the summary, chains of three encoders were not learned (docs/association_details.md).
    """

    def __init__(self, config: SENConfig, spec: NeuronSpec, first: bool):
        super().__init__()
        self.num_tokens, units = config.num_prompt_tokens, config.num_prompt_tokens * config.bottleneck_size
        self.num_active = max(1, round(config.active_fraction * units))
        self.down = nn.Linear(config.hidden_size, units)
        reads_summary = config.read_answers and not first
        self.summary = nn.Linear(config.hidden_size, units, bias=False) if reads_summary else None

    def forward(self, knowledge: Tensor, summary: Tensor) -> Tensor:
        hidden = self.down(knowledge)  # (batch, prompt_tokens * bottleneck)
        if self.summary is not None:
            hidden = hidden + self.summary(normalised(summary))
        return self.activation(hidden).unflatten(-1, (self.num_tokens, -1))  # (batch, prompt_tokens, bottleneck)

    def activation(self, hidden: Tensor) -> Tensor:
        return hidden


class MLPDistribution(LinearDistribution):
    """[`LinearDistribution`] with a GELU on the bottleneck."""

    def activation(self, hidden: Tensor) -> Tensor:
        return nn.functional.gelu(hidden)


class SparseMLPDistribution(LinearDistribution):
    """[`MLPDistribution`] that keeps the `active_fraction` of units with the largest magnitude; the others are zero."""

    def activation(self, hidden: Tensor) -> Tensor:
        hidden = nn.functional.gelu(hidden)
        kept = torch.zeros_like(hidden).scatter(-1, hidden.abs().topk(self.num_active, dim=-1).indices, 1.0)
        return hidden * kept


INTEGRATE: dict[str, type[Any]] = {
    "mean": MeanIntegration,
    "concat": ConcatIntegration,
    "attention": AttentionIntegration,
}
DISTRIBUTE: dict[str, type[Any]] = {
    "sparse_mlp": SparseMLPDistribution,
    "mlp": MLPDistribution,
    "linear": LinearDistribution,
}


class AnswerReader(nn.Module):
    """`A = softmax(LN(C + Q) LN(W LN(T))^T / sqrt(b)) LN(T)`: each prompt token attends over the neuron's output tokens.

    The key projection is trained. In the study, models learned to use these answers but not the crown's outputs at the
    prompts (docs/association_details.md). Towers that take no prompts have answers too.

    Args:
        config: the SEN's configuration.
        width: width of the neuron's tokens T.
    """

    def __init__(self, config: SENConfig, width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(config.num_prompt_tokens, config.bottleneck_size))
        self.key = nn.Linear(width, config.bottleneck_size)

    def init_own_weights(self, std: float) -> None:
        init.normal_(self.queries, std=std)

    def forward(self, context: Tensor, state: NeuronState) -> Tensor:
        """(batch, prompt_tokens, bottleneck) -> (batch, prompt_tokens, width)."""
        tokens = normalised(state.last_hidden_state.to(self.key.weight))  # (batch, N, width)
        visible = None
        if state.token_mask is not None:  # absent neurons have padding only; attend to it, since no token gives NaN
            mask = state.token_mask.to(tokens.device)
            visible = (mask | ~mask.any(dim=1, keepdim=True)).unsqueeze(1)  # (batch, 1, N)
        queries, keys = normalised(context + self.queries), normalised(self.key(tokens))
        return nn.functional.scaled_dot_product_attention(queries, keys, tokens.to(keys), attn_mask=visible)


class RABlock(nn.Module):
    """The trainable modules of a round: integration of all neurons, and distribution, prompts and answers of each.

    Args:
        config: the SEN's configuration.
        first: whether the block only integrates unprompted states, which have no answers.
    """

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        specs = config.neuron_specs
        self.integration = INTEGRATE[config.integrate](config, first)
        self.distribution = nn.ModuleDict(
            {spec.name: DISTRIBUTE[config.distribute](config, spec, first) for spec in specs}
        )
        self.answer_readers = nn.ModuleDict(
            {spec.name: AnswerReader(config, spec.hidden_size) for spec in specs if config.read_answers}
        )
        self.prompting = nn.ModuleDict({spec.name: PROMPT[config.prompt_of(spec)](config, spec) for spec in specs})

    def integrate(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        """(batch, hidden_size) knowledge of the present neurons' states."""
        return self.integration(states, present)

    def distribute(self, knowledge: Tensor, summary: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """neuron -> (batch, prompt_tokens, bottleneck) context.

        Args:
            knowledge: (batch, hidden_size).
            summary: (batch, hidden_size), from the previous round's [`FusionHead`]; not read by the first block, nor without
                `read_answers`.
            names: neurons to make context for.
        """
        return {name: self.distribution[name](knowledge, summary) for name in names}

    def prompt(
        self, neurons: NeuronBank, looks: Mapping[str, FirstLook], contexts: Mapping[str, Tensor]
    ) -> dict[str, NeuronState]:
        """Runs each neuron's second look with its context; with `config.read_answers`, the new states have answers."""
        states = {}
        for name, context in contexts.items():
            state = self.prompting[name](neurons[name], looks[name], context)
            if name in self.answer_readers:
                read = self.answer_readers[name](context, state)
                state = replace(state, answers=read if state.answers is None else read + state.answers)
            states[name] = state
        return states


class FusionHead(nn.Module):
    """`F`: Linear-GELU-Linear of the mean of the present neurons' [`StateReader`] outputs, into the text space.

    Returns:
        summary: (batch, hidden_size), between the two linear maps.
        embeds: (batch, projection_dim).
    """

    def __init__(self, config: SENConfig):
        super().__init__()
        self.readers = StateReaders(config, first=config.num_rounds == 0)
        self.down = nn.Linear(config.hidden_size, config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.projection_dim)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        read = masked_mean(self.readers(states), present)  # (batch, hidden_size)
        summary = nn.functional.gelu(self.down(read))
        return summary, self.up(summary)

    @property
    def is_untrained(self) -> bool:
        """Whether the last bias is still exactly zero, its initial value."""
        return not bool(self.up.bias.any())


__all__ = ["DISTRIBUTE", "INTEGRATE", "PROMPT", "FusionHead", "RABlock", "masked_mean"]
