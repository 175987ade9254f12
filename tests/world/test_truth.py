from collections import Counter

import pytest

from modeling_sen.world import (
    MOTIONS,
    association_question,
    attribute_caption,
    caption,
    describe,
    legend,
    make_scene,
    objects,
    questions,
)


def test_caption_names_every_object_nearest_first():
    scene = make_scene("train", 0, 1, num_objects=3)
    near, middle, far = (describe(sprite) for sprite in reversed(scene.sprites))
    assert caption(scene) == f"{near}, {middle} and {far}"
    one = make_scene("train", 0, 1, num_objects=1)
    assert caption(one) == describe(one.sprites[0])


def test_attribute_caption_has_all_words_and_no_binding():
    places: Counter[int] = Counter()
    for index in range(200):
        scene = make_scene("train", 0, index, num_objects=3)
        words = attribute_caption(scene).split(", ")
        assert sorted(words) == sorted(
            word for sprite in scene.sprites for word in (sprite.colour, sprite.shape, MOTIONS[sprite.motion])
        )
        sprite = scene.sprites[0]
        places[(words.index(sprite.shape) - words.index(sprite.colour)) % 9] += 1
    assert max(places.values()) < 2.5 * 200 / 8, "the shape stands anywhere from the colour"


@pytest.mark.parametrize(("hops", "attribute"), [(1, "shape"), (2, "motion"), (3, "name")])
def test_association_questions_ask_for_the_sounding_object(hops, attribute):
    for index in range(20):
        scene = make_scene("test", 0, index, num_objects=4, hops=hops)
        question = association_question(scene, hops)
        value = getattr(scene.sounding_sprite, attribute)
        assert question.answer == (MOTIONS[value] if attribute == "motion" else value)
        assert question.answer in question.choices
        assert len(set(question.choices)) == 4, "chance is one by the number of objects"
        assert questions(scene)[0] == question


def test_the_legend_is_needed_and_enough_for_the_third_hop():
    scene = make_scene("test", 0, 3, hops=3)
    sprite = scene.sounding_sprite
    assert f"{sprite.name} is {MOTIONS[sprite.motion]}." in legend(scene)
    assert legend(scene) in association_question(scene, 3).question


def test_answers_about_the_sounding_object_are_evenly_spread():
    shapes = Counter(association_question(make_scene("test", 0, index, hops=1), 1).answer for index in range(800))
    assert len(shapes) == 8
    assert max(shapes.values()) < 150


def test_every_answer_follows_from_the_objects():
    for index in range(50):
        scene = make_scene("train", 0, index, num_objects=(1, 8))
        by_colour = {item["colour"]: item for item in objects(scene)}
        by_shape = {item["shape"]: item for item in objects(scene)}
        by_motion = {MOTIONS[item["motion"]]: item for item in objects(scene)}
        asked = 0
        for question in questions(scene):
            words = question.question.rstrip("?")
            if words.startswith("how many"):
                numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
                assert question.answer == numbers[len(scene.sprites) - 1]
            elif words.endswith("object") and words.startswith("what shape is the "):
                colour = words.split()[-2]
                if colour in by_colour:
                    assert question.answer == by_colour[colour]["shape"]
                    asked += 1
            elif "what colour is the object " in words:
                assert question.answer == by_motion[words.split(" object ")[1]]["colour"]
            elif words.split()[-1] in by_shape and "what colour" in words:
                assert question.answer == by_shape[words.split()[-1]]["colour"]
        assert asked == len(scene.sprites)


def test_objects_state_which_one_sounds():
    scene = make_scene("train", 0, 0, num_objects=3, hops=1)
    assert [item["sounding"] for item in objects(scene)].index(True) == scene.sounding
    assert sum(item["sounding"] for item in objects(scene)) == 1


def test_a_silent_clip_has_no_association_question():
    silent = next(s for s in (make_scene("train", 0, index) for index in range(100)) if s.sounding is None)
    with pytest.raises(ValueError, match="silent"):
        association_question(silent, 1)
    assert not any("sounding" in question.question for question in questions(silent))
