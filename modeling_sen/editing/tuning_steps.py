# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A step of tuning: a window of a clip, noise, one timestep for all frames, and the prediction error."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_sen.editing.latents import encode_frames

VALIDATION_STEPS = 8  # timesteps for validation, at the centres of as many equal parts of the schedule
_VALIDATION = 1  # second element of validation's random seed; training uses 0


@dataclass(frozen=True)
class TuningClip:
    """
    Attributes:
        latents: (1, channels, T, h, w).
        features: output of `SENForVideoEditing.video_features`.
        window: number of frames per step, at most T.
        num_timesteps: number of timesteps of the scheduler.
        seed: seed of windows, timesteps and noise. They depend only on the seed and the step number, not on the device.
    """

    latents: Tensor
    features: Mapping[str, Tensor]
    window: int
    num_timesteps: int
    seed: int

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: Any, vae: Any, scheduler: Any, frames: np.ndarray, prompt: str, window: int, seed: int
    ) -> "TuningClip":
        """Encodes frames (T, H, W, 3) uint8 once for all steps.

        Raises:
            ValueError: frames of another shape, dtype or size.
        """
        latents, features = encode_frames(vae, frames), model.video_features(frames, prompt)
        return cls(latents, features, min(window, len(frames)), scheduler.config.num_train_timesteps, seed)

    def training_batch(self, number: int) -> dict[str, Any]:
        """A batch with a random window, timestep and noise, determined by the step number."""
        random = np.random.default_rng([self.seed, 0, number])
        start = int(random.integers(self.latents.shape[2] - self.window + 1))
        return self._batch(start, int(random.integers(self.num_timesteps)), random)

    def validation_batches(self) -> Iterator[dict[str, Any]]:
        """Batches with fixed noise and evenly spaced timesteps and windows."""
        for number in range(VALIDATION_STEPS):
            place = (number + 0.5) / VALIDATION_STEPS
            start = int(place * (self.latents.shape[2] - self.window + 1))
            random = np.random.default_rng([self.seed, _VALIDATION, number])
            yield self._batch(start, int(place * self.num_timesteps), random)

    def _batch(self, start: int, timestep: int, random: np.random.Generator) -> dict[str, Any]:
        frames = slice(start, start + self.window)
        latents = self.latents[:, :, frames].float()
        noise = torch.from_numpy(random.standard_normal(tuple(latents.shape), dtype=np.float32))
        return {
            "latents": latents,
            "noise": noise.to(latents.device),
            "timesteps": torch.tensor([timestep]),
            "features": {name: values[:, frames] for name, values in self.features.items()},
        }


class AdapterTraining(nn.Module):
    """Computes an adapter's loss for a batch of [`TuningClip`].

    Its state dict contains only the adapter's weights, with the prefix `adapter.`.

    Args:
        adapter: an adapter attached to a UNet.
        text_states: (1, tokens, width) text states of the caption.
        scheduler: the base model's scheduler, for `alphas_cumprod` and the prediction type.
    """

    accepts_loss_kwargs = False  # read by Trainer: the loss does not depend on the number of batches per step

    adapter: Any
    text_states: Tensor
    alphas_cumprod: Tensor

    def __init__(self, adapter: Any, text_states: Tensor, scheduler: Any):
        super().__init__()
        self.adapter = adapter
        self.predicts_velocity = scheduler.config.prediction_type == "v_prediction"
        self.register_buffer("text_states", text_states, persistent=False)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.float(), persistent=False)

    def forward(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, features: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Latents and noise (1, channels, frames, h, w) float32, timesteps (1,) -> `loss`, a mean squared error."""
        product = self.alphas_cumprod[timesteps.to(self.alphas_cumprod.device)].view(-1, 1, 1, 1, 1)
        signal, level = product.sqrt(), (1 - product).sqrt()
        dtype = self.adapter.unet.dtype
        noisy = (signal * latents + level * noise).to(dtype)
        found = self.adapter(noisy, timesteps, self.text_states.to(dtype), features)
        target = signal * noise - level * latents if self.predicts_velocity else noise
        return {"loss": F.mse_loss(found.float(), target)}


def validation_loss(training: nn.Module, clip: TuningClip) -> float:
    """Mean loss over the clip's validation batches."""
    losses = [training(**batch)["loss"] for batch in clip.validation_batches()]
    return float(torch.stack(losses).mean())


__all__ = ["VALIDATION_STEPS", "AdapterTraining", "TuningClip", "validation_loss"]
