"""The generated world as a data set in memory: the samples of `sen world`, without encoding to files."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from modeling_sen.world.drawing import render
from modeling_sen.world.scene import FRAMES_PER_SECOND, Scene, make_scene
from modeling_sen.world.sound import SAMPLING_RATE, sound_of
from modeling_sen.world.truth import attribute_caption, caption, objects

# Settings of `WorldClips` and `make_scene` by purpose.
WORLD_PRESETS: dict[str, dict[str, Any]] = {
    "default": {"size": 64, "num_frames": 16, "num_objects": (1, 4)},
    "association": {"size": 64, "num_frames": 16, "num_objects": 3, "hops": 2},
    "tracking": {"size": 256, "num_frames": 24, "num_objects": (2, 6)},
    "tracking_long": {"size": 256, "num_frames": 48, "num_objects": (2, 6)},
}


class WorldClips:
    """Clips 0 .. num - 1 of a split and seed: a map-style data set (for a `DataLoader`) that can also be iterated.

    A sample is a dict: `frames` (T, H, W, 3) uint8, `times` (T,) float64 seconds, `audio` (S,) int16 of the whole
    clip, `sampling_rate`, `masks` and `depth` (T, H, W) uint8, `objects` (list of dicts), `caption`,
    `attribute_caption`, `index`, `split`, and `scene`, from which questions, tracks and edits can be computed.

    Args:
        split: "train", "validation", "test" or "unseen_pairs"; they have no clip in common.
        num: number of clips.
        seed: seed of the clips.
        frame_indices: frames to draw; by default all.
        scene_options: `num_objects`, `size`, `num_frames` and `hops` of `make_scene`.

    Raises:
        ValueError: num below 1, or options that are invalid for `make_scene`.
    """

    def __init__(
        self,
        split: str,
        num: int,
        seed: int = 0,
        *,
        frame_indices: Sequence[int] | None = None,
        **scene_options: Any,
    ) -> None:
        if num < 1:
            raise ValueError(f"num is {num}: expected at least 1")
        self.split = split
        self.num = num
        self.seed = seed
        self.frame_indices = frame_indices
        self.scene_options = scene_options
        self.scene(0)  # raises errors in settings here, and not in a worker

    def __len__(self) -> int:
        return self.num

    def scene(self, index: int) -> Scene:
        """The scene of clip `index`; negative numbers count from the end."""
        if not -self.num <= index < self.num:
            raise IndexError(f"clip {index} of {self.num}")
        return make_scene(self.split, self.seed, index % self.num, **self.scene_options)

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        clip = render(scene, self.frame_indices)
        times = np.arange(scene.num_frames) / FRAMES_PER_SECOND
        return {
            "frames": clip.frames,
            "times": times if self.frame_indices is None else times[list(self.frame_indices)],
            "audio": sound_of(scene),
            "sampling_rate": SAMPLING_RATE,
            "masks": clip.masks,
            "depth": clip.depth,
            "objects": objects(scene),
            "caption": caption(scene),
            "attribute_caption": attribute_caption(scene),
            "index": scene.index,
            "split": scene.split,
            "scene": scene,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(self.num))
