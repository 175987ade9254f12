"""Read sound as mono float samples at the rate a neuron wants: a video's own sound track, a sound file, or an array.

Decoded and resampled by PyAV. Time 0 is the first video frame where there is a video, so that a span of `VideoFrames`
cuts out the sound heard during it; in a file of sound alone it is the first sample.
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
# Seconds that a timestamp may be off the count, either way, and is always believed: clocks drift and jitter. Further
# back, the clock began anew, as where recordings were joined.
LONGEST_STEP = 1.0
# Seconds ahead of the count, or before the first picture, that are believed where the next timestamp goes on from there;
# FFmpeg's own bound (dts_error_threshold).
LONGEST_PAUSE = 30 * 3600.0
# Seconds of pauses that are filled with silence where no span bounds them.
LONGEST_SILENCE = 3600.0
# Of an array; more are rather samples with their axes swapped. Ambisonics of the third order has 16.
MOST_CHANNELS = 16
# Samples per second. Below, nothing can be heard, and a damaged header's 1 Hz makes hours of a small file.
LOWEST_RATE = 1000

# Seconds from time 0, and (n,) float32 mono samples from then on.
Block: TypeAlias = tuple[float, np.ndarray]


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


def read_audio(
    audio: Any,
    sampling_rate: int = 16_000,
    span: tuple[float, float] | None = None,
    longest: float | None = None,
) -> AudioClip:
    """Read the sound of a stretch of time, resampled to a rate. Only that stretch is decoded and held in memory.

    Args:
        audio: a video or sound file of up to 64 channels as a path, http(s) URL, bytes, binary file object or open
            `MediaSource`; a pair (samples, rate) with samples (S,) or (channels, S) of up to 16 channels, integers or
            floats in [-1, 1]; or a video given as frames, which has no sound.
        sampling_rate: samples per second wanted.
        span: (start, end) seconds; silence stands where it reaches beyond the sound. Without it: from time 0 to the
            end of the sound, or of the video where there is no sound, an hour at most. Pauses are silence; without a
            span, the sound ends (with a warning) where its pauses would come to more than an hour.
        longest: seconds read at most where no span is given.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ConnectionError: the URL cannot be fetched.
        TypeError: the input is of no known kind.
        ValueError: neither sound nor video in the file, a sound track that cannot be read or decoded, fewer than 1000
            samples per second, an array of an ambiguous layout, or a span without length.
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
    """The instant called 0, in seconds on the container's clock; None where the file has no sound."""
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
    """The blocks that cover a stretch of time; None where the track holds nothing at all."""
    if start > PREROLL:
        blocks = _decode_blocks(source, sampling_rate, origin, start, end, seek=True)
        if blocks is not None:
            return blocks
    # Also where a seek found nothing early enough: the index of a damaged or streamed file cannot be trusted.
    return _decode_blocks(source, sampling_rate, origin, start, end, seek=False)


def _decode_blocks(
    source: MediaSource, sampling_rate: int, origin: float, start: float, end: float, seek: bool
) -> list[Block] | None:
    """As `_read_blocks`; also None where a seek led to nothing early enough."""
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
    """Decodes a sound track and keeps count of what could not be."""

    def __init__(self, name: str, container: InputContainer, stream: AudioStream):
        self.name, self.container, self.stream = name, container, stream
        self.decoded = self.failed = 0
        with media_errors(name):
            # PyAV frees a layout of channels in an order of its own, such as QuickTime's films have, once too often and
            # crashes. As all channels are averaged, their number is enough.
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
                except av.FFmpegError:  # a decoder may find its feet again
                    self.failed += 1
            self.decoded += len(frames)
            yield from frames

    def _next_packet(self, packets: Iterator[av.Packet]) -> av.Packet | None:
        """None at the end, and where the demuxer failed: it has nothing more to give."""
        with media_errors(self.name):
            try:
                return next(packets, None)
            except av.FFmpegError:
                self.failed += 1
            except IndexError:
                # PyAV's, after the last packet of a file in which streams turned up that its beginning did not tell of.
                pass
        return None

    def report(self) -> None:
        """
        Raises:
            ValueError: more packets could not be decoded than could.
        """
        if self.failed > self.decoded:
            raise ValueError(f"{self.name}: its sound track cannot be decoded ({self.failed} damaged packets)")
        if self.failed:
            logger.warning("%s: %d damaged packets in its sound track", self.name, self.failed)


