# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override"
"""`pipeline("video-tracking")`: tracks points of one frame through all other frames of a clip."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from modeling_sen.clip_inputs import opened_clip
from modeling_sen.pipelines.video_pipeline import VideoPipeline
from modeling_sen.tracking.clip_frames import read_all_frames
from modeling_sen.tracking.query_points import as_mask, as_query_points, check_one_kind, resolve_query_points
from modeling_sen.tracking.tracking_output import SENTrackingOutput


class PointTracker(Protocol):
    """Interface of a model that the pipeline can use."""

    def track(
        self,
        frames: np.ndarray,
        query_points: np.ndarray,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> SENTrackingOutput:
        """Frames (T, H, W, 3) uint8; query points (N, 3) float32 t, x, y in pixels of these frames."""
        ...


class VideoTrackingPipeline(VideoPipeline):
    """Tracks points through videos with a SEN that has a tracking head.

    ```python
    >>> import modeling_sen
    >>> from transformers import pipeline

    >>> track = pipeline("video-tracking", model=modeling_sen.SEN_TINY_TRACKING)
    >>> tracked = track("clip.mp4", query_points=[[0, 120.5, 64], [10, 31, 200]])
    >>> tracked.tracks.shape, tracked.visibility.shape
    ((48, 2, 2), (48, 2))
    >>> tracked.save("tracks.csv")
    >>> tracked.render("clip.mp4", "tracked.mp4")
    ```
    """

    _load_processor = False  # the model prepares frames itself

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "track"):
            raise ValueError(
                f"model: expected a SEN with a tracking head, of model type 'sen_tracking', found {type(self.model).__name__}"
            )

    def __call__(
        self,
        video: Any = None,
        query_points: Any = None,
        *,
        grid_size: int | None = None,
        mask: Any = None,
        query_frame: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            video: one or several videos, see [`VideoPipeline`]. From a dict of modalities, only the video is used. All frames
                are tracked and held in memory.
            query_points: (N, 2) x, y on frame 0, or (N, 3) t, x, y: an array, tensor, list, or the path of a csv, json or npy
                file. Positions are in pixels of the original frames, pixel centres at whole numbers; t is a frame number.
            grid_size: instead of `query_points`, a grid of `grid_size` x `grid_size` points on one frame; 10 if neither
                `query_points`, `grid_size` nor `mask` is given.
            mask: instead of `query_points`, about 100 points inside a mask of one frame: (H, W) bool or uint8, or the path of
                a png.
            query_frame: the frame of a grid or mask, by default 0.
            progress: called with (done, total) while the model tracks a clip.
            kwargs: `batch_size`, `num_workers`. All arguments except `video` may also be passed to `pipeline(...)` as
                defaults; points of a call replace them. The same points are tracked in each video of a batch.

        Returns:
            [`SENTrackingOutput`] for one video; a list of these for a list; an iterator for generators and datasets.

        Raises:
            ValueError: points outside the clip, see `resolve_query_points`; or an input that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        given = {
            "query_points": query_points,
            "grid_size": grid_size,
            "mask": mask,
            "query_frame": query_frame,
            "progress": progress,
        }
        options = {name: value for name, value in given.items() if value is not None}
        return super().__call__(video, **options, **kwargs)

    def _sanitize_parameters(
        self,
        query_points: Any = None,
        grid_size: int | None = None,
        mask: Any = None,
        query_frame: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[dict, dict, dict]:
        check_one_kind(query_points, grid_size, mask, 0 if query_frame is None else query_frame)
        points: dict[str, Any] = {}
        if query_points is not None:
            points["query_points"] = as_query_points(query_points)  # files are read once
        if grid_size is not None:
            points["grid_size"] = grid_size
        if mask is not None:
            points["mask"] = as_mask(mask)
        if query_frame is not None:
            points["query_frame"] = query_frame
        # One parameter for all, so that points of a call replace all those of `pipeline(...)`.
        return {"points": points} if points else {}, {} if progress is None else {"progress": progress}, {}

    def preprocess(self, video: Any, points: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        with opened_clip(video) as entries:
            if "video" not in entries:
                raise ValueError(f"clip: expected a video, found {', '.join(entries) or 'nothing'}")
            frames = read_all_frames(entries["video"])
        query_points = resolve_query_points(len(frames), (frames.shape[1], frames.shape[2]), **points)
        return {"rows": [(frames, query_points)]}

    def collate(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        return {"clips": rows}  # not stacked: clips may differ in length and size

    def _forward(
        self, inputs: Mapping[str, Any], progress: Callable[[int, int], None] | None = None
    ) -> dict[str, list[np.ndarray]]:
        model: PointTracker = self.model  # type: ignore[assignment]
        outputs = [model.track(*clip, progress=progress) for clip in inputs["clips"]]
        # Plain arrays per clip, because the base class would convert our output class to its own.
        return {name: [np.asarray(output[name]) for output in outputs] for name in outputs[0]}

    def postprocess(self, outputs: Mapping[str, Any]) -> SENTrackingOutput:
        fields = {name: rows[0] for name, rows in outputs.items()}
        height, width = fields.pop("frame_size").tolist()
        return SENTrackingOutput(**fields, frame_size=(height, width))


__all__ = ["VideoTrackingPipeline"]
