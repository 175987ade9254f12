"""Batches of world clips as sen-tiny's towers take them: a batch is a function of seed and step alone.

The first half of a batch holds clips of one object with captions, the second half clips of several objects with
attribute lists. Every picture patch comes with what it shows, for the dense losses.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from transformers import CLIPTokenizer
from transformers.audio_utils import mel_filter_bank, window_function

from modeling_sen.world.drawing import render
from modeling_sen.world.scene import Scene, make_scene
from modeling_sen.world.sound import SAMPLING_RATE, sound_of
from modeling_sen.world.vocabulary import COLOURS, MOTIONS, SHAPES, SIZES
from recipes.sen_tiny.tiny_captions import Attributes, attribute_list, build_tokenizer, draw_attributes, phrase

NUM_FRAMES = 8  # that the video tower sees, of 16
VIDEO_FRAMES = tuple(int((number + 0.5) * 16 / NUM_FRAMES) for number in range(NUM_FRAMES))
MIDDLE_FRAME = 8
PATCH = 8  # pixels
TUBELET = 2  # frames
NUM_MEL_BINS, MAX_LENGTH = 64, 200  # of the log-mel spectrogram; frames of 10 ms
MEL_MEAN, MEL_STD = -6.9, 3.8  # of the world's log-mel values
IGNORED = -100  # label of a patch that shows several things
# Of the dense losses against the contrastive ones. At equal weight shapes stay unlearned for thousands of steps: the
# noise of contrast drowns them until patches know what they show.
DENSE_WEIGHT_FIRST, DENSE_WEIGHT = 50.0, 4.0
EXTRA_CAPTIONS = 96  # a batch, of no clip of the batch: more to tell apart


@dataclass
class TinyBatches:
    """`TinyBatches(...)(step)` is the batch of a step.

    Attributes:
        seed: of the run; step s takes clips s * batch_size ... of the world with this seed.
        batch_size: clips; an even number.
        masked_steps: in the steps before this one the video tower gets half of its tokens, chosen at random.
        dense_steps: in the steps before this one the dense losses weigh `DENSE_WEIGHT_FIRST`, later `DENSE_WEIGHT`.
        split: of the world.
        size: of the pictures, in pixels; the world's own sizes are relative to it.
        purity: share of a patch that one thing must fill to be the patch's label.
        pictures_only: leave out the grey frames and the sound, with their labels.
    """

    seed: int
    batch_size: int
    masked_steps: int = 0
    dense_steps: int = 0
    split: str = "train"
    size: int = 64
    purity: float = 0.5
    pictures_only: bool = False

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return build_tokenizer()

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """One batch of B clips, the first O = B / 2 of one object, with E extra captions.

        Returns:
            `grey` (B, 8, H, W), `image` (B, H, W, 3), `depth` (B, H, W) uint8; `log_mel` (B, 200, 64) float32;
            `one_ids` (O + E, length) int64, captions of the first half, then the extra ones; `one_truth` (O, O + E)
            bool, which caption is true of which clip; `many_ids` (O, length), lists of the second half, and
            `many_truth` (O, O); `image_colour`, `image_shape`, `depth_shape` (B, patches), `video_shape`,
            `video_motion` (B, tokens) int64 labels, 0 background, IGNORED where mixed; `sounding` (B,) int64 colour of
            the sounding object, IGNORED where silent; `dense_weight` () float32; `kept` (B, tokens) bool in masked steps.
        """
        random = np.random.default_rng([self.seed, step])
        half = self.batch_size // 2
        several = int(random.integers(2, 7))  # the same in a batch, so that lists do not differ by their length
        clips = []
        for number in range(self.batch_size):
            count = 1 if number < half else several
            index = step * self.batch_size + number
            scene = make_scene(self.split, self.seed, index, num_objects=count, size=self.size)
            frame = MIDDLE_FRAME if random.random() < 0.5 else int(random.choice(VIDEO_FRAMES))
            clips.append((scene, clip_tensors(scene, frame, self.purity, self.pictures_only)))
        batch = {
            name: torch.from_numpy(np.stack([clip[name] for _, clip in clips])) for name in clips[0][1]
        }  # (batch, ...)
        batch |= self._captions(random, [scene for scene, _ in clips[:half]], [scene for scene, _ in clips[half:]])
        weight = DENSE_WEIGHT_FIRST if step < self.dense_steps else DENSE_WEIGHT
        batch["dense_weight"] = torch.tensor(weight)
        if step < self.masked_steps:
            tokens = batch["video_shape"].shape[1]
            order = np.argsort(random.random((self.batch_size, tokens)), axis=1)
            batch["kept"] = torch.from_numpy(order < tokens // 2)
        return batch

    def _captions(self, random: np.random.Generator, one: list[Scene], many: list[Scene]) -> dict[str, torch.Tensor]:
        facts = [scene_attributes(scene)[0] for scene in one]
        extra = [(*random.integers(0, 8, 3).tolist(), -1) for _ in range(EXTRA_CAPTIONS)]
        named = [draw_attributes(random, fact) for fact in facts] + extra
        lists = [attribute_list(random, scene_attributes(scene)) for scene in many]
        captions, true = np.array(named)[None], np.array(facts)[:, None]  # (1, captions, 4), (clips, 1, 4)
        return {
            "one_ids": self.tokenize([phrase(random, attributes) for attributes in named]),
            "one_truth": torch.from_numpy(((captions == true) | (captions < 0)).all(-1)),
            "many_ids": self.tokenize(lists),
            "many_truth": torch.tensor([[list_ == other for other in lists] for list_ in lists]),
        }

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """(texts, length) int64, padded to the longest."""
        return self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]


def validation_clips(
    num_objects: int, count: int, size: int = 64, pictures_only: bool = False
) -> dict[str, torch.Tensor]:
    """Clips of the validation split at their middle frame, labels only for patches that show one thing: fields as in
    `TinyBatches`, and `attributes` (B, 4) int64 of each clip's first object."""
    clips = []
    for index in range(count):
        scene = make_scene("validation", 0, index, num_objects=num_objects, size=size)
        seen = clip_tensors(scene, MIDDLE_FRAME, purity=0.9, pictures_only=pictures_only)
        clips.append(seen | {"attributes": np.array(scene_attributes(scene)[0])})
    return {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in clips[0]}


