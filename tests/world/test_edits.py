from dataclasses import replace

import numpy as np
import pytest

from modeling_sen.world import (
    EDITED_ATTRIBUTES,
    HELD_OUT_PAIRS,
    SPLITS,
    caption,
    edit,
    edit_attribute,
    make_scene,
    positions,
    render,
)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("num_objects", [1, 3, 8])
def test_the_prompt_names_the_only_change(split, num_objects):
    for index in range(20):
        scene = make_scene(split, 0, index, num_objects=num_objects)
        change = edit(scene)
        before, after = scene.sprites[change.sprite], change.scene.sprites[change.sprite]
        assert change.edit_prompt == f"make the {before.colour} {before.shape} a {after.colour} {after.shape}"
        assert (before.colour, before.shape) != (after.colour, after.shape)
        assert before.motion == after.motion
        assert change.source_prompt == caption(scene)
        assert change.target_prompt == caption(change.scene) != change.source_prompt
        assert ((after.colour, after.shape) in HELD_OUT_PAIRS) == (split == "unseen_pairs")
        for number, sprite in enumerate(scene.sprites):
            if number != change.sprite:
                assert change.scene.sprites[number] == sprite


def test_colour_shape_and_both_are_edited():
    kinds = set()
    for index in range(60):
        scene = make_scene("train", 0, index)
        change = edit(scene)
        before, after = scene.sprites[change.sprite], change.scene.sprites[change.sprite]
        kinds.add((before.colour == after.colour, before.shape == after.shape))
    assert kinds == {(True, False), (False, True), (False, False)}


def test_an_edit_changes_pixels_of_its_object_only():
    for index in range(40):
        scene = make_scene("train", 0, index, num_objects=3)
        change = edit(scene)
        source, target = render(scene), render(change.scene)
        differs = (source.frames != target.frames).any(-1)
        assert differs.any()
        sprite = scene.sprites[change.sprite]
        centres = positions(sprite, 16) / 256
        y, x = np.mgrid[:64, :64]
        for time in range(16):
            away = np.maximum(abs(x - centres[time, 0]), abs(y - centres[time, 1])) > sprite.radius / 256 + 1.5
            assert not differs[time][away].any()
            for nearer in range(change.sprite + 1, 3):  # objects in front hide the change, but for their soft edges
                inner = source.masks[time] == nearer + 1
                for axis in (0, 1, 0, 1):
                    inner = inner & np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
                assert not differs[time][inner].any()


@pytest.mark.parametrize("num_objects", [1, 3, 8])
def test_one_attribute_of_one_thing_is_edited(num_objects):
    sprites_edited = set()
    for index in range(20):
        scene = make_scene("test", 0, index, num_objects=num_objects)
        for attribute in EDITED_ATTRIBUTES:
            change = edit_attribute(scene, attribute)
            assert change == edit_attribute(scene, attribute)
            if attribute == "background":
                kind = change.scene.background.kind
                assert kind != scene.background.kind
                assert change.scene == replace(scene, background=replace(scene.background, kind=kind))
                assert change.edit_prompt == f"make the background {kind}"
                assert change.source_prompt == f"{caption(scene)} over a {scene.background.kind} background"
                assert change.target_prompt == f"{caption(scene)} over a {kind} background"
                assert change.sprite is None
                continue
            before, after = scene.sprites[change.sprite], change.scene.sprites[change.sprite]
            value = getattr(after, attribute)
            assert value != getattr(before, attribute)
            assert after == replace(before, **{attribute: value})
            assert (after.colour, after.shape) not in HELD_OUT_PAIRS
            others = [sprite for sprite in scene.sprites if sprite is not before]
            if num_objects < 7:
                assert value not in {getattr(sprite, attribute) for sprite in others}
            assert [sprite for sprite in change.scene.sprites if sprite is not after] == others
            assert change.edit_prompt == f"make the {before.colour} {before.shape} a {after.colour} {after.shape}"
            assert (change.source_prompt, change.target_prompt) == (caption(scene), caption(change.scene))
            sprites_edited.add(change.sprite)
    assert sprites_edited == set(range(num_objects))


def test_an_edit_that_the_split_does_not_allow_is_refused():
    scene = make_scene("unseen_pairs", 0, 0)
    assert edit_attribute(scene, "background").scene.sprites == scene.sprites
    with pytest.raises(ValueError, match="attribute is 'shape': the split unseen_pairs has one shape per colour"):
        edit_attribute(scene, "shape")
    with pytest.raises(ValueError, match="attribute is 'motion': expected one of colour, shape, background"):
        edit_attribute(scene, "motion")
