# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="assignment"
"""What a point tracker returns for one clip, and its conversions: CoTracker, TAP-Vid, files, pictures."""

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
    """Where the query points of one clip are in each of its T frames. Positions are x, y in pixels of the original frames,
    pixel centres at whole numbers; they are given for frames before and after the query, and also where a point is hidden.

    Args:
        tracks (`np.ndarray` of shape `(T, N, 2)`, float32): x, y of each point in each frame.
        visibility (`np.ndarray` of shape `(T, N)`, bool): whether the point is seen.
        confidence (`np.ndarray` of shape `(T, N)`, float32): in 0..1, the probability that the point is visible and the
            position is less than 4 pixels from the truth, where frames are brought to 256 x 256.
        query_points (`np.ndarray` of shape `(N, 3)`, float32): t, x, y of each query.
        frame_size (`tuple[int, int]`): (height, width) of the frames.
    """

    tracks: np.ndarray = None
    visibility: np.ndarray = None
    confidence: np.ndarray = None
    query_points: np.ndarray = None
    frame_size: tuple[int, int] = None

    def to_cotracker(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tracks (1, T, N, 2) float32 and visibility (1, T, N) bool, as CoTracker returns them and its `Visualizer` takes
        them. CoTracker has pixel centres at whole numbers too.
        """
        return torch.tensor(self.tracks[None]), torch.tensor(self.visibility[None])

    def to_tapvid(self) -> dict[str, np.ndarray]:
        """`tracks` (N, T, 2) float32 and `occluded` (N, T) bool in the form of TAP-Vid's data: x, y as shares of width and
        height from the corner of the first pixel, (x + 0.5) / width.
        """
        shares = (self.tracks + 0.5) / np.array(self.frame_size[::-1], dtype=np.float32)
        return {"tracks": shares.transpose(1, 0, 2), "occluded": ~self.visibility.T}

    def save(self, path: str | os.PathLike) -> None:
        """Writes a file, complete or not at all.

        Args:
            path: `.csv` with a row for each point of each frame and the columns frame, point, x, y, visible (0 or 1),
                confidence; `.json`, an object of the five attributes as lists; `.npz`, arrays of the same names. Numbers are
                written such that float32 is restored exactly.

        Raises:
            ValueError: another ending.
            FileNotFoundError: no such folder.
        """
        write = tracks_writer(path)
        with whole_file(path) as unfinished:
            write(unfinished, self)

    def render(
        self, video: Any, path: str | os.PathLike | None = None, *, trail: int = TRAIL, fps: float | None = None
    ) -> np.ndarray | None:
        """Draws the points on the clip: filled discs where they are visible, rings where they are hidden, with a trail that
        fades. A colour belongs to a query's row. Points outside of the frame are not drawn.

        Args:
            video: the clip that was tracked: anything that `read_video` takes.
            path: an mp4 file to write, complete or not at all, frame by frame. It has the clip's times and sound.
            trail: frames that a trail reaches back; 0 for none.
            fps: frames per second of an mp4 of an array or of images; 24 by default. A file has its own times.

        Returns:
            (T, H, W, 3) uint8, or None where a path is given.

        Raises:
            ValueError: the video has another number or size of frames than the tracks; a path without `.mp4`; `fps` for a
                file, or not positive; a negative trail; and as `read_video`.
            FileNotFoundError: no such video, or no folder for the path.
        """
        return render_tracks(
            video, self.tracks, self.visibility, self.query_points, self.frame_size, path, trail=trail, fps=fps
        )


def tracks_writer(path: str | os.PathLike) -> Callable[[Path, SENTrackingOutput], None]:
    """The function that writes files of this ending.

    Raises:
        ValueError: another ending.
        FileNotFoundError: no such folder.
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
    """Nested lists of float32 values with no more digits than they need: 0.1 and not 0.10000000149011612."""
    return array.astype(np.float32).astype(str).astype(np.float64).tolist()


__all__ = ["SENTrackingOutput", "tracks_writer"]
