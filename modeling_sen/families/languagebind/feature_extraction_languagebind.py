# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sound as LanguageBind's tower takes it: three crops of a spectrogram, by filter banks as Kaldi computes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from modeling_sen.families.languagebind.configuration_languagebind import LanguageBindConfig, LanguageBindTowerConfig

# Milliseconds from one window to the next, and of a window.
HOP, WINDOW = 10, 25


class LanguageBindFeatureExtractor(SequenceFeatureExtractor):
    """Spectrograms of sounds, each three crops of one length.

    The original crops at random; here a crop begins where the range that the original draws from does, so that a sound always
    gives the same. Sounds shorter than a crop are repeated.

    Args:
        sampling_rate: samples per second.
        num_mel_bins: mel bands, from 20 Hz to half the sampling rate.
        target_length: windows of a crop.
        mean, std: the values are `(v - mean) / (2 * std)`.
    """

    model_input_names = ["input_features"]  # noqa: RUF012 (Transformers' own)

    def __init__(
        self,
        sampling_rate: int = 16_000,
        num_mel_bins: int = 112,
        target_length: int = 1036,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        **kwargs: Any,
    ):
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
        hop, window = self.sampling_rate * HOP // 1000, self.sampling_rate * WINDOW // 1000
        if samples.ndim != 1 or len(samples) < window:
            raise ValueError(
                f"audio: found samples of shape {samples.shape}, expected (S,) with at least {window}, one window of "
                f"{WINDOW} ms"
            )
        samples, length = samples - samples.mean(), self.target_length
        windows = (len(samples) - window) // hop + 1
        if windows <= length:
            bank = np.resize(self._filter_bank(samples), (length, self.num_mel_bins))  # from the beginning again
            crops = np.stack([bank] * 3)
        else:
            # Windows are computed one by one, so those of the crops are enough.
            ranges = np.array_split(np.arange(windows - length + 1), 3)
            starts = [int(part[0]) if len(part) else 0 for part in ranges]
            ends = [(start + length - 1) * hop + window for start in starts]
            crops = np.stack([self._filter_bank(samples[s * hop : end]) for s, end in zip(starts, ends, strict=True)])
        return ((crops - self.mean) / (2 * self.std)).transpose(0, 2, 1).astype(np.float32)

    def _filter_bank(self, samples: np.ndarray) -> np.ndarray:
        """(S,) -> (windows, num_mel_bins), log energies, as `torchaudio.compliance.kaldi.fbank` gives them without dither."""
        window = self.sampling_rate * WINDOW // 1000
        fft_length = 1 << (window - 1).bit_length()
        bank = spectrogram(
            samples,
            window_function(window, "hann", periodic=False),
            frame_length=window,
            hop_length=self.sampling_rate * HOP // 1000,
            fft_length=fft_length,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=mel_filter_bank(
                num_frequency_bins=fft_length // 2 + 1,
                num_mel_filters=self.num_mel_bins,
                min_frequency=20,
                max_frequency=self.sampling_rate / 2,
                sampling_rate=self.sampling_rate,
                norm=None,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            ),
            log_mel="log",
            mel_floor=float(np.finfo(np.float32).eps),
            remove_dc_offset=True,
        )
        return bank.T


__all__ = ["LanguageBindFeatureExtractor"]
