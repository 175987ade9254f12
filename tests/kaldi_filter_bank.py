"""Kaldi's log mel filter bank written out in float64: the reference for both families that use it for sound."""

import numpy as np


def kaldi_filter_bank(samples: np.ndarray, bins: int) -> np.ndarray:
    """(bins, windows), after Kaldi's feature-window.cc, feature-fbank.cc and mel-computations.cc.

    Windows of 25 ms by Hann's formula (`hanning`), 10 ms apart, at 16 kHz; no dither, no energy, snipped edges.
    """
    samples = samples.astype(np.float64) - samples.mean(dtype=np.float64)
    count = 1 + (len(samples) - 400) // 160
    windows = np.stack([samples[160 * index : 160 * index + 400] for index in range(count)])
    windows = windows - windows.mean(axis=1, keepdims=True)
    before = np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    windows = (windows - 0.97 * before) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399))
    power = np.abs(np.fft.rfft(windows, 512)) ** 2  # (windows, 257)

    def mel(frequency):
        return 1127 * np.log(1 + np.asarray(frequency) / 700)

    step = (mel(8000) - mel(20)) / (bins + 1)
    places = mel(np.arange(256) * 16_000 / 512)
    filters = np.zeros((bins, 257))
    for band in range(bins):
        left, middle, right = mel(20) + step * np.arange(band, band + 3)
        rising, falling = (places - left) / (middle - left), (right - places) / (right - middle)
        filters[band, :256] = np.clip(np.minimum(rising, falling), 0, None)
    return np.log(np.maximum(power @ filters.T, np.finfo(np.float32).eps)).T
