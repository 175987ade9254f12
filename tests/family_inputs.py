"""Random inputs of neurons, as a SEN hands them over: each maker gives `inputs(generator, batch_size)`."""

from collections.abc import Callable

import torch
from torch import Tensor

Inputs = Callable[[torch.Generator, int], dict[str, Tensor]]


def frames(count: int) -> Inputs:
    return lambda generator, batch: {"pixel_values": torch.randn(batch, count, 3, 16, 16, generator=generator)}


def sound(*shape: int) -> Inputs:
    return lambda generator, batch: {"input_features": torch.randn(batch, *shape, generator=generator)}


def waves(masked: bool, shape: tuple[int, ...] = (1600,)) -> Inputs:
    def inputs(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        values = torch.randn(batch, *shape, generator=generator)
        if not masked:
            return {"input_features": values}
        mask = torch.ones(batch, *shape, dtype=torch.long)
        mask[0, 1200:] = 0  # the first sample is shorter
        return {"input_features": values * mask, "attention_mask": mask}

    return inputs


def words(vocabulary: int, end: int | None = None) -> Inputs:
    def inputs(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        ids = torch.randint(1, vocabulary, (batch, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 6:] = 0  # the first sample is shorter
        if end is not None:
            ids[:, -1] = end
            ids[0, 5] = end
        return {"input_ids": ids, "attention_mask": mask}

    return inputs
