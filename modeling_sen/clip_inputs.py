# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a clip may be given as: one video, or a dict of modalities, each in the forms that people have them in."""

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
from .media_source import open_media_source
from .video_io import OpenedVideo, classify_video_input, is_video_batch, opened_video

FARTHEST = 10_000  # millimetres
# Of one channel of more than 8 bits: Pillow's names of images, and what their arrays hold.
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_WIDE_TYPES = ("uint16", "int32")


def clip_entries(clip: Any) -> dict[str, Any]:
    """A clip's entries by name (`video`, `audio`, `depth`, `thermal`, `imu`, `text`, `times`), as the readers take them.

    Raises:
        ValueError: unknown entries, or entries of the wrong form.
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
    """A clip while its files are open.

    Attributes:
        entries: what it has, as `clip_entries` says.
        videos: those of its entries whose frames are read.
        sources: modality -> name of the entry with the frames for it.
    """

    entries: dict[str, Any]
    videos: dict[str, OpenedVideo]
    sources: dict[str, str]

    @property
    def sound(self) -> Any:
        """The sound given or, without it, the file that may have some; `None` where there is neither."""
        if "audio" in self.entries:
            return self.entries["audio"]
        video = self.entries.get("video")
        return video if video is not None and is_file(video) else None

    @cached_property
    def duration(self) -> float:
        """Seconds of its frames.

        Raises:
            ValueError: it has none.
        """
        for video in self.videos.values():
            return video.duration
        if "video" not in self.entries:
            raise ValueError(f"clip: expected a video, found {', '.join(self.entries) or 'nothing'}")
        with opened_video(self.entries["video"], self.entries.get("times")) as opened:
            return opened.duration


@contextmanager
def opened_clip(clip: Any) -> Iterator[dict[str, Any]]:
    """A clip's entries as `clip_entries` has them, its video and sound files opened: pipes can be read only once.

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
    """Whether `videos` is a list of clips; a list of images is one clip, a dict of modalities too."""
    if isinstance(videos, list | tuple) and any(isinstance(video, Mapping) for video in videos):
        return True
    return is_video_batch(videos)


def is_file(entry: Any) -> bool:
    """Whether an entry may carry sound of its own, or is a sound file; arrays and image lists are neither."""
    if isinstance(entry, tuple | np.ndarray | Tensor):  # (samples, rate) or frames
        return False
    return classify_video_input(entry) == "file"


def as_frames(entry: Any) -> Any:
    """Depth and thermal maps may be (T, H, W) uint8: their one channel is repeated. (H, W, 3) is one frame of colours."""
    if isinstance(entry, np.ndarray | Tensor) and entry.ndim == 3 and entry.shape[-1] != 3:
        return (
            entry[..., None].repeat(3, -1) if isinstance(entry, np.ndarray) else entry[..., None].expand(-1, -1, -1, 3)
        )
    return entry


def as_depth(entry: Any) -> Any:
    """Depth maps of 16 bits, which are millimetres, as frames of 8 bits: white is near, black 10 metres or more away.

    Others are brighter where nearer, and stay as they are.

    Args:
        entry: what `as_frames` takes, or (H, W) or (T, H, W) uint16; an image file or images of one channel of 16 bits.
    """
    if isinstance(entry, str | os.PathLike | bytes):
        try:
            with Image.open(io.BytesIO(entry) if isinstance(entry, bytes) else entry) as image:
                if image.mode in _WIDE_MODES:
                    entry = np.array(image)
        except (OSError, ValueError):  # no image, but a video, or nothing: the reader of videos says so
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
    """Whether a dict is a file as `datasets` gives it: `{"path", "bytes"}`."""
    return set(entry) == {"path", "bytes"}


def _as_media(name: str, entry: Any) -> Any:
    """One entry of a clip as the readers take it."""
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


__all__ = ["OpenedClip", "as_depth", "as_frames", "clip_entries", "is_clip_batch", "is_file", "opened_clip"]
