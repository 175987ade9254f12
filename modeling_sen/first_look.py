# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A neuron's outputs for a clip: its state in a round, and the first look, which can be packed into tensors for storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .neuron_registry import Grid
from .prompt_injection import TrunkOutput

# Records of a first look that later looks use; entries of PROMPT name the ones they need.
CROWN_INPUT = "crown_input"
CROWN_KEYS = (
    "crown_keys"  # keys and values of the crown's layers; needs CROWN_INPUT, from which they can be recomputed
)


@dataclass
class NeuronState:
    """A neuron's features in one round.

    Attributes:
        last_hidden_state: (batch, t * h * w, width) tokens of the grid, without class tokens.
        pooler_output: (batch, width), from the pooling of a sentence-transformers checkpoint, else the tower's own pooled
            output, else the mean of its tokens; mean over folded frames.
        grid: (t, h, w).
        token_mask: (batch, t * h * w) bool, true for tokens that are not padding; `None` if none is.
        answers: (batch, prompt_tokens, width), each prompt token's attention output over the tokens, plus with `queries` its
            own output after the crown; `None` in round 0.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    grid: Grid
    token_mask: Tensor | None = None
    answers: Tensor | None = None


@dataclass
class FirstLook:
    """The unprompted pass of a neuron, with the values that later rounds use.

    Attributes:
        state: the state of round 0.
        inputs: the neuron's inputs.
        trunk: the trunk's output; `None` if no crown runs again.
        outputs: `hidden_states` and `attentions` of the tower, if requested.
        storable: whether `pack` can store it; false if layers return further tensors besides hidden states and the adapter
            cannot recompute them (`returned_beside`).
    """

    state: NeuronState
    inputs: dict[str, Tensor]
    trunk: TrunkOutput | None = None
    outputs: dict[str, tuple[Tensor, ...] | None] = field(default_factory=dict)
    storable: bool = True

    @property
    def batch_size(self) -> int:
        return len(self.state.pooler_output)

    def pack(self) -> dict[str, Tensor]:
        """Tensors from which [`Neuron.unpack`] rebuilds the first look; their first dimension is the batch.

        Pixels and sound are stored as shapes only, because later rounds do not read them. Keys and values are not stored:
        they are large, and the crown recomputes them.

        Raises:
            ValueError: the modules below the tower's layers return something other than tensors, or it is not `storable`.
        """
        if not self.storable:
            raise ValueError(
                "the tower's layers return more than hidden states, which cannot be stored; give its adapter "
                "returned_beside, or train without a cache"
            )
        state, batch = self.state, self.batch_size
        packed = {"tokens": state.last_hidden_state, "pooled": state.pooler_output, "grid": rows_of(state.grid, batch)}
        if state.token_mask is not None:
            packed["token_mask"] = state.token_mask
        for name, value in self.inputs.items():
            if value.is_floating_point():
                packed[f"input.{name}.shape"] = rows_of(value.shape[1:], batch)
            else:
                packed[f"input.{name}.values"] = value.bool() if name == "attention_mask" else value
        if self.trunk is not None:
            packed["trunk"] = self.trunk.hidden_states.unflatten(0, (batch, -1))  # (batch, frames, tokens, width)
            rest = self.trunk.rest
            packed["returned_beside"] = rows_of([0 if rest is None else 1 + len(rest)], batch)
            for number, output in enumerate(self.trunk.below):
                packed |= pack_shapes(f"below.{number}", output, batch)
        return packed


def rows_of(sizes: Sequence[int], batch: int) -> Tensor:
    """(batch, len(sizes)) int64."""
    return torch.tensor(list(sizes)).expand(batch, -1)


def sizes_of(rows: Tensor) -> tuple[int, ...]:
    """Inverse of [`rows_of`]; the maximum over rows, to which batches are padded. Rows of absent clips are zeros."""
    return tuple(rows.amax(0).tolist())


def pack_shapes(name: str, output: Any, batch: int) -> dict[str, Tensor]:
    """The structure of a module's output: shapes of floating-point tensors, values of other tensors (masks)."""
    if isinstance(output, tuple):
        packed = {f"{name}.length": rows_of([len(output)], batch)}
        for number, part in enumerate(output):
            packed |= pack_shapes(f"{name}.{number}", part, batch)
        return packed
    if output is None:
        return {f"{name}.none": rows_of([0], batch)}
    if not isinstance(output, Tensor):
        raise ValueError(f"{name}: found {type(output).__name__}, expected tensors; other types cannot be stored")
    if not output.is_floating_point():
        return {f"{name}.values": output.unflatten(0, (batch, -1))}
    first, *others = output.shape
    if first % batch:  # the same for all clips, such as positions
        return {f"{name}.constant": rows_of(output.shape, batch)}
    return {f"{name}.shape": rows_of([first // batch, *others], batch)}


def unpack_shapes(name: str, packed: Mapping[str, Tensor], device: torch.device) -> Any:
    """Inverse of [`pack_shapes`]; tensors stored as shapes are on the meta device."""
    if (rows := packed.get(f"{name}.length")) is not None:
        return tuple(unpack_shapes(f"{name}.{number}", packed, device) for number in range(sizes_of(rows)[0]))
    if (values := packed.get(f"{name}.values")) is not None:
        return values.to(device).flatten(0, 1)
    if (rows := packed.get(f"{name}.constant")) is not None:
        return torch.empty(sizes_of(rows), device="meta")
    if (rows := packed.get(f"{name}.shape")) is None:
        return None
    first, *others = sizes_of(rows)
    return torch.empty([first * len(rows), *others], device="meta")


__all__ = [
    "CROWN_INPUT",
    "CROWN_KEYS",
    "FirstLook",
    "NeuronState",
    "pack_shapes",
    "rows_of",
    "sizes_of",
    "unpack_shapes",
]
