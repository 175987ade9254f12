# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Audio input of ImageBind: short clips spread evenly over a sound, each a log mel filter bank as Kaldi computes it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from modeling_sen.families.filter_bank import RATE, filter_bank


class ImageBindFeatureExtractor(SequenceFeatureExtractor):
    """Log mel filter banks of clips.

    Args:
        num_mel_bins, num_mel_frames: size of each clip's filter bank; missing frames are 0 before normalisation.
        num_clips: clips of each sound, spread evenly from its beginning to its end.
        clip_seconds: length of a clip.
        mean, std: of the log filter banks.
        kwargs: of `SequenceFeatureExtractor`.
    """

    model_input_names = ["input_features"]  # noqa: RUF012 (Transformers' own)

    def __init__(
        self,
        num_mel_bins: int = 128,
        num_mel_frames: int = 204,
        num_clips: int = 3,
        clip_seconds: float = 2.0,
        mean: float = -4.268,
        std: float = 9.138,
        sampling_rate: int = RATE,
        **kwargs: Any,
    ):
        fixed = {"feature_size": num_mel_bins, "padding_value": 0.0}
        super().__init__(**{**kwargs, **fixed}, sampling_rate=sampling_rate)
        if sampling_rate != RATE:
            raise ValueError(f"sampling_rate is {sampling_rate}, expected {RATE}")
        self.num_mel_bins, self.num_mel_frames = num_mel_bins, num_mel_frames
        self.num_clips, self.clip_seconds = num_clips, clip_seconds
        self.mean, self.std = mean, std

    def __call__(  # type: ignore[override]
        self,
        raw_speech: np.ndarray | Sequence[float] | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: samples (S,) in [-1, 1], or a list of such arrays.
            sampling_rate: of the samples.
            return_tensors: "pt", "np" or nothing.

        Returns:
            `input_features` (batch, num_clips, 1, num_mel_bins, num_mel_frames) float32.

        Raises:
            ValueError: another sampling rate, no sound, or samples of more than one dimension.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate is {sampling_rate}, expected {self.sampling_rate}; resample the sound first"
            )
        is_batch = isinstance(raw_speech, list | tuple) and bool(raw_speech) and np.ndim(raw_speech[0]) > 0
        sounds = [np.asarray(sound, dtype=np.float64) for sound in (raw_speech if is_batch else [raw_speech])]
        for sound in sounds:
            if sound.ndim != 1 or not sound.size:
                raise ValueError(f"raw_speech: found samples of shape {sound.shape}, expected (S,) with at least one")
        features = np.stack([self._clips(sound) for sound in sounds])
        return BatchFeature({"input_features": features}, tensor_type=return_tensors)

    def _clips(self, sound: np.ndarray) -> np.ndarray:
        starts = clip_starts(len(sound) / RATE, self.clip_seconds, self.num_clips)
        pieces = [sound[int(start * RATE) : int((start + self.clip_seconds) * RATE)] for start in starts]
        banks = np.zeros((self.num_clips, 1, self.num_mel_bins, self.num_mel_frames), dtype=np.float32)
        for clip, piece in enumerate(pieces):
            bank = filter_bank(piece, self.num_mel_bins)[:, : self.num_mel_frames]
            banks[clip, 0, :, : bank.shape[1]] = bank
        return (banks - np.float32(self.mean)) / np.float32(self.std)


def clip_starts(seconds: float, clip_seconds: float, num_clips: int) -> list[float]:
    """Start times, in seconds, of clips spread evenly over a recording; all are 0 if it is shorter than a clip."""
    room = max(seconds - clip_seconds, 0.0)
    return [room * clip / max(num_clips - 1, 1) for clip in range(num_clips)]


__all__ = ["ImageBindFeatureExtractor", "clip_starts"]
