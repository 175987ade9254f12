# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The record of a tuning, which the adapter's configuration keeps and the model card shows; and settings of a tuning."""

import os
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from modeling_sen.editing.tuning import TuningSettings
from modeling_sen.media_source import MediaSource


def name_of(video: Any) -> str:
    """What a record calls a video: the name of its file without folders, `"frames"` of anything else."""
    if isinstance(video, MediaSource):
        video = video.name
    if not isinstance(video, str | os.PathLike):
        return "frames"
    text = os.fspath(video)
    path = unquote(urlsplit(text).path) if text.startswith(("http://", "https://")) else text
    return PurePath(path).name


def settings_for(model: Any, **given: Any) -> TuningSettings:
    """Settings as given, and else as the model's configuration recommends.

    Args:
        given: fields of [`TuningSettings`]; `None` is as if a field were not given.

    Raises:
        ValueError: values out of range.
    """
    own = model.config.tuning_settings or {}
    return TuningSettings(**{**own, **{name: value for name, value in given.items() if value is not None}})


def tuning_record(video: str, prompt: str, frames: Any, settings: Any, result: Any) -> dict[str, Any]:
    """
    Args:
        video: its name.
        prompt: what it shows.
        frames: (T, H, W, 3), as they were tuned on.
        settings: a `TuningSettings`.
        result: a `TuningResult`.

    Returns:
        `video`, `prompt`, `frames` (their number), `frame_size` (height, width), `steps` that were run, `best_step`, whose
        weights the adapter has, `learning_rate`, `seed`. JSON-able.
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
