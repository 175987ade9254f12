# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Recursive Association: integrate what all neurons know, distribute it to each of them, prompt each to look again.

The three steps are the paper's (arXiv 2506.07576); the equations are our reading of them. Variants of a step are entries
of `INTEGRATE` and `DISTRIBUTE`.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from .configuration_sen import SENConfig
from .neuron import NeuronState


def masked_mean(vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """Mean over the present neurons of each sample.

    Args:
        vectors: neuron -> (batch, width).
        present: neuron -> (batch,) bool.

    Returns:
        (batch, width); zeros where no neuron is present. A neuron that is absent from a sample leaves its mean
        bit-identical.
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
    """`LayerNorm(W r + [W_1 A_1; ...; W_P A_P])`: a neuron's pooled output and, where read, its answers side by side.

    Each answer has a slice of knowledge to itself, so that prompts can ask for different things; read as their mean, chains
    of two encoders were learned by some seeds only (docs/association.md). The weights are as many.

    Args:
        width: of the neuron.
        hidden_size: of knowledge.
        num_answers: how many answers are read, 0 for none; answers that are absent count as zero.
    """

    def __init__(self, width: int, hidden_size: int, num_answers: int):
        super().__init__()
        self.linear = nn.Linear(width, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.answers = (
            nn.Parameter(torch.zeros(num_answers, width, hidden_size // num_answers)) if num_answers else None
        )

    def forward(self, state: NeuronState) -> Tensor:
        read = self.linear(state.pooler_output.to(self.linear.weight))  # (batch, hidden_size)
        if self.answers is not None and state.answers is not None:
            slices = torch.einsum("bpw,pwh->bph", state.answers.to(self.answers), self.answers).flatten(1)
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
    """Knowledge is the mean of what the present neurons say."""

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        self.readers = StateReaders(config, first)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        return masked_mean(self.readers(states), present)  # (batch, hidden_size)


class ConcatIntegration(nn.Module):
    """Knowledge is a linear map of what all neurons say, side by side; absent neurons say zero."""

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        self.readers = StateReaders(config, first)
        self.hidden_size = config.hidden_size
        self.linear = nn.Linear(len(self.readers) * config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        said = self.readers(states)
        silence = torch.zeros_like(next(iter(said.values())))
        slots = [
            said[name].masked_fill(~present[name].unsqueeze(-1), 0.0) if name in said else silence
            for name in self.readers
        ]
        return self.norm(self.linear(torch.cat(slots, dim=-1)))  # (batch, hidden_size)


class AttentionIntegration(nn.Module):
    """Learned queries attend over what the present neurons say; knowledge is their mean."""

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        self.readers = StateReaders(config, first)
        self.queries = nn.Parameter(torch.zeros(config.num_prompt_tokens, config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        said = self.readers(states)
        tokens = torch.stack(list(said.values()), dim=1)  # (batch, neurons, hidden_size)
        mask = torch.stack([present[name] for name in said], dim=1).unsqueeze(1)  # (batch, 1, neurons)
        queries = self.queries.expand(tokens.shape[0], -1, -1)  # (batch, queries, hidden_size)
        answered = nn.functional.scaled_dot_product_attention(
            queries, self.key(tokens), self.value(tokens), attn_mask=mask.expand(-1, queries.shape[1], -1)
        )
        return answered.mean(dim=1)  # (batch, hidden_size)


class Distribution(nn.Module):
    """`C = D(g, s)`: knowledge, and the summary of the round before, become one neuron's context and its prompt tokens.

    Context is a bottleneck, `bottleneck_size` wide for each prompt token. `linear` has no activation: with one, what must be
    asked for was learned less well for combinations that never occurred in training (docs/association.md). `mlp` has one;
    `sparse_mlp` also keeps only the `active_fraction` of its units with the largest magnitude.

    The summary is what the loss asks for in every round, and each neuron reads it by weights of its own. What one neuron
    alone needs to hear is drowned in knowledge, which all neurons' needs shape: chains of three encoders were not learned
    from it (docs/association.md).

    Args:
        first: whether there is no round before.
    """

    def __init__(self, config: SENConfig, width: int, first: bool):
        super().__init__()
        self.variant, self.num_tokens = config.distribute, config.num_prompt_tokens
        units = config.num_prompt_tokens * config.bottleneck_size
        self.num_active = max(1, round(config.active_fraction * units))
        self.down = nn.Linear(config.hidden_size, units)
        heard = config.read_answers and not first
        self.summary = nn.Linear(config.hidden_size, units, bias=False) if heard else None
        if config.prompt != "none":
            self.up = nn.Linear(config.bottleneck_size, width, bias=False)
            self.tokens = nn.Parameter(torch.zeros(config.num_prompt_tokens, width))

    def forward(self, knowledge: Tensor, summary: Tensor) -> Tensor:
        """(batch, prompt_tokens, bottleneck) context."""
        hidden = self.down(knowledge)  # (batch, prompt_tokens * bottleneck)
        if self.summary is not None:
            hidden = hidden + self.summary(_normalised(summary))
        return DISTRIBUTE[self.variant](hidden, self.num_active).unflatten(-1, (self.num_tokens, -1))

    def prompt_tokens(self, context: Tensor) -> Tensor:
        """(batch, prompt_tokens, width)."""
        return self.up(context) + self.tokens


class AnswerReader(nn.Module):
    """`A = softmax(LN(C + Q) LN(W LN(T))^T / sqrt(b)) LN(T)`: what each prompt token of a neuron finds among its tokens.

    A prompt's own output behind the frozen crown says what the tower's last layers chose to hear. Read by trained keys,
    tokens answered what crowns did not (docs/association.md), and towers that take no prompts answer too.

    Args:
        width: of the neuron's tokens T.
    """

    def __init__(self, config: SENConfig, width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(config.num_prompt_tokens, config.bottleneck_size))
        self.key = nn.Linear(width, config.bottleneck_size)

    def forward(self, context: Tensor, state: NeuronState) -> Tensor:
        """(batch, prompt_tokens, bottleneck) -> (batch, prompt_tokens, width)."""
        tokens = _normalised(state.last_hidden_state.to(self.key.weight))  # (batch, N, width)
        visible = None
        if state.token_mask is not None:  # a neuron absent from a sample has padding only: anything but no number
            mask = state.token_mask.to(tokens.device)
            visible = (mask | ~mask.any(dim=1, keepdim=True)).unsqueeze(1)  # (batch, 1, N)
        asked, keys = _normalised(context + self.queries), _normalised(self.key(tokens))
        return nn.functional.scaled_dot_product_attention(asked, keys, tokens.to(keys), attn_mask=visible)


def _normalised(vectors: Tensor) -> Tensor:
    return nn.functional.layer_norm(vectors, vectors.shape[-1:])


def _most_active(hidden: Tensor, num_active: int) -> Tensor:
    hidden = nn.functional.gelu(hidden)
    kept = torch.zeros_like(hidden).scatter(-1, hidden.abs().topk(num_active, dim=-1).indices, 1.0)
    return hidden * kept


INTEGRATE = {"mean": MeanIntegration, "concat": ConcatIntegration, "attention": AttentionIntegration}
DISTRIBUTE = {
    "sparse_mlp": _most_active,
    "mlp": lambda hidden, num_active: nn.functional.gelu(hidden),
    "linear": lambda hidden, num_active: hidden,
}


class Shift(nn.Linear):
    """`U`: how a tower that takes no prompts is re-associated, zero at first (see `SENPreTrainedModel._init_weights`)."""


class RABlock(nn.Module):
    """One round's trainable part: integration over all neurons, distribution to each, and how their answers are read.

    Args:
        config: the SEN's configuration.
        first: whether only unprompted states are integrated: they have no answers, and of the summary nothing was asked.
    """

    distribution: Mapping[str, Distribution]

    def __init__(self, config: SENConfig, first: bool):
        super().__init__()
        widths = {spec.name: spec.hidden_size for spec in config.neuron_specs}
        self.integration = INTEGRATE[config.integrate](config, first)
        self.distribution = nn.ModuleDict(  # type: ignore[assignment]
            {name: Distribution(config, width, first) for name, width in widths.items()}
        )
        self.answers = nn.ModuleDict(
            {name: AnswerReader(config, width) for name, width in widths.items() if config.read_answers}
        )
        # Towers that take no prompts: their tokens are shifted by U, of the mean of the prompt tokens.
        self.shift = nn.ModuleDict(
            {
                spec.name: Shift(spec.hidden_size, spec.hidden_size, bias=False)
                for spec in config.neuron_specs
                if spec.prompt_side == "after" and config.prompt != "none"
            }
        )

    def integrate(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor:
        """(batch, hidden_size) knowledge from the present neurons' states."""
        return self.integration(states, present)

    def distribute(self, knowledge: Tensor, summary: Tensor, names: list[str]) -> dict[str, Tensor]:
        """neuron -> (batch, prompt_tokens, bottleneck) context.

        Args:
            knowledge: (batch, hidden_size).
            summary: (batch, hidden_size), the [`FusionHead`]'s of the round before; a first block does not read it,
                nor does any without `read_answers`.
        """
        return {name: self.distribution[name](knowledge, summary) for name in names}

    def prompt_tokens(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """neuron -> (batch, prompt_tokens, width); (batch, 1, width) for neurons re-associated after the tower."""
        prompts = {name: self.distribution[name].prompt_tokens(given) for name, given in context.items()}
        for name in prompts:
            if name in self.shift:
                prompts[name] = self.shift[name](prompts[name].mean(dim=1, keepdim=True))
        return prompts

    def read_answers(self, states: Mapping[str, NeuronState], context: Mapping[str, Tensor]) -> dict[str, NeuronState]:
        """The states of neurons that have looked again, with their answers where `config.read_answers`."""
        return {
            name: replace(state, answers=self.answers[name](context[name], state)) if name in self.answers else state
            for name, state in states.items()
        }


class FusionHead(nn.Module):
    """`F`: Linear-GELU-Linear of the mean of what neurons say ([`StateReader`]), into the text space.

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


__all__ = ["DISTRIBUTE", "INTEGRATE", "FusionHead", "RABlock", "Shift", "masked_mean"]
