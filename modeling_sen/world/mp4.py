"""Writes frames and sound to an mp4 file (H.264 and AAC) with PyAV."""

import os
from fractions import Fraction

import av
import numpy as np

from modeling_sen.whole_file import whole_file


def write_mp4(
    path: str | os.PathLike,
    frames: np.ndarray,
    frames_per_second: int,
    audio: np.ndarray | None = None,
    sampling_rate: int = 16_000,
) -> None:
    """Writes a clip, atomically.

    Args:
        path: the file.
        frames: (T, H, W, 3) uint8 RGB, with even height and width.
        frames_per_second: frame rate.
        audio: (S,) int16 mono, or `None` for a file without a sound track.
        sampling_rate: of the sound, in Hz.

    Raises:
        ValueError: frames of another shape or dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"{path}: frames are {frames.dtype} {frames.shape}, expected uint8 (T, H, W, 3)")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"{path}: frames are {frames.shape[2]}x{frames.shape[1]}, H.264 supports only even sizes")
    with whole_file(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=frames_per_second, options={"crf": "8", "preset": "veryfast"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1  # small frames gain nothing from threads
        sound = None
        if audio is not None:  # the encoder's default coding search takes longer than everything else
            sound = container.add_stream("aac", rate=sampling_rate, layout="mono", options={"aac_coder": "fast"})
        for time, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, frames_per_second)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None and audio is not None:
            sound.bit_rate = 96_000
            samples = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = sampling_rate, 0, Fraction(1, sampling_rate)
            container.mux(sound.encode(samples))
            container.mux(sound.encode())
