# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Visual tokens for a language model: a fixed number from each clip, whatever the number of neurons.

The tokens of each neuron are averaged onto one lattice of time and space, mapped to a common width, and fused into one token
for each cell of the lattice. The answers of association are fused in the same way, with maps of their own, and follow as
further tokens. One lattice for all encoders, and fusion by a softmax over encoders, are MERV's (arXiv 2501.01426).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_sen import NeuronSpec
from .dense_features import DenseFeatures
from .neuron_registry import Grid


def lattice_of(modality: str, grid: Grid, lattice: Grid) -> tuple[Grid, Grid]:
    """How the tokens of one neuron are read, and the lattice that they are averaged onto, (t, h, w) both.

    The tokens of sound have no place in the picture: those of each moment are averaged, and every cell of a step in time gets
    the same. The last axis of their grid is time, the one before it frequency.
    """
    t, h, w = grid
    return ((t * w, h, 1), (lattice[0], 1, 1)) if modality == "audio" else (grid, lattice)


def pool_to_lattice(
    tokens: Tensor, token_mask: Tensor, modality: str, grid: Grid, lattice: Grid
) -> tuple[Tensor, Tensor]:
    """Means of the tokens of each cell, with the bins of adaptive average pooling.

    A grid with fewer steps than the lattice gives each step to several cells.

    Args:
        tokens: (batch, t * h * w, width).
        token_mask: (batch, t * h * w) bool, False for padding, which counts in no mean.
        modality: of the neuron.
        grid: (t, h, w) of the tokens.
        lattice: (steps, rows, columns).

    Returns:
        (batch, steps * rows * columns, width), zeros in cells without tokens; and (batch, steps * rows * columns) bool, which
        cells have tokens.
    """
    values = tokens.masked_fill(~token_mask.unsqueeze(-1), 0.0).unflatten(1, grid)  # (batch, t, h, w, width)
    counts = token_mask.to(tokens).unflatten(1, grid).unsqueeze(-1)
    shape, target = lattice_of(modality, grid, lattice)
    if shape != grid:  # (batch, 1, frequency, time, width) -> (batch, time, frequency, 1, width)
        values, counts = (each.transpose(2, 3).flatten(1, 2).unsqueeze(3) for each in (values, counts))
    for axis, (size, cells) in enumerate(zip(shape, target, strict=True), start=1):
        bins = _bins(size, cells)  # (cells, size)
        values, counts = (
            torch.tensordot(each, bins.to(each), ([axis], [1])).movedim(-1, axis) for each in (values, counts)
        )
    pooled = (values / counts.clamp(min=1)).expand(-1, *lattice, -1).flatten(1, 3)
    return pooled, (counts > 0).expand(-1, *lattice, -1).flatten(1, 4)


def _bins(size: int, cells: int) -> Tensor:
    """(cells, size) 0 or 1: which of the places in a row belong to each cell."""
    start = torch.arange(cells) * size // cells
    end = -(-(torch.arange(1, cells + 1) * size) // cells)
    place = torch.arange(size)
    return (place >= start.unsqueeze(-1)) & (place < end.unsqueeze(-1))


class MeanFusion(nn.Module):
    """Mean of the present neurons."""

    def __init__(self, width: int, num_neurons: int):
        super().__init__()

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """(batch, neurons, cells, width), (batch, neurons, cells) bool -> (batch, cells, width)."""
        return _weighted_sum(features, torch.zeros_like(features[..., 0]), present)


class WeightFusion(nn.Module):
    """Softmax over the present neurons of one trained logit for each neuron, zero at first."""

    def __init__(self, width: int, num_neurons: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_neurons))

    def init_own_weights(self, std: float) -> None:
        init.zeros_(self.logits)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """(batch, neurons, cells, width), (batch, neurons, cells) bool -> (batch, cells, width)."""
        return _weighted_sum(features, self.logits.unsqueeze(-1).expand_as(present), present)


