"""Reads sound from a video's sound track, a sound file or an array, as mono float samples at a neuron's sampling rate.

PyAV decodes and resamples. Time 0 is the first video frame, so that a span of `VideoFrames` selects the sound of these
frames; in a file without video it is the first sample.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, dropwhile
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from .frame_index import first_frame_time, index_frames
from .media_source import MediaSource, best_stream, media_errors, open_media_source
from .video_io import ARRAY_FRAME_RATE, classify_video_input, given_frames

logger = logging.getLogger(__name__)

# Seconds decoded before a span: lossy codecs need some packets to settle, and seeks are coarse.
PREROLL = 0.5
# Seconds that timestamps may differ from counted samples before it is a gap; containers round to milliseconds.
GAP = 0.05
# Timestamps within this many seconds of the counted samples are always accepted, because clocks drift and jitter. A larger
# step back is a restart of the clock, as in joined recordings.
LONGEST_STEP = 1.0
# Timestamps up to this many seconds ahead of the count, or before the first picture, are accepted if the next timestamp
# continues from there; FFmpeg's own bound (dts_error_threshold).
LONGEST_PAUSE = 30 * 3600.0
# Total seconds of pauses that are filled with silence if no span is given.
LONGEST_SILENCE = 3600.0
# Largest number of channels of an array; more suggest swapped axes. Third-order ambisonics has 16.
MOST_CHANNELS = 16
# Smallest number of samples per second. Less is inaudible, and a damaged header with 1 Hz makes hours of a small file.
LOWEST_RATE = 1000

# Start in seconds from time 0, and (n,) float32 mono samples.
Block: TypeAlias = tuple[float, np.ndarray]


@dataclass
class AudioClip:
    """Sound.

    Attributes:
        samples: (S,) float32 mono, the mean of all channels, in [-1, 1].
        sampling_rate: samples per second.
        present: false if the source has no sound, in which case the samples are zeros; true for a silent track.
    """

    samples: np.ndarray
    sampling_rate: int
    present: bool


def read_audio(
    audio: Any,
    sampling_rate: int = 16_000,
    span: tuple[float, float] | None = None,
    longest: float | None = None,
) -> AudioClip:
    """Reads the sound of a time span and resamples it. Only this span is decoded and held in memory.

    Args:
        audio: a video or sound file of up to 64 channels as a path, http(s) URL, bytes, binary file object or open
            `MediaSource`; a pair (samples, rate) with samples (S,) or (channels, S) of up to 16 channels, integers or
            floats in [-1, 1]; or a video given as frames, which has no sound.
        sampling_rate: samples per second of the result.
        span: (start, end) in seconds; parts beyond the sound are silence. Default: from time 0 to the end of the sound,
            or for a video without sound to its end, at most an hour. Pauses are silence; without a span, the sound ends,
            with a warning, before its pauses exceed an hour in total.
        longest: maximum number of seconds without a span.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ConnectionError: the URL cannot be fetched.
        TypeError: unsupported type of input.
        ValueError: a file with neither sound nor video, a sound track that cannot be read or decoded, fewer than 1000
            samples per second, an array with an ambiguous layout, or an empty span.
    """
    if sampling_rate <= 0:
        raise ValueError(f"sampling_rate: expected samples per second, found {sampling_rate}")
    if span is not None and not (math.isfinite(span[0]) and math.isfinite(span[1]) and span[0] < span[1]):
        raise ValueError(f"span: expected (start, end) seconds with start before end, found {span}")
    if longest is not None and not longest > 0:
        raise ValueError(f"longest: expected a positive number of seconds, found {longest}")
    start, end = span or (0.0, math.inf if longest is None else longest)
    sound: list[Block] | None = None
    name, length = "audio", 0.0  # seconds of a video without sound
    if _is_samples_and_rate(audio):
        samples, rate = audio
        sound = list(_resampled(name, _frames_of_samples(samples, rate, start, end), sampling_rate))
    elif classify_video_input(audio) != "file":
        length = len(given_frames(audio)) / ARRAY_FRAME_RATE
    else:
        with open_media_source(audio) as source:
            name, origin = source.name, _time_zero(source)
            if origin is not None:
                sound = _read_blocks(source, sampling_rate, origin, start, end)
            if sound is None and span is None:
                length = min(_video_duration(source), LONGEST_SILENCE)
    if span is None:
        end = min(end, max([length, *(_end(block, sampling_rate) for block in sound or [])]))
    joined = _join(sound or [], sampling_rate, start, end)
    finite = np.isfinite(joined)
    if not finite.all():
        logger.warning("%s: %d samples of its sound are not finite; they become silence", name, np.sum(~finite))
        joined[~finite] = 0.0
    return AudioClip(np.clip(joined, -1.0, 1.0, out=joined), sampling_rate, sound is not None)


def _time_zero(source: MediaSource) -> float | None:
    """Time 0 in seconds on the container's clock; `None` if the file has no sound."""
    with source.container() as container:
        video, sound = best_stream(container, "video"), best_stream(container, "audio")
        if video is None and sound is None:
            raise ValueError(f"{source.name}: expected sound or video, found neither")
        if sound is None:
            return None
        if sound.codec_context is None:
            raise ValueError(f"{source.name}: its sound is in a format that this build of FFmpeg cannot decode")
        with media_errors(source.name):
            if video is not None and video.codec_context is not None:
                return first_frame_time(container, video)  # type: ignore[arg-type]
            return float((sound.start_time or 0) * sound.time_base)  # type: ignore[operator]


