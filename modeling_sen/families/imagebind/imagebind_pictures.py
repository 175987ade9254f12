# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Prepares images, video clips, depth maps and thermal images for ImageBind, with Pillow and torch."""

import math
import os
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from modeling_sen.families.clip_pictures import by_shorter_side, by_shorter_side_of_video, centre, middle, normalised
from modeling_sen.families.imagebind.feature_extraction_imagebind import clip_starts
from modeling_sen.frame_index import index_frames
from modeling_sen.media_source import open_media_source
from modeling_sen.video_io import ARRAY_FRAME_RATE, classify_video_input, given_frames, read_frames, read_video

CLIPS, CROPS, FRAMES = 5, 3, 2  # clips of a video, spatial crops of each clip, frames of each crop
CLIP_SECONDS = 2.0
# From Omnivore, whose depth data ImageBind was trained on; the published code of ImageBind does not read depth maps.
NEAREST, FARTHEST = 0.01, 50.0  # metres
LARGEST_DISPARITY = 75.0  # pixels
DEPTH_MEAN, DEPTH_STD = 0.0418, 0.0295
MILLIMETRES = 1000.0


def image_values(image: Any, size: int) -> Tensor:
    """An image, as `read_video` takes it -> (3, size, size): shorter side `size`, centre crop, normalised."""
    frame = read_video(image, num_frames=1).frames[0]
    return normalised(_as_tensor(_cropped(Image.fromarray(frame), size)))


def video_values(video: Any, size: int) -> Tensor:
    """A video -> (5 clips x 3 crops, 3, 2, size, size), normalised.

    Clips of two seconds are spread evenly over the video. The first and the last frame of each clip are cropped at the left,
    in the middle and at the right (upright videos: at the top, in the middle and at the bottom). Crops of a clip are adjacent
    along the first axis.

    Raises:
        As `read_video`.
    """
    clips = _clip_frames(video).to(torch.float32) / 255  # (clips, frames, height, width, 3)
    clips = clips.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (clips * frames, 3, height, width)
    height, width = clips.shape[-2:]
    target = by_shorter_side_of_video(height, width, size)
    clips = torch.nn.functional.interpolate(clips, target, mode="bilinear", align_corners=False)
    clips = normalised(clips).unflatten(0, (CLIPS, FRAMES)).transpose(1, 2)
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
        ValueError: more than one channel, or values that are not distances.
    """
    values = _one_channel(depth)
    metres = values.astype(np.float32) / (MILLIMETRES if np.issubdtype(values.dtype, np.integer) else 1.0)
    if not np.isfinite(metres).all() or metres.min() < 0:
        raise ValueError("depth: found negative or non-finite distances, expected metres or millimetres")
    disparity = baseline * focal_length / metres.clip(NEAREST, FARTHEST)
    scaled = torch.from_numpy(disparity.clip(0.0, LARGEST_DISPARITY) / LARGEST_DISPARITY)[None, None]
    target = by_shorter_side(scaled.shape[-2], scaled.shape[-1], size)
    scaled = torch.nn.functional.interpolate(scaled, target, mode="bilinear", align_corners=False)[0]
    return (centre(scaled, size, size) - DEPTH_MEAN) / DEPTH_STD


def thermal_values(thermal: Any, size: int) -> Tensor:
    """A thermal image, as `read_video` takes it or (height, width) uint8 -> (1, size, size) in 0..1: its luma."""
    if isinstance(thermal, np.ndarray) and thermal.ndim == 2 and thermal.dtype == np.uint8:
        image = Image.fromarray(thermal)
    else:
        image = Image.fromarray(read_video(thermal, num_frames=1).frames[0]).convert("L")
    return _as_tensor(_cropped(image, size))


def _clip_frames(video: Any) -> Tensor:
    """(clips, 2, height, width, 3) uint8: the first and the last frame of each clip."""
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
    """(clips, 2) indices of the first and the last frame of each clip."""
    starts = np.asarray(clip_starts(duration, CLIP_SECONDS, CLIPS))
    first = np.searchsorted(times, starts - 1e-6)  # the margin absorbs rounding of the times
    last = np.searchsorted(times, starts + CLIP_SECONDS - 1e-6) - 1
    places = np.stack([first, last], axis=1).clip(0, len(times) - 1)
    return np.maximum.accumulate(places, axis=1)  # a clip that contains no frame repeats one


def _one_channel(picture: Any) -> np.ndarray:
    """(height, width) of a file, image or array."""
    if isinstance(picture, str | os.PathLike):
        try:
            with Image.open(picture) as image:
                picture = np.asarray(image)
        except UnidentifiedImageError as error:
            raise ValueError(f"depth: {os.fspath(picture)} is not a picture") from error
    values = np.asarray(picture)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"depth: found an array of shape {values.shape}, expected (height, width): one channel")
    return values


def _cropped(image: Image.Image, size: int) -> Image.Image:
    height, width = by_shorter_side(image.height, image.width, size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = middle(height, size), middle(width, size)
    return image.crop((left, top, left + size, top + size))


def _as_tensor(image: Image.Image) -> Tensor:
    values = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


__all__ = ["depth_values", "image_values", "thermal_values", "video_values"]
