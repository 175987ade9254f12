"""Read sound as mono float samples at the rate a neuron wants: a video's own sound track, a sound file, or an array.

Decoded and resampled by PyAV. Time 0 is the first video frame where there is a video, so that a span of `VideoFrames`
cuts out the sound heard during it; in a file of sound alone it is the first sample.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from .frame_index import first_frame_time, index_frames
from .media_source import MediaSource, best_stream, open_media_source
from .video_io import ARRAY_FRAME_RATE, classify_video_input, given_frames

logger = logging.getLogger(__name__)

# Seconds decoded before a span: lossy codecs need some packets to settle, and seeks are coarse.
PREROLL = 0.5
# Seconds that timestamps may differ from counted samples before it is a gap; containers round to milliseconds.
GAP = 0.05


@dataclass
class AudioClip:
    """Sound.

    Attributes:
        samples: (S,) float32 mono, the mean of all channels, in [-1, 1].
        sampling_rate: samples per second.
        present: False where the source has no sound; then the samples are zeros. A silent track is present.
    """

    samples: np.ndarray
    sampling_rate: int
    present: bool


def read_audio(audio: Any, sampling_rate: int = 16_000, span: tuple[float, float] | None = None) -> AudioClip:
    """Read the sound of a stretch of time, resampled to a rate. Only that stretch is decoded.

    Args:
        audio: a video or sound file as a path, http(s) URL, bytes, binary file object or open `MediaSource`; a pair
            (samples, rate) with samples (S,) or (channels, S), integers or floats in [-1, 1]; or a video given as
            frames, which has no sound.
        sampling_rate: samples per second wanted.
        span: (start, end) seconds; silence stands where it reaches beyond the sound. Without it: from time 0 to the
            end of the sound, or of the video where there is no sound.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ConnectionError: the URL cannot be fetched.
        TypeError: the input is of no known kind.
        ValueError: neither sound nor video in the file, a sound track that cannot be decoded, an array of an
            ambiguous layout, or a span without length.
    """
    if sampling_rate <= 0:
        raise ValueError(f"sampling_rate: expected samples per second, found {sampling_rate}")
    if span is not None and not (math.isfinite(span[0]) and math.isfinite(span[1]) and span[0] < span[1]):
        raise ValueError(f"span: expected (start, end) seconds with start before end, found {span}")
    if _is_samples_and_rate(audio):
        blocks = list(_resampled(_frames_of_samples(*audio), sampling_rate))
        return AudioClip(_join(blocks, sampling_rate, span), sampling_rate, True)
    if classify_video_input(audio) != "file":
        return _silence(span or (0.0, len(given_frames(audio)) / ARRAY_FRAME_RATE), sampling_rate)
    with open_media_source(audio) as source:
        origin = _time_zero(source)
        sound = None if origin is None else _read_blocks(source, sampling_rate, origin, span)
        if sound is None:
            return _silence(span or (0.0, index_frames(source).duration), sampling_rate)
        return AudioClip(_join(sound, sampling_rate, span), sampling_rate, True)


def _silence(span: tuple[float, float], sampling_rate: int) -> AudioClip:
    return AudioClip(_join([], sampling_rate, span), sampling_rate, False)


def _time_zero(source: MediaSource) -> float | None:
    """The instant called 0, in seconds on the container's clock; None where the file has no sound."""
    with source.container() as container:
        video, sound = best_stream(container, "video"), best_stream(container, "audio")
        if video is None and sound is None:
            raise ValueError(f"{source.name}: expected sound or video, found neither")
        if sound is None:
            return None
        if sound.codec_context is None:
            raise ValueError(f"{source.name}: its sound is in a format that this build of FFmpeg cannot decode")
        if video is not None and video.codec_context is not None:
            return first_frame_time(container, video)  # type: ignore[arg-type]
        return float((sound.start_time or 0) * sound.time_base)  # type: ignore[operator]


def _read_blocks(
    source: MediaSource, sampling_rate: int, origin: float, span: tuple[float, float] | None
) -> list[tuple[float, np.ndarray]] | None:
    """Blocks (seconds from time 0, samples) that cover the span; None where the track holds nothing at all."""
    start, end = span or (0.0, math.inf)
    if start > PREROLL:
        blocks = _decode_blocks(source, sampling_rate, origin, start, end, seek=True)
        if blocks and blocks[0][0] <= start:
            return blocks
    # Also where a seek found nothing early enough: the index of a damaged or streamed file cannot be trusted.
    return _decode_blocks(source, sampling_rate, origin, start, end, seek=False)


