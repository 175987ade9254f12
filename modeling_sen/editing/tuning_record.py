# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The record of a tuning, stored in the adapter's configuration and shown in the model card; and its default settings."""

import os
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from modeling_sen.editing.tuning import TuningSettings
from modeling_sen.media_source import MediaSource


def name_of(video: Any) -> str:
    """Name of a video in a record: its file name without folders, or `"frames"` for other inputs."""
    if isinstance(video, MediaSource):
        video = video.name
    if not isinstance(video, str | os.PathLike):
        return "frames"
    text = os.fspath(video)
    path = unquote(urlsplit(text).path) if text.startswith(("http://", "https://")) else text
    return PurePath(path).name


def settings_for(model: Any, **overrides: Any) -> TuningSettings:
    """The tuning settings in the model's configuration, with overrides.

    Args:
        model: a `SENForVideoEditing`.
        overrides: fields of [`TuningSettings`]; `None` leaves a field unchanged.

    Raises:
        ValueError: values out of range.
    """
    own = model.config.tuning_settings or {}
    return TuningSettings(**{**own, **{name: value for name, value in overrides.items() if value is not None}})


def tuning_record(video: str, prompt: str, frames: Any, settings: Any, result: Any) -> dict[str, Any]:
    """The record of a tuning.

    Args:
        video: name of the video.
        prompt: its description.
        frames: (T, H, W, 3) frames used for tuning.
        settings: a `TuningSettings`.
        result: a `TuningResult`.

    Returns:
        A JSON-serialisable dict of `video`, `prompt`, `frames` (their number), `frame_size` (height, width), `steps` run,
        `best_step` (the step of the adapter's weights), `learning_rate` and `seed`.
    """
    return {
        "video": video,
        "prompt": prompt,
        "frames": len(frames),
        "frame_size": list(frames.shape[1:3]),
        "steps": result.steps,
        "best_step": result.best_step,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
    }


__all__ = ["name_of", "settings_for", "tuning_record"]
