"""How the tests describe a family of towers, and inputs for each modality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

Outputs = tuple[Tensor, Tensor | None]  # last_hidden_state, pooler_output


@dataclass(frozen=True)
class Family:
    """How to build one neuron type and its inputs.

    Attributes:
        checkpoint: key of `tiny_towers.make_towers`.
        given: fields of the neuron's specification.
        role: the role passed to `resolve_spec`.
        inputs: `inputs(generator, batch_size)`; the inputs in the form that a SEN passes to the neuron.
        written_out: `written_out(tower, tower_inputs, through)`; `None` for towers that take no prompts.
        causal: whether tokens attend only to earlier tokens.
        build: builds the tower where the checkpoint needs a package that not every environment has.
    """

    checkpoint: str
    inputs: Callable[[torch.Generator, int], dict[str, Tensor]]
    written_out: Callable[..., Outputs] | None
    given: Mapping[str, Any]
    role: str = "tower"
    causal: bool = False
    build: Callable[[], PreTrainedModel] | None = None


def frames_of(count: int):
    return lambda generator, batch: {"pixel_values": torch.randn(batch, count, 3, 16, 16, generator=generator)}


def sound_of(*shape: int):
    return lambda generator, batch: {"input_features": torch.randn(batch, *shape, generator=generator)}


def waves_of(masked: bool, shape: tuple[int, ...] = (1600,)):
    def inputs(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        values = torch.randn(batch, *shape, generator=generator)
        if not masked:
            return {"input_features": values}
        mask = torch.ones(batch, *shape, dtype=torch.long)
        mask[0, 1200:] = 0  # the first sample is shorter
        return {"input_features": values * mask, "attention_mask": mask}

    return inputs


def words_of(vocabulary: int, end: int | None = None):
    def inputs(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        ids = torch.randint(1, vocabulary, (batch, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 6:] = 0  # the first sample is shorter
        if end is not None:
            ids[:, -1] = end
            ids[0, 5] = end
        return {"input_ids": ids, "attention_mask": mask}

    return inputs