def _video_duration(source: MediaSource) -> float:
    with source.container() as container:
        has_video = best_stream(container, "video") is not None
    return index_frames(source).duration if has_video else 0.0


def _read_blocks(
    source: MediaSource, sampling_rate: int, origin: float, start: float, end: float
) -> list[Block] | None:
    """The blocks that cover a time span; `None` if the track is empty."""
    if start > PREROLL:
        blocks = _decode_blocks(source, sampling_rate, origin, start, end, seek=True)
        if blocks is not None:
            return blocks
    # Also after a failed seek, because the index of a damaged or streamed file may be wrong.
    return _decode_blocks(source, sampling_rate, origin, start, end, seek=False)


def _decode_blocks(
    source: MediaSource, sampling_rate: int, origin: float, start: float, end: float, seek: bool
) -> list[Block] | None:
    """As `_read_blocks`; also `None` if the seek failed or landed too late."""
    with source.container() as container:
        stream: AudioStream = best_stream(container, "audio")  # type: ignore[assignment]
        if seek:
            try:
                container.seek(round((origin + start - PREROLL) / float(stream.time_base or 1)), stream=stream)
            except (av.FFmpegError, OverflowError):
                return None
        track = _Track(source.name, container, stream)
        clock = _Clock(origin, start if seek else 0.0)
        frames = track.frames()
        if seek:
            frames = dropwhile(lambda frame: frame.time is None, frames)
        blocks = _resampled(source.name, clock.timed(frames, end + GAP), sampling_rate)
        if seek:
            first = next(blocks, None)
            if first is None or first[0] > start or clock.faults:
                return None
            blocks = chain([first], blocks)
        if math.isinf(end):
            blocks = _up_to_long_pauses(source.name, blocks, sampling_rate)
        kept = [block for block in blocks if _end(block, sampling_rate) > start]
        track.report()
        clock.report(source.name)
        return kept if track.decoded else None


