# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The sound of a video file as packets for an mp4: copied where an mp4 can hold them, else encoded again as AAC."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from modeling_sen.frame_index import first_frame_time
from modeling_sen.media_source import MediaSource, best_stream, stored_packets
from modeling_sen.video_decoder import video_stream

logger = logging.getLogger(__name__)

COPIED = ("aac", "mp3", "mp3float")  # names of decoders
# Samples per second that AAC has a number for.
AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def sound_packets(
    source: MediaSource, output: OutputContainer, stretch: tuple[float, float] | None = None
) -> list[tuple[float, av.Packet]]:
    """Adds a sound stream to an mp4 that is written.

    Args:
        source: a video file. Where it has no sound, nothing is added. Of damaged sound, what can be read is kept, with a
            warning.
        stretch: (start, end) seconds from the first video frame; only packets with sound of this stretch are added.

    Returns:
        Packets in order, each with the seconds from the first video frame, or from the start of the stretch, at which it is
        heard.
    """
    with source.container() as container:
        origin = first_frame_time(container, video_stream(container, source.name))
    length = None
    if stretch is not None:
        origin, length = origin + stretch[0], stretch[1] - stretch[0]
    with source.container() as container:
        stream: AudioStream | None = best_stream(container, "audio")  # type: ignore[assignment]
        if stream is None or stream.codec_context is None:  # no sound, or in a format that this FFmpeg does not know
            return []
        make = _copied if stream.codec_context.name in COPIED else _encoded
        packets: list[tuple[float, av.Packet]] = []
        try:
            for packet in make(container, stream, output, origin, length):
                packets.append((float(packet.pts * packet.time_base), packet))  # type: ignore[operator]
        except (av.FFmpegError, ValueError) as error:
            logger.warning("%s: its sound is written up to its %d. packet only (%s)", source.name, len(packets), error)
        return packets


def _copied(
    container: InputContainer, stream: AudioStream, output: OutputContainer, origin: float, length: float | None
) -> Iterator[av.Packet]:
    copy = output.add_stream_from_template(stream)
    last = None
    for packet in stored_packets(container, stream):
        if packet.pts is None or packet.dts is None or (last is not None and packet.dts <= last):
            continue  # damaged: times in an mp4 increase
        last = packet.dts
        shift = round(origin / packet.time_base)
        if length is not None:
            if packet.pts + (packet.duration or 0) <= shift:
                continue
            if packet.pts >= shift + length / packet.time_base:
                return
        packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
        yield packet


def _encoded(
    container: InputContainer, stream: AudioStream, output: OutputContainer, origin: float, length: float | None
) -> Iterator[av.Packet]:
    context = stream.codec_context
    rate = max((each for each in AAC_RATES if each <= context.rate), default=AAC_RATES[-1])
    layout = "mono" if context.layout.nb_channels == 1 else "stereo"
    coded = output.add_stream("aac", rate=rate, layout=layout, options={"aac_coder": "fast"})
    time = None  # of the next sample, counted: times of containers jitter
    # FFmpeg's mix of many channels to two is too loud in float samples.
    for piece, start in _resampled(container, stream, av.AudioResampler(format="s16", layout=layout, rate=rate)):
        time = round((start - origin) * rate) if time is None else time
        piece.pts, piece.time_base = time, Fraction(1, rate)
        time += piece.samples
        if length is not None:
            if time <= 0:
                continue
            if piece.pts >= length * rate:
                break
        yield from coded.encode(piece)
    yield from coded.encode(None)


def _resampled(
    container: InputContainer, stream: AudioStream, resampler: av.AudioResampler
) -> Iterator[tuple[av.AudioFrame, float]]:
    """Pieces of sound, each with the seconds at which the first of them is heard, on the container's clock."""
    start = None
    for packet in chain(stored_packets(container, stream), [None]):
        for frame in stream.codec_context.decode(packet):
            start = (frame.time or 0.0) if start is None else start
            frame.pts = None
            for piece in resampler.resample(frame):
                yield piece, start
    for piece in resampler.resample(None):
        yield piece, start or 0.0


__all__ = ["sound_packets"]
