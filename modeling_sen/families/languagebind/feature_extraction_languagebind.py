# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Audio input of LanguageBind: three crops of a log mel filter bank as Kaldi computes it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from modeling_sen.families.filter_bank import RATE, STEP, WINDOW, filter_bank
from modeling_sen.families.languagebind.configuration_languagebind import LanguageBindConfig, LanguageBindTowerConfig


class LanguageBindFeatureExtractor(SequenceFeatureExtractor):
    """Spectrograms of sounds, each three crops of one length.

    The original draws the start of each crop from a range; here each crop starts at the beginning of its range, so that the
    result is deterministic. A sound that is shorter than a crop is repeated.

    Args:
        sampling_rate: samples per second; only 16,000.
        num_mel_bins: mel bands, from 20 Hz to 8 kHz.
        target_length: windows of a crop.
        mean, std: the values are `(v - mean) / (2 * std)`.
    """

    model_input_names = ["input_features"]  # noqa: RUF012 (Transformers' own)

    def __init__(
        self,
        sampling_rate: int = RATE,
        num_mel_bins: int = 112,
        target_length: int = 1036,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        **kwargs: Any,
    ):
        if sampling_rate != RATE:
            raise ValueError(f"sampling_rate is {sampling_rate}, expected {RATE}")
        kwargs = {"feature_size": num_mel_bins, "padding_value": 0.0, **kwargs}
        super().__init__(sampling_rate=sampling_rate, **kwargs)
        self.num_mel_bins, self.target_length, self.mean, self.std = num_mel_bins, target_length, mean, std

    @classmethod
    def from_config(cls, config: LanguageBindConfig | LanguageBindTowerConfig) -> "LanguageBindFeatureExtractor":
        """By the numbers in the configuration of a model or of its tower, where published checkpoints have them."""
        tower: Any = getattr(config, "vision_config", config)
        return cls(
            sampling_rate=tower.audio_sample_rate,
            num_mel_bins=int(tower.num_mel_bins),
            target_length=int(tower.target_length),
            mean=tower.audio_mean,
            std=tower.audio_std,
        )

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: (S,) mono samples in [-1, 1], or a list of such.
            sampling_rate: of the samples; has to be the extractor's.
            return_tensors: `"np"` or `"pt"`.

        Returns:
            `input_features` (batch, 3, num_mel_bins, target_length) float32.

        Raises:
            ValueError: another sampling rate, another shape, or a sound shorter than one window of 25 ms.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"sampling_rate is {sampling_rate}, expected {self.sampling_rate}")
        is_one = not isinstance(raw_speech, list | tuple) or np.ndim(raw_speech[0]) == 0
        sounds = [raw_speech] if is_one else raw_speech
        features = np.stack([self._crops(np.asarray(sound, dtype=np.float32)) for sound in sounds])
        return BatchFeature({"input_features": features}, tensor_type=return_tensors)

    def _crops(self, samples: np.ndarray) -> np.ndarray:
        """(S,) -> (3, num_mel_bins, target_length)."""
        if samples.ndim != 1 or len(samples) < WINDOW:
            raise ValueError(
                f"audio: found samples of shape {samples.shape}, expected (S,) with at least {WINDOW}, one window of 25 ms"
            )
        samples, length = samples - samples.mean(), self.target_length
        windows = (len(samples) - WINDOW) // STEP + 1
        if windows <= length:
            bank = filter_bank(samples, self.num_mel_bins)  # repeated below where it is too short
            crops = np.stack([np.tile(bank, -(-length // windows))[:, :length]] * 3)
        else:
            # Each window depends on its own samples alone, so that only those of the crops are computed.
            ranges = np.array_split(np.arange(windows - length + 1), 3)
            starts = [STEP * int(part[0]) if len(part) else 0 for part in ranges]
            pieces = [samples[start : start + (length - 1) * STEP + WINDOW] for start in starts]
            crops = np.stack([filter_bank(piece, self.num_mel_bins) for piece in pieces])
        return ((crops - self.mean) / (2 * self.std)).astype(np.float32)


__all__ = ["LanguageBindFeatureExtractor"]
