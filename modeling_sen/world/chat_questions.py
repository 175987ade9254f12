"""Chat questions about a clip of the generated world, with exact answers.

Each question uses one of several phrasings. Phrasings and false statements are drawn from the scene's random stream, so a
scene always has the same questions. Ambiguous questions are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from modeling_sen.world.scene import UNIT, IntegerStream, Scene, Sprite, positions
from modeling_sen.world.truth import NUMBERS
from modeling_sen.world.vocabulary import COLOURS, HELD_OUT_PAIRS, MOTIONS, SHAPES

Item = TypeVar("Item")
KINDS = ("colour", "shape", "motion", "count", "order", "sound", "yes_no", "two_hop")
COLOUR_OPTIONS, MOTION_OPTIONS, YES_NO = tuple(COLOURS), tuple(MOTIONS.values()), ("yes", "no")
MARGIN = 6  # smallest distance, in pixels of a 64-pixel picture, between the centres of objects beside each other
# Preposition, comparative, axis (0 is x, 1 is y), whether the first object has the smaller coordinate.
SIDES = (
    ("left of", "further left", 0, True),
    ("right of", "further right", 0, False),
    ("above", "higher up", 1, True),
    ("below", "lower down", 1, False),
)

COLOUR_PHRASINGS = (
    "what colour is {}?",
    "which colour does {} have?",
    "what is the colour of {}?",
    "tell me the colour of {}.",
)
SHAPE_PHRASINGS = (
    "what shape is {}?",
    "which shape does {} have?",
    "what is the shape of {}?",
    "tell me the shape of {}.",
)
MOTION_PHRASINGS = ("how does {} move?", "what is {} doing?", "how is {} moving?", "describe the movement of {}.")
COUNT_PHRASINGS = (
    "how many objects are there?",
    "how many objects do you see?",
    "count the objects.",
    "what is the number of objects?",
)
WHICH_SOUNDS = ("which object sounds?", "which object makes the sound?", "where does the sound come from?")
SOUNDING = ("the sounding object", "the object that sounds", "the object that makes the sound")


@dataclass(frozen=True)
class ChatQuestion:
    """A question about one clip.

    Attributes:
        question: a sentence without capital letters.
        answer: a short phrase without capital letters, one of `options`.
        options: all possible answers to a question of this form.
        kind: one of `KINDS`.
        modalities: those of "image", "video", "audio" and "depth" that are needed for the answer; for shapes, the video
            suffices.
    """

    question: str
    answer: str
    options: tuple[str, ...]
    kind: str
    modalities: frozenset[str]


def chat_questions(scene: Scene) -> list[ChatQuestion]:
    """All unambiguous questions about a scene, ordered by kind.

    The kinds are: "colour", "shape" and "motion" of an object identified by another attribute; "count"; "order", which object
    is nearer, left of, right of, above or below another one in every frame; "sound", the looks of the sounding object;
    "yes_no", with equal numbers of both answers in each clip and form; "two_hop", about an object identified by its sound or
    place. No question names a pair of colour and shape that the split excludes.
    """
    asker = _Asker(scene)
    asker.ask_attributes()
    asker.ask_count()
    if len(scene.sprites) > 1:
        asker.ask_order()
    if scene.sounding is not None:
        asker.ask_sound()
    asker.ask_yes_no()
    if len(scene.sprites) > 1:
        asker.ask_two_hops()
    return asker.questions


class _Asker:
    def __init__(self, scene: Scene):
        self.scene = scene
        self.sprites = scene.sprites
        self.draws = IntegerStream((scene.sound, 5))
        self.questions: list[ChatQuestion] = []
        paths = np.stack([positions(sprite, scene.num_frames) for sprite in scene.sprites])  # (objects, frames, 2)
        gaps = paths[:, None] - paths  # (objects, objects, frames, 2)
        # [a, b, axis]: a is left of b (axis 0) or above b (axis 1) in every frame
        self.before = (gaps < -MARGIN * UNIT * scene.size // 64).all(2)

    def ask_attributes(self) -> None:
        if len(self.sprites) == 1:
            self._ask_colour("colour", "the object", self.sprites[0], "image")
            self._ask_shape("shape", "the object", self.sprites[0], "image")
            self._ask_motion("motion", "the object", self.sprites[0], "video")
        for sprite in self.sprites:
            self._ask_colour("colour", f"the {sprite.shape}", sprite, "image")
            self._ask_colour("colour", _moving(sprite), sprite, "image", "video")
        for sprite in self.sprites:
            self._ask_shape("shape", f"the {sprite.colour} object", sprite, "image")
            self._ask_shape("shape", _moving(sprite), sprite, "video")
        for sprite in self.sprites:
            self._ask_motion("motion", f"the {sprite.shape}", sprite, "video")
            self._ask_motion("motion", f"the {sprite.colour} object", sprite, "image", "video")

    def ask_count(self) -> None:
        self._add("count", self._one_of(COUNT_PHRASINGS), NUMBERS[len(self.sprites)], NUMBERS[1:], "image")

    def ask_order(self) -> None:
        for _, comparative, first, second in self._placed_pairs()[:2]:
            pair = tuple(self.draws.shuffled([first.shape, second.shape]))
            question = f"which is {comparative}, the {pair[0]} or the {pair[1]}?"
            self._add("order", question, first.shape, pair, "image")
        for side, number, beside in self._only_ones_beside()[:2]:
            forms = ("what is {} the {}?", "which object is {} the {}?")
            question = self._one_of(forms).format(side, self.sprites[number].shape)
            self._add("order", question, beside.shape, SHAPES, "image")
        farther, nearer = self._two_by_depth()
        pair = tuple(self.draws.shuffled([farther.shape, nearer.shape]))
        self._add("order", f"which is nearer, the {pair[0]} or the {pair[1]}?", nearer.shape, pair, "depth")
        phrasings = ("what is nearest?", "which object is nearest?", "what is closest to the camera?")
        self._add("order", self._one_of(phrasings), self.sprites[-1].shape, SHAPES, "depth")

    def ask_sound(self) -> None:
        sprite = self.scene.sounding_sprite
        assert sprite is not None
        self._ask_colour("sound", self._one_of(SOUNDING), sprite, "audio")
        self._ask_shape("sound", self._one_of(SOUNDING), sprite, "audio", "image")
        names = tuple(sorted(f"{one.colour} {one.shape}" for one in self.sprites))
        answer = f"{sprite.colour} {sprite.shape}"
        self._add("sound", self._one_of(WHICH_SOUNDS), answer, names, "audio", "image")

    def ask_yes_no(self) -> None:
        """Asks each form with a true and a false statement about the clip."""
        sprite = self._one_of(self.sprites)
        form = self._one_of(("is there a {} {}?", "do you see a {} {}?", "does the clip show a {} {}?"))
        self._yes_and_no(form.format(sprite.colour, sprite.shape), form.format(*self._absent_pair()), "image")
        sprite = self._one_of(self.sprites)
        form = self._one_of(("is the {} {}?", "is the colour of the {} {}?"))
        colour = self._other_colour(sprite)
        self._yes_and_no(form.format(sprite.shape, sprite.colour), form.format(sprite.shape, colour), "image")
        for attribute, modalities in (("shape", ("video",)), ("colour", ("image", "video"))):
            sprite = self._one_of(self.sprites)
            name = sprite.shape if attribute == "shape" else f"{sprite.colour} object"
            motion = self._other(sprite.motion, [one.motion for one in self.sprites], MOTIONS)
            questions = [f"is the {name} {MOTIONS[value]}?" for value in (sprite.motion, motion)]
            self._yes_and_no(*questions, *modalities)
        if (sounding := self.scene.sounding_sprite) is not None:
            form = f"is {self._one_of(SOUNDING)} {{}}?"
            colour = self._other(sounding.colour, [one.colour for one in self.sprites], COLOURS)
            self._yes_and_no(form.format(sounding.colour), form.format(colour), "audio")
        if len(self.sprites) > 1:
            for side, _, first, second in self._placed_pairs()[:1]:
                self._yes_and_no(*_both_ways(f"is the {{}} {side} the {{}}?", first, second), "image")
            farther, nearer = self._two_by_depth()
            self._yes_and_no(*_both_ways("is the {} nearer than the {}?", nearer, farther), "depth")
            if sounding is not None:
                silent = self._one_of([one for one in self.sprites if one is not sounding])
                form = self._one_of(("does the {} sound?", "does the {} make the sound?", "does the {} make a sound?"))
                self._yes_and_no(form.format(sounding.shape), form.format(silent.shape), "audio", "image")

    def ask_two_hops(self) -> None:
        if self.scene.sounding_sprite is not None:
            sounding = self._one_of(SOUNDING)
            self._ask_motion("two_hop", sounding, self.scene.sounding_sprite, "audio", "image", "video")
        for side, number, beside in self._only_ones_beside()[:2]:
            name = f"the object that is {side} the {self.sprites[number].shape}"
            self._ask_colour("two_hop", name, beside, "image")
            self._ask_motion("two_hop", name, beside, "video")
        self._ask_colour("two_hop", "the nearest object", self.sprites[-1], "depth", "image")
        self._ask_motion("two_hop", "the nearest object", self.sprites[-1], "depth", "video")

    def _ask_colour(self, kind: str, name: str, sprite: Sprite, *modalities: str) -> None:
        self._add(kind, self._one_of(COLOUR_PHRASINGS).format(name), sprite.colour, COLOUR_OPTIONS, *modalities)

    def _ask_shape(self, kind: str, name: str, sprite: Sprite, *modalities: str) -> None:
        self._add(kind, self._one_of(SHAPE_PHRASINGS).format(name), sprite.shape, SHAPES, *modalities)

    def _ask_motion(self, kind: str, name: str, sprite: Sprite, *modalities: str) -> None:
        answer = MOTIONS[sprite.motion]
        self._add(kind, self._one_of(MOTION_PHRASINGS).format(name), answer, MOTION_OPTIONS, *modalities)

    def _yes_and_no(self, true: str, false: str, *modalities: str) -> None:
        for question, answer in self.draws.shuffled(zip((true, false), YES_NO, strict=True)):
            self._add("yes_no", question, answer, YES_NO, *modalities)

    def _add(self, kind: str, question: str, answer: str, options: tuple[str, ...], *modalities: str) -> None:
        self.questions.append(ChatQuestion(question, answer, options, kind, frozenset(modalities)))

    def _one_of(self, choices: Sequence[Item]) -> Item:
        return choices[self.draws.below(len(choices))]

    def _other(
        self,
        own: str,
        present: Sequence[str],
        every: Sequence[str] | dict,
        allowed: Callable[[str], bool] | None = None,
    ) -> str:
        """A value other than `own`; in half of the draws one that occurs in the clip, if there is one."""
        fits = [value for value in every if value != own and (allowed is None or allowed(value))]
        inside = [value for value in fits if value in present]
        return self._one_of(inside if inside and self.draws.below(2) else fits)

    def _other_colour(self, sprite: Sprite) -> str:
        present = [one.colour for one in self.sprites]
        return self._other(sprite.colour, present, COLOURS, lambda colour: self._may_name(colour, sprite.shape))

    def _absent_pair(self) -> tuple[str, str]:
        """A pair of colour and shape that no object has; in half of the draws, both occur in other objects if possible."""
        colours = [sprite.colour for sprite in self.sprites]
        shapes = [sprite.shape for sprite in self.sprites]
        here = set(zip(colours, shapes, strict=True))
        every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
        fits = [pair for pair in every if pair not in here and self._may_name(*pair)]
        # Pairs whose colour or shape occurs in the clip, so that checking one of them is not enough.
        half = [pair for pair in fits if pair[0] in colours or pair[1] in shapes]
        mixed = [pair for pair in half if pair[0] in colours and pair[1] in shapes]
        return self._one_of((fits, half, mixed or half, mixed or half)[self.draws.below(4)])

    def _may_name(self, colour: str, shape: str) -> bool:
        return self.scene.split == "unseen_pairs" or (colour, shape) not in HELD_OUT_PAIRS

    def _placed_pairs(self) -> list[tuple[str, str, Sprite, Sprite]]:
        """Preposition, comparative and two objects for which they are true, in random order."""
        found = []
        for preposition, comparative, axis, smaller in SIDES:
            for first, second in np.argwhere(self.before[:, :, axis]).tolist():
                if not smaller:
                    first, second = second, first
                found.append((preposition, comparative, self.sprites[first], self.sprites[second]))
        return self.draws.shuffled(found)

    def _only_ones_beside(self) -> list[tuple[str, int, Sprite]]:
        """Preposition, number of an object, and the only object on that side of it; all others are on the opposite side."""
        found = []
        for preposition, _, axis, smaller in SIDES:
            before = self.before[:, :, axis] if smaller else self.before[:, :, axis].T
            for number in range(len(self.sprites)):
                here, opposite = before[:, number], before[number]
                if here.sum() == 1 and (here | opposite).sum() == len(self.sprites) - 1:
                    found.append((preposition, number, self.sprites[int(here.argmax())]))
        return self.draws.shuffled(found)

    def _two_by_depth(self) -> tuple[Sprite, Sprite]:
        """Two objects, the farther one first."""
        first, second = sorted(self.draws.shuffled(range(len(self.sprites)))[:2])
        return self.sprites[first], self.sprites[second]


def _moving(sprite: Sprite) -> str:
    return f"the object {MOTIONS[sprite.motion]}"


def _both_ways(form: str, first: Sprite, second: Sprite) -> tuple[str, str]:
    return form.format(first.shape, second.shape), form.format(second.shape, first.shape)


__all__ = ["KINDS", "ChatQuestion", "chat_questions"]
