"""Descriptions of a scene: captions, attribute lists, questions with answers, and the chain of hops.

The chain: the sound determines a colour, the picture shows which shape has this colour, grey frames show how this shape
moves, and the legend (a text) names who moves this way.
"""

from dataclasses import dataclass

from modeling_sen.world.scene import IntegerStream, Scene, Sprite
from modeling_sen.world.vocabulary import MOTIONS, describe


@dataclass(frozen=True)
class Question:
    """A question about one clip. `hops` is the number of steps between encoders, 0 if one encoder can answer it.

    `choices` are the possible answers from the objects of the clip; `answer` is one of them.
    """

    question: str
    answer: str
    choices: tuple[str, ...]
    hops: int


NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")


def caption(scene: Scene, size: bool = False) -> str:
    """All objects from the nearest to the farthest: `"a red circle moving left and a blue star bouncing"`."""
    phrases = [describe(sprite, size=size) for sprite in reversed(scene.sprites)]
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def attribute_caption(scene: Scene) -> str:
    """Every colour, shape and motion in the clip, in random order, without the information which belong together."""
    words = [word for sprite in scene.sprites for word in (sprite.colour, sprite.shape, MOTIONS[sprite.motion])]
    return ", ".join(_stream(scene, 3).shuffled(words))


def legend(scene: Scene) -> str:
    """The motion of each named sprite, in random order: `"Anna is bouncing. Hugo is moving left."`."""
    sentences = [f"{sprite.name} is {MOTIONS[sprite.motion]}." for sprite in scene.sprites]
    return " ".join(_stream(scene, 4).shuffled(sentences))


def association_question(scene: Scene, hops: int) -> Question:
    """The question about the sounding object that needs a chain of this length.

    With 1 hop its shape (sound, picture), with 2 hops its motion (then grey frames), with 3 hops its name (then the legend).

    Raises:
        ValueError: the clip is silent, or hops is not 1, 2 or 3.
    """
    sprite = scene.sounding_sprite
    if sprite is None:
        raise ValueError("the clip is silent: draw it with make_scene(..., hops=1, 2 or 3)")
    if hops == 1:
        return _ask(scene, "what shape is the sounding object?", sprite, "shape", 1)
    if hops == 2:
        return _ask(scene, "how does the sounding object move?", sprite, "motion", 2)
    if hops == 3:
        return _ask(scene, f"{legend(scene)} who is the sounding object?", sprite, "name", 3)
    raise ValueError(f"hops is {hops!r}: expected 1, 2 or 3")


def questions(scene: Scene) -> list[Question]:
    """All questions with answers; if the scene was drawn for a chain, the question of this length comes first."""
    found = [association_question(scene, hops) for hops in (1, 2, 3)] if scene.sounding is not None else []
    if scene.hops is not None:
        found.sort(key=lambda question: question.hops != scene.hops)
    number = len(scene.sprites)
    found.append(Question("how many objects are there?", NUMBERS[number], NUMBERS[1:], 0))
    if scene.sounding_sprite is not None:
        found.append(_ask(scene, "what colour is the sounding object?", scene.sounding_sprite, "colour", 0))
    for sprite in scene.sprites:
        motion = MOTIONS[sprite.motion]
        found += [
            _ask(scene, f"what shape is the {sprite.colour} object?", sprite, "shape", 0),
            _ask(scene, f"what colour is the {sprite.shape}?", sprite, "colour", 0),
            _ask(scene, f"how does the {sprite.shape} move?", sprite, "motion", 0),
            _ask(scene, f"what shape is the object {motion}?", sprite, "shape", 0),
            _ask(scene, f"how does the {sprite.colour} object move?", sprite, "motion", 1),
            _ask(scene, f"what colour is the object {motion}?", sprite, "colour", 1),
        ]
    if number > 1:
        found.append(_ask(scene, "what shape is the nearest object?", scene.sprites[-1], "shape", 0))
        found.append(_ask(scene, "what colour is the nearest object?", scene.sprites[-1], "colour", 1))
    return found


def objects(scene: Scene) -> list[dict[str, str | bool]]:
    """One dict per sprite, in the order of the mask values: colour, shape, size, motion, name, sounding."""
    return [
        {
            "colour": sprite.colour,
            "shape": sprite.shape,
            "size": sprite.size,
            "motion": sprite.motion,
            "name": sprite.name,
            "sounding": number == scene.sounding,
        }
        for number, sprite in enumerate(scene.sprites)
    ]


def _ask(scene: Scene, question: str, sprite: Sprite, attribute: str, hops: int) -> Question:
    def phrase(one: Sprite) -> str:
        value: str = getattr(one, attribute)
        return MOTIONS[value] if attribute == "motion" else value

    return Question(question, phrase(sprite), tuple(sorted(map(phrase, scene.sprites))), hops)


def _stream(scene: Scene, purpose: int) -> IntegerStream:
    """A random stream for texts, independent of the picture's draws."""
    return IntegerStream((scene.sound, purpose))
