"""Decoder of a video stream: its threads, its frames in order, detection of damage, and frame orientation."""

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import torch
from av.container import InputContainer
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from .media_source import best_stream, stored_packets


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The best video stream.

    Raises:
        ValueError: there is none, or it cannot be decoded.
    """
    stream = best_stream(container, "video")
    if stream is None:
        found = "only sound" if container.streams.audio else "none"
        raise ValueError(f"{name}: expected a video stream, found {found}")
    if stream.codec_context is None:
        raise ValueError(f"{name}: its video is in a format that this build of FFmpeg cannot decode")
    return stream  # type: ignore[return-value]


def decoded_frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[av.VideoFrame | None, bool]]:
    """(frame, whether it is damaged) of all frames in presentation order; (None, True) for packets that fail to decode."""
    spoilt = False  # whether a reference frame is damaged
    for packet in chain(stored_packets(container, stream), [None]):
        spoilt = spoilt or (packet is not None and packet.is_corrupt)
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            spoilt = True
            yield None, True
            continue
        for frame in frames:
            spoilt = spoils(frame) or (spoilt and not frame.key_frame)
            yield frame, spoilt or frame.is_corrupt


def granted_threads(decoders: int = 1) -> int:
    """Number of threads per decoder, limited in total by torch's thread count, which is 1 in DataLoader workers."""
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1) // decoders)


def use_threads(context: VideoCodecContext, threads: int) -> None:
    """Sets the number of threads of a decoder that has not started."""
    context.thread_type, context.thread_count = ("NONE", 1) if threads == 1 else ("AUTO", threads)


def spoils(frame: av.VideoFrame) -> bool:
    """Whether a frame is damaged and makes the following frames damaged too; B-frames are seldom references."""
    return frame.is_corrupt and frame.pict_type != PictureType.B


def upright(frame: av.VideoFrame, image: np.ndarray) -> np.ndarray:
    """Rotates and mirrors a stored image (height, width, 3) by the frame's display matrix, one of eight orientations."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return image
    # A stored point (x, y) is shown at (x, y) @ matrix.
    if np.abs(matrix.diagonal()).sum() < abs(matrix[0, 1]) + abs(matrix[1, 0]):
        image, matrix = image.swapaxes(0, 1), matrix[::-1]
    return image[:: -1 if matrix[1, 1] < 0 else 1, :: -1 if matrix[0, 0] < 0 else 1]


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """(2, 2) float64."""
    try:
        parts = frame.side_data
    except ValueError:  # PyAV fails if there is an unknown part, such as EXIF
        parts = _without_unknown_parts(frame).side_data
    for number in range(len(parts)):
        part = parts[number]  # type: ignore[literal-required]
        if part.type == Type.DISPLAYMATRIX:
            return np.frombuffer(part, dtype=np.int32)[[0, 1, 3, 4]].reshape(2, 2).astype(np.float64)
    return None


def _without_unknown_parts(frame: av.VideoFrame) -> av.VideoFrame:
    newest: int = max(part.value for part in Type)  # type: ignore
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
        ),
        *(graph.add("sidedata", f"mode=delete:type={newer}") for newer in range(newest + 1, newest + 9)),
        graph.add("buffersink"),
    ).configure()
    graph.push(frame)
    return graph.pull()  # type: ignore[return-value]
