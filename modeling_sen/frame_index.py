"""Index of a video file's frames and their times, made from its packets without decoding.

The index needs one pass over the file's packets and 34 bytes of memory per frame. Files whose packets do not determine their
frames (AVI with B-frames, raw streams, damaged files) are decoded once instead.
"""

import logging
from array import array
from dataclasses import dataclass
from itertools import islice, pairwise

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .media_source import MediaSource, stored_packets
from .video_decoder import decoded_frames, granted_threads, use_threads, video_stream

logger = logging.getLogger(__name__)

# No codec reorders frames by more than 16 positions; larger differences mean that the clock jumps.
REORDER_LIMIT = 64
# Seconds; a longer clip has damaged timestamps.
LONGEST_CLIP = 1e6
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
        index = None if by_decoding else _index_by_packets(container, stream)
        promised = (stream.frames, _promised_duration(container, stream))
    if index is None:
        index = _index_by_decoding(source)
    if index is None:
        raise ValueError(f"{source.name}: expected a video, found no frame that can be read")
    stored = len(index.packets.pts) if index.packets else len(index.times)
    _warn_if_truncated(source.name, stored, index.duration, *promised)
    return index


def _index_by_packets(container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    pts, is_keyframe, is_shown, is_corrupt = array("q"), bytearray(), bytearray(), bytearray()
    last_shown, last_duration = None, 0
    if _guesses_times(container, stream):
        return None
    for packet in stored_packets(container, stream):
        if packet.pts is None:
            return None
        shown = not packet.is_discard and not _is_hidden(packet, stream)
        pts.append(packet.pts)
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
        return None
    order = np.argsort(packet_pts[shown_packets], kind="stable")
    if len(np.unique(packet_pts)) < len(packet_pts) or np.abs(order - np.arange(len(order))).max() > REORDER_LIMIT:
        return None
    packet_of_frame = shown_packets[order]
    frame_pts = packet_pts[packet_of_frame]
    if (int(frame_pts[-1]) - int(frame_pts[0]) + last_duration) * stream.time_base > LONGEST_CLIP:  # type: ignore[operator]
        return None
    times = (frame_pts - frame_pts[0]) * float(stream.time_base)  # type: ignore[arg-type]
    duration = _duration(times, last_duration * float(stream.time_base), stream)  # type: ignore[arg-type]
    is_damaged = np.frombuffer(is_corrupt, dtype=bool).copy()
    is_damaged[1:] |= is_damaged[:-1].copy()
    table = PacketTable(
        packet_pts, np.argsort(packet_pts), np.frombuffer(is_keyframe, dtype=bool), is_damaged, packet_of_frame
    )
    return FrameIndex(times, duration, table)


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
            times = _decoded_times(source.name, pts, stream)
            return FrameIndex(times, _duration(times, 0.0, stream))
    return _index_by_decoding(source, single_threaded=True) if damaged and not single_threaded else None


def _decoded_times(name: str, pts: list[int | None], stream: VideoStream) -> np.ndarray:
    """(frames,) seconds of decoded frames from the first frame; computed from the frame rate if timestamps are unusable."""
    # Frames are decoded in presentation order, even if timestamps (AVI) are attached in decoding order.
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    tick = float(stream.time_base)  # type: ignore[arg-type]
    steps = np.array([later - earlier for earlier, later in pairwise(stamps)], dtype=np.float64) * tick
    span = steps.sum()
    if len(stamps) == len(pts) and span <= LONGEST_CLIP and (steps > 0).all():
        return (np.array(stamps, dtype=np.int64) - stamps[0]) * tick
    usual = steps[(steps > 0) & (steps <= 4 * np.median(steps))] if len(steps) else steps
    rates = (1 / usual.mean() if len(usual) else 0.0, float(stream.average_rate or 0))
    rate = next((rate for rate in rates if 1e-3 <= rate <= 1e3), USUAL_RATE)
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
    return promised if promised <= LONGEST_CLIP else 0.0


def _warn_if_truncated(name: str, frames: int, duration: float, promised_frames: int, promised: float) -> None:
    if frames < promised_frames - 1:  # AVI headers often count one frame too many
        logger.warning("%s: its header counts %d frames, %d can be read", name, promised_frames, frames)
    elif promised_frames == 0 and duration < promised - max(1.0, 0.1 * promised):
        logger.warning("%s: its header promises %.1f s, %.1f s of video can be read", name, promised, duration)
