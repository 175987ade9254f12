"""Find and decode single frames of a video file: an index of all packets, made without decoding, then a seek per frame.

The index costs one pass over the file's packets and 33 bytes of memory per frame. Files whose packets do not tell
their frames (AVI with B-frames, raw streams, damaged files) are indexed by decoding them once.
"""

import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from threading import Lock

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .media_source import MediaSource, best_stream

logger = logging.getLogger(__name__)

# A seek empties the decoder's pipeline, which costs about as much as decoding this many frames more.
SEEK_COST = 16
# No codec reorders frames over more than 16 positions; a clip whose timestamps do has a jump in its clock.
REORDER_LIMIT = 64
# Seeks to different places are decoded side by side, which scales better than the threads of one decoder.
MAX_DECODERS = 4


class UndecodableFrames(ValueError):
    """Some frames that the index promises cannot be decoded."""


@dataclass(frozen=True)
class PacketTable:
    """The packets of a video stream in decoding order.

    Attributes:
        pts: (packets,) int64, presentation timestamps, all different.
        by_pts: (packets,) int64, positions in decoding order, sorted by timestamp.
        is_keyframe: (packets,) bool.
        of_frame: (frames,) int64, the position in decoding order of each frame's packet.
    """

    pts: np.ndarray
    by_pts: np.ndarray
    is_keyframe: np.ndarray
    of_frame: np.ndarray

    def position(self, pts: int) -> int | None:
        """Where in decoding order the packet with this timestamp is."""
        place = int(np.searchsorted(self.pts, pts, sorter=self.by_pts))
        if place == len(self.pts) or self.pts[self.by_pts[place]] != pts:
            return None
        return int(self.by_pts[place])

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


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The best video stream. Raises ValueError where there is none."""
    stream = best_stream(container, "video")
    if stream is None:
        found = "only sound" if container.streams.audio else "none"
        raise ValueError(f"{name}: expected a video stream, found {found}")
    if stream.codec_context is None:
        raise ValueError(f"{name}: its video is in a format that this build of FFmpeg cannot decode")
    return stream  # type: ignore[return-value]


def first_frame_time(container: InputContainer, stream: VideoStream) -> float:
    """When the first frame is shown, in seconds on the container's clock. Moves the container's reading position."""
    if _guesses_times(container, stream):
        return 0.0
    shown = (packet.pts for packet in _packets(container, stream) if packet.pts is not None and not packet.is_discard)
    return float(min(islice(shown, REORDER_LIMIT), default=0) * stream.time_base)  # type: ignore[operator]


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
        with source.container() as container:
            index = _index_by_decoding(container, video_stream(container, source.name))
    if index is None:
        raise ValueError(f"{source.name}: expected a video, found no frame that can be read")
    stored = len(index.packets.pts) if index.packets else len(index.times)
    _warn_if_truncated(source.name, stored, index.duration, *promised)
    return index


def decode_frames(source: MediaSource, index: FrameIndex, wanted: np.ndarray) -> np.ndarray:
    """Decode frames, each once, seeking where that is cheaper than decoding on.

    Args:
        wanted: (n,) int64, strictly increasing frame numbers.

    Returns:
        (n, height, width, 3) uint8 RGB, turned upright by the file's rotation metadata.

    Raises:
        UndecodableFrames: some frame cannot be decoded.
    """
    store = _FrameStore(len(wanted))
    if index.packets is None:
        _decode_by_count(source, wanted, store)
    else:
        positions = index.packets.of_frame[wanted]  # (n,) in decoding order
        _decode_runs(source, index.packets, _plan_runs(index.packets, positions), store)
        missing = store.missing()
        if len(missing):  # no clean entry point at that keyframe: start from the beginning
            run = _Run(0, int(positions[missing].max()), {int(positions[slot]): int(slot) for slot in missing})
            _decode_runs(source, index.packets, [run], store)
    missing = store.missing()
    if len(missing):
        numbers = ", ".join(str(wanted[slot]) for slot in missing[:5])
        raise UndecodableFrames(f"{source.name}: {len(missing)} frames cannot be decoded (numbers {numbers}, ...)")
    return store.frames


def _index_by_packets(container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    pts, is_keyframe, is_shown = array("q"), bytearray(), bytearray()
    last_shown, last_duration, trailing_corrupt = None, 0, 0
    if _guesses_times(container, stream):
        return None
    for packet in _packets(container, stream):
        if packet.pts is None:
            return None
        shown = not packet.is_discard and not _is_hidden(packet, stream)
        pts.append(packet.pts)
        is_keyframe.append(packet.is_keyframe)
        is_shown.append(shown)
        trailing_corrupt = trailing_corrupt + 1 if packet.is_corrupt else 0
        if shown and (last_shown is None or packet.pts >= last_shown):
            last_shown, last_duration = packet.pts, packet.duration or 0
    if trailing_corrupt:  # cut off in the middle of a packet
        is_shown[-trailing_corrupt:] = bytes(trailing_corrupt)
    packet_pts = np.frombuffer(pts, dtype=np.int64)
    shown_packets = np.flatnonzero(np.frombuffer(is_shown, dtype=bool))
    if len(shown_packets) == 0:
        return None
    order = np.argsort(packet_pts[shown_packets], kind="stable")
    if len(np.unique(packet_pts)) < len(packet_pts) or np.abs(order - np.arange(len(order))).max() > REORDER_LIMIT:
        return None
    packet_of_frame = shown_packets[order]
    times, duration = _timeline(packet_pts[packet_of_frame], last_duration, stream)
    table = PacketTable(packet_pts, np.argsort(packet_pts), np.frombuffer(is_keyframe, dtype=bool), packet_of_frame)
    return FrameIndex(times, duration, table)


def _index_by_decoding(container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    pts, complete = array("q"), True
    stream.codec_context.thread_type = "AUTO"
    for frame in _decoded(container, stream):
        complete = complete and frame.pts is not None
        pts.append(frame.pts if frame.pts is not None else len(pts))
    if not pts:
        return None
    # Frames come out in presentation order, even where their timestamps (AVI) are attached in decoding order.
    sorted_pts = np.sort(np.frombuffer(pts, dtype=np.int64))
    if not complete or (np.diff(sorted_pts) <= 0).any():
        step = 1 / (stream.average_rate or 24) / stream.time_base  # type: ignore[operator]
        sorted_pts = np.rint(np.arange(len(pts)) * float(step)).astype(np.int64)
    times, duration = _timeline(sorted_pts, 0, stream)
    return FrameIndex(times, duration)


def _timeline(pts: np.ndarray, last_duration: int, stream: VideoStream) -> tuple[np.ndarray, float]:
    tick = float(stream.time_base)  # type: ignore[arg-type]
    times = (pts - pts[0]) * tick
    last = last_duration * tick
    if last <= 0:
        last = float(np.median(np.diff(times))) if len(times) > 1 else float(1 / (stream.average_rate or 24))
    return times, float(times[-1]) + last


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Packets in decoding order, up to the end or to where a damaged file ends."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.size:  # not the flush packet, nor AVI's empty "same frame again"
            yield packet


def _guesses_times(container: InputContainer, stream: VideoStream) -> bool:
    # AVI stores no presentation times: with B-frames FFmpeg's guesses are out of order, and packed ones miscounted.
    return container.format.name == "avi" and stream.codec_context.has_b_frames


def _is_hidden(packet: Packet, stream: VideoStream) -> bool:
    # VP8 stores frames that only serve as references; the fifth bit says whether one is shown (RFC 6386, 9.1).
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10  # type: ignore[arg-type]


def _promised_duration(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)  # type: ignore[operator]
    return (container.duration or 0) / av.time_base


def _warn_if_truncated(name: str, frames: int, duration: float, promised_frames: int, promised: float) -> None:
    if frames < promised_frames - 1:  # AVI writers often count one too many
        logger.warning("%s: its header counts %d frames, %d can be read", name, promised_frames, frames)
    elif promised_frames == 0 and duration < promised - max(1.0, 0.1 * promised):
        logger.warning("%s: its header promises %.1f s, %.1f s of video can be read", name, promised, duration)


@dataclass
class _Run:
    """A stretch decoded without seeking: from a keyframe's packet to the last wanted one."""

    start: int
    last: int
    slots: dict[int, int]  # packet position -> place in the result


