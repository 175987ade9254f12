"""Decode the frames wanted of an indexed video file: a seek for each stretch of them, several stretches side by side.

Where the decoder meets damage it starts again without threads, which would make each run fill the holes differently.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from threading import Lock

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .frame_index import FrameIndex, PacketTable
from .media_source import MediaSource, stored_packets
from .video_decoder import decoded_frames, granted_threads, spoils, upright, use_threads, video_stream

logger = logging.getLogger(__name__)

# A seek empties the decoder's pipeline, which costs about as much as decoding this many frames more.
SEEK_COST = 16
# Seeks to different places are decoded side by side, which scales better than the threads of one decoder.
MAX_DECODERS = 4


class UndecodableFrames(ValueError):
    """Some frames that the index promises cannot be decoded."""


def decode_frames(source: MediaSource, index: FrameIndex, wanted: np.ndarray) -> np.ndarray:
    """Decode frames, each once, seeking where that is cheaper than decoding on.

    Args:
        wanted: (n,) int64, strictly increasing frame numbers.

    Returns:
        (n, height, width, 3) uint8 RGB, turned and mirrored upright by the file's display matrix. Damaged frames, whose
        holes the decoder filled, are among them; a warning counts them.

    Raises:
        UndecodableFrames: some frame cannot be decoded.
        ValueError: all frames are damaged.
    """
    store = _FrameStore(len(wanted))
    if index.packets is None:
        _decode_by_count(source, wanted, store)
    else:
        positions = index.packets.of_frame[wanted]  # (n,) in decoding order
        for run in _decode_runs(source, index.packets, _plan_runs(index.packets, positions), store):
            _decode_alone(source, index.packets, run, store)
        missing = store.missing()
        if len(missing):  # no clean entry point at that keyframe: start from the beginning
            run = _Run(0, int(positions[missing].max()), {int(positions[slot]): int(slot) for slot in missing})
            _decode_alone(source, index.packets, run, store)
    missing = store.missing()
    if len(missing):
        numbers = ", ".join(str(wanted[slot]) for slot in missing[:5])
        raise UndecodableFrames(f"{source.name}: {len(missing)} frames cannot be decoded (numbers {numbers}, ...)")
    damaged = int(store.damaged.sum())
    if damaged == len(wanted):
        raise ValueError(f"{source.name}: all {damaged} frames wanted of it are damaged")
    if damaged:
        logger.warning("%s: %d of the %d frames read are damaged", source.name, damaged, len(wanted))
    return store.frames


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


def _decode_runs(source: MediaSource, packets: PacketTable, runs: Sequence[_Run], store: "_FrameStore") -> list[_Run]:
    """Decode runs as fast as the machine can; returns those that must be decoded again, alone."""
    decoders = min(len(runs), granted_threads(), MAX_DECODERS) if source.concurrent else 1
    # Which decoder gets which run is settled beforehand: damaged frames show what the decoder did before.
    shares: list[list[_Run]] = [[] for _ in range(decoders)]
    for run in sorted(runs, key=lambda run: run.start - run.last):
        min(shares, key=lambda share: sum(run.last - run.start + 1 for run in share)).append(run)

    def work(share: list[_Run]) -> list[_Run]:
        with source.container() as container:
            stream = video_stream(container, source.name)
            use_threads(stream.codec_context, granted_threads(decoders))
            decoded = [_decode_run(container, stream, packets, run, store, run is share[0]) for run in share]
            return [run for run, clean in zip(share, decoded, strict=True) if not clean]

    if decoders == 1:
        return work(shares[0])
    with ThreadPoolExecutor(decoders) as pool:
        return [run for doubtful in pool.map(work, shares) for run in doubtful]


def _decode_run(
    container: InputContainer,
    stream: VideoStream,
    packets: PacketTable,
    run: _Run,
    store: "_FrameStore",
    fresh: bool,
) -> bool:
    """Decode a run; returns False where there is damage in it, its start is no clean entry, or no seek leads there."""
    context = stream.codec_context
    slot_of_pts = {int(packets.pts[position]): slot for position, slot in run.slots.items()}
    start_pts = packets.pts[run.start]
    # H.264 frames marked as no reference change nothing but themselves; other codecs mark less strictly.
    can_skip = context.name == "h264"
    clean, put = not packets.is_damaged[run.start : run.last + 1].any(), 0
    for position, packet in enumerate(
        chain(_packets_from(container, stream, packets, run.start, run.last, fresh), [None]), start=run.start
    ):
        if can_skip and packet is not None:
            context.skip_frame = "DEFAULT" if position in run.slots else "NONREF"
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            clean = False
            continue
        for frame in frames:
            # Frames shown before the keyframe they are stored after (open GOP) need the one before, and are not wanted.
            clean = clean and not (frame.is_corrupt and (frame.pts is None or frame.pts >= start_pts))
            if frame.pts in slot_of_pts:
                store.put(slot_of_pts[frame.pts], frame)
                put += 1
    context.flush_buffers()
    return bool(clean) and put == len(run.slots)


def _decode_alone(source: MediaSource, packets: PacketTable, run: _Run, store: "_FrameStore") -> None:
    """Decode a damaged run again, the same way every time: one thread, a new decoder, nothing skipped.

    It starts a keyframe earlier, as where the picture is renewed bit by bit (intra refresh) no keyframe is complete.
    """
    start = packets.entry_point(max(0, run.start - 1))
    spoilt = np.flatnonzero(packets.is_damaged[: run.last + 1]).tolist()  # positions of frames that others build on
    damaged = set(spoilt)
    store.forget(run.slots.values())
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1)
        stored = _packets_from(container, stream, packets, start, run.last, fresh=True)
        for position, packet in enumerate(chain(stored, [None]), start=start):
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                spoilt.append(position)
                continue
            for frame in frames:
                place = packets.position(frame.pts) if frame.pts is not None else None
                if place is None:
                    continue
                if spoils(frame):
                    spoilt.append(place)
                if place in run.slots:
                    store.put(run.slots[place], frame)
                    if frame.is_corrupt:
                        damaged.add(place)
    for position, slot in run.slots.items():
        keyframe = packets.last_keyframe(position)
        store.damaged[slot] = position in damaged or any(keyframe <= place < position for place in spoilt)


def _packets_from(
    container: InputContainer, stream: VideoStream, packets: PacketTable, start: int, last: int, fresh: bool
) -> Iterator[Packet]:
    """Packets from position `start` to `last` of the decoding order; none where no seek leads there.

    `fresh` says that nothing has been read of the container: pictures in files of their own cannot be sought in.
    """
    if fresh and start == 0:
        return islice(stored_packets(container, stream), last + 1)
    second = round(1 / stream.time_base)  # type: ignore[operator]
    # Containers seek by different clocks, and may land late: then ask for an earlier time.
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


def _decode_by_count(source: MediaSource, wanted: np.ndarray, store: "_FrameStore", alone: bool = False) -> None:
    slot_of_frame = {int(number): slot for slot, number in enumerate(wanted)}
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1 if alone else granted_threads())
        number = 0
        for frame, damaged in decoded_frames(container, stream):
            if damaged and not alone:
                break
            if frame is None:
                continue
            if number in slot_of_frame:
                store.put(slot_of_frame[number], frame)
                store.damaged[slot_of_frame[number]] = damaged
            if number >= wanted[-1]:
                return
            number += 1
    if not alone:
        _decode_by_count(source, wanted, store, alone=True)


class _FrameStore:
    """The frames decoded so far; written to by several decoders, each at its own places."""

    def __init__(self, count: int):
        self.frames = np.empty((count, 0, 0, 3), dtype=np.uint8)
        self.damaged = np.zeros(count, dtype=bool)
        self._filled = np.zeros(count, dtype=bool)
        self._lock = Lock()

    def put(self, slot: int, frame: av.VideoFrame) -> None:
        image = upright(frame, frame.to_ndarray(format="rgb24"))  # (height, width, 3)
        with self._lock:
            if self.frames.shape[1] == 0:
                self.frames = np.empty((len(self._filled), *image.shape), dtype=np.uint8)
        if image.shape != self.frames.shape[1:]:  # a stream may change its size on the way
            height, width = upright(frame, self.frames[0]).shape[:2]
            image = upright(frame, frame.to_ndarray(format="rgb24", width=width, height=height))
        self.frames[slot] = image
        self._filled[slot] = True

    def forget(self, slots: Iterable[int]) -> None:
        self._filled[list(slots)] = False

    def missing(self) -> np.ndarray:
        """(m,) places still empty."""
        return np.flatnonzero(~self._filled)
