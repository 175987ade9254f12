# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Noise levels of a scheduler, and a deterministic DDIM step between two of them (arXiv 2010.02502).

A noisy sample is `x = alpha * x0 + sigma * noise` with `alpha**2 + sigma**2 = 1`. Steps are those of Diffusers' schedulers,
except that each ends at the next sampled timestep. Diffusers subtracts `num_train_timesteps // num_steps` instead, which
misses the next timestep if `num_steps` does not divide the number of timesteps.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class NoiseLevels:
    """Levels 0..N of N steps; level 0 is clean, level N is the noisiest.

    Attributes:
        timesteps: N integers; `timesteps[i]` is the timestep of level i + 1. Level 0 has none.
        alphas, sigmas: N + 1 factors of the clean sample and of the noise.
        velocity: whether the model predicts `v = alpha * noise - sigma * x0`; otherwise it predicts the noise.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    velocity: bool

    @classmethod
    def of(cls, scheduler: Any, num_steps: int) -> "NoiseLevels":
        """The levels at which a `DDIMScheduler` samples in `num_steps` steps.

        Raises:
            ValueError: a number of steps outside 1..num_train_timesteps; a prediction type other than epsilon and
                v_prediction; epsilon at a level without any signal, where the noise does not determine the sample.
        """
        total, prediction = scheduler.config.num_train_timesteps, scheduler.config.prediction_type
        if not 1 <= num_steps <= total:
            raise ValueError(f"num_steps: expected 1 to {total} (the scheduler's timesteps), found {num_steps}")
        if prediction not in PREDICTIONS:
            raise ValueError(f"scheduler: its prediction_type is {prediction!r}, expected {' or '.join(PREDICTIONS)}")
        scheduler.set_timesteps(num_steps)
        # With `trailing` spacing, rounding adds a timestep -1 for some numbers of steps, for example 61.
        timesteps = [min(each, total - 1) for each in scheduler.timesteps.tolist()[:num_steps]][::-1]
        products = [scheduler.final_alpha_cumprod.item(), *scheduler.alphas_cumprod[timesteps].tolist()]
        if prediction == "epsilon" and products[-1] <= 0:
            raise ValueError(
                f"scheduler: at timestep {timesteps[-1]} a sample is pure noise (rescale_betas_zero_snr), expected "
                "prediction_type 'v_prediction' in this case, found 'epsilon'"
            )
        return cls(
            tuple(timesteps),
            tuple(math.sqrt(each) for each in products),
            tuple(math.sqrt(max(0.0, 1 - each)) for each in products),
            prediction == "v_prediction",
        )

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    def clean_and_noise(self, sample: Tensor, output: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Splits a sample of a level into (x0, noise), given the model's output."""
        alpha, sigma = self.alphas[level], self.sigmas[level]
        if self.velocity:
            return alpha * sample - sigma * output, alpha * output + sigma * sample
        return (sample - sigma * output) / alpha, output

    def step(self, sample: Tensor, output: Tensor, start: int, end: int) -> Tensor:
        """Moves a sample from level `start` to the sample of level `end` with the same x0 and noise."""
        clean, noise = self.clean_and_noise(sample, output, start)
        return self.alphas[end] * clean + self.sigmas[end] * noise

    def step_back(self, sample: Tensor, output: Tensor, start: int, end: int) -> Tensor:
        """The inverse of `step`: the sample of level `end` from which `step`, with the output `output` there, gives `sample`.

        For a model that predicts noise, this is `step` from `start` to `end`, because both samples have the same noise. A
        velocity is valid only at its level.
        """
        if not self.velocity:
            return self.step(sample, output, start, end)
        # `step` from end to start is cos * x - sin * v, with the angle between the two levels.
        cos = self.alphas[start] * self.alphas[end] + self.sigmas[start] * self.sigmas[end]
        sin = self.alphas[start] * self.sigmas[end] - self.sigmas[start] * self.alphas[end]
        return (sample + sin * output) / cos


__all__ = ["PREDICTIONS", "NoiseLevels"]
