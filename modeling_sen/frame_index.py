"""Find the frames of a video file and their times: an index of all packets, made without decoding.

The index costs one pass over the file's packets and 34 bytes of memory per frame. Files whose packets do not tell
their frames (AVI with B-frames, raw streams, damaged files) are indexed by decoding them once.
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

# No codec reorders frames over more than 16 positions; a clip whose timestamps do has a jump in its clock.
REORDER_LIMIT = 64
# Seconds; a clip that claims to be longer has damaged timestamps.
LONGEST_CLIP = 1e6
# Frames per second where neither the times nor the header tell.
USUAL_RATE = 24.0


@dataclass(frozen=True)
class PacketTable:
    """The packets of a video stream in decoding order.

    Attributes:
        pts: (packets,) int64, presentation timestamps, all different.
        by_pts: (packets,) int64, positions in decoding order, sorted by timestamp.
        is_keyframe: (packets,) bool.
        is_damaged: (packets,) bool, packets that the container marks, as where a piece of a transport stream was lost, and
            the one after each: it may be the damaged one, as parsers put packets together anew.
        of_frame: (frames,) int64, the position in decoding order of each frame's packet.
    """

    pts: np.ndarray
    by_pts: np.ndarray
    is_keyframe: np.ndarray
    is_damaged: np.ndarray
    of_frame: np.ndarray

    def position(self, pts: int) -> int | None:
        """Where in decoding order the packet with this timestamp is."""
        place = int(np.searchsorted(self.pts, pts, sorter=self.by_pts))
        if place == len(self.pts) or self.pts[self.by_pts[place]] != pts:
            return None
        return int(self.by_pts[place])

    def last_keyframe(self, packet: int) -> int:
        """The last keyframe stored up to this packet; 0 where there is none."""
        keyframes = np.flatnonzero(self.is_keyframe[: packet + 1])
        return int(keyframes[-1]) if len(keyframes) else 0

    def entry_point(self, packet: int) -> int:
        """The last keyframe from which this packet can be decoded."""
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
        packets: None where only decoding from the beginning finds the frames.
    """

    times: np.ndarray
    duration: float
    packets: PacketTable | None = None


def first_frame_time(container: InputContainer, stream: VideoStream) -> float:
    """When the first frame is shown, in seconds on the container's clock. Moves the container's reading position."""
    if _guesses_times(container, stream):
        return 0.0
    packets = stored_packets(container, stream)
    shown = (packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    first = sorted(islice(shown, REORDER_LIMIT)) or [0]
    tick = float(stream.time_base)  # type: ignore[arg-type]
    # Damaged timestamps are far from the others.
    return next(pts * tick for pts in first if (first[len(first) // 2] - pts) * tick <= LONGEST_CLIP)


def index_frames(source: MediaSource, by_decoding: bool = False) -> FrameIndex:
    """Index all frames by their packets, or by decoding where packets do not tell or `by_decoding` is set.

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
    is_shown[whole:] = bytes(len(is_shown) - whole)  # cut off in the middle of a packet
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


def _index_by_decoding(source: MediaSource, alone: bool = False) -> FrameIndex | None:
    """The index of a file whose packets do not tell its frames; `alone` is with one thread, for damaged files."""
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1 if alone else granted_threads())
        pts: list[int | None] = []
        damaged = False
        for frame, damaged in decoded_frames(container, stream):
            if damaged and not alone:
                break
            if frame is not None:
                pts.append(frame.pts)
        if (alone or not damaged) and pts:
            times = _decoded_times(source.name, pts, stream)
            return FrameIndex(times, _duration(times, 0.0, stream))
    return _index_by_decoding(source, alone=True) if damaged and not alone else None


def _decoded_times(name: str, pts: list[int | None], stream: VideoStream) -> np.ndarray:
    """(frames,) seconds from the first frame, of decoded frames; counted by the frame rate where timestamps cannot tell."""
    # Frames come out in presentation order, even where their timestamps (AVI) are attached in decoding order.
    known = sorted(each for each in pts if each is not None)
    tick = float(stream.time_base)  # type: ignore[arg-type]
    steps = np.array([later - earlier for earlier, later in pairwise(known)], dtype=np.float64) * tick
    span = steps.sum()
    if len(known) == len(pts) and span <= LONGEST_CLIP and (steps > 0).all():
        return (np.array(known, dtype=np.int64) - known[0]) * tick
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
    """Seconds from the first frame to the end of the last one, which is shown for `last` seconds, 0 for unknown."""
    if last <= 0:
        last = float(np.median(np.diff(times))) if len(times) > 1 else float(1 / (stream.average_rate or USUAL_RATE))
    return float(times[-1]) + last


def _guesses_times(container: InputContainer, stream: VideoStream) -> bool:
    # AVI stores no presentation times: with B-frames FFmpeg's guesses are out of order, and packed ones miscounted.
    return container.format.name == "avi" and stream.codec_context.has_b_frames


def _is_hidden(packet: Packet, stream: VideoStream) -> bool:
    # VP8 stores frames that only serve as references; the fifth bit says whether one is shown (RFC 6386, 9.1).
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10  # type: ignore[arg-type]


def _promised_duration(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration:
        promised = float(stream.duration * stream.time_base)  # type: ignore[operator]
    else:
        promised = (container.duration or 0) / av.time_base
    return promised if promised <= LONGEST_CLIP else 0.0


def _warn_if_truncated(name: str, frames: int, duration: float, promised_frames: int, promised: float) -> None:
    if frames < promised_frames - 1:  # AVI writers often count one too many
        logger.warning("%s: its header counts %d frames, %d can be read", name, promised_frames, frames)
    elif promised_frames == 0 and duration < promised - max(1.0, 0.1 * promised):
        logger.warning("%s: its header promises %.1f s, %.1f s of video can be read", name, promised, duration)
