# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Kaldi's log mel filter bank, which the audio towers of ImageBind and LanguageBind read, by `transformers.audio_utils`."""

import warnings
from functools import cache

import numpy as np
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

RATE = 16_000
WINDOW, STEP, FFT = 400, 160, 512  # samples: windows of 25 ms, 10 ms apart


def filter_bank(samples: np.ndarray, num_mel_bins: int) -> np.ndarray:
    """Kaldi's log mel filter bank (Hann window, no dither, snipped edges), after the mean of the samples is subtracted.

    Args:
        samples: (S,) float at 16 kHz.

    Returns:
        (num_mel_bins, frames) float32; no frames if there are fewer samples than a window has.
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
        # Where there are many bins, the lowest lie between two frequencies and are 0. So they are in Kaldi.
        warnings.simplefilter("ignore", UserWarning)
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


__all__ = ["RATE", "STEP", "WINDOW", "filter_bank"]
