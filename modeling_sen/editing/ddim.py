# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Deterministic DDIM sampling of latents and its inversion (arXiv 2010.02502), with refinement as in AIDI (arXiv 2305.04441)
and ReNoise (arXiv 2403.14602).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from modeling_sen.editing.noise_levels import NoiseLevels

# (latents, timestep) -> the model's prediction, of the latents' shape and dtype
Predict: TypeAlias = Callable[[Tensor, int], Tensor]


def invert(
    predict: Predict, latents: Tensor, scheduler: Any, num_steps: int, refinements: int = 0, keep: bool = False
) -> list[Tensor]:
    """Inverts clean latents to the noise from which [`sample`] reconstructs them.

    An exact inverse step would need the prediction at its result, which is not yet available. DDIM uses the prediction at the
    start of the step instead. Each refinement uses the prediction at the latest estimate of the result, so that the estimates
    approach the exact inverse.

    Args:
        predict: the model.
        latents: (B, C, T, h, w), float32 for an exact result.
        scheduler: a `DDIMScheduler` whose model predicts noise or velocity.
        num_steps: number of steps.
        refinements: number of refinements per step; each costs one prediction.
        keep: whether to return the latents of all levels, which blending with a mask needs.

    Returns:
        With `keep`, the latents of all `num_steps + 1` levels, from clean to noise; otherwise a list of the noise only.

    Raises:
        ValueError: see [`NoiseLevels.of`]; a negative number of refinements.
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
    """Samples clean latents from noise.

    Args:
        predict: the model.
        latents: (B, C, T, h, w) noise.
        scheduler: a `DDIMScheduler` whose model predicts noise or velocity.
        num_steps: number of steps.
        blend: called after each step with the latents and their level (0 is clean); sampling continues with its result.

    Raises:
        ValueError: see [`NoiseLevels.of`].
    """
    levels = NoiseLevels.of(scheduler, num_steps)
    for level in range(len(levels), 0, -1):
        output = predict(latents, levels.timesteps[level - 1])
        latents = levels.step(latents, output, level, level - 1)
        if blend is not None:
            latents = blend(latents, level - 1)
    return latents


__all__ = ["Predict", "invert", "sample"]
