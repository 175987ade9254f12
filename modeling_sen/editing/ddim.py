# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Deterministic DDIM sampling of latents, and its inversion (arXiv 2010.02502), refined as in AIDI (arXiv 2305.04441) and
ReNoise (arXiv 2403.14602).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from modeling_sen.editing.noise_levels import NoiseLevels

# (latents, timestep) -> what the model predicts, of the latents' shape and dtype
Predict: TypeAlias = Callable[[Tensor, int], Tensor]


def invert(
    predict: Predict, latents: Tensor, scheduler: Any, num_steps: int, refinements: int = 0, keep: bool = False
) -> list[Tensor]:
    """Clean latents -> the noise that [`sample`] brings back to them.

    A step towards noise needs the prediction for its result, which is not known yet. DDIM takes the prediction for the step's
    start instead. Each refinement takes the prediction for the last estimate of the result, so that estimates approach the
    exact inverse.

    Args:
        latents: (B, C, T, h, w), float32 for an exact result.
        scheduler: a `DDIMScheduler` whose model predicts noise or velocity.
        refinements: further predictions per step.
        keep: whether to keep the latents of all levels, as blending with a mask needs.

    Returns:
        Latents of the levels, the noise last: all `num_steps + 1` from the clean ones on, or the noise alone.

    Raises:
        ValueError: as [`NoiseLevels.of`]; a negative number of refinements.
    """
    if refinements < 0:
        raise ValueError(f"refinements: expected at least 0, found {refinements}")
    levels, trajectory = NoiseLevels.of(scheduler, num_steps), [latents]
    for level, timestep in enumerate(levels.timesteps):
        start = trajectory[-1]
        end = levels.step(start, predict(start, timestep), level, level + 1)
        for _ in range(refinements):
            end = levels.step_back(start, predict(end, timestep), level, level + 1)
        trajectory = [*trajectory, end] if keep else [end]
    return trajectory


def sample(
    predict: Predict,
    latents: Tensor,
    scheduler: Any,
    num_steps: int,
    blend: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Noise -> clean latents.

    Args:
        latents: (B, C, T, h, w).
        scheduler: a `DDIMScheduler` whose model predicts noise or velocity.
        blend: is called with the latents after each step and the number of their level, 0 for the clean ones; what it returns
            is sampled on.

    Raises:
        ValueError: as [`NoiseLevels.of`].
    """
    levels = NoiseLevels.of(scheduler, num_steps)
    for level in range(len(levels), 0, -1):
        output = predict(latents, levels.timesteps[level - 1])
        latents = levels.step(latents, output, level, level - 1)
        if blend is not None:
            latents = blend(latents, level - 1)
    return latents


__all__ = ["Predict", "invert", "sample"]
