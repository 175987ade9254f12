# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Converts the accepted forms of a clip, a video or a dict of modalities, to inputs of the readers."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .configuration_sen import MODALITIES
from .media_source import local_path, open_media_source
from .video_io import OpenedVideo, classify_video_input, is_video_batch, opened_video

FARTHEST = 10_000  # millimetres
# Pillow's modes of single-channel images with more than 8 bits, and the dtypes of their arrays.
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_WIDE_TYPES = ("uint16", "int32")
# Of reading a clip, special ones first.
_CLIP_ERRORS = (FileNotFoundError, IsADirectoryError, ConnectionError, TimeoutError, OSError, TypeError, ValueError)


def clip_entries(clip: Any) -> dict[str, Any]:
    """A clip's entries by name (`video`, `audio`, `depth`, `thermal`, `imu`, `text`, `times`), as inputs of the readers.

    Raises:
        ValueError: unknown entries, or entries in an unsupported form.
    """
    entries = dict(clip) if isinstance(clip, Mapping) and not _is_stored_file(clip) else {"video": clip}
    if unknown := set(entries) - {*MODALITIES, "times"}:
        raise ValueError(f"clip: unknown entries {sorted(unknown)}, expected some of {', '.join(MODALITIES)}, times")
    entries = {name: _as_media(name, entry) for name, entry in entries.items() if entry is not None}
    if "image" in entries and "video" in entries:
        raise ValueError("clip: expected a video or an image, found both")
    if "image" in entries:  # an image is a clip of one frame
        entries["video"] = entries.pop("image")
    return entries


@dataclass
class OpenedClip:
    """A clip with opened files.

    Attributes:
        entries: its entries, see `clip_entries`.
        videos: entries with frames, by name.
        sources: modality -> name of the entry with its frames.
    """

    entries: dict[str, Any]
    videos: dict[str, OpenedVideo]
    sources: dict[str, str]

    @property
    def sound(self) -> Any:
        """The entry `audio`, else a video file, which may have sound; `None` if there is neither."""
        if "audio" in self.entries:
            return self.entries["audio"]
        video = self.entries.get("video")
        return video if video is not None and is_file(video) else None

    @cached_property
    def duration(self) -> float:
        """Duration of its frames in seconds.

        Raises:
            ValueError: it has no frames.
        """
        for video in self.videos.values():
            return video.duration
        if "video" not in self.entries:
            raise ValueError(f"clip: expected a video, found {', '.join(self.entries) or 'nothing'}")
        with opened_video(self.entries["video"], self.entries.get("times")) as opened:
            return opened.duration


@contextmanager
def opened_clip(clip: Any) -> Iterator[dict[str, Any]]:
    """A clip's entries as for `clip_entries`, with video and sound files opened, because pipes can be read only once.

    Raises:
        ValueError, OSError, TypeError: as `clip_entries` and `open_media_source`.
    """
    entries = clip_entries(clip)
    with ExitStack() as stack:
        for name in ("video", "audio"):
            if name in entries and is_file(entries[name]):
                entries[name] = stack.enter_context(open_media_source(entries[name]))
        yield entries


def is_clip_batch(videos: Any) -> bool:
    """Whether `videos` is a list of clips or a (clips, T, H, W, 3) array; a list of images or a dict of modalities is one
    clip."""
    if isinstance(videos, list | tuple) and any(isinstance(video, Mapping) for video in videos):
        return True
    if isinstance(videos, np.ndarray | Tensor) and videos.ndim == 5:
        return True
    return is_video_batch(videos)


def listed_clips(videos: Any, images: Any = None) -> list[Any]:
    """The clips of a processor's arguments, of which one is given.

    Args:
        videos: a clip, or a batch (`is_clip_batch`).
        images: an image, a list of images, or a (images, H, W, 3) array; each is a clip of one frame.

    Raises:
        ValueError: both are given.
    """
    if images is None:
        return list(videos) if is_clip_batch(videos) else [videos]
    if videos is not None:
        raise ValueError("SENProcessor: expected videos or images, found both")
    several = isinstance(images, list | tuple) or getattr(images, "ndim", None) == 4
    return [{"image": image} for image in (images if several else [images])]


