import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from modeling_sen.world import (
    COLOURS,
    HELD_OUT_PAIRS,
    MOTIONS,
    SHAPES,
    make_scene,
    objects,
    positions,
    render,
    sound_of,
)
from modeling_sen.world.chat_questions import KINDS, chat_questions
from modeling_sen.world.vocabulary import PITCHES

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")


class Seen:
    """What is in a clip, measured from its frames' masks and depth and from its sound."""

    def __init__(self, scene):
        clip = render(scene)
        self.items = objects(scene)
        for item in self.items:
            item["motion"] = MOTIONS[item["motion"]]
        middle = scene.num_frames // 2
        for number, item in enumerate(self.items):
            rows, columns = np.nonzero(clip.masks[middle] == number + 1)
            item["place"] = columns.mean(), rows.mean()
            item["depth"] = clip.depth[middle][rows, columns].mean()
        sound = sound_of(scene).astype(float)
        spectrum = np.abs(np.fft.rfft(sound))
        pitch = (spectrum[1:].argmax() + 1) * 16_000 / len(sound)
        self.sounding_colour = min(PITCHES, key=lambda colour: abs(np.log(PITCHES[colour] / pitch)))

    def find(self, name):
        """The object of a name such as "the nearest object", "the object that is left of the star"."""
        if "sound" in name:
            return self.where("colour", self.sounding_colour)
        if name == "the nearest object":
            return max(self.items, key=lambda item: item["depth"])
        if match := re.fullmatch("the object that is (left of|right of|above|below) the (.+)", name):
            return self.only_one(*match.groups())
        if name == "the object":
            (item,) = self.items
            return item
        for part in ("shape", "colour", "motion"):
            for item in self.items:
                if name in (f"the {item[part]}", f"the {item[part]} object", f"the object {item[part]}"):
                    return item
        raise AssertionError(name)

    def where(self, part, value):
        (item,) = (item for item in self.items if item[part] == value)
        return item

    def beside(self, first, side, second):
        axis = 0 if side in ("left of", "right of") else 1
        gap = first["place"][axis] - second["place"][axis]
        return gap < 0 if side in ("left of", "above") else gap > 0

    def only_one(self, side, shape):
        other = self.where("shape", shape)
        (item,) = (item for item in self.items if item is not other and self.beside(item, side, other))
        return item

    def answer(self, question):
        asked = question.rstrip("?.")
        for part, words in (("colour", "colou?r"), ("shape", "shape")):
            for form in (
                f"what {words} is (.+)",
                f"which {words} does (.+) have",
                f"what is the {words} of (.+)",
                f"tell me the {words} of (.+)",
            ):
                if match := re.fullmatch(form, asked):
                    return self.find(match[1])[part]
        for form in (
            "how does (.+) move",
            "what is (.+) doing",
            "how is (.+) moving",
            "describe the movement of (.+)",
        ):
            if match := re.fullmatch(form, asked):
                return self.find(match[1])["motion"]
        if asked.startswith(("how many objects", "count the objects", "what is the number of objects")):
            return NUMBERS[len(self.items)]
        if match := re.fullmatch(
            "which is (further left|further right|higher up|lower down|nearer), the (.+) or the (.+)", asked
        ):
            first, second = (self.where("shape", shape) for shape in match.groups()[1:])
            if match[1] == "nearer":
                return max(first, second, key=lambda item: item["depth"])["shape"]
            sides = {
                "further left": "left of",
                "further right": "right of",
                "higher up": "above",
                "lower down": "below",
            }
            return (first if self.beside(first, sides[match[1]], second) else second)["shape"]
        if match := re.fullmatch("(?:what|which object) is (left of|right of|above|below) the (.+)", asked):
            return self.only_one(*match.groups())["shape"]
        if asked in ("what is nearest", "which object is nearest", "what is closest to the camera"):
            return self.find("the nearest object")["shape"]
        if asked in ("which object sounds", "which object makes the sound", "where does the sound come from"):
            item = self.where("colour", self.sounding_colour)
            return f"{item['colour']} {item['shape']}"
        return "yes" if self.is_true(asked) else "no"

    def is_true(self, asked):
        if match := re.fullmatch("(?:is there|do you see|does the clip show) a (.+) (.+)", asked):
            return any((item["colour"], item["shape"]) == match.groups() for item in self.items)
        if match := re.fullmatch("is the (.+) (left of|right of|above|below) the (.+)", asked):
            first, second = self.where("shape", match[1]), self.where("shape", match[3])
            return self.beside(first, match[2], second)
        if match := re.fullmatch("is the (.+) nearer than the (.+)", asked):
            return self.where("shape", match[1])["depth"] > self.where("shape", match[2])["depth"]
        if match := re.fullmatch(r"does the (\w+) (sound|make the sound|make a sound)", asked):
            return self.where("shape", match[1])["colour"] == self.sounding_colour
        asked = asked.replace("is the colour of ", "is ")
        for part, values in (("colour", COLOURS), ("motion", MOTIONS.values())):
            for value in values:
                if match := re.fullmatch(f"is (.+) {value}", asked):
                    return self.find(match[1])[part] == value
        raise AssertionError(asked)