class CrossAttentionFusion(nn.Module):
    """MERV's fusion: one trained query attends to the mean token of each neuron, which gives one weight for each neuron."""

    def __init__(self, width: int, num_neurons: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.key = nn.Linear(width, width)

    def init_own_weights(self, std: float) -> None:
        init.normal_(self.query, std=std)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """(batch, neurons, cells, width), (batch, neurons, cells) bool -> (batch, cells, width)."""
        here = present.to(features).unsqueeze(-1)
        mean = (features * here).sum(dim=2) / here.sum(dim=2).clamp(min=1)  # (batch, neurons, width)
        logits = self.key(mean) @ self.query / self.query.shape[0] ** 0.5  # (batch, neurons)
        return _weighted_sum(features, logits.unsqueeze(-1).expand_as(present), present)


def _weighted_sum(features: Tensor, logits: Tensor, present: Tensor) -> Tensor:
    """Sum over neurons with the softmax of the logits of those that are present; zeros where none is."""
    lowest = torch.finfo(logits.dtype).min
    weights = logits.masked_fill(~present, lowest).softmax(dim=1) * present
    return (weights.unsqueeze(-1) * features).sum(dim=1)


# Variant -> module(width, num_neurons), called with features (batch, neurons, cells, width) and present (batch, neurons,
# cells) bool; gives (batch, cells, width).
FUSION: dict[str, type[nn.Module]] = {
    "weights": WeightFusion,
    "mean": MeanFusion,
    "cross_attention": CrossAttentionFusion,
}


class FeatureProjector(nn.Module):
    """LayerNorm and a linear map for each neuron, fusion of the neurons, GELU, and a linear map to the language model."""

    def __init__(self, specs: Sequence[NeuronSpec], hidden_size: int, out_size: int, fusion: str):
        super().__init__()
        self.norms = nn.ModuleDict({spec.name: nn.LayerNorm(spec.hidden_size) for spec in specs})
        self.enter = nn.ModuleDict({spec.name: nn.Linear(spec.hidden_size, hidden_size) for spec in specs})
        self.fusion = FUSION[fusion](hidden_size, len(specs))
        self.leave = nn.Linear(hidden_size, out_size)

    def forward(self, features: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Neuron -> (batch, cells, width) and (batch, cells) bool, which are present; -> (batch, cells, out_size).

        A neuron that is missing, or False everywhere, has no influence.
        """
        names = list(self.enter)
        given = next(iter(features.values()))[1]
        weight = self.leave.weight
        entered = [
            self.enter[name](self.norms[name](features[name][0]))
            if name in features
            else weight.new_zeros(*given.shape, weight.shape[1])
            for name in names
        ]
        present = [features[name][1] if name in features else torch.zeros_like(given) for name in names]
        fused = self.fusion(torch.stack(entered, dim=1), torch.stack(present, dim=1))
        return self.leave(nn.functional.gelu(fused))


class VisualProjector(nn.Module):
    """Dense features of neurons -> visual tokens in the width of a language model.

    Args:
        specs: of the neurons that are read.
        lattice: (steps, rows, columns) of the visual tokens.
        hidden_size: width in which neurons are fused.
        out_size: width of the language model.
        fusion: entry of `FUSION`.
        reads_answers: whether the answers of association follow as further tokens.
    """

    def __init__(
        self,
        specs: Sequence[NeuronSpec],
        lattice: Grid,
        hidden_size: int,
        out_size: int,
        fusion: str,
        reads_answers: bool,
    ):
        super().__init__()
        self.lattice, self.modalities = lattice, {spec.name: spec.modality for spec in specs}
        self.tokens = FeatureProjector(specs, hidden_size, out_size, fusion)
        self.answers = FeatureProjector(specs, hidden_size, out_size, fusion) if reads_answers else None

    def forward(self, features: Mapping[str, DenseFeatures], present: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            features: neuron -> its dense features; of at least one neuron.
            present: neuron -> (batch,) bool, which samples have the neuron.

        Returns:
            (batch, steps * rows * columns + prompt_tokens, out_size): the cells step by step and row by row, then the
            answers. Neurons that are absent have no influence, whatever their features hold.
        """
        dtype = self.tokens.leave.weight.dtype
        cells, answers = {}, {}
        for name, each in features.items():
            tokens, here = each.tokens.to(dtype), present[name].unsqueeze(-1)  # (batch, 1)
            mask = here.expand(tokens.shape[:2]) if each.token_mask is None else here & each.token_mask
            cells[name] = pool_to_lattice(tokens, mask, self.modalities[name], each.grid, self.lattice)
            if self.answers is not None and each.answers is not None:
                mask = here.expand(each.answers.shape[:2])
                answers[name] = each.answers.to(dtype).masked_fill(~mask.unsqueeze(-1), 0.0), mask
        visual = self.tokens(cells)
        return torch.cat([visual, self.answers(answers)], dim=1) if self.answers is not None else visual


__all__ = ["FUSION", "FeatureProjector", "VisualProjector", "lattice_of", "pool_to_lattice"]
