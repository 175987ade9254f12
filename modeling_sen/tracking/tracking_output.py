# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="assignment"
"""The result of point tracking, and its conversion to CoTracker's and TAP-Vid's formats, files and pictures."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from modeling_sen.tracking.render import TRAIL, render_tracks
from modeling_sen.whole_file import whole_file


@dataclass
class SENTrackingOutput(ModelOutput):
    """Tracks of the query points through the T frames of a clip. Positions are x, y in pixels of the original frames, pixel
    centres at whole numbers. All frames have positions, also those before the query and those where the point is hidden.

    Args:
        tracks (`np.ndarray` of shape `(T, N, 2)`, float32): x, y of each point in each frame.
        visibility (`np.ndarray` of shape `(T, N)`, bool): whether the point is visible.
        confidence (`np.ndarray` of shape `(T, N)`, float32): in 0..1, the probability that the point is visible and the
            position is less than 4 pixels from the true one, in frames scaled to 256 x 256.
        query_points (`np.ndarray` of shape `(N, 3)`, float32): t, x, y of each query.
        frame_size (`tuple[int, int]`): (height, width) of the frames.
    """

    tracks: np.ndarray = None
    visibility: np.ndarray = None
    confidence: np.ndarray = None
    query_points: np.ndarray = None
    frame_size: tuple[int, int] = None

    def to_cotracker(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tracks (1, T, N, 2) float32 and visibility (1, T, N) bool, in the format of CoTracker and its `Visualizer`, which
        also has pixel centres at whole numbers.
        """
        return torch.tensor(self.tracks[None]), torch.tensor(self.visibility[None])

    def to_tapvid(self) -> dict[str, np.ndarray]:
        """`tracks` (N, T, 2) float32 and `occluded` (N, T) bool in the format of TAP-Vid's data: x, y as fractions of width
        and height, measured from the corner of the first pixel, (x + 0.5) / width.
        """
        shares = (self.tracks + 0.5) / np.array(self.frame_size[::-1], dtype=np.float32)
        return {"tracks": shares.transpose(1, 0, 2), "occluded": ~self.visibility.T}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the tracks to a file, atomically.

        Args:
            path: `.csv`, with a row for each point of each frame and the columns frame, point, x, y, visible (0 or 1),
                confidence; `.json`, an object with the five attributes as lists; `.npz`, arrays of the same names. Reading
                the numbers as float32 restores them exactly.

        Raises:
            ValueError: another file ending.
            FileNotFoundError: the folder does not exist.
        """
        write = tracks_writer(path)
        with whole_file(path) as unfinished:
            write(unfinished, self)

    def render(
        self, video: Any, path: str | os.PathLike | None = None, *, trail: int = TRAIL, fps: float | None = None
    ) -> np.ndarray | None:
        """Draws the points on the clip: discs for visible points, rings for hidden ones, with a fading trail. Colours depend
        on the row of the query. Points outside the frame are not drawn.

        Args:
            video: the tracked clip, an input of `read_video`.
            path: an mp4 file to write, frame by frame and atomically, with the clip's times and sound.
            trail: length of a trail in frames; 0 for none.
            fps: frames per second of an mp4 of an array or of images, by default 24. A file has its own times.

        Returns:
            (T, H, W, 3) uint8, or `None` if a path is given.

        Raises:
            ValueError: the video's number or size of frames differs from the tracks'; a path that does not end in `.mp4`;
                `fps` for a file, or not positive; a negative trail; and see `read_video`.
            FileNotFoundError: no such video, or no folder for the path.
        """
        return render_tracks(
            video, self.tracks, self.visibility, self.query_points, self.frame_size, path, trail=trail, fps=fps
        )


def tracks_writer(path: str | os.PathLike) -> Callable[[Path, SENTrackingOutput], None]:
    """The function that writes files with the path's ending.

    Raises:
        ValueError: another file ending.
        FileNotFoundError: the folder does not exist.
    """
    writers = {".csv": _write_csv, ".json": _write_json, ".npz": _write_npz}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"{path}: expected a file ending in .csv, .json or .npz, found {suffix!r}")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path}: no folder {Path(path).parent}")
    return writers[suffix]


def _write_csv(path: Path, output: SENTrackingOutput) -> None:
    num_frames, num_points = output.visibility.shape
    frames, points = np.divmod(np.arange(num_frames * num_points), max(num_points, 1))
    positions, confidence = _numbers(output.tracks.reshape(-1, 2)), _numbers(output.confidence.ravel())
    visible = output.visibility.ravel().astype(int).tolist()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["frame", "point", "x", "y", "visible", "confidence"])
        for frame, point, (x, y), seen, share in zip(
            frames.tolist(), points.tolist(), positions, visible, confidence, strict=True
        ):
            writer.writerow([frame, point, x, y, seen, share])


def _write_json(path: Path, output: SENTrackingOutput) -> None:
    content = {
        "tracks": _numbers(output.tracks),
        "visibility": output.visibility.tolist(),
        "confidence": _numbers(output.confidence),
        "query_points": _numbers(output.query_points),
        "frame_size": list(output.frame_size),
    }
    path.write_text(json.dumps(content) + "\n")


def _write_npz(path: Path, output: SENTrackingOutput) -> None:
    with open(path, "wb") as file:
        np.savez(file, **dict(output))


def _numbers(array: np.ndarray) -> Any:
    """Nested lists of float32 values with the fewest sufficient digits: 0.1 instead of 0.10000000149011612."""
    return array.astype(np.float32).astype(str).astype(np.float64).tolist()


__all__ = ["SENTrackingOutput", "tracks_writer"]