@pytest.mark.parametrize("num_objects", [1, 2, 3, 4, 8])
def test_answers_agree_with_what_masks_depth_and_sound_show(num_objects):
    kinds = set()
    for index in range(30):
        scene = make_scene("test", 3, index, num_objects=num_objects)
        seen = Seen(scene)
        for question in chat_questions(scene):
            assert question.answer == seen.answer(question.question), (index, question)
            assert question.answer in question.options
            kinds.add(question.kind)
    assert kinds == set(KINDS) - ({"order", "two_hop"} if num_objects == 1 else set())


def test_in_every_clip_and_for_every_form_as_many_yes_as_no():
    for index in range(100):
        asked = [one for one in chat_questions(make_scene("train", 0, index)) if one.kind == "yes_no"]
        assert len(asked) >= 8
        first_words = defaultdict(Counter)
        for question in asked:
            first_words[question.question.split()[0]][question.answer] += 1
        assert all(count["yes"] == count["no"] for count in first_words.values()), index


def test_the_order_of_the_two_statements_is_random():
    firsts = Counter(
        next(one for one in chat_questions(make_scene("train", 0, index)) if one.kind == "yes_no").answer
        for index in range(400)
    )
    assert abs(firsts["yes"] - 200) < 50


def test_a_place_is_asked_for_only_where_it_holds_in_every_frame():
    """Two objects that change sides."""
    changed = 0
    for index in range(300):
        scene = make_scene("train", 0, index, num_objects=2)
        first, second = (positions(sprite, scene.num_frames)[:, 0] for sprite in scene.sprites)
        if (first < second).any() and (first > second).any():
            changed += 1
            texts = " ".join(one.question for one in chat_questions(scene))
            assert not re.search("left|right", texts.replace("moving left", "").replace("moving right", ""))
    assert changed > 20


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_question_names_a_held_out_pair(split):
    for index in range(300):
        for question in chat_questions(make_scene(split, 0, index)):
            for sentence in (question.question, question.answer):
                words = re.findall("[a-z]+", sentence.replace("moving in a circle", ""))
                named = {(one, two) for one in words if one in COLOURS for two in words if two in SHAPES}
                assert named.isdisjoint(HELD_OUT_PAIRS), question


def test_questions_about_unseen_pairs_ask_for_absent_pairs_too():
    answers = Counter(
        one.answer
        for index in range(20)
        for one in chat_questions(make_scene("unseen_pairs", 0, index))
        if re.match("is there|do you see|does the clip", one.question)
    )
    assert answers == {"yes": 20, "no": 20}


def test_a_silent_clip_has_no_question_that_needs_sound():
    scenes = [make_scene("train", 0, index) for index in range(60)]
    silent = [scene for scene in scenes if scene.sounding is None]
    assert silent
    for scene in silent:
        assert not any("audio" in one.modalities or "sound" in one.question for one in chat_questions(scene))


def test_the_chain_from_sound_to_motion_needs_three_encoders():
    scene = make_scene("train", 0, 2, num_objects=3, hops=2)
    (question,) = (one for one in chat_questions(scene) if one.kind == "two_hop" and "sound" in one.question)
    assert question.modalities == {"audio", "image", "video"}
    assert question.answer == MOTIONS[scene.sounding_sprite.motion]


def test_questions_are_lower_case_in_several_phrasings_and_the_same_each_time():
    phrasings = set()
    for index in range(100):
        scene = make_scene("train", 0, index, num_objects=2)
        asked = chat_questions(scene)
        assert asked == chat_questions(scene)
        for question in asked:
            assert question.question == question.question.lower()
            assert question.question[-1] in "?."
            if question.kind == "motion":
                phrasings.add(question.question.split()[0])
    assert phrasings == {"how", "what", "describe"}
