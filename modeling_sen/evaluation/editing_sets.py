# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Opens sets of edited videos: tables, folders with a table, submissions to LOVEU-TGVE-2023, exact edits of the world."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from modeling_sen.evaluation.editing_alignment import check_pair
from modeling_sen.evaluation.editing_loveu import FRAME_SIZE, LoveuEdit, read_loveu
from modeling_sen.evaluation.measure import draw_rows
from modeling_sen.tracking.clip_frames import read_all_frames
from modeling_sen.training.data import TABLE_SUFFIXES, file_key, read_table, world_clips
from modeling_sen.world.drawing import render
from modeling_sen.world.edits import EDITED_ATTRIBUTES, edit_attribute

COLUMNS = ("source", "edited", "source_prompt", "edit_prompt")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LOVEU = "loveu:"


@dataclass(frozen=True)
class EditedVideo:
    """An edited video and its source.

    Attributes:
        source, edited: (T, H, W, 3) uint8 of equal shape.
        source_prompt, edit_prompt: descriptions of the two videos.
        mask: (T, H, W) bool, true where the edit may change pixels; `None` if unknown.
    """

    source: np.ndarray
    edited: np.ndarray
    source_prompt: str
    edit_prompt: str
    mask: np.ndarray | None


@dataclass(frozen=True)
class EditingSet:
    """A set of edited videos.

    Attributes:
        source: name in error messages.
        keys: identifier of each edited video, which changes when a file changes.
        kinds: kind of each edit, such as "style"; "" if unknown.
        read: row -> the edited video.
    """

    source: str
    keys: Sequence[str]
    kinds: Sequence[str]
    read: Callable[[int], EditedVideo]


def open_editing_set(source: str, num: int | None = None, seed: int = 0) -> EditingSet:
    """Opens a set of edited videos.

    Args:
        source: one of
            - a table (csv, jsonl or parquet) with the columns `source`, `edited`, `source_prompt`, `edit_prompt`, and
              optionally `mask` and `kind`; or a folder with such a table named `edits`. Paths are relative to the table and
              refer to video files or folders of images in order of their names; a mask may be one image for all frames. The
              edit may change pixels where a mask of images is not 0, or a mask video is at least 128.
            - `loveu:SUBMISSION?configs=FOLDER&data=FOLDER`, see [`read_loveu`]. Frames are resized to 480 x 480, as in its
              own evaluation.
            - `world:SPLIT?num=24&num_objects=1-3&seed=0`: exact edits of the generated world, one each of colour, shape and
              background for each clip, as from a perfect editor.
        num: number of edited videos, drawn by `seed`; by default all.
        seed: seed of the draw.

    Raises:
        FileNotFoundError: no such source, or a listed file does not exist.
        ValueError: no such column, an empty cell, or unknown settings.
    """
    if source.startswith("world:"):
        opened = _open_world(source)
    elif source.startswith(LOVEU):
        opened = _open_loveu(source)
    else:
        opened = _open_table(source)
    count = len(opened.keys)
    if num is None or num >= count:
        return opened
    rows = draw_rows(count, num, seed)
    return EditingSet(
        source,
        [opened.keys[row] for row in rows],
        [opened.kinds[row] for row in rows],
        lambda row: opened.read(rows[row]),
    )


def _open_world(source: str) -> EditingSet:
    clips = world_clips(source)
    edits = [(row, attribute) for row in range(clips.num) for attribute in EDITED_ATTRIBUTES]

    def read(number: int) -> EditedVideo:
        row, attribute = edits[number]
        scene = clips.scene(row)
        change = edit_attribute(scene, attribute)
        before, after = render(scene).frames, render(change.scene).frames
        mask = (before != after).any(axis=-1)
        return EditedVideo(before, after, change.source_prompt, change.target_prompt, mask)

    return EditingSet(source, [f"{source}:{row}:{name}" for row, name in edits], [name for _, name in edits], read)


def _open_loveu(source: str) -> EditingSet:
    submission, _, query = source.removeprefix(LOVEU).partition("?")
    options = dict(parse_qsl(query))
    if not submission or set(options) != {"configs", "data"}:
        raise ValueError(f"{source}: expected loveu:SUBMISSION?configs=FOLDER&data=FOLDER")
    edits = read_loveu(options["configs"], submission, options["data"])

    def read(row: int) -> EditedVideo:
        edit: LoveuEdit = edits[row]
        before, after = (_read_frames(folder, FRAME_SIZE) for folder in (edit.source, edit.edited))
        return _checked(str(edit.edited), before, after, edit.source_prompt, edit.edit_prompt, None)

    return EditingSet(
        source, [_pair_key(edit.source, edit.edited, None) for edit in edits], [edit.kind for edit in edits], read
    )


