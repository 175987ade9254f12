# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Folders of videos as arguments of commands: the videos in them, and names for their outputs."""

from collections.abc import Sequence
from pathlib import Path

from modeling_sen.training.data import VIDEO_SUFFIXES


def listed_videos(videos: Sequence[str]) -> list[str]:
    """Replaces each folder by the videos in it and in its subfolders, sorted by path; other arguments are unchanged.

    Raises:
        ValueError: a folder without videos.
    """
    listed: list[str] = []
    for video in videos:
        if not Path(video).is_dir():
            listed.append(video)
            continue
        found = sorted(str(path) for path in Path(video).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise ValueError(f"{video}: expected a video or a folder of videos, found a folder without any")
        listed += found
    return listed


def named_videos(video: str) -> dict[str, str]:
    """The video, or those of a folder, with what is added to the name of its output: `""`, or its path in the folder.

    Raises:
        ValueError: a folder without videos, or with two whose names differ only in the suffix.
    """
    if not Path(video).is_dir():
        return {video: ""}
    names = {found: "-".join(Path(found).relative_to(video).with_suffix("").parts) for found in listed_videos([video])}
    if same := sorted(found for found, name in names.items() if list(names.values()).count(name) > 1):
        raise ValueError(f"{video}: {same[0]} and {same[1]} would have the same output, expected different names")
    return names


def output_for(output: Path, name: str) -> Path:
    """The output with a name of `named_videos` added.

    >>> output_for(Path("tracks.csv"), "day1-a").name, output_for(Path("tracks.csv"), "").name
    ('tracks-day1-a.csv', 'tracks.csv')
    """
    return output.with_name(f"{output.stem}-{name}{output.suffix}") if name else output


__all__ = ["listed_videos", "named_videos", "output_for"]
