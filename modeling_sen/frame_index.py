"""Index of a video file's frames and their times, made from its packets without decoding.

The index needs one pass over the file's packets and 34 bytes of memory per frame. Files whose packets do not determine their
frames (AVI with B-frames, raw streams, damaged files) are decoded once instead.
"""

import logging
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .frame_times import mended_times, warn_once
from .media_source import MediaSource, stored_packets
from .video_decoder import decoded_frames, granted_threads, use_threads, video_stream

logger = logging.getLogger(__name__)

# No codec reorders frames by more than 16 positions; larger differences mean that the clock jumps.
REORDER_LIMIT = 64
# Seconds; a longer clip has damaged timestamps.
LONGEST_CLIP = 1e6
# The end of a clip is decoded for its index if that takes at most this many packets, or if the last packet has at most this
# many bytes: packets without a frame (a delimiter, a picture that is not coded) are small, but so are a few frames.
CHEAP_TAIL = 16
SMALL_PACKET = 32
# Frames per second if neither the timestamps nor the header give a rate.
USUAL_RATE = 24.0


@dataclass(frozen=True)
class PacketTable:
    """The packets of a video stream in decoding order.

    Attributes:
        pts: (packets,) int64, presentation timestamps, all different.
        by_pts: (packets,) int64, positions in decoding order, sorted by timestamp.
        is_keyframe: (packets,) bool.
        is_damaged: (packets,) bool, packets that the container marks, for example after losses in a transport stream, and the
            packet after each, which may be the damaged one, because parsers reassemble packets.
        of_frame: (frames,) int64, position of each frame's packet in decoding order.
    """

    pts: np.ndarray
    by_pts: np.ndarray
    is_keyframe: np.ndarray
    is_damaged: np.ndarray
    of_frame: np.ndarray

    def position(self, pts: int) -> int | None:
        """Position in decoding order of the packet with this timestamp; `None` if there is none."""
        rank = int(np.searchsorted(self.pts, pts, sorter=self.by_pts))
        if rank == len(self.pts) or self.pts[self.by_pts[rank]] != pts:
            return None
        return int(self.by_pts[rank])

    def last_keyframe(self, packet: int) -> int:
        """Position of the last keyframe up to this packet; 0 if there is none."""
        keyframes = np.flatnonzero(self.is_keyframe[: packet + 1])
        return int(keyframes[-1]) if len(keyframes) else 0

    def entry_point(self, packet: int) -> int:
        """Position of the last keyframe from which this packet can be decoded."""
        keyframes = np.flatnonzero(self.is_keyframe[: packet + 1])
        # Frames stored after a keyframe but shown before it (open GOP) need the keyframe before that one.
        usable = keyframes[self.pts[keyframes] <= self.pts[packet]]
        return int(usable[-1]) if len(usable) else 0


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video in presentation order.

    Attributes:
        times: (frames,) float64, seconds from the first frame's presentation to each frame's.
        duration: seconds from the first frame's presentation to the end of the last one's.
        packets: the packets; `None` if frames can only be found by decoding from the beginning.
    """

    times: np.ndarray
    duration: float
    packets: PacketTable | None = None


def first_frame_time(container: InputContainer, stream: VideoStream) -> float:
    """Time of the first frame in seconds on the container's clock. Moves the container's read position."""
    if _guesses_times(container, stream):
        return 0.0
    packets = stored_packets(container, stream)
    shown = (packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    first = sorted(islice(shown, REORDER_LIMIT)) or [0]
    tick = float(stream.time_base)  # type: ignore[arg-type]
    # Skip damaged timestamps, which are far from the others.
    return next(pts * tick for pts in first if (first[len(first) // 2] - pts) * tick <= LONGEST_CLIP)


def index_frames(source: MediaSource, by_decoding: bool = False) -> FrameIndex:
    """Indexes all frames by their packets, or by decoding if packets do not suffice or `by_decoding` is set.

    Raises:
        ValueError: the file has no video stream or no frame.
    """
    with source.container() as container:
        stream = video_stream(container, source.name)
        index, is_tail_small = (None, False) if by_decoding else _index_by_packets(container, stream)
        promised = (stream.frames, _promised_duration(container, stream))
    if index is not None:
        index = _without_empty_tail(source, index, is_tail_small)
    if index is None:
        index = _index_by_decoding(source)
    if index is None:
        raise ValueError(f"{source.name}: expected a video, found no frame that can be read")
    stored = len(index.packets.pts) if index.packets else len(index.times)
    _warn_if_truncated(source.name, stored, index.duration, *promised)
    return index


def _index_by_packets(container: InputContainer, stream: VideoStream) -> tuple[FrameIndex | None, bool]:
    """The index, `None` if the packets do not determine it, and whether the last packet is small."""
    pts, is_keyframe, is_shown, is_corrupt = array("q"), bytearray(), bytearray(), bytearray()
    last_size = 0
    last_shown, last_duration = None, 0
    if _guesses_times(container, stream):
        return None, False
    for packet in stored_packets(container, stream):
        if packet.pts is None:
            return None, False
        shown = not packet.is_discard and not _is_hidden(packet, stream)
        pts.append(packet.pts)
        last_size = packet.size
        is_keyframe.append(packet.is_keyframe)
        is_shown.append(shown)
        is_corrupt.append(packet.is_corrupt)
        if shown and (last_shown is None or packet.pts >= last_shown):
            last_shown, last_duration = packet.pts, packet.duration or 0
    whole = len(is_corrupt.rstrip(b"\1"))
    is_shown[whole:] = bytes(len(is_shown) - whole)  # packets at the end that were cut off
    packet_pts = np.frombuffer(pts, dtype=np.int64)
    shown_packets = np.flatnonzero(np.frombuffer(is_shown, dtype=bool))
    if len(shown_packets) == 0:
        return None, False
    order = np.argsort(packet_pts[shown_packets], kind="stable")
    if len(np.unique(packet_pts)) < len(packet_pts) or np.abs(order - np.arange(len(order))).max() > REORDER_LIMIT:
        return None, False
    packet_of_frame = shown_packets[order]
    frame_pts = packet_pts[packet_of_frame]
    if (int(frame_pts[-1]) - int(frame_pts[0]) + last_duration) * stream.time_base > LONGEST_CLIP:  # type: ignore[operator]
        return None, False
    times = (frame_pts - frame_pts[0]) * float(stream.time_base)  # type: ignore[arg-type]
    duration = _duration(times, last_duration * float(stream.time_base), stream)  # type: ignore[arg-type]
    is_damaged = np.frombuffer(is_corrupt, dtype=bool).copy()
    is_damaged[1:] |= is_damaged[:-1].copy()
    table = PacketTable(
        packet_pts, np.argsort(packet_pts), np.frombuffer(is_keyframe, dtype=bool), is_damaged, packet_of_frame
    )
    return FrameIndex(times, duration, table), last_size <= SMALL_PACKET


def _without_empty_tail(source: MediaSource, index: FrameIndex, is_tail_small: bool) -> FrameIndex:
    """Drops the file's last packets from the index where they give no frame, as bytes after a still image do.

    Decodes the end of the clip if that is cheap or the last packet is small. Others are noticed only when they are read.
    """
    packets = index.packets
    assert packets is not None
    last = len(packets.pts) - 1
    # One keyframe earlier, so that at least one frame is decoded where decoding works at all.
    start = packets.entry_point(max(0, packets.entry_point(last) - 1))
    if last - start > CHEAP_TAIL and not is_tail_small:
        return index
    decoded: set[int] = set()
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, granted_threads())
        for packet in chain(packets_from(container, stream, packets, start, last, fresh=True), [None]):
            try:
                decoded.update(frame.pts for frame in stream.codec_context.decode(packet) if frame.pts is not None)
            except av.FFmpegError:
                continue
    if not decoded:
        return index
    shown = set(packets.of_frame.tolist())
    empty = set()
    for position in range(last, start - 1, -1):
        if position in shown:
            if int(packets.pts[position]) in decoded:
                break
            empty.add(position)
    if not empty:
        return index
    is_frame = np.array([position not in empty for position in packets.of_frame])
    times = index.times[is_frame]
    ends = np.append(index.times[1:], index.duration)[is_frame]
    return FrameIndex(
        times - times[0], float(ends[-1] - times[0]), replace(packets, of_frame=packets.of_frame[is_frame])
    )


def packets_from(
    container: InputContainer, stream: VideoStream, packets: PacketTable, start: int, last: int, fresh: bool
) -> Iterator[Packet]:
    """Packets from position `start` to `last` in decoding order; none if no seek leads there.

    `fresh` is true if nothing has been read from the container yet; then no seek is needed to start at 0, which image files
    do not support.
    """
    if fresh and start == 0:
        return islice(stored_packets(container, stream), last + 1)
    second = round(1 / stream.time_base)  # type: ignore[operator]
    # Containers seek by different clocks and may land too late; then try earlier times.
    for goal in (packets.pts[start], packets.pts[start] - second, packets.pts.min() - second):
        try:
            container.seek(int(goal), stream=stream)
        except av.FFmpegError:
            continue
        stored = stored_packets(container, stream)
        first = next(stored, None)
        reached = None if first is None or first.pts is None else packets.position(first.pts)
        if first is not None and reached is not None and reached <= start:
            return islice(chain([first], stored), start - reached, last - reached + 1)
    return iter(())


def _index_by_decoding(source: MediaSource, single_threaded: bool = False) -> FrameIndex | None:
    """An index made by decoding all frames; damaged files are decoded again with a single thread."""
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1 if single_threaded else granted_threads())
        pts: list[int | None] = []
        damaged = False
        for frame, damaged in decoded_frames(container, stream):
            if damaged and not single_threaded:
                break
            if frame is not None:
                pts.append(frame.pts)
        if (single_threaded or not damaged) and pts:
            times = _decoded_times(source.name, pts, stream, _guesses_times(container, stream))
            return FrameIndex(times, _duration(times, 0.0, stream))
    return _index_by_decoding(source, single_threaded=True) if damaged and not single_threaded else None


def _decoded_times(name: str, pts: list[int | None], stream: VideoStream, is_guess: bool) -> np.ndarray:
    """(frames,) seconds of decoded frames from the first frame; computed from the frame rate if timestamps are unusable.

    Timestamps that do not increase are sorted, and equal ones spread; `is_guess` if no file of this kind has true ones.
    """
    # Frames are decoded in presentation order, even if timestamps (AVI) are attached in decoding order.
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    tick = float(stream.time_base)  # type: ignore[arg-type]
    steps = np.array([later - earlier for earlier, later in pairwise(stamps)], dtype=np.float64) * tick
    span = steps.sum()
    usual = steps[(steps > 0) & (steps <= 4 * np.median(steps[steps > 0]))] if (steps > 0).any() else steps[:0]
    rates = (1 / usual.mean() if len(usual) else 0.0, float(stream.average_rate or 0))
    rate = next((rate for rate in rates if 1e-3 <= rate <= 1e3), USUAL_RATE)
    if len(stamps) == len(pts) and span <= LONGEST_CLIP and ((steps > 0).all() or not is_guess):
        disorder = sum(later <= earlier for earlier, later in pairwise(pts))  # type: ignore[operator]
        if disorder and not is_guess:
            warn_once(
                f"{name}: {disorder} of its {len(pts)} frame times do not increase; they are sorted, and equal ones are "
                "spread evenly up to the next"
            )
        return mended_times((np.array(stamps, dtype=np.int64) - stamps[0]) * tick, 1 / rate)
    if span > LONGEST_CLIP:
        logger.warning(
            "%s: its timestamps are damaged (%.3g s of video); its %d frames are put at %.4g per second",
            name,
            span,
            len(pts),
            rate,
        )
    return np.arange(len(pts)) / rate


def _duration(times: np.ndarray, last: float, stream: VideoStream) -> float:
    """Seconds from the first frame to the end of the last one, whose duration is `last` seconds, or 0 if unknown."""
    if last <= 0:
        last = float(np.median(np.diff(times))) if len(times) > 1 else float(1 / (stream.average_rate or USUAL_RATE))
    return float(times[-1]) + last


def _guesses_times(container: InputContainer, stream: VideoStream) -> bool:
    # AVI stores no presentation times; with B-frames FFmpeg's guesses are out of order, and packed B-frames miscounted.
    return container.format.name == "avi" and stream.codec_context.has_b_frames


def _is_hidden(packet: Packet, stream: VideoStream) -> bool:
    # VP8 stores frames that are references only; the fifth bit is set for shown frames (RFC 6386, 9.1).
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10  # type: ignore[arg-type]


def _promised_duration(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration:
        promised = float(stream.duration * stream.time_base)  # type: ignore[operator]
    else:
        promised = (container.duration or 0) / av.time_base
        if container.format.name.startswith("matroska"):  # its duration is the time at which the last frame ends
            promised -= (container.start_time or 0) / av.time_base
    return promised if promised <= LONGEST_CLIP else 0.0


def _warn_if_truncated(name: str, frames: int, duration: float, promised_frames: int, promised: float) -> None:
    if frames < promised_frames - 1:  # AVI headers often count one frame too many
        logger.warning("%s: its header counts %d frames, %d can be read", name, promised_frames, frames)
    elif promised_frames == 0 and duration < promised - max(1.0, 0.1 * promised):
        logger.warning("%s: its header promises %.1f s, %.1f s of video can be read", name, promised, duration)
