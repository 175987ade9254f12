# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Editing without inversion, after FlowEdit (arXiv 2412.08629), for models that predict noise or velocity of diffusion.

FlowEdit is defined for rectified flows, `z = (1 - s) * x0 + s * noise` with the velocity `dz/ds = noise - x0`. A sample of
diffusion, `x = alpha * x0 + sigma * noise`, is one of a flow in the coordinates `z = x / (alpha + sigma)`,
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
    """Clean latents of a source -> clean latents of its edit.

    At each level the source is mixed with noise, the edit so far with the same noise, and the edit moves by the difference of
    the two velocities. Where both predictions agree, the source is returned to the bit.

    Args:
        predict_source, predict_target: predictions under the source's prompt and under the edit's.
        latents: (B, C, T, h, w).
        scheduler: a `DDIMScheduler` whose model predicts noise or velocity.
        skip: share of the steps that are left out at the noisy end, 0 to below 1; the more, the nearer to the source.
            FlowEdit skips 14 % of the steps of FLUX and 34 % of Stable Diffusion 3.
        num_noises: noises for each level, over which velocities are averaged.
        seed: of the noises, which are the same on all devices.
        blend: as of [`sample`]; the latents that it is given are free of noise at all levels.

    Raises:
        ValueError: as [`NoiseLevels.of`]; arguments out of range.
    """
    if not 0 <= skip < 1:
        raise ValueError(f"skip: expected a share of the steps, 0 to below 1, found {skip}")
    if num_noises < 1:
        raise ValueError(f"num_noises: expected at least 1, found {num_noises}")
    levels, generator = NoiseLevels.of(scheduler, num_steps), torch.Generator().manual_seed(seed)
    # The last step ends at 0, where the edit is clean, also where the scheduler's own last level has some noise left.
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
