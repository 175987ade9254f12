"""Clips of the association-depth task as arrays: what each encoder sees, and what is true.

The sound tells a colour, the image which shape has that colour, the grey video how that shape moves, and a legend in words
who moves so: "what shape is the sounding object" takes one hop, "how does it move" two, "who is it" three.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modeling_sen.whole_file import whole_file
from modeling_sen.world.drawing import render
from modeling_sen.world.scene import MAX_OBJECTS, Scene, make_scene
from modeling_sen.world.sound import SAMPLING_RATE, sound_of
from modeling_sen.world.truth import legend
from modeling_sen.world.vocabulary import COLOURS, MOTIONS, NAMES, SHAPES
from recipes.sen_tiny.tiny_batches import (
    IGNORED,
    MIDDLE_FRAME,
    VIDEO_FRAMES,
    log_mel,
    luma,
    patch_objects,
    scene_attributes,
)

# What is asked, by hops: each attribute has eight values. The words of all of them, in this order, are the text space.
ATTRIBUTES = ("colour", "shape", "motion", "name")
WORDS: tuple[str, ...] = (*COLOURS, *SHAPES, *MOTIONS.values(), *NAMES)
VALUES = 8
OBJECTS = (3, 8)  # the least and the most in a clip
MEL_FRAMES = 96  # about a second of sound tells its pitch
SHARD = 500  # clips a file

LEGEND_LENGTH = 40  # tokens of the longest legend
_LEGEND_WORDS = sorted({"is", ".", *(word.lower() for word in NAMES), *" ".join(MOTIONS.values()).split()})
LEGEND_VOCABULARY = {word: number for number, word in enumerate(["[PAD]", *_LEGEND_WORDS])}


def clip_arrays(scene: Scene) -> dict[str, np.ndarray]:
    """What the four encoders see of one clip, and the truth.

    Returns:
        `image` (H, W, 3) uint8, the middle frame; `grey` (8, H, W) uint8; `log_mel` (96, 64) float16; `legend_ids` (40,)
        uint8, 0 where padded; `attributes` (8, 4) int8: colour, shape, motion and name of each object, -1 behind the last;
        `sounding` () int8, the object asked for. For local towers, (patches,) int8, 0 for background and `IGNORED` where
        mixed: `image_colour`, `image_shape`, and `video_shape`, `video_motion` of what covers most of a patch over time;
        `legend_motion` (40,) int8: at each name's token the value of its motion plus one, `IGNORED` elsewhere.
    """
    clip = render(scene, (*VIDEO_FRAMES, MIDDLE_FRAME))
    attributes = np.full((MAX_OBJECTS, len(ATTRIBUTES)), -1)
    for number, (sprite, values) in enumerate(zip(scene.sprites, scene_attributes(scene), strict=True)):
        attributes[number] = (*values[:3], NAMES.index(sprite.name))
    labels = np.array([(0,) * 4, *(attributes[: len(scene.sprites)] + 1), (IGNORED,) * 4])  # the last for index -1
    seen = labels[patch_objects(clip.masks[-1:], purity=0.5)]  # (patches, attributes)
    moving = labels[_tube_objects(clip.masks[:-1])]
    ids, motions = legend_tokens(scene)
    second = sound_of(scene)[: MEL_FRAMES * SAMPLING_RATE // 100 + 240].astype(np.float32) / 32768
    return {
        "image": clip.frames[-1],
        "grey": luma(clip.frames[:-1]),
        "log_mel": log_mel(second)[:MEL_FRAMES].astype(np.float16),
        "legend_ids": ids,
        "attributes": attributes.astype(np.int8),
        "sounding": np.array(scene.sounding, dtype=np.int8),
        "image_colour": seen[:, 0].astype(np.int8),
        "image_shape": seen[:, 1].astype(np.int8),
        "video_shape": moving[:, 1].astype(np.int8),
        "video_motion": moving[:, 2].astype(np.int8),
        "legend_motion": motions,
    }


def _tube_objects(masks: np.ndarray) -> np.ndarray:
    """(T, H, W) masks -> (patches,): the object that covers most of a patch over all frames, 0 where hardly any does, -1
    where it is too little to tell by."""
    frames, height, width = masks.shape
    patches = masks.reshape(frames, height // 8, 8, width // 8, 8).transpose(1, 3, 0, 2, 4).reshape(-1, frames * 64)
    shares = np.stack([(patches == number + 1).mean(-1) for number in range(int(masks.max()))], axis=-1)
    most = shares.max(-1)
    return np.where(most >= 0.2, shares.argmax(-1) + 1, np.where(most < 0.05, 0, -1))


def legend_tokens(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """(40,) uint8 token ids of the legend, and (40,) int8 its motion (plus one) at each name's token."""
    words = legend(scene).lower().replace(".", " .").split()
    motion_of = {sprite.name.lower(): tuple(MOTIONS).index(sprite.motion) + 1 for sprite in scene.sprites}
    ids, motions = np.zeros(LEGEND_LENGTH, dtype=np.uint8), np.full(LEGEND_LENGTH, IGNORED, dtype=np.int8)
    ids[: len(words)] = [LEGEND_VOCABULARY[word] for word in words]
    motions[: len(words)] = [motion_of.get(word, IGNORED) for word in words]
    return ids, motions


