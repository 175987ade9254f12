# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Estimates depth maps for clips without depth, with a monocular depth model from the Hub (`config.depth_estimator`)."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForDepthEstimation

from .configuration_sen import NeuronSpec
from .frame_transform import FrameTransform, hub_settings
from .hub_files import HubSource, naming_errors

CACHED_CLIPS = 64
# Types that predict distance instead of inverse distance; depth maps are brighter for nearer points.
_METRIC_TYPES = ("glpn", "zoedepth", "depth_pro", "prompt_depth_anything")


class DepthEstimator:
    """A depth model, loaded on first use; depth maps of the last clips are cached.

    Args:
        hub_id: repository or folder of a model for `AutoModelForDepthEstimation`, e.g. GLPN or Depth-Anything.
        fetch: arguments of `from_pretrained` that control how files are fetched: `token`, `cache_dir`, `local_files_only`.
    """

    def __init__(self, hub_id: str, fetch: Mapping[str, Any] | None = None):
        self.source = HubSource.of(hub_id, fetch or {})
        self._model: Any = None
        self._maps: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 -> depth maps (T, h, w) uint8 at the model's size; 255 is the clip's nearest point.

        Raises:
            OSError: no such model.
        """
        key = hashlib.sha1(frames.tobytes(), usedforsecurity=False).digest()
        if key not in self._maps:
            self._maps[key] = self._estimate(frames)
            while len(self._maps) > CACHED_CLIPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]

    def _estimate(self, frames: np.ndarray) -> np.ndarray:
        if self._model is None:
            self._load()
        pixels = self._transform(frames).to(self._model.device, self._model.dtype)  # (T, 3, h, w)
        with torch.no_grad():
            depth = self._model(pixel_values=pixels).predicted_depth.float().cpu()  # (T, h, w)
        if self._model.config.model_type in _METRIC_TYPES:
            depth = 1.0 / depth.clamp(min=1e-3)
        # Over the whole clip, so that frames are comparable.
        lowest, highest = depth.amin(), depth.amax()
        return ((depth - lowest) / (highest - lowest).clamp(min=1e-6) * 255).round().to(torch.uint8).numpy()

    def _load(self) -> None:
        with naming_errors(f"depth_estimator ({self.source.location})", "pass token=..."):
            source = self.source.at_commit()
            source.prefetch_model({})
            self._model = AutoModelForDepthEstimation.from_pretrained(source.location, **source.arguments).eval()
            settings = hub_settings(source)
        size = (settings or {}).get("size") or {"height": 384, "width": 384}
        multiple = (settings or {}).get("ensure_multiple_of") or (settings or {}).get("size_divisor") or 32
        values = [size] if isinstance(size, int) else list(size.values())
        side = max(multiple, int(values[0]) // multiple * multiple)
        # GLPN only scales pixels to 0..1. Frames are resized without keeping their aspect ratio, which relative depth allows.
        plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        square = {"size": [side, side], "crop": None}
        spec = NeuronSpec("estimator", "depth", self.source.location, 1, "", preprocessing=square)
        self._transform = FrameTransform.from_settings({**plain, **(settings or {})}, spec)


__all__ = ["DepthEstimator"]
