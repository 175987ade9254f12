"""What sen-tiny-chat is asked beside the world's own questions, and how questions are typed."""

import numpy as np

from modeling_sen.world.chat_questions import KINDS, ChatQuestion
from modeling_sen.world.scene import Scene, positions
from modeling_sen.world.vocabulary import describe

# A description names all objects, so that each of its words is about one of them: what belongs to what is learnt from it.
DESCRIPTION = "description"
TRAINED_KINDS = (*KINDS, DESCRIPTION)
DESCRIPTION_PHRASINGS = ("describe the clip.", "describe the video.", "what do you see?", "what is in the video?")


def description(random: np.random.Generator, scene: Scene) -> ChatQuestion:
    """All objects from left to right in the middle frame: `"a red circle moving left and a blue star bouncing"`."""
    middle = [int(positions(sprite, scene.num_frames)[scene.num_frames // 2, 0]) for sprite in scene.sprites]
    *others, last = (describe(scene.sprites[number]) for number in np.argsort(middle))
    answer = f"{', '.join(others)} and {last}" if others else last
    asked = DESCRIPTION_PHRASINGS[random.integers(len(DESCRIPTION_PHRASINGS))]
    return ChatQuestion(asked, answer, (answer,), DESCRIPTION, frozenset({"image", "video"}))


def as_typed(question: str, capital: bool, american: bool, mark: bool) -> str:
    """A question with a capital letter, in American spelling, without its last sign."""
    question = question.replace("colour", "color") if american else question
    question = question if mark else question.rstrip("?.")
    return question[0].upper() + question[1:] if capital else question
