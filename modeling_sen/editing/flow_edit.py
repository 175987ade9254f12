# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Editing without inversion, following FlowEdit (arXiv 2412.08629), for diffusion models that predict noise or velocity.

FlowEdit is defined for rectified flows, `z = (1 - s) * x0 + s * noise` with the velocity `dz/ds = noise - x0`. A diffusion
sample `x = alpha * x0 + sigma * noise` becomes a sample of such a flow in the coordinates `z = x / (alpha + sigma)`,
`s = sigma / (alpha + sigma)`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modeling_sen.editing.ddim import Predict
from modeling_sen.editing.noise_levels import NoiseLevels


def flow_edit(
    predict_source: Predict,
    predict_target: Predict,
    latents: Tensor,
    scheduler: Any,
    num_steps: int,
    skip: float = 0.3,
    num_noises: int = 1,
    seed: int = 0,
    blend: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Edits clean latents of a source to clean latents of the edit.

    At each level, the source and the current edit are mixed with the same noise, and the edit is moved by the difference of
    the two velocities. If both predictions agree, the result equals the source bit for bit.

    Args:
        predict_source, predict_target: predictors under the source prompt and the edit prompt.
        latents: (B, C, T, h, w).
        scheduler: a `DDIMScheduler` whose model predicts noise or velocity.
        num_steps: number of steps.
        skip: share of steps left out at the noisy end, from 0 to below 1; a larger share stays closer to the source.
            FlowEdit skips 14 % of the steps for FLUX and 34 % for Stable Diffusion 3.
        num_noises: noise samples per level, over which velocities are averaged.
        seed: seed of the noise, which is the same on all devices.
        blend: see [`sample`]; here its latents are clean at all levels.

    Raises:
        ValueError: see [`NoiseLevels.of`]; arguments out of range.
    """
    if not 0 <= skip < 1:
        raise ValueError(f"skip: expected a share of the steps, 0 to below 1, found {skip}")
    if num_noises < 1:
        raise ValueError(f"num_noises: expected at least 1, found {num_noises}")
    levels, generator = NoiseLevels.of(scheduler, num_steps), torch.Generator().manual_seed(seed)
    # The last step ends at 0 (a clean edit), even if the scheduler's last level still has some noise.
    times = [
        0.0,
        *(sigma / (alpha + sigma) for alpha, sigma in zip(levels.alphas[1:], levels.sigmas[1:], strict=True)),
    ]
    edit = latents
    for level in range(len(levels) - int(skip * len(levels)), 0, -1):
        difference = torch.zeros_like(latents)
        for _ in range(num_noises):
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            source = (1 - times[level]) * latents + times[level] * noise
            target = source + (edit - latents)
            difference += _velocity(predict_target, target, levels, level)
            difference -= _velocity(predict_source, source, levels, level)
        edit = edit + (times[level - 1] - times[level]) * difference / num_noises
        if blend is not None:
            edit = blend(edit, level - 1)
    return edit


def _velocity(predict: Predict, state: Tensor, levels: NoiseLevels, level: int) -> Tensor:
    """dz/ds at a state of the flow."""
    sample = (levels.alphas[level] + levels.sigmas[level]) * state
    clean, noise = levels.clean_and_noise(sample, predict(sample, levels.timesteps[level - 1]), level)
    return noise - clean


__all__ = ["flow_edit"]
