"""What is true of a scene, in words: captions, attribute lists, questions with answers, and the chain of hops.

The chain: the sound tells a colour, the picture tells which shape has that colour, the movement of grey frames tells
how that shape moves, and the legend (a text) tells who moves so.
"""

from dataclasses import dataclass

from modeling_sen.world.scene import IntegerStream, Scene, Sprite
from modeling_sen.world.vocabulary import MOTIONS, describe


@dataclass(frozen=True)
class Question:
    """A question about one clip. `hops` counts the steps from encoder to encoder; 0 where one encoder can answer.

    `choices` are the answers among the objects of the clip; `answer` is one of them.
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
    """Every colour, shape and motion in the clip, in random order: it does not tell what belongs to what."""
    words = [word for sprite in scene.sprites for word in (sprite.colour, sprite.shape, MOTIONS[sprite.motion])]
    return ", ".join(_stream(scene, 3).shuffled(words))


def legend(scene: Scene) -> str:
    """Who moves how, in random order: `"Anna is bouncing. Hugo is moving left."`."""
    sentences = [f"{sprite.name} is {MOTIONS[sprite.motion]}." for sprite in scene.sprites]
    return " ".join(_stream(scene, 4).shuffled(sentences))


def association_question(scene: Scene, hops: int) -> Question:
    """The question about the sounding object that needs a chain of this length.

    1: its shape (sound, then picture). 2: its motion (and then the movement). 3: its name (and then the legend).

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
    """All questions with answers; where the scene was drawn for a chain, the question of that length comes first."""
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
    """One dict a sprite, in the order of the mask values: colour, shape, size, motion, name, sounding."""
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
    def say(one: Sprite) -> str:
        value: str = getattr(one, attribute)
        return MOTIONS[value] if attribute == "motion" else value

    return Question(question, say(sprite), tuple(sorted(map(say, scene.sprites))), hops)


def _stream(scene: Scene, purpose: int) -> IntegerStream:
    """Draws that belong to the words and leave the picture as it is."""
    return IntegerStream((scene.sound, purpose))
