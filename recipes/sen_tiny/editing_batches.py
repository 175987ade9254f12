"""Batches of captioned world frames for sen-tiny-edit: a batch is a function of seed and step alone."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from modeling_sen.world import (
    BACKGROUNDS,
    MOTIONS,
    Scene,
    all_descriptions,
    caption,
    make_scene,
    render,
)
from recipes.sen_tiny.editing_network import LATENT_SHAPE, TRAIN_TIMESTEPS
from recipes.sen_tiny.tiny_captions import learn_tokenizer

# From which part of the run on frames have so many objects: which colour belongs to which shape is learnt from several,
# what colours and shapes are is learnt faster from one.
CURRICULUM = ((0.0, (1, 1)), (0.2, (1, 2)), (0.4, (1, 3)))
EMPTY = 0.1  # share of frames with the empty caption, for guidance
WITH_MOTION, WITH_BACKGROUND = 0.75, 0.6  # share of the other captions that name them
VOCABULARY_SIZE = 1024  # more than enough for one token a word


@dataclass
class EditingBatches:
    """`EditingBatches(...)(step)` is the batch of a step.

    Attributes:
        seed: of the run; step s takes clips s * batch_size ... of the world with this seed.
        batch_size: frames, each of another clip.
        steps: of the run, for the curriculum; 0 for frames as after its end.
        split: of the world.
        num_objects: instead of the curriculum.
    """

    seed: int
    batch_size: int
    steps: int = 0
    split: str = "train"
    num_objects: int | tuple[int, int] | None = None

    def __call__(self, step: int) -> dict[str, Tensor]:
        """One batch of B frames.

        Returns:
            `frames` (B, 64, 64, 3) uint8; `input_ids` (B, 77) int64; `timesteps` (B,) int64, one in each of B equal parts
            of the schedule; `noise` (B, 48, 16, 16) float32, normal.
        """
        random = np.random.default_rng([self.seed, step])
        several = self.num_objects or self.objects_at(step)
        frames, captions = [], []
        for index in range(step * self.batch_size, (step + 1) * self.batch_size):
            scene = make_scene(self.split, self.seed, index, num_objects=several)
            frames.append(render(scene, [random.integers(scene.num_frames)]).frames[0])
            captions.append(drawn_caption(random, scene))
        places = (random.permutation(self.batch_size) + random.random(self.batch_size)) / self.batch_size
        return {
            "frames": torch.from_numpy(np.stack(frames)),
            "input_ids": token_ids(captions),
            "timesteps": torch.from_numpy((places * TRAIN_TIMESTEPS).astype(np.int64)),
            "noise": torch.from_numpy(random.standard_normal((self.batch_size, *LATENT_SHAPE), dtype=np.float32)),
        }

    def objects_at(self, step: int) -> tuple[int, int]:
        """The least and the most objects of the frames of a step."""
        done = step / self.steps if self.steps else 1.0
        return [objects for start, objects in CURRICULUM if done >= start][-1]


def drawn_caption(random: np.random.Generator, scene: Scene) -> str:
    """The scene's caption, with or without motions and background, or the empty caption."""
    is_empty, with_motion, with_background = random.random(3) < (EMPTY, WITH_MOTION, WITH_BACKGROUND)
    if is_empty:
        return ""
    words = caption(scene)
    if not with_motion:
        for motion in MOTIONS.values():
            words = words.replace(f" {motion}", "")
    return over_background(words, scene) if with_background else words


def over_background(words: str, scene: Scene) -> str:
    """A caption with the background behind it, as prompts of background edits have it."""
    return f"{words} over a {scene.background.kind} background"


def token_ids(captions: list[str]) -> Tensor:
    """(captions, 77) int64, padded."""
    return cached_tokenizer()(captions, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


@cache
def cached_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with one token for each word of captions, edit prompts and backgrounds, made once a process."""
    backgrounds = [f"make the background {kind}, and over a {kind} background" for kind in BACKGROUNDS]
    return learn_tokenizer([*all_descriptions(), *backgrounds], VOCABULARY_SIZE)