def clip_tensors(scene: Scene, frame: int, purity: float, pictures_only: bool = False) -> dict[str, np.ndarray]:
    """What the towers see of one clip, with image and depth at `frame`, and what their patches show."""
    clip = render(scene, (frame,) if pictures_only else (*VIDEO_FRAMES, frame))
    # one row an object, the first for the background, the last (row -1) for patches to be ignored
    labels = np.array([(0, 0, 0), *(np.array(one[:3]) + 1 for one in scene_attributes(scene)), (IGNORED,) * 3])
    shown = patch_objects(clip.masks[-1:], purity)  # (patches,)
    pictures = {
        "image": clip.frames[-1],
        "depth": clip.depth[-1],
        "image_colour": labels[shown, 0],
        "image_shape": labels[shown, 1],
        "depth_shape": labels[shown, 1],
    }
    if pictures_only:
        return pictures
    tubelets = clip.masks[:-1].reshape(-1, TUBELET, scene.size, scene.size)
    shown_over_time = patch_objects(tubelets, purity).reshape(-1)  # (tokens,)
    sprite = scene.sounding_sprite
    return pictures | {
        "grey": luma(clip.frames[:-1]),
        "log_mel": log_mel(sound_of(scene).astype(np.float32) / 32768),
        "video_shape": labels[shown_over_time, 1],
        "video_motion": labels[shown_over_time, 2],
        "sounding": np.array(IGNORED if sprite is None else COLOUR_NUMBER[sprite.colour]),
    }


COLOUR_NUMBER = {name: number for number, name in enumerate(COLOURS)}
SHAPE_NUMBER = {name: number for number, name in enumerate(SHAPES)}
MOTION_NUMBER = {name: number for number, name in enumerate(MOTIONS)}


def scene_attributes(scene: Scene) -> list[Attributes]:
    """Colour, shape, motion and size of every sprite, as indices into the vocabulary."""
    return [
        (
            COLOUR_NUMBER[sprite.colour],
            SHAPE_NUMBER[sprite.shape],
            MOTION_NUMBER[sprite.motion],
            SIZES.index(sprite.size),
        )
        for sprite in scene.sprites
    ]


def patch_objects(masks: np.ndarray, purity: float) -> np.ndarray:
    """What each patch shows: masks (..., T, H, W) uint8 -> (..., H/8 * W/8) int64, -1 where nothing fills `purity`."""
    *leading, frames, height, width = masks.shape
    patches = masks.reshape(*leading, frames, height // PATCH, PATCH, width // PATCH, PATCH)
    patches = np.moveaxis(patches, (-5, -3, -1), (-3, -2, -1))  # (..., rows, columns, frames, 8, 8)
    patches = patches.reshape(*leading, height // PATCH * (width // PATCH), -1)
    shares = np.stack([(patches == number).mean(-1) for number in range(int(masks.max()) + 1)], axis=-1)
    return np.where(shares.max(-1) >= purity, shares.argmax(-1), -1)


def luma(frames: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (...) uint8, ITU-R 601 in 16-bit fixed point as in Pillow's "L"."""
    weighted = frames.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """The values of ASTFeatureExtractor with sen-tiny's settings, all frames at once: (samples,) in [-1, 1] -> (200, 64).

    The extractor goes frame by frame in Python; this is ten times as fast and a test holds it to the same numbers.
    """
    bins, weights, starts, window = _mel_filters()
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), 400)[::160]  # (frames, 400)
    frames = frames - frames.mean(1, keepdims=True)
    emphasised = np.empty_like(frames)
    emphasised[:, 1:] = frames[:, 1:] - 0.97 * frames[:, :-1]
    emphasised[:, 0] = frames[:, 0] * (1 - 0.97)
    spectrum = np.fft.rfft(emphasised * window, 512).astype(np.complex64)
    power = np.abs(spectrum, dtype=np.float64) ** 2.0
    mel = np.add.reduceat(power[:, bins] * weights, starts, axis=1)  # (frames, 64)
    values = np.log(np.maximum(1.192092955078125e-07, mel)).astype(np.float32)
    padded = np.zeros((MAX_LENGTH, NUM_MEL_BINS), dtype=np.float32)
    padded[: len(values)] = values[:MAX_LENGTH]
    return (padded - MEL_MEAN) / (MEL_STD * 2)


@lru_cache
def _mel_filters() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The filters as runs of (frequency bin, weight), where each filter's run starts, and the window.

    Filters are narrow, so this is less work than their matrix product, and it keeps the worker off BLAS, whose idle
    threads would spin on the cores that train.
    """
    filters = mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=NUM_MEL_BINS,
        min_frequency=20,
        max_frequency=SAMPLING_RATE // 2,
        sampling_rate=SAMPLING_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    used = filters.T > 0  # (64, 257)
    used[:, 0] |= ~used.any(1)  # a filter that falls between two bins has a run of one bin with weight 0
    lengths = used.sum(1)
    bins = np.nonzero(used)[1]
    return bins, filters.T[used], np.cumsum(lengths) - lengths, window_function(400, "hann", periodic=False)
