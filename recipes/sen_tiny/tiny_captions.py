"""The words sen-tiny is taught with: captions of one-object clips, attribute lists of the others, and the tokenizer.

A caption of one object is drawn from many phrasings and names a random part of its attributes. A list names attributes
of a clip of several objects in random order, so that a tower learns what a clip contains, not what belongs to what.
"""

import itertools
import json
from collections.abc import Iterable

import numpy as np
from transformers import CLIPTokenizer

from modeling_sen.world.vocabulary import COLOURS, MOTIONS, SHAPES, SIZES

# colour, shape, motion, size as indices into the vocabulary; -1 where a caption does not name it
Attributes = tuple[int, int, int, int]
COLOUR_NAMES, MOTION_PHRASES = tuple(COLOURS), tuple(MOTIONS.values())

ARTICLES = ("a", "a", "a", "the", "")
NOUNS = ("object", "thing", "shape", "sprite")
TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "a video of {}",
    "a video of {}",
    "a video of {}.",
    "a clip of {}",
    "a clip showing {}",
    "a short clip with {}",
    "this is {}",
    "there is {}",
    "one sees {}",
    "a photo of {}",
    "a picture of {}",
    "the sound of {}",
    "a depth map of {}",
)
LIST_TEMPLATES = ("{}", "{}", "a video with {}", "a clip that shows {}")
MAX_LENGTH = 77  # tokens
VOCABULARY_SIZE = 640


def draw_attributes(random: np.random.Generator, full: Attributes) -> Attributes:
    """Which attributes a caption names: all but the size in half of the captions, a random part of them in the rest."""
    colour, shape, motion, size = full
    if random.random() >= 0.5:
        named = random.integers(1, 8)
        colour, shape, motion = (
            value if named >> bit & 1 else -1 for bit, value in enumerate((colour, shape, motion))
        )
    return colour, shape, motion, size if random.random() < 0.15 else -1


def phrase(random: np.random.Generator, attributes: Attributes) -> str:
    """One way to say it: `"a video of a red circle moving left"`, `"something red"`, `"moving left"`."""
    colour, shape, motion, size = attributes
    looks = [SIZES[size]] * (size >= 0) + [COLOUR_NAMES[colour]] * (colour >= 0)
    moves = [MOTION_PHRASES[motion]] * (motion >= 0)
    if shape >= 0:
        words = [_pick(random, ARTICLES), *looks, SHAPES[shape], *moves]
    elif random.random() < 0.5:
        words = [_pick(random, ARTICLES), *looks, _pick(random, NOUNS), *moves]
    elif random.random() < 0.5:
        words = ["something", *looks, *moves]
    else:
        words = [*looks, *moves]
    return _pick(random, TEMPLATES).format(" ".join(word for word in words if word))


def attribute_list(random: np.random.Generator, objects: Iterable[Attributes]) -> str:
    """Four in five of all colours, shapes and motions, in random order: `"ring, blue, bouncing, red"`."""
    words = [
        names[value]
        for one in objects
        for names, value in zip((COLOUR_NAMES, SHAPES, MOTION_PHRASES), one, strict=False)
        if random.random() < 0.8
    ] or [SHAPES[next(iter(objects))[1]]]
    return _pick(random, LIST_TEMPLATES).format(", ".join(random.permutation(words)))


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of sen-tiny, learned from captions of the world."""
    random = np.random.default_rng(0)
    everything = itertools.product(range(len(COLOUR_NAMES)), range(len(SHAPES)), range(len(MOTION_PHRASES)), range(2))
    full = [attributes for attributes in everything for _ in range(4)]
    captions = [phrase(random, draw_attributes(random, attributes)) for attributes in full]
    captions += [attribute_list(random, full[start : start + 3]) for start in range(0, len(full), 3)]
    return learn_tokenizer(captions, VOCABULARY_SIZE)


def learn_tokenizer(captions: Iterable[str], vocabulary_size: int) -> CLIPTokenizer:
    """CLIP's own byte-level tokenizer with merges learned from captions: any text gets tokens, none is unknown.

    Args:
        vocabulary_size: at most so many merges as fill it; the bytes, with and without the end of a word, are 512 of it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_and_endings = alphabet + [byte + "</w>" for byte in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size - 2,
            initial_alphabet=bytes_and_endings[:256],
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    pieces = dict.fromkeys(bytes_and_endings + ["".join(merge) for merge in merges])
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)  # type: ignore[arg-type]


def _pick(random: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[random.integers(len(choices))]