@contextmanager
def naming_clip(number: int, clips: int | None = None) -> Iterator[None]:
    """Prefixes error messages with the position of a clip, if it is not the only one of `clips`."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if clips == 1:
            raise
        kind = next(kind for kind in _CLIP_ERRORS if isinstance(error, kind))
        raise kind(f"videos[{number}]: {error}") from error


def is_file(entry: Any) -> bool:
    """Whether an entry is a video or sound file; arrays and lists of images are not."""
    if isinstance(entry, tuple | np.ndarray | Tensor):  # (samples, rate) or frames
        return False
    return classify_video_input(entry) == "file"


def as_frames(entry: Any) -> Any:
    """Repeats the channel of depth and thermal maps (T, H, W) uint8; other entries, such as (H, W, 3), are unchanged."""
    if isinstance(entry, np.ndarray | Tensor) and entry.ndim == 3 and entry.shape[-1] != 3:
        return (
            entry[..., None].repeat(3, -1) if isinstance(entry, np.ndarray) else entry[..., None].expand(-1, -1, -1, 3)
        )
    return entry


def as_depth(entry: Any) -> Any:
    """Converts 16-bit depth maps in millimetres to 8-bit frames: white is near, black is 10 metres or more away.

    Other depth maps, which are brighter for nearer points, are unchanged.

    Args:
        entry: an input of `as_frames`; (H, W) or (T, H, W) uint16; an image file or images with one 16-bit channel.
    """
    if isinstance(entry, str | os.PathLike | bytes):
        try:
            with Image.open(io.BytesIO(entry) if isinstance(entry, bytes) else local_path(entry)) as image:
                if image.mode in _WIDE_MODES:
                    entry = np.array(image)
        except (OSError, ValueError):  # not an image; `read_video` raises if it is no video either
            return entry
    elif isinstance(entry, Image.Image) and entry.mode in _WIDE_MODES:
        entry = np.array(entry)
    elif isinstance(entry, list | tuple) and any(getattr(image, "mode", None) in _WIDE_MODES for image in entry):
        entry = np.stack([np.array(image) for image in entry])
    if not isinstance(entry, np.ndarray | Tensor) or str(entry.dtype).removeprefix("torch.") not in _WIDE_TYPES:
        return entry
    nearness = 1 - np.clip(np.asarray(entry) / FARTHEST, 0, 1)
    frames = np.round(255 * nearness).astype(np.uint8)
    return frames if frames.ndim == 3 else frames[None]


def _is_stored_file(entry: Mapping[str, Any]) -> bool:
    """Whether a dict is a file in the format of `datasets`: `{"path", "bytes"}`."""
    return set(entry) == {"path", "bytes"}


def _as_media(name: str, entry: Any) -> Any:
    """One entry of a clip as input of the readers."""
    if name == "text" and not isinstance(entry, str):
        raise ValueError(f"clip: expected a string as text, found {type(entry).__name__}")
    if name == "imu":
        values = torch.as_tensor(np.asarray(entry, dtype=np.float32))
        if values.ndim != 2:
            raise ValueError(f"clip: expected (channels, samples) as imu, found shape {tuple(values.shape)}")
        return values
    if not isinstance(entry, Mapping):
        return entry
    if _is_stored_file(entry) and (entry["bytes"] is not None or entry["path"] is not None):
        return entry["path"] if entry["bytes"] is None else entry["bytes"]
    if name == "audio" and {"array", "sampling_rate"} <= set(entry):
        return np.asarray(entry["array"]), entry["sampling_rate"]
    raise ValueError(f"clip: expected {{'path', 'bytes'}} with one of them given as {name}, found {sorted(entry)}")


__all__ = [
    "OpenedClip",
    "as_depth",
    "as_frames",
    "clip_entries",
    "is_clip_batch",
    "is_file",
    "listed_clips",
    "naming_clip",
    "opened_clip",
]
