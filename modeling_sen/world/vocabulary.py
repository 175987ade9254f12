"""The vocabulary of the generated world: colours, shapes, motions, sizes and backgrounds, and their descriptions."""

from collections.abc import Mapping
from typing import Any

# Red, green and blue in percent of the sprite's brightness. 0.299 r + 0.587 g + 0.114 b is 100 for every colour, so
# that a grey picture shows a sprite's (random) brightness and not its colour.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (172, 71, 60),
    "yellow": (122, 106, 12),
    "green": (55, 133, 48),
    "cyan": (36, 126, 134),
    "blue": (58, 107, 174),
    "purple": (118, 77, 171),
    "pink": (172, 59, 122),
    "grey": (100, 100, 100),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "heart")
MOTIONS: dict[str, str] = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "still": "staying still",
    "circling": "moving in a circle",
    "shaking": "shaking",
    "bouncing": "bouncing",
}
SIZES: tuple[str, ...] = ("small", "big")
BACKGROUNDS: tuple[str, ...] = ("cloudy", "grainy", "striped", "checked")
NAMES: tuple[str, ...] = ("Anna", "Bruno", "Clara", "David", "Elena", "Felix", "Greta", "Hugo")

SPLITS: tuple[str, ...] = ("train", "validation", "test", "unseen_pairs")

# One shape per colour. These pairs occur only in the split `unseen_pairs`, which has no other pairs.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "heart"),
        ("yellow", "star"),
        ("green", "circle"),
        ("cyan", "triangle"),
        ("blue", "ring"),
        ("purple", "square"),
        ("pink", "cross"),
        ("grey", "diamond"),
    }
)

# In hertz. Half an octave apart and in no simple ratio, so that overtones do not match other colours.
PITCHES: dict[str, int] = {
    "red": 250,
    "yellow": 350,
    "green": 490,
    "cyan": 690,
    "blue": 970,
    "purple": 1360,
    "pink": 1900,
    "grey": 2660,
}


def describe(item: Any, size: bool = False) -> str:
    """Describes an object: `"a red circle moving left"`, or with its size `"a big red circle moving left"`.

    Args:
        item: a `Sprite` or a mapping with `colour`, `shape`, `motion` and, if `size` is set, `size`.
        size: whether to name the size.
    """
    values = item if isinstance(item, Mapping) else vars(item)
    words = [values["size"]] if size else []
    return " ".join(["a", *words, values["colour"], values["shape"], MOTIONS[values["motion"]]])


def all_descriptions() -> list[str]:
    """The 512 descriptions of one object; colour varies slowest, then shape, then motion."""
    return [
        describe({"colour": colour, "shape": shape, "motion": motion})
        for colour in COLOURS
        for shape in SHAPES
        for motion in MOTIONS
    ]
