"""Decodes selected frames of an indexed video file: one seek per run of frames, with several runs in parallel.

Damaged runs are decoded again with one thread, because with several threads the concealment of damage is not deterministic.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from threading import Lock

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from .frame_index import FrameIndex, PacketTable, packets_from
from .media_source import MediaSource
from .video_decoder import decoded_frames, granted_threads, spoils, upright, use_threads, video_stream

logger = logging.getLogger(__name__)

# A seek empties the decoder's pipeline, which costs about as much as decoding this many frames.
SEEK_COST = 16
# Runs are decoded in parallel, which scales better than the threads of one decoder.
MAX_DECODERS = 4


class UndecodableFrames(ValueError):
    """Some frames of the index cannot be decoded."""


def decode_frames(source: MediaSource, index: FrameIndex, wanted: np.ndarray) -> np.ndarray:
    """Decodes frames once each, and seeks if that is cheaper than decoding on.

    Args:
        source: the file.
        index: its index.
        wanted: (n,) int64, strictly increasing frame numbers.

    Returns:
        (n, height, width, 3) uint8 RGB, upright according to the file's display matrix. Damaged frames are included, with
        the damage concealed by the decoder and a warning that counts them.

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
            _decode_single_threaded(source, index.packets, run, store)
        missing = store.missing()
        if len(missing):  # decoding cannot start at that keyframe, so start at the first packet
            run = _Run(0, int(positions[missing].max()), {int(positions[slot]): int(slot) for slot in missing})
            _decode_single_threaded(source, index.packets, run, store)
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
    """Packets decoded without a seek: from a keyframe to the last wanted one."""

    start: int
    last: int
    slots: dict[int, int]  # packet position -> index in the result


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
    """Decodes runs in parallel; returns those that must be decoded again with one thread."""
    decoders = min(len(runs), granted_threads(), MAX_DECODERS) if source.concurrent else 1
    # Runs are assigned to decoders in advance: damaged frames depend on what the decoder decoded before.
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
    """Decodes a run; returns false if it is damaged, if decoding cannot start there, or if no seek leads there."""
    context = stream.codec_context
    slot_of_pts = {int(packets.pts[position]): slot for position, slot in run.slots.items()}
    start_pts = packets.pts[run.start]
    # In H.264, frames marked as non-reference affect no others; other codecs mark frames less strictly.
    can_skip = context.name == "h264"
    clean, put = not packets.is_damaged[run.start : run.last + 1].any(), 0
    for position, packet in enumerate(
        chain(packets_from(container, stream, packets, run.start, run.last, fresh), [None]), start=run.start
    ):
        if can_skip and packet is not None:
            context.skip_frame = "DEFAULT" if position in run.slots else "NONREF"
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            clean = False
            continue
        for frame in frames:
            # Frames stored after the first keyframe but shown before it (open GOP) need an earlier one, and are not wanted.
            clean = clean and not (frame.is_corrupt and (frame.pts is None or frame.pts >= start_pts))
            if frame.pts in slot_of_pts:
                store.put(slot_of_pts[frame.pts], frame)
                put += 1
    context.flush_buffers()
    return bool(clean) and put == len(run.slots)


def _decode_single_threaded(source: MediaSource, packets: PacketTable, run: _Run, store: "_FrameStore") -> None:
    """Decodes a damaged run again, deterministically: one thread, a new decoder, no skipped frames.

    It starts one keyframe earlier, because with intra refresh no keyframe is a complete picture.
    """
    start = packets.entry_point(max(0, run.start - 1))
    spoilt = np.flatnonzero(packets.is_damaged[: run.last + 1]).tolist()  # positions of damaged reference frames
    damaged = set(spoilt)
    store.forget(run.slots.values())
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1)
        stored = packets_from(container, stream, packets, start, run.last, fresh=True)
        for position, packet in enumerate(chain(stored, [None]), start=start):
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                spoilt.append(position)
                continue
            for frame in frames:
                shown = packets.position(frame.pts) if frame.pts is not None else None
                if shown is None:
                    continue
                if spoils(frame):
                    spoilt.append(shown)
                if shown in run.slots:
                    store.put(run.slots[shown], frame)
                    if frame.is_corrupt:
                        damaged.add(shown)
    for position, slot in run.slots.items():
        keyframe = packets.last_keyframe(position)
        store.damaged[slot] = position in damaged or any(keyframe <= earlier < position for earlier in spoilt)


def _decode_by_count(
    source: MediaSource, wanted: np.ndarray, store: "_FrameStore", single_threaded: bool = False
) -> None:
    slot_of_frame = {int(number): slot for slot, number in enumerate(wanted)}
    with source.container() as container:
        stream = video_stream(container, source.name)
        use_threads(stream.codec_context, 1 if single_threaded else granted_threads())
        number = 0
        for frame, damaged in decoded_frames(container, stream):
            if damaged and not single_threaded:
                break
            if frame is None:
                continue
            if number in slot_of_frame:
                store.put(slot_of_frame[number], frame)
                store.damaged[slot_of_frame[number]] = damaged
            if number >= wanted[-1]:
                return
            number += 1
    if not single_threaded:
        _decode_by_count(source, wanted, store, single_threaded=True)


class _FrameStore:
    """The frames decoded so far. Several decoders may write to it at once, at different indices."""

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
        if image.shape != self.frames.shape[1:]:  # a stream may change its frame size
            height, width = upright(frame, self.frames[0]).shape[:2]
            image = upright(frame, frame.to_ndarray(format="rgb24", width=width, height=height))
        self.frames[slot] = image
        self._filled[slot] = True

    def forget(self, slots: Iterable[int]) -> None:
        self._filled[list(slots)] = False

    def missing(self) -> np.ndarray:
        """(m,) indices without a frame."""
        return np.flatnonzero(~self._filled)
