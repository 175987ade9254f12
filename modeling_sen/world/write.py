"""Writes the generated world as mp4 files with sound, their truth, and a table for `datasets`.

    OUT/settings.json             the settings of the clips
    OUT/metadata.jsonl            one row per clip: file_name, caption, objects, questions, edit prompts, truth paths
    OUT/videos/000000.mp4         the clip, H.264 and AAC
    OUT/truth/000000.json         its row
    OUT/truth/000000.npz          masks, depth, points, visibility, frame_times, edited_masks
    OUT/truth/000000_edited.mp4   the edited clip, with the sound of the clip

`load_dataset("videofolder", data_dir=OUT)` has one example per row of metadata.jsonl.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_sen.whole_file import whole_file
from modeling_sen.world.dataset import WorldClips
from modeling_sen.world.drawing import render
from modeling_sen.world.edits import edit
from modeling_sen.world.mp4 import write_mp4
from modeling_sen.world.scene import FRAMES_PER_SECOND, Scene
from modeling_sen.world.sound import SAMPLING_RATE, sound_of
from modeling_sen.world.tracks import tracks
from modeling_sen.world.truth import attribute_caption, caption, legend, objects, questions


def parse_objects(text: str | None) -> int | tuple[int, int] | None:
    """`"3"` -> 3, `"1-4"` -> (1, 4)."""
    if text is None:
        return None
    low, dash, high = text.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise ValueError(f"--objects is {text!r}: expected a number such as 3 or a range such as 1-4")
    return (int(low), int(high)) if dash else int(low)


def write_world(out: str | os.PathLike, split: str, num: int, seed: int = 0, **scene_options: Any) -> dict[str, Any]:
    """Writes clips 0 .. num - 1 to a folder. Existing clips are kept, so that an interrupted run can resume.

    Args:
        out: the folder.
        split, num, seed: of `WorldClips`.
        scene_options: `num_objects`, `size`, `num_frames` and `hops` of `make_scene`.

    Returns:
        `{"out", "split", "seed", "clips", "written", "seconds"}`.

    Raises:
        ValueError: settings that are invalid for `WorldClips`, an odd size, or a folder with other content.
    """
    clips = WorldClips(split, num, seed, **scene_options)
    if scene_options.get("size", 64) % 2:
        raise ValueError(f"size is {scene_options['size']} pixels: H.264 supports only even sizes")
    out = Path(out)
    start = time.perf_counter()
    settings = {"split": split, "seed": seed, **scene_options}
    written = write_clips(out, num, settings, lambda index: _write_clip(out, clips.scene(index)), split)
    return {
        "out": str(out),
        "split": split,
        "seed": seed,
        "clips": num,
        "written": written,
        "seconds": round(time.perf_counter() - start, 2),
    }


def write_clips(out: Path, num: int, settings: dict[str, Any], write_clip: Callable[[int], None], name: str) -> int:
    """Writes the missing clips of a folder, and the table of all.

    Args:
        out: the folder.
        num: number of clips.
        settings: settings of the clips, which must be the same for all clips of a folder.
        write_clip: writes the files of the clip with this index, and lastly its row to `row_path`.
        name: name of the clips for the progress bar.

    Returns:
        The number of clips written now.

    Raises:
        ValueError: a folder with other content.
    """
    _check_and_write_settings(out, settings)
    for folder in ("videos", "truth"):
        (out / folder).mkdir(exist_ok=True)
    missing = [index for index in range(num) if not row_path(out, index).exists()]
    try:
        for index in tqdm(missing, desc=f"{name} clips", unit="clip", disable=None):
            write_clip(index)
    finally:  # after an interruption, the table lists the complete clips
        rows = [row_path(out, index) for index in range(num)]
        table = "".join(row.read_text() for row in rows if row.exists())
        with whole_file(out / "metadata.jsonl") as unfinished:
            unfinished.write_text(table)
    return len(missing)


def row_path(out: Path, index: int) -> Path:
    """Path of the row of a clip, which exists only if the clip is complete."""
    return out / "truth" / f"{index:06d}.json"


def _write_clip(out: Path, scene: Scene) -> None:
    """Writes the files of a clip, with the row last to mark it as complete."""
    name = f"{scene.index:06d}"
    clip, sound, change = render(scene), sound_of(scene), edit(scene)
    edited = render(change.scene)
    points, visibility = tracks(scene, masks=clip.masks)
    write_mp4(out / "videos" / f"{name}.mp4", clip.frames, FRAMES_PER_SECOND, sound, SAMPLING_RATE)
    write_mp4(out / "truth" / f"{name}_edited.mp4", edited.frames, FRAMES_PER_SECOND, sound, SAMPLING_RATE)
    truth = out / "truth" / f"{name}.npz"
    with whole_file(truth) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(
            file,
            masks=clip.masks,
            depth=clip.depth,
            points=points,
            visibility=visibility,
            frame_times=np.arange(scene.num_frames) / FRAMES_PER_SECOND,
            edited_masks=edited.masks,
        )
    row = {
        "file_name": f"videos/{name}.mp4",
        "caption": caption(scene),
        "attribute_caption": attribute_caption(scene),
        "legend": legend(scene),
        "objects": objects(scene),
        "questions": [asdict(question) for question in questions(scene)],
        "source_prompt": change.source_prompt,
        "edit_prompt": change.edit_prompt,
        "target_prompt": change.target_prompt,
        "edited_object": change.sprite,
        "edited_path": f"truth/{name}_edited.mp4",
        "truth_path": f"truth/{name}.npz",
        "split": scene.split,
        "seed": scene.seed,
        "index": scene.index,
    }
    with whole_file(row_path(out, scene.index)) as unfinished:
        unfinished.write_text(json.dumps(row) + "\n")


def _check_and_write_settings(out: Path, settings: dict[str, Any]) -> None:
    path = out / "settings.json"
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if path.exists():
        found = json.loads(path.read_text())
        if found != settings:
            raise ValueError(f"{out} holds clips drawn with {found}, not with {settings}: choose another folder")
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: expected a folder")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no settings.json of the world: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(settings, indent=2) + "\n")
