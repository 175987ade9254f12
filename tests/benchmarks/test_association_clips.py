"""Clips of the association-depth task: what is seen is what is true, and asked of the object that sounds."""

import numpy as np
import pytest

from benchmarks.association.association_clips import (
    ATTRIBUTES,
    LEGEND_LENGTH,
    LEGEND_VOCABULARY,
    SHARD,
    VALUES,
    WORDS,
    association_scene,
    clip_arrays,
    legend_names,
    legend_tokens,
    present_words,
    read_clips,
    target_values,
    write_clips,
)
from modeling_sen.world.scene import MAX_OBJECTS
from modeling_sen.world.truth import association_question, legend
from modeling_sen.world.vocabulary import MOTIONS
from recipes.sen_tiny.tiny_batches import IGNORED

SCENES = [association_scene("test", 0, index) for index in range(12)]
CLIPS = [clip_arrays(scene) for scene in SCENES]


def stacked(name):
    return np.stack([clip[name] for clip in CLIPS])


def test_the_target_is_the_answer_to_the_questions_of_all_hops():
    targets = target_values(stacked("attributes"), stacked("sounding"))
    for scene, target in zip(SCENES, targets, strict=True):
        assert WORDS[target[0]] == scene.sounding_sprite.colour
        for hops in (1, 2, 3):
            assert WORDS[hops * VALUES + target[hops]] == association_question(scene, hops).answer


def test_present_words_are_those_of_the_objects():
    present = present_words(stacked("attributes"))
    for scene, row in zip(SCENES, present, strict=True):
        words = {WORDS[number] for number in np.flatnonzero(row)}
        sprites = scene.sprites
        assert words == {word for s in sprites for word in (s.colour, s.shape, MOTIONS[s.motion], s.name)}
        assert row.sum() == len(ATTRIBUTES) * len(sprites)  # every attribute tells the objects apart


def test_all_numbers_of_objects_occur_and_all_sound():
    counts = {len(association_scene("test", 0, index).sprites) for index in range(60)}
    assert counts == set(range(3, MAX_OBJECTS + 1))
    assert all(association_scene("test", 0, index).sounding is not None for index in range(60))


def test_the_legend_says_who_moves_how():
    words = {number: word for word, number in LEGEND_VOCABULARY.items()}
    for scene in SCENES:
        ids, motions = legend_tokens(scene)
        text = " ".join(words[number] for number in ids if number)
        for sprite in scene.sprites:
            assert f"{sprite.name.lower()} is {MOTIONS[sprite.motion]} ." in text
        named = {words[ids[place]]: motions[place] - 1 for place in np.flatnonzero(motions > 0)}
        assert named == {sprite.name.lower(): list(MOTIONS).index(sprite.motion) for sprite in scene.sprites}


def test_the_words_of_a_sentence_are_labelled_with_its_name():
    labels = legend_names(stacked("legend_ids"))
    for scene, row in zip(SCENES, labels, strict=True):
        expected = []
        for sentence in legend(scene).lower().split(". "):
            name, *others = sentence.removesuffix(".").split()
            value = [word.lower() for word in WORDS[-VALUES:]].index(name) + 1
            expected += [IGNORED, *[value] * len(others), value]  # the name, the words, the full stop
        assert row.tolist() == expected + [IGNORED] * (LEGEND_LENGTH - len(expected))


def test_the_longest_legend_fits():
    longest = max((legend_tokens(association_scene("train", 0, index, 8))[0] > 0).sum() for index in range(40))
    assert longest == LEGEND_LENGTH


def test_patches_are_labelled_with_what_they_show():
    for scene, clip in zip(SCENES, CLIPS, strict=True):
        shapes = set(np.unique(clip["image_shape"])) - {0, -100}
        truth = {row[1] + 1 for row in clip["attributes"][: len(scene.sprites)]}
        assert shapes <= truth
        assert set(np.unique(clip["video_motion"])) - {0, -100} <= {row[2] + 1 for row in clip["attributes"]}
        both = (clip["video_shape"] > 0) & (clip["video_motion"] > 0)
        pairs = set(zip(clip["video_shape"][both] - 1, clip["video_motion"][both] - 1, strict=True))
        assert pairs <= {(row[1], row[2]) for row in clip["attributes"]}
    assert sum((clip["video_motion"] > 0).any() for clip in CLIPS) == len(CLIPS)


def test_sets_are_written_once_and_read_in_part(tmp_path):
    write_clips(tmp_path, "test", 0, SHARD, 3, workers=1)
    clips = read_clips(tmp_path, 10, ("attributes", "grey"))
    assert clips["grey"].shape == (10, 8, 64, 64)
    expected = clip_arrays(association_scene("test", 0, 9, 3))
    assert np.array_equal(clips["grey"][9], expected["grey"])
    stamp = (tmp_path / "0000.npz").stat().st_mtime_ns
    write_clips(tmp_path, "test", 0, SHARD, 3, workers=1)
    assert (tmp_path / "0000.npz").stat().st_mtime_ns == stamp
    with pytest.raises(FileNotFoundError, match=r"0001\.npz"):
        read_clips(tmp_path, SHARD + 1)


def test_counts_come_in_shards(tmp_path):
    with pytest.raises(ValueError, match="multiple of 500"):
        write_clips(tmp_path, "test", 0, 10)