def legend_names(ids: np.ndarray) -> np.ndarray:
    """(clips, 40) int8: at each word of a sentence but its name the value of that name plus one, `IGNORED` elsewhere.

    Args:
        ids: (clips, 40) uint8 token ids of legends.
    """
    value_of = np.zeros(len(LEGEND_VOCABULARY), dtype=np.int8)
    for value, name in enumerate(NAMES):
        value_of[LEGEND_VOCABULARY[name.lower()]] = value + 1
    values = value_of[ids]
    starts = np.maximum.accumulate(np.where(values > 0, np.arange(ids.shape[1]), 0), axis=1)  # of each word's sentence
    return np.where((ids > 0) & (values == 0), np.take_along_axis(values, starts, axis=1), IGNORED).astype(np.int8)


def association_scene(split: str, seed: int, index: int, objects: int | None = None) -> Scene:
    """A clip in which one object sounds; with the number of objects drawn between 3 and 8 where it is not given."""
    return make_scene(split, seed, index, num_objects=objects or OBJECTS, hops=2)


def write_clips(
    folder: Path, split: str, seed: int, count: int, objects: int | None = None, workers: int | None = None
) -> None:
    """Writes the first `count` clips of a split as shards of 500 to `folder`; shards that are there are kept.

    Raises:
        ValueError: `count` is no multiple of 500.
    """
    if count % SHARD:
        raise ValueError(f"count is {count}, expected a multiple of {SHARD}")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(count // SHARD) if not _shard(folder, number).exists()]
    jobs = [(folder, split, seed, number, objects) for number in missing]
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool, tqdm(total=len(jobs), desc=folder.name) as progress:
        for _ in pool.map(_write_shard, jobs):
            progress.update()


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.npz"


def _write_shard(job: tuple[Path, str, int, int, int | None]) -> None:
    folder, split, seed, number, objects = job
    scenes = (association_scene(split, seed, number * SHARD + offset, objects) for offset in range(SHARD))
    clips = [clip_arrays(scene) for scene in scenes]
    with whole_file(_shard(folder, number)) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.stack([clip[name] for clip in clips]) for name in clips[0]})


def read_clips(folder: Path, count: int, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The first `count` clips of a folder, all fields or those asked for: name -> (count, ...).

    Raises:
        FileNotFoundError: the folder holds fewer clips.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for number in range(-(-count // SHARD)):
        path = _shard(folder, number)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; {count} clips were expected in {folder}")
        with np.load(path) as shard:
            for name in fields or shard.files:
                parts.setdefault(name, []).append(shard[name])
    return {name: np.concatenate(arrays)[:count] for name, arrays in parts.items()}


def present_words(attributes: np.ndarray) -> np.ndarray:
    """(clips, 8, 4) attributes -> (clips, 32) bool: which words are true of some object of the clip."""
    found = np.zeros((len(attributes), len(ATTRIBUTES), VALUES + 1), dtype=bool)
    clips, _, parts = np.indices(attributes.shape)
    found[clips, parts, attributes] = True  # -1 marks the ninth value, that of no object
    return found[..., :VALUES].reshape(len(attributes), -1)


def target_values(attributes: np.ndarray, sounding: np.ndarray) -> np.ndarray:
    """(clips, 4) int64: colour, shape, motion and name of the object asked for."""
    return attributes[np.arange(len(attributes)), sounding].astype(np.int64)
