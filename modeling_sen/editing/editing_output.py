# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="assignment"
"""The result of `pipeline("video-editing")`, and the files it can be written to."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import ModelOutput

from modeling_sen.editing.edit_adapter import SENEditAdapter
from modeling_sen.editing.edit_files import write_comparison, write_frames
from modeling_sen.whole_file import whole_file

PACKAGES = ("modeling-sen", "torch", "transformers", "diffusers")


@dataclass
class SENEditingOutput(ModelOutput):
    """One edit of a clip of T frames.

    Args:
        frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): edited frames.
        source_frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): frames of the clip, in the size of the edit.
        times (`np.ndarray` of shape `(T,)`, float64): times of the frames in the clip, in seconds.
        fps (`float`): frames per second.
        source_prompt, edit_prompt (`str`): descriptions of the clip and of the edit.
        scores (`dict[str, float]`): all of `editing_metrics.NUMBERS`; NaN for scores that could not be measured.
        settings (`dict`): settings of the edit, JSON-serialisable; `settings["tuning"]` is the record of the adapter's
            tuning.
        adapter ([`SENEditAdapter`]): the adapter that was used.
        video (`Any`): the clip as passed by the user.
    """

    frames: np.ndarray = None
    source_frames: np.ndarray = None
    times: np.ndarray = None
    fps: float = None
    source_prompt: str = None
    edit_prompt: str = None
    scores: dict[str, float] = None
    settings: dict[str, Any] = None
    adapter: SENEditAdapter = None
    video: Any = None

    def save(self, path: str | os.PathLike) -> None:
        """Writes the edit to an mp4 file, atomically; if the clip is a file, with the sound of the edited part.

        Raises:
            ValueError: the path does not end in `.mp4`; the clip cannot be read again.
            FileNotFoundError: the folder of the path does not exist.
        """
        write_frames(path, self.frames, self.times, self.fps, self.video)

    def record(self) -> dict[str, Any]:
        """Description of the edit, JSON-serialisable: prompts, number and size of frames, settings, scores, versions."""
        scores = {name: None if np.isnan(number) else float(number) for name, number in self.scores.items()}
        return {
            "source_prompt": self.source_prompt,
            "edit_prompt": self.edit_prompt,
            "frames": len(self.frames),
            "frame_size": list(self.frames.shape[1:3]),
            "fps": self.fps,
            "start": float(self.times[0]),
            **self.settings,
            "scores": scores,
            "versions": {name: version(name) for name in PACKAGES},
        }

    def save_record(self, path: str | os.PathLike) -> None:
        """Writes [`record`] as JSON, atomically."""
        with whole_file(path) as unfinished:
            Path(unfinished).write_text(json.dumps(self.record(), indent=2, allow_nan=False) + "\n")


def save_comparison(path: str | os.PathLike, edits: Sequence[SENEditingOutput]) -> None:
    """Writes the source and edits of a clip side by side to an mp4 file, each below its prompt, with the clip's sound.

    Raises:
        ValueError, FileNotFoundError: see [`SENEditingOutput.save`].
    """
    first = edits[0]
    columns = [(f"source: {first.source_prompt}", first.source_frames)]
    columns += [(edit.edit_prompt, edit.frames) for edit in edits]
    write_comparison(path, columns, first.times, first.fps, first.video)


__all__ = ["SENEditingOutput", "save_comparison"]
