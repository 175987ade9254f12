# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sound as ImageBind reads it: short clips spread over the whole, each a Kaldi-style spectrogram."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

WINDOW, STEP, FFT = 400, 160, 512  # samples at 16 kHz: windows of 25 ms, 10 ms apart
RATE = 16_000


class ImageBindFeatureExtractor(SequenceFeatureExtractor):
    """Log mel filter banks of clips.

    Args:
        num_mel_bins, num_mel_frames: of each clip; frames that are missing are 0 before normalisation.
        num_clips: of each sound, spread evenly over it: the first begins where it begins, the last ends where it ends.
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
    """Where clips of one length begin that are spread evenly over a recording; all at 0 where it is shorter than one."""
    room = max(seconds - clip_seconds, 0.0)
    return [room * clip / max(num_clips - 1, 1) for clip in range(num_clips)]


def filter_bank(samples: np.ndarray, num_mel_bins: int) -> np.ndarray:
    """Kaldi's log mel filter bank (Hann window, no dither, edges snipped) of the samples without their mean.

    Args:
        samples: (S,) float at 16 kHz.

    Returns:
        (num_mel_bins, frames) float32; no frame where the samples do not fill a window.
    """
    if len(samples) < WINDOW:
        return np.zeros((num_mel_bins, 0), dtype=np.float32)
    return spectrogram(
        samples - samples.mean(),
        window_function(WINDOW, "hann", periodic=False),
        frame_length=WINDOW,
        hop_length=STEP,
        fft_length=FFT,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_mel_filters(num_mel_bins),
        log_mel="log",
        mel_floor=1.1920928955078125e-07,
        remove_dc_offset=True,
    ).astype(np.float32)


@cache
def _mel_filters(num_mel_bins: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of many bins the lowest lie between two frequencies; Kaldi's, too
        return mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1,
            num_mel_filters=num_mel_bins,
            min_frequency=20.0,
            max_frequency=RATE / 2,
            sampling_rate=RATE,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )


__all__ = ["ImageBindFeatureExtractor", "clip_starts", "filter_bank"]