def _plan_runs(packets: PacketTable, positions: np.ndarray) -> list[_Run]:
    runs: list[_Run] = []
    for slot in np.argsort(positions):
        position = int(positions[slot])
        start = packets.entry_point(position)
        if not runs or start > runs[-1].last + SEEK_COST:
            runs.append(_Run(start, position, {}))
        runs[-1].slots[position] = int(slot)
        runs[-1].last = position
    return runs


def _decode_runs(source: MediaSource, packets: PacketTable, runs: Sequence[_Run], store: "_FrameStore") -> None:
    # torch's thread count is what the user grants: 1 in the worker of a DataLoader.
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    decoders = min(len(runs), threads, MAX_DECODERS) if source.concurrent else 1
    longest_first = iter(sorted(runs, key=lambda run: run.start - run.last))
    lock = Lock()

    def work() -> None:
        with source.container() as container:
            stream = video_stream(container, source.name)
            stream.codec_context.thread_type = "AUTO"
            stream.codec_context.thread_count = max(1, threads // decoders)
            while True:
                with lock:
                    run = next(longest_first, None)
                if run is None:
                    return
                _decode_run(container, stream, packets, run, store)

    if decoders == 1:
        work()
    else:
        with ThreadPoolExecutor(decoders) as pool:
            for future in [pool.submit(work) for _ in range(decoders)]:
                future.result()


def _decode_run(
    container: InputContainer, stream: VideoStream, packets: PacketTable, run: _Run, store: "_FrameStore"
) -> None:
    context = stream.codec_context
    slot_of_pts = {int(packets.pts[position]): slot for position, slot in run.slots.items()}
    # H.264 frames marked as no reference change nothing but themselves; other codecs mark less strictly.
    can_skip = context.name == "h264"

    def keep(packet: Packet | None) -> None:
        try:
            frames = context.decode(packet)
        except av.FFmpegError:  # a damaged packet: what depends on it will be found missing
            return
        for frame in frames:
            # From the very beginning there is nothing better to be had than a frame with holes.
            if frame.pts in slot_of_pts and (run.start == 0 or not frame.is_corrupt):
                store.put(slot_of_pts[frame.pts], frame)

    for position, packet in enumerate(_packets_from(container, stream, packets, run.start), start=run.start):
        if can_skip:
            context.skip_frame = "DEFAULT" if packet.pts in slot_of_pts else "NONREF"
        keep(packet)
        if position == run.last:
            break
    keep(None)
    context.flush_buffers()


def _packets_from(
    container: InputContainer, stream: VideoStream, packets: PacketTable, start: int
) -> Iterator[Packet]:
    """Packets from position `start` of the decoding order on; none where no seek leads there."""
    second = round(1 / stream.time_base)  # type: ignore[operator]
    # Containers seek by different clocks, and may land late: then ask for an earlier time.
    for goal in (packets.pts[start], packets.pts[start] - second, packets.pts.min() - second):
        try:
            container.seek(int(goal), stream=stream)
        except av.FFmpegError:
            continue
        stored = _packets(container, stream)
        first = next(stored, None)
        reached = None if first is None or first.pts is None else packets.position(first.pts)
        if first is not None and reached is not None and reached <= start:
            return islice(chain([first], stored), start - reached, None)
    return iter(())


def _decode_by_count(source: MediaSource, wanted: np.ndarray, store: "_FrameStore") -> None:
    slot_of_frame = {int(number): slot for slot, number in enumerate(wanted)}
    with source.container() as container:
        stream = video_stream(container, source.name)
        stream.codec_context.thread_type = "AUTO"
        for number, frame in enumerate(_decoded(container, stream)):
            if number in slot_of_frame:
                store.put(slot_of_frame[number], frame)
            if number >= wanted[-1]:
                return


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """All frames in presentation order, damaged packets left out."""
    for packet in chain(_packets(container, stream), [None]):
        try:
            yield from stream.codec_context.decode(packet)
        except av.FFmpegError:
            continue


class _FrameStore:
    """The frames decoded so far; written to by several decoders, each at its own places."""

    def __init__(self, count: int):
        self.frames = np.empty((count, 0, 0, 3), dtype=np.uint8)
        self._filled = np.zeros(count, dtype=bool)
        self._lock = Lock()

    def put(self, slot: int, frame: av.VideoFrame) -> None:
        quarter_turns = round(frame.rotation / 90) % 4
        image = np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)  # (height, width, 3)
        with self._lock:
            if self.frames.shape[1] == 0:
                self.frames = np.empty((len(self._filled), *image.shape), dtype=np.uint8)
        height, width = self.frames.shape[1:3]
        if image.shape[:2] != (height, width):  # a stream may change its size on the way
            size = (width, height) if quarter_turns % 2 == 0 else (height, width)
            image = np.rot90(frame.to_ndarray(format="rgb24", width=size[0], height=size[1]), quarter_turns)
        self.frames[slot] = image
        self._filled[slot] = True

    def missing(self) -> np.ndarray:
        """(m,) places still empty."""
        return np.flatnonzero(~self._filled)
