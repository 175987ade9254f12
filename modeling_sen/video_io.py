"""Reads sampled frames from a video: a file, an array, or a list of images.

PyAV decodes files, whichever other decoders are installed. Frames that are not needed are skipped where possible, see
`frame_index.py` and `frame_decoding.py`.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from .frame_decoding import UndecodableFrames, decode_frames
from .frame_index import FrameIndex, index_frames
from .frame_sampling import FrameRequest, requested_indices
from .frame_times import mended_times, warn_once
from .media_source import MediaSource, open_media_source

logger = logging.getLogger(__name__)

VideoInput: TypeAlias = (
    str
    | os.PathLike
    | bytes
    | IO[bytes]
    | MediaSource
    | np.ndarray
    | torch.Tensor
    | Image.Image
    | Sequence[Image.Image | np.ndarray | torch.Tensor]
)

# Frames per second of arrays and image lists without times.
ARRAY_FRAME_RATE = 24.0


@dataclass
class VideoFrames:
    """Sampled frames.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, upright.
        times: (T,) float64, presentation times in seconds; the clip's first frame is at 0.
        indices: (T,) int64, numbers of the frames in presentation order; the clip's first frame is 0.
        num_frames_total: number of frames in the clip.
        duration: seconds from the first frame to the end of the last one.
        span: (start, end) in seconds of the time that the sampled frames represent: from half their mean step before the
            first frame to half a step after the last, extended to the clip's ends if less than a frame is left; the whole
            clip for a single frame; the stretch of the request, if it has one.
    """

    frames: np.ndarray
    times: np.ndarray
    indices: np.ndarray
    num_frames_total: int
    duration: float
    span: tuple[float, float]


def read_video(
    video: VideoInput,
    num_frames: int = 8,
    sampling: str = "uniform",
    times: Sequence[float] | np.ndarray | None = None,
) -> VideoFrames:
    """Reads sampled frames of a video.

    Args:
        video: a path, http(s) URL, bytes, binary file object or open `MediaSource`; a (T, H, W, 3) uint8 array or
            tensor; a list of PIL images or (H, W, 3) uint8 arrays; or a single image, as a clip of one frame. Images and
            frames of files are rotated and mirrored according to their metadata (EXIF, display matrix).
        num_frames: number of frames; a shorter clip repeats frames.
        sampling: a rule of `SAMPLING_RULES`: "uniform", "linspace", "stride:16", "fps:2", ...
        times: (T,) increasing seconds of the frames of an array or list; default: 1 / ARRAY_FRAME_RATE apart. Some times that
            do not increase are replaced, with a warning. Must be `None` for files.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ConnectionError: the URL cannot be fetched.
        TypeError: unsupported type of input.
        TimeoutError: a pipe sends nothing.
        ValueError: not a video, a video without frames, only damaged frames, an ambiguous array layout, or an unknown
            sampling rule.
    """
    return read_video_requests(video, [FrameRequest(num_frames, sampling)], times)[0]


def read_video_requests(
    video: VideoInput, requests: Sequence[FrameRequest], times: Sequence[float] | np.ndarray | None = None
) -> list[VideoFrames]:
    """Reads the frames of several requests in one pass; each frame is decoded once.

    Args:
        video, times: as in `read_video`.
        requests: the frames to read, such as one request per neuron.

    Returns:
        One `VideoFrames` per request, in order. Frames may share memory.

    Raises:
        As `read_video`.
    """
    with opened_video(video, times) as opened:
        return opened.read(requests)


class OpenedVideo:
    """A video that is indexed once, on first use, and can be read in parts.

    A long video can be read window by window, so that only some windows' frames are in memory.
    """

    def __init__(self, video: Any, times: Sequence[float] | np.ndarray | None, source: MediaSource | None):
        self._video, self._times, self._source = video, times, source

    @cached_property
    def _index(self) -> FrameIndex:
        if self._source is not None:
            return index_frames(self._source)
        return FrameIndex(self._array[1], _array_duration(self._array[1]))

    @cached_property
    def _array(self) -> tuple[np.ndarray, np.ndarray]:
        return _array_video(self._video, self._times)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self._index.duration

    def read(self, requests: Sequence[FrameRequest]) -> list[VideoFrames]:
        """As `read_video_requests`: one `VideoFrames` per request; each frame is decoded once per call."""
        if self._source is None:
            frames, frame_times = self._array
            sampled = [requested_indices(request, frame_times) for request in requests]
            return [
                self._frames(_take(frames, indices), indices, request)
                for indices, request in zip(sampled, requests, strict=True)
            ]
        try:
            return self._decode(self._source, requests)
        except UndecodableFrames as error:
            self._index = index_frames(self._source, by_decoding=True)  # raises if there are none
            logger.warning("%s; only frames that can be decoded are sampled", error)
            return self._decode(self._source, requests)

    def _decode(self, source: MediaSource, requests: Sequence[FrameRequest]) -> list[VideoFrames]:
        sampled = [requested_indices(request, self._index.times) for request in requests]
        if not sampled:
            return []
        distinct = np.unique(np.concatenate(sampled))
        frames = decode_frames(source, self._index, distinct)
        return [
            self._frames(_take(frames, np.searchsorted(distinct, indices)), indices, request)
            for indices, request in zip(sampled, requests, strict=True)
        ]

    def _frames(self, frames: np.ndarray, indices: np.ndarray, request: FrameRequest) -> VideoFrames:
        read = _video_frames(frames, indices, self._index.times, self.duration)
        return read if request.stretch is None else replace(read, span=request.stretch)


@contextmanager
def opened_video(video: VideoInput, times: Sequence[float] | np.ndarray | None = None) -> Iterator[OpenedVideo]:
    """Opens a video to read it in parts. Input and errors as in `read_video`."""
    if classify_video_input(video) != "file":
        yield OpenedVideo(video, times, None)
        return
    if times is not None:
        raise ValueError("times: expected none for a video file, which has its own")
    with open_media_source(video) as source:
        yield OpenedVideo(video, None, source)


def read_frames(video: VideoInput, indices: Sequence[int] | np.ndarray) -> VideoFrames:
    """Reads the frames with these numbers, in this order, including repeats. Input and errors as in `read_video`.

    Raises:
        ValueError: also if a number is outside the clip, or a frame cannot be decoded.
    """
    numbers = np.asarray(indices, dtype=np.int64)  # (T,)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(f"indices: expected a list of at least one frame number, found shape {numbers.shape}")
    if classify_video_input(video) != "file":
        frames, frame_times = _array_video(video, None)
        _check_range(numbers, len(frames), "the frames given")
        return _video_frames(frames[numbers], numbers, frame_times, _array_duration(frame_times))
    with open_media_source(video) as source:
        index = index_frames(source)
        _check_range(numbers, len(index.times), source.name)
        distinct, positions = np.unique(numbers, return_inverse=True)
        frames = decode_frames(source, index, distinct)
        return _video_frames(_take(frames, positions), numbers, index.times, index.duration)


def classify_video_input(video: Any) -> Literal["file", "array", "images"]:
    """The type of a video input: a file to decode, an array or tensor, or a list of images or a single image.

    Raises:
        TypeError: none of these.
        ValueError: an array that is neither (T, H, W, 3) nor (H, W, 3) uint8, or an array in a list that is not (H, W, 3)
            uint8. Ambiguous layouts are not guessed.
    """
    if isinstance(video, str | os.PathLike | bytes | bytearray | memoryview | MediaSource):
        return "file"
    if isinstance(video, np.ndarray | torch.Tensor):
        _check_layout(video, (3, 4), "(T, H, W, 3)")
        return "array"
    if isinstance(video, Image.Image):
        return "images"
    if isinstance(video, list | tuple):
        if not video:
            raise ValueError("video: expected at least one frame, found an empty list")
        for frame in video:
            if isinstance(frame, np.ndarray | torch.Tensor):
                _check_layout(frame, (3,), "(H, W, 3)")
            elif not isinstance(frame, Image.Image):
                raise ValueError(f"video: expected a list of images, found {type(frame).__name__} in it")
        return "images"
    if hasattr(video, "read"):
        return "file"
    raise TypeError(
        "video: expected a path, URL, bytes, binary file object, (T, H, W, 3) uint8 array, image or list of images, "
        f"found {type(video).__name__}"
    )


def given_frames(video: Any) -> Any:
    """The frames of an array or of images, as a sequence of frames; a single image is one frame."""
    if isinstance(video, Image.Image):
        return [video]
    return video[None] if isinstance(video, np.ndarray | torch.Tensor) and video.ndim == 3 else video


def is_video_batch(video: Any) -> bool:
    """Whether a list contains several videos; a list of PIL images or (H, W, 3) images is one video.

    Raises:
        ValueError: images and other things are mixed.
    """
    if not isinstance(video, list | tuple):
        return False
    images = [isinstance(item, Image.Image) or getattr(item, "ndim", None) == 3 for item in video]
    if any(images) and not all(images):
        raise ValueError("video: expected a list of images or a list of videos, found both in one list")
    return not any(images)


def _check_layout(array: np.ndarray | torch.Tensor, dimensions: tuple[int, ...], layout: str) -> None:
    shape, dtype = tuple(array.shape), str(array.dtype).removeprefix("torch.")
    if array.ndim not in dimensions or shape[-1] != 3 or dtype != "uint8":
        raise ValueError(f"video: expected {layout} uint8, RGB in 0..255 with channels last, found {shape} {dtype}")
    if 0 in shape:
        raise ValueError(f"video: expected at least one frame and one pixel, found shape {shape}")


def _array_video(video: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    """(T, H, W, 3) uint8 and (T,) seconds from the first frame."""
    video = given_frames(video)
    frames = (
        _as_array(video) if isinstance(video, np.ndarray | torch.Tensor) else _stack([_as_array(f) for f in video])
    )
    if times is None:
        return frames, np.arange(len(frames)) / ARRAY_FRAME_RATE
    frame_times = np.asarray(times, dtype=np.float64)
    if frame_times.shape != (len(frames),):
        raise ValueError(f"times: expected {len(frames)} seconds, one per frame, found shape {frame_times.shape}")
    if not np.isfinite(frame_times).all():
        raise ValueError(f"times: expected finite seconds, found {frame_times[~np.isfinite(frame_times)][0]}")
    steps = np.diff(frame_times)
    if disorder := int((steps <= 0).sum()):
        if 2 * disorder > len(steps):
            raise ValueError(f"times: expected increasing seconds, found {disorder} of {len(steps)} steps that do not")
        warn_once(
            f"times: {disorder} of {len(frames)} do not increase; a time that is not above all earlier ones is replaced by "
            "one between its neighbours"
        )
        frame_times = mended_times(frame_times, float(np.median(steps[steps > 0])))
    return frames, frame_times - frame_times[0]


def _as_array(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image


def _stack(images: list[np.ndarray]) -> np.ndarray:
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise ValueError(f"video: expected frames of one size, found (height, width) {sizes}")
    return np.stack(images)


def _array_duration(frame_times: np.ndarray) -> float:
    step = float(np.median(np.diff(frame_times))) if len(frame_times) > 1 else 1 / ARRAY_FRAME_RATE
    return float(frame_times[-1]) + step


def _take(frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """`frames[positions]`, without a copy if these are all frames in order."""
    return frames if np.array_equal(positions, np.arange(len(frames))) else frames[positions]


def _check_range(indices: np.ndarray, total: int, name: str) -> None:
    outside = indices[(indices < 0) | (indices >= total)]
    if len(outside):
        raise ValueError(f"indices: expected 0..{total - 1} for {name}, found {int(outside[0])}")


def _video_frames(frames: np.ndarray, indices: np.ndarray, frame_times: np.ndarray, duration: float) -> VideoFrames:
    return VideoFrames(
        frames=frames,
        times=frame_times[indices],
        indices=indices,
        num_frames_total=len(frame_times),
        duration=duration,
        span=_span(indices, frame_times, duration),
    )


def _span(indices: np.ndarray, frame_times: np.ndarray, duration: float) -> tuple[float, float]:
    distinct = np.unique(indices)
    if len(distinct) == 1:
        return 0.0, duration
    ends = np.append(frame_times[1:], duration)
    middles = (frame_times[distinct] + ends[distinct]) / 2  # (distinct frames,)
    margin = (middles[-1] - middles[0]) / (len(distinct) - 1) / 2
    start, end = float(middles[0] - margin), float(middles[-1] + margin)
    one_frame = duration / len(frame_times)
    return (start if start > one_frame else 0.0), (end if end < duration - one_frame else duration)