class _Track:
    """Decodes a sound track and counts damaged packets."""

    def __init__(self, name: str, container: InputContainer, stream: AudioStream):
        self.name, self.container, self.stream = name, container, stream
        self.decoded = self.failed = 0
        with media_errors(name):
            # PyAV frees layouts with a custom channel order, as in QuickTime files, twice and crashes. Channels are averaged,
            # so their number is enough.
            layout = stream.codec_context.layout
            if "channels (" in layout.name:
                stream.codec_context.layout = f"{layout.nb_channels} channels"

    def frames(self) -> Iterator[av.AudioFrame]:
        packets = self.container.demux(self.stream)
        while (packet := self._next_packet(packets)) is not None:
            frames: list[av.AudioFrame] = []
            with media_errors(self.name):
                try:
                    frames = packet.decode()  # type: ignore[assignment]
                except av.FFmpegError:  # the decoder may recover with a later packet
                    self.failed += 1
            self.decoded += len(frames)
            yield from frames

    def _next_packet(self, packets: Iterator[av.Packet]) -> av.Packet | None:
        """The next packet; `None` at the end and after a failure of the demuxer, which then gives no more packets."""
        with media_errors(self.name):
            try:
                return next(packets, None)
            except av.FFmpegError:
                self.failed += 1
            except IndexError:
                # PyAV raises it after the last packet if streams appeared that the header did not list.
                pass
        return None

    def report(self) -> None:
        """Warns about damaged packets.

        Raises:
            ValueError: more damaged packets than decoded frames.
        """
        if self.failed > self.decoded:
            raise ValueError(f"{self.name}: its sound track cannot be decoded ({self.failed} damaged packets)")
        if self.failed:
            logger.warning("%s: %d damaged packets in its sound track", self.name, self.failed)


class _Clock:
    """Assigns times to frames: their timestamps if plausible, else the end of the previous frame."""

    def __init__(self, origin: float, start: float):
        """
        Args:
            origin: time 0 in seconds on the container's clock.
            start: approximate time of the first frame, in seconds from time 0.
        """
        self.expected, self.is_first, self.faults = start, True, 0
        self.zero = self.shift = -origin  # seconds to add to a timestamp; `shift` changes when the clock jumps

    def timed(self, frames: Iterator[av.AudioFrame], until: float) -> Iterator[tuple[float, av.AudioFrame]]:
        """(seconds from time 0, frame), until two consecutive frames have reached the time `until`."""
        frame = next(frames, None)
        while frame is not None:
            following = next(frames, None)
            duration = frame.samples / (frame.sample_rate or 1)
            time = self._place(frame.time, None if following is None else following.time, duration)
            reached = time >= until and time == self.expected
            self.expected, self.is_first = time + duration, False
            yield time, frame
            frame = None if reached else following

    def _place(self, stamp: float | None, following: float | None, duration: float) -> float:
        if stamp is None:
            return self.expected
        shift = min((self.shift, self.zero), key=lambda shift: abs(stamp + shift - self.expected))
        step = stamp + shift - self.expected
        # An outlier: the next timestamp agrees with the counted samples.
        is_outlier = following is not None and abs(following + shift - self.expected - duration) <= GAP
        earliest = -LONGEST_PAUSE if self.is_first else 0.0
        if abs(step) <= LONGEST_STEP or (earliest <= step <= LONGEST_PAUSE and not is_outlier):
            self.shift = shift
            return self.expected if abs(step) <= GAP and not self.is_first else stamp + shift
        self.faults += 1
        if math.isfinite(stamp):
            self.shift = self.expected - stamp
        return self.expected

    def report(self, name: str) -> None:
        if self.faults:
            logger.warning(
                "%s: %d timestamps of its sound are implausible; samples are counted instead", name, self.faults
            )


def _up_to_long_pauses(name: str, blocks: Iterable[Block], sampling_rate: int) -> Iterator[Block]:
    """The blocks up to the point where pauses exceed `LONGEST_SILENCE` in total."""
    end = silence = 0.0
    for time, samples in blocks:
        silence += max(0.0, time - end)
        if silence > LONGEST_SILENCE:
            logger.warning(
                "%s: its sound pauses at %.1f s, until %.1f s; read without a span, it ends there", name, end, time
            )
            return
        yield time, samples
        end = max(end, _end((time, samples), sampling_rate))