class _Clock:
    """Tells when frames are heard: at their timestamps where these can be true, else right after the frame before."""

    def __init__(self, origin: float, start: float):
        """
        Args:
            origin: time 0 in seconds on the container's clock.
            start: about when the first frame is heard, in seconds from time 0.
        """
        self.expected, self.is_first, self.faults = start, True, 0
        self.zero = self.shift = -origin  # seconds to add to a timestamp; the shift is another once the clock jumped

    def timed(self, frames: Iterator[av.AudioFrame], until: float) -> Iterator[tuple[float, av.AudioFrame]]:
        """(seconds from time 0, frame), up to a time that two frames in a row have reached."""
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
        # A stamp alone: the next one goes on as if this one were what the count says.
        alone = following is not None and abs(following + shift - self.expected - duration) <= GAP
        earliest = -LONGEST_PAUSE if self.is_first else 0.0
        if abs(step) <= LONGEST_STEP or (earliest <= step <= LONGEST_PAUSE and not alone):
            self.shift = shift
            return self.expected if abs(step) <= GAP and not self.is_first else stamp + shift
        self.faults += 1
        if math.isfinite(stamp):
            self.shift = self.expected - stamp
        return self.expected

    def report(self, name: str) -> None:
        if self.faults:
            logger.warning(
                "%s: %d timestamps of its sound cannot be true; samples are counted instead", name, self.faults
            )


def _up_to_long_pauses(name: str, blocks: Iterable[Block], sampling_rate: int) -> Iterator[Block]:
    """The blocks before the pauses come to more than `LONGEST_SILENCE`."""
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
    """Blocks of frames that come with the seconds from time 0 at which they are heard."""
    resampler: av.AudioResampler | None = None
    kind: tuple[int, str, str] | None = None
    segment_start, samples_in, samples_out = 0.0, 0, 0

    def convert(frame: av.AudioFrame | None) -> Iterator[Block]:
        nonlocal samples_out
        with media_errors(name):
            pieces = resampler.resample(frame) if resampler else []
        for piece in pieces:
            # Packed, as PyAV counts planes wrongly from eight on. Channels are averaged here: FFmpeg's own mix to mono is
            # 3 dB too loud in float samples.
            samples = piece.to_ndarray().reshape(-1, piece.layout.nb_channels).mean(axis=1, dtype=np.float32)  # (n,)
            yield segment_start + samples_out / sampling_rate, samples
            samples_out += len(samples)

    for time, frame in frames:
        with media_errors(name):
            found = (frame.sample_rate, frame.layout.name, frame.format.name)
        # Half a gap: what is one was decided before.
        if kind != found or abs(segment_start + samples_in / found[0] - time) > GAP / 2:
            if found[0] < LOWEST_RATE:
                raise ValueError(f"{name}: expected at least {LOWEST_RATE} samples per second, found {found[0]}")
            yield from convert(None)
            kind = found
            resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=sampling_rate)
            segment_start, samples_in, samples_out = time, 0, 0
        samples_in += frame.samples
        # The resampler would refuse a jump of a rounded timestamp; times are counted here instead.
        frame.pts = None
        yield from convert(frame)
    yield from convert(None)


def _end(block: Block, sampling_rate: int) -> float:
    return block[0] + len(block[1]) / sampling_rate


def _join(blocks: list[Block], sampling_rate: int, start: float, end: float) -> np.ndarray:
    """Lay blocks out over a stretch of time, silence between: (S,) float32."""
    joined = np.zeros(max(0, round((end - start) * sampling_rate)), dtype=np.float32)
    for time, samples in blocks:
        place = round((time - start) * sampling_rate)
        inside = samples[max(0, -place) : max(0, len(joined) - place)]
        place = max(0, place)
        joined[place : place + len(inside)] = inside
    return joined


def _is_samples_and_rate(audio: Any) -> bool:
    return isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], int | float | np.number)


def _frames_of_samples(samples: Any, rate: float, start: float, end: float) -> Iterator[tuple[float, av.AudioFrame]]:
    """(seconds, mono frame) that cover a stretch of time."""
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
    # From a whole second on, so that the samples of both rates fall together.
    first = max(0, math.floor(start - PREROLL)) * rate
    samples = samples[:, first : samples.shape[1] if math.isinf(end) else max(0, math.ceil((end + GAP) * rate))]
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"audio: expected signed integer or float samples, found {samples.dtype}")
    # Loud recordings of lossy codecs overshoot a little; much more means integers stored as floats.
    if not np.isfinite(samples).all() or np.abs(samples).max(initial=0.0) > 2.0:
        raise ValueError("audio: expected float samples in [-1, 1], found some far outside")
    mono = samples.mean(axis=0, dtype=np.float32)  # (S,)
    for place in range(0, len(mono), 1 << 16):
        frame = av.AudioFrame.from_ndarray(mono[None, place : place + (1 << 16)], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        yield (first + place) / rate, frame