def _decode_blocks(
    source: MediaSource, sampling_rate: int, origin: float, start: float, end: float, seek: bool
) -> list[tuple[float, np.ndarray]] | None:
    with source.container() as container:
        stream: AudioStream = best_stream(container, "audio")  # type: ignore[assignment]
        if seek:
            try:
                container.seek(round((origin + start - PREROLL) / float(stream.time_base or 1)), stream=stream)
            except av.FFmpegError:
                return None
        track = _Track(source.name, container, stream)
        blocks = []
        for time, samples in _resampled(track.frames(origin + end + GAP), sampling_rate):
            time -= origin
            if time + len(samples) / sampling_rate > start:
                blocks.append((time, samples))
        return blocks if track.decoded else None


class _Track:
    """Decodes a sound track and keeps count of what could not be."""

    def __init__(self, name: str, container: InputContainer, stream: AudioStream):
        self.name, self.container, self.stream = name, container, stream
        self.decoded = self.failed = 0

    def frames(self, until: float) -> Iterator[av.AudioFrame]:
        """Frames up to a time in seconds on the container's clock.

        Raises:
            ValueError: at the end, when more packets could not be decoded than could.
        """
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.FFmpegError:
                self.failed += 1
                # A demuxer that stopped on an error has nothing more to give; a decoder may find its feet again.
                continue
            self.decoded += len(frames)
            past = any(frame.time is not None and frame.time >= until for frame in frames)
            yield from frames
            if packet is None or past:
                break
        if self.failed > self.decoded:
            raise ValueError(f"{self.name}: its sound track cannot be decoded ({self.failed} damaged packets)")
        if self.failed:
            logger.warning("%s: %d damaged packets in its sound track", self.name, self.failed)


def _resampled(frames: Iterable[av.AudioFrame], sampling_rate: int) -> Iterator[tuple[float, np.ndarray]]:
    """Blocks (seconds on the frames' clock, (n,) float32 mono samples), put where the frames' times say."""
    resampler: av.AudioResampler | None = None
    kind: tuple[int, str, str] | None = None
    segment_start, samples_in, samples_out = 0.0, 0, 0

    def convert(frame: av.AudioFrame | None) -> Iterator[tuple[float, np.ndarray]]:
        nonlocal samples_out
        for piece in resampler.resample(frame) if resampler else []:
            # Channels are averaged here: FFmpeg's own mix to mono is 3 dB too loud in float samples.
            samples = piece.to_ndarray().mean(axis=0, dtype=np.float32)  # (channels, n) -> (n,)
            yield segment_start + samples_out / sampling_rate, samples
            samples_out += len(samples)

    for frame in frames:
        expected: float | None = segment_start + samples_in / kind[0] if kind else None
        time = frame.time if frame.time is not None else expected or 0.0
        found = (frame.sample_rate, frame.layout.name, frame.format.name)
        if expected is None or found != kind or abs(time - expected) > GAP:
            yield from convert(None)
            kind = found
            resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=sampling_rate)
            segment_start, samples_in, samples_out = time, 0, 0
        samples_in += frame.samples
        # The resampler would refuse a jump of a rounded timestamp; times are counted here instead.
        frame.pts = None
        yield from convert(frame)
    yield from convert(None)


def _join(blocks: list[tuple[float, np.ndarray]], sampling_rate: int, span: tuple[float, float] | None) -> np.ndarray:
    """Lay blocks out over the span, silence between: (S,) float32 in [-1, 1]."""
    start, end = span or (0.0, max((time + len(samples) / sampling_rate for time, samples in blocks), default=0.0))
    joined = np.zeros(max(0, round((end - start) * sampling_rate)), dtype=np.float32)
    for time, samples in blocks:
        place = round((time - start) * sampling_rate)
        inside = samples[max(0, -place) : max(0, len(joined) - place)]
        place = max(0, place)
        joined[place : place + len(inside)] = inside
    return np.clip(joined, -1.0, 1.0, out=joined)


def _is_samples_and_rate(audio: Any) -> bool:
    return isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], int | float | np.number)


def _frames_of_samples(samples: Any, rate: float) -> Iterator[av.AudioFrame]:
    samples = np.asarray(samples)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= 8 or samples.shape[1] == 0:
        raise ValueError(
            f"audio: expected samples (S,) or (channels, S) with at most 8 channels, found {samples.shape}"
        )
    if rate != int(rate) or rate <= 0:
        raise ValueError(f"audio: expected a whole number of samples per second, found {rate}")
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"audio: expected signed integer or float samples, found {samples.dtype}")
    # Loud recordings of lossy codecs overshoot a little; much more means integers stored as floats.
    if not np.isfinite(samples).all() or np.abs(samples).max() > 2.0:
        raise ValueError("audio: expected float samples in [-1, 1], found some far outside")
    mono = samples.mean(axis=0, dtype=np.float32)  # (S,)
    for start in range(0, len(mono), 1 << 16):
        frame = av.AudioFrame.from_ndarray(mono[None, start : start + (1 << 16)], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = int(rate), start, Fraction(1, int(rate))
        yield frame