def _resampled(name: str, frames: Iterable[tuple[float, av.AudioFrame]], sampling_rate: int) -> Iterator[Block]:
    """Resampled blocks from (seconds from time 0, frame) pairs."""
    resampler: av.AudioResampler | None = None
    kind: tuple[int, str, str] | None = None
    segment_start, samples_in, samples_out = 0.0, 0, 0

    def convert(frame: av.AudioFrame | None) -> Iterator[Block]:
        nonlocal samples_out
        with media_errors(name):
            pieces = resampler.resample(frame) if resampler else []
        for piece in pieces:
            # Packed format, because PyAV miscounts eight or more planes. Channels are averaged here, because FFmpeg's mix
            # to mono is 3 dB too loud for float samples.
            samples = piece.to_ndarray().reshape(-1, piece.layout.nb_channels).mean(axis=1, dtype=np.float32)  # (n,)
            yield segment_start + samples_out / sampling_rate, samples
            samples_out += len(samples)

    for time, frame in frames:
        with media_errors(name):
            found = (frame.sample_rate, frame.layout.name, frame.format.name)
        # Half of `GAP`: `_Clock` has already set differences up to `GAP` to zero.
        if kind != found or abs(segment_start + samples_in / found[0] - time) > GAP / 2:
            if found[0] < LOWEST_RATE:
                raise ValueError(f"{name}: expected at least {LOWEST_RATE} samples per second, found {found[0]}")
            yield from convert(None)
            kind = found
            resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=sampling_rate)
            segment_start, samples_in, samples_out = time, 0, 0
        samples_in += frame.samples
        # The resampler rejects jumps of rounded timestamps, so times are counted here.
        frame.pts = None
        yield from convert(frame)
    yield from convert(None)


def _end(block: Block, sampling_rate: int) -> float:
    return block[0] + len(block[1]) / sampling_rate


def _join(blocks: list[Block], sampling_rate: int, start: float, end: float) -> np.ndarray:
    """Samples (S,) float32 of a time span from blocks, with silence between them."""
    joined = np.zeros(max(0, round((end - start) * sampling_rate)), dtype=np.float32)
    for time, samples in blocks:
        offset = round((time - start) * sampling_rate)
        inside = samples[max(0, -offset) : max(0, len(joined) - offset)]
        offset = max(0, offset)
        joined[offset : offset + len(inside)] = inside
    return joined


def _is_samples_and_rate(audio: Any) -> bool:
    return isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], int | float | np.number)


def _frames_of_samples(samples: Any, rate: float, start: float, end: float) -> Iterator[tuple[float, av.AudioFrame]]:
    """(seconds, mono frame) pairs that cover a time span."""
    samples = np.asarray(samples)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= MOST_CHANNELS or samples.shape[1] == 0:
        raise ValueError(
            f"audio: expected samples (S,) or (channels, S) with at most {MOST_CHANNELS} channels, found {samples.shape}"
        )
    if rate != int(rate) or rate <= 0:
        raise ValueError(f"audio: expected a whole number of samples per second, found {rate}")
    rate = int(rate)
    # Start at a whole second, where sample times of both rates coincide.
    first = max(0, math.floor(start - PREROLL)) * rate
    samples = samples[:, first : samples.shape[1] if math.isinf(end) else max(0, math.ceil((end + GAP) * rate))]
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"audio: expected signed integer or float samples, found {samples.dtype}")
    # Lossy codecs overshoot a little; much larger values are integers stored as floats.
    if not np.isfinite(samples).all() or np.abs(samples).max(initial=0.0) > 2.0:
        raise ValueError("audio: expected float samples in [-1, 1], found some far outside")
    mono = samples.mean(axis=0, dtype=np.float32)  # (S,)
    for offset in range(0, len(mono), 1 << 16):
        frame = av.AudioFrame.from_ndarray(mono[None, offset : offset + (1 << 16)], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        yield (first + offset) / rate, frame
