# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Images, clips, depth maps and thermal images as ImageBind's towers take them, by Pillow and torch."""

import math
import os
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from modeling_sen.families.imagebind.feature_extraction_imagebind import clip_starts
from modeling_sen.frame_index import index_frames
from modeling_sen.media_source import open_media_source
from modeling_sen.video_io import ARRAY_FRAME_RATE, classify_video_input, given_frames, read_frames, read_video

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
CLIPS, CROPS, FRAMES = 5, 3, 2  # of a video: clips, spatial crops of each, frames of each
CLIP_SECONDS = 2.0
# Omnivore's, of whose data ImageBind's depth is: ImageBind's own code has no reader of depth.
NEAREST, FARTHEST = 0.01, 50.0  # metres
LARGEST_DISPARITY = 75.0  # pixels
DEPTH_MEAN, DEPTH_STD = 0.0418, 0.0295
MILLIMETRES = 1000.0


def image_values(image: Any, size: int) -> Tensor:
    """An image, as `read_video` takes it -> (3, size, size), normalised; its shorter side is `size`, its ends are cut."""
    frame = read_video(image, num_frames=1).frames[0]
    return _normalised(_as_tensor(_cropped(Image.fromarray(frame), size)), MEAN, STD)


def video_values(video: Any, size: int) -> Tensor:
    """A video -> (5 clips x 3 crops, 3, 2, size, size), normalised.

    Clips of two seconds are spread evenly over it; of each, the first and the last frame are seen at its left, in its middle
    and at its right (of upright videos: at the top, in the middle and at the bottom). A clip's crops stand together.

    Raises:
        As `read_video`.
    """
    clips = _clip_frames(video).to(torch.float32) / 255  # (clips, frames, height, width, 3)
    clips = clips.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (clips * frames, 3, height, width)
    height, width = clips.shape[-2:]
    # The longer side is cut to a whole pixel.
    target = (math.floor(height / width * size), size) if width < height else (size, math.floor(width / height * size))
    clips = torch.nn.functional.interpolate(clips, target, mode="bilinear", align_corners=False)
    clips = _normalised(clips, MEAN, STD).unflatten(0, (CLIPS, FRAMES)).transpose(1, 2)
    spare = max(target) - size
    starts = (0, math.ceil(spare / 2), spare)
    dim = -2 if target[0] > target[1] else -1
    crops = torch.stack([clips.narrow(dim, start, size) for start in starts], dim=1)
    return crops.flatten(0, 1)  # (clips * crops, 3, frames, size, size)


def depth_values(depth: Any, size: int, focal_length: float, baseline: float) -> Tensor:
    """A depth map -> (1, size, size), normalised disparity.

    Args:
        depth: a file, or an array (height, width); whole numbers are millimetres (16-bit PNG), others metres.
        focal_length: of the camera, in pixels of the map.
        baseline: metres.

    Raises:
        OSError: no such file.
        ValueError: no picture of one channel, or values that are no distances.
    """
    values = _one_channel(depth)
    metres = values.astype(np.float32) / (MILLIMETRES if np.issubdtype(values.dtype, np.integer) else 1.0)
    if not np.isfinite(metres).all() or metres.min() < 0:
        raise ValueError("depth: found negative distances or such that are no numbers, expected metres or millimetres")
    disparity = baseline * focal_length / metres.clip(NEAREST, FARTHEST)
    scaled = torch.from_numpy(disparity.clip(0.0, LARGEST_DISPARITY) / LARGEST_DISPARITY)[None, None]
    target = _by_shorter_side(scaled.shape[-2], scaled.shape[-1], size)
    scaled = torch.nn.functional.interpolate(scaled, target, mode="bilinear", align_corners=False)[0]
    top, left = (_middle(side, size) for side in target)
    return (scaled[:, top : top + size, left : left + size] - DEPTH_MEAN) / DEPTH_STD


def thermal_values(thermal: Any, size: int) -> Tensor:
    """A thermal image, as `read_video` takes it or (height, width) uint8 -> (1, size, size) in 0..1: its luma."""
    if isinstance(thermal, np.ndarray) and thermal.ndim == 2 and thermal.dtype == np.uint8:
        image = Image.fromarray(thermal)
    else:
        image = Image.fromarray(read_video(thermal, num_frames=1).frames[0]).convert("L")
    return _as_tensor(_cropped(image, size))


def _clip_frames(video: Any) -> Tensor:
    """(clips, 2, height, width, 3) uint8: of each clip the first and the last frame."""
    if classify_video_input(video) == "file":
        with open_media_source(video) as source:
            index = index_frames(source)
            places = _clip_places(index.times, index.duration)
            frames = read_frames(source, places.ravel()).frames
    else:
        count = len(given_frames(video))
        places = _clip_places(np.arange(count) / ARRAY_FRAME_RATE, count / ARRAY_FRAME_RATE)
        frames = read_frames(video, places.ravel()).frames
    return torch.from_numpy(np.ascontiguousarray(frames)).unflatten(0, places.shape)


def _clip_places(times: np.ndarray, duration: float) -> np.ndarray:
    """(clips, 2) numbers of the frames that are shown first and last in each clip."""
    starts = np.asarray(clip_starts(duration, CLIP_SECONDS, CLIPS))
    first = np.searchsorted(times, starts - 1e-6)  # the margin is for times that are no binary fractions
    last = np.searchsorted(times, starts + CLIP_SECONDS - 1e-6) - 1
    places = np.stack([first, last], axis=1).clip(0, len(times) - 1)
    return np.maximum.accumulate(places, axis=1)  # a clip between two frames has one


def _one_channel(picture: Any) -> np.ndarray:
    """(height, width) of a file, image or array."""
    if isinstance(picture, str | os.PathLike):
        try:
            with Image.open(picture) as image:
                picture = np.asarray(image)
        except UnidentifiedImageError as error:
            raise ValueError(f"depth: {os.fspath(picture)} is no picture") from error
    values = np.asarray(picture)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"depth: found an array of shape {values.shape}, expected (height, width): one channel")
    return values


def _cropped(image: Image.Image, size: int) -> Image.Image:
    height, width = _by_shorter_side(image.height, image.width, size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = _middle(height, size), _middle(width, size)
    return image.crop((left, top, left + size, top + size))


def _by_shorter_side(height: int, width: int, size: int) -> tuple[int, int]:
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _middle(side: int, size: int) -> int:
    return round((side - size) / 2)  # a half to the even number, as torchvision does


def _as_tensor(image: Image.Image) -> Tensor:
    values = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _normalised(values: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Channels stand third from the end."""
    return (values - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


__all__ = ["depth_values", "image_values", "thermal_values", "video_values"]
