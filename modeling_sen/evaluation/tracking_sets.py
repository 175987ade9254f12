# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Opens test sets of tracked clips: presets of the generated world, folders of `sen world`, TAP-Vid pickles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeling_sen.evaluation.measure import draw_rows
from modeling_sen.evaluation.tracking_data import TrackedClip, draw_tracked_clip, read_tapvid, read_world
from modeling_sen.evaluation.tracking_metrics import check_query_mode
from modeling_sen.training.data import file_key
from modeling_sen.world.tracking_scene import TRACKING_PRESETS

PRESET_CLIPS = 10  # default number of clips of a preset


@dataclass(frozen=True)
class TrackingSet:
    """A data set of tracked clips.

    Attributes:
        source: name in error messages.
        keys: identifier of each clip, which changes when a file changes.
        read: row -> the clip.
    """

    source: str
    keys: Sequence[str]
    read: Callable[[int], TrackedClip]


def open_tracking_set(source: str, query_mode: str, num: int | None = None, seed: int = 0) -> TrackingSet:
    """Opens a data set.

    Args:
        source: one of `TRACKING_PRESETS`, an output folder of `sen world`, or a TAP-Vid pickle.
        query_mode: "first" or "strided", see `sample_queries`.
        num: number of clips; by default 10 for a preset, all for other sets.
        seed: a preset's clips have the seeds seed .. seed + num - 1; clips of other sets are drawn with this seed.

    Raises:
        FileNotFoundError: no such preset, folder or file.
        ValueError: files of another kind, a clip without a query, an unknown query mode, or a negative seed.
    """
    check_query_mode(query_mode)
    if source in TRACKING_PRESETS:
        seeds = range(seed, seed + (num or PRESET_CLIPS))
        keys = [f"{source}, seed {one}" for one in seeds]
        return TrackingSet(source, keys, lambda row: draw_tracked_clip(source, seeds[row], query_mode))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"{source}: expected a folder of `sen world`, a TAP-Vid pickle, or one of {', '.join(TRACKING_PRESETS)}"
        )
    if path.is_dir():
        clips = read_world(path, query_mode)
        keys = [file_key(path / "metadata.jsonl") + f":{clip.name}" for clip in clips]
    else:
        clips = read_tapvid(path, query_mode)
        keys = [f"{file_key(path)}:{clip.name}" for clip in clips]
    rows = range(len(clips)) if num is None or num >= len(clips) else draw_rows(len(clips), num, seed)
    return TrackingSet(source, [keys[row] for row in rows], lambda row: clips[rows[row]])


__all__ = ["TrackingSet", "open_tracking_set"]
