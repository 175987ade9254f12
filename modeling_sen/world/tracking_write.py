"""Writes clips for point tracking in the layout of `write_world`, without sound.

    OUT/settings.json             the preset and the seed
    OUT/metadata.jsonl            one row per clip: file_name, truth_path, preset, seed, index
    OUT/videos/000000.mp4         the clip, H.264
    OUT/truth/000000.json         its row
    OUT/truth/000000.npz          masks, points, visibility, queries, surface, frame_times

The mp4 files are lossy. The exact frames would take 4.7 MB per clip and are not stored;
`tracking_clip(row["preset"], row["seed"])` draws them again.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from modeling_sen.whole_file import whole_file
from modeling_sen.world.mp4 import write_mp4
from modeling_sen.world.scene import FRAMES_PER_SECOND
from modeling_sen.world.tracking_clips import tracking_clip
from modeling_sen.world.tracking_scene import make_tracking_scene
from modeling_sen.world.write import row_path, write_clips


def write_tracking_world(out: str | os.PathLike, preset: str, num: int, seed: int = 0) -> dict[str, Any]:
    """Writes the clips of seeds seed .. seed + num - 1 to a folder. Existing clips are kept.

    The truth contains `masks`, `visibility`, `queries` and `surface` of the `TrackingClip`, its `tracks` as `points`, and
    `frame_times` (T,) float64 seconds.

    Args:
        out: the folder.
        preset: one of `TRACKING_PRESETS`.
        num: number of clips.
        seed: seed of the first clip.

    Returns:
        `{"out", "preset", "seed", "clips", "written", "seconds"}`.

    Raises:
        ValueError: num below 1, an unknown preset, a seed out of range, or a folder with other content.
    """
    if num < 1:
        raise ValueError(f"num is {num}: expected at least 1")
    for last in (seed, seed + num - 1):
        make_tracking_scene(preset, last)  # raises errors in settings before anything is written
    out = Path(out)
    start = time.perf_counter()

    def write_clip(index: int) -> None:
        _write_clip(out, preset, seed + index, index)

    written = write_clips(out, num, {"preset": preset, "seed": seed}, write_clip, preset)
    return {
        "out": str(out),
        "preset": preset,
        "seed": seed,
        "clips": num,
        "written": written,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _write_clip(out: Path, preset: str, seed: int, index: int) -> None:
    name = f"{index:06d}"
    clip = tracking_clip(preset, seed)
    write_mp4(out / "videos" / f"{name}.mp4", clip.frames, FRAMES_PER_SECOND)
    with whole_file(out / "truth" / f"{name}.npz") as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(
            file,
            masks=clip.masks,
            points=clip.tracks,
            visibility=clip.visibility,
            queries=clip.queries,
            surface=clip.surface,
            frame_times=np.arange(len(clip.frames)) / FRAMES_PER_SECOND,
        )
    row = {
        "file_name": f"videos/{name}.mp4",
        "truth_path": f"truth/{name}.npz",
        "preset": preset,
        "seed": seed,
        "index": index,
    }
    with whole_file(row_path(out, index)) as unfinished:
        unfinished.write_text(json.dumps(row) + "\n")