def _open_table(source: str) -> EditingSet:
    path = Path(source)
    if path.is_dir():
        tables = [path / f"edits{suffix}" for suffix in TABLE_SUFFIXES]
        path = next((table for table in tables if table.is_file()), path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{source}: expected a table of edits, a folder with edits.csv, .jsonl or .parquet, loveu:... or world:..."
        )
    columns = read_table(path)
    for name in COLUMNS:
        if name not in columns:
            raise ValueError(f"{path}: no column {name!r}, only {', '.join(columns) or 'none at all'}")
        for row, cell in enumerate(columns[name]):
            if not isinstance(cell, str) or not cell.strip():
                raise ValueError(f"{path}, row {row}, column {name!r}: expected text, found {cell!r}")
    count = len(columns["source"])
    if not count:
        raise ValueError(f"{path}: expected at least one row, found none")
    files: dict[str, list[Path | None]] = {}
    for name in ("source", "edited", "mask"):
        cells = columns.get(name, [None] * count)
        files[name] = [path.parent / cell.strip() if cell else None for cell in cells]
        for row, file in enumerate(files[name]):
            if file is not None and not file.exists():
                raise FileNotFoundError(f"{path}, row {row}, column {name!r}: no such file or folder {file}")

    def read(row: int) -> EditedVideo:
        before, after, hidden = (files[name][row] for name in ("source", "edited", "mask"))
        assert before is not None
        assert after is not None
        source_frames, edited_frames = _read_frames(before), _read_frames(after)
        mask = None if hidden is None else _read_mask(hidden, source_frames.shape[:3])
        source_prompt, edit_prompt = (columns[name][row].strip() for name in ("source_prompt", "edit_prompt"))
        return _checked(f"{path}, row {row}", source_frames, edited_frames, source_prompt, edit_prompt, mask)

    keys = [_pair_key(*row) for row in zip(files["source"], files["edited"], files["mask"], strict=True)]
    prompts = zip(columns["source_prompt"], columns["edit_prompt"], strict=True)
    keys = [f"{key}:{before}:{after}" for key, (before, after) in zip(keys, prompts, strict=True)]
    kinds = [str(kind or "") for kind in columns.get("kind", [""] * count)]
    return EditingSet(source, keys, kinds, read)


def _checked(
    place: str, source: np.ndarray, edited: np.ndarray, source_prompt: str, edit_prompt: str, mask: np.ndarray | None
) -> EditedVideo:
    try:
        check_pair(source, edited)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return EditedVideo(source, edited, source_prompt, edit_prompt, mask)


def _read_frames(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """(T, H, W, 3) uint8 of a video file or a folder of images, resized to (width, height)."""
    if not path.is_dir():
        return read_all_frames(str(path))
    frames = []
    for file in _images(path):
        with Image.open(file) as image:
            picture = image.convert("RGB")
        frames.append(np.asarray(picture if size is None or picture.size == size else picture.resize(size)))
        if frames[-1].shape != frames[0].shape:
            raise ValueError(
                f"{file}: expected an image of (H, W) {frames[0].shape[:2]}, found {frames[-1].shape[:2]}"
            )
    return np.stack(frames)


def _read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """(T, H, W) bool of a video file, a folder of images, or one image."""
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        pictures = []
        for file in _images(path) if path.is_dir() else [path]:
            with Image.open(file) as image:  # in palette images, the index identifies the object, not the colour
                values = np.asarray(image if image.mode in ("P", "L", "1", "I;16") else image.convert("RGB"))
            pictures.append(values.reshape(*values.shape[:2], -1).any(axis=-1))
        if len(pictures) == 1:
            pictures *= shape[0]
    else:
        pictures = [(frame >= 128).any(axis=-1) for frame in read_all_frames(str(path))]
    sizes = {picture.shape for picture in pictures}
    if len(pictures) != shape[0] or sizes != {shape[1:]}:
        found = ", ".join(map(str, sorted(sizes)))
        raise ValueError(
            f"mask {path}: expected {shape[0]} frames of (H, W) {shape[1:]}, found {len(pictures)} of {found}"
        )
    return np.stack(pictures)


def _images(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: expected images ending in {', '.join(IMAGE_SUFFIXES)}, found none")
    return files


def _pair_key(*paths: Path | None) -> str:
    """Key of files, and of folders with their images."""
    digest = hashlib.sha1()
    for path in paths:
        for file in [] if path is None else _images(path) if path.is_dir() else [path]:
            digest.update(file_key(file).encode())
        digest.update(b"\0")
    return digest.hexdigest()


__all__ = ["EditedVideo", "EditingSet", "open_editing_set"]
