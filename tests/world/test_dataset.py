import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from modeling_sen.world import WORLD_PRESETS, WorldClips, caption, make_scene, render, sound_of


def test_a_sample_is_the_clip_its_sound_and_its_truth():
    sample = WorldClips("test", 5, seed=3)[2]
    scene = make_scene("test", 3, 2)
    np.testing.assert_array_equal(sample["frames"], render(scene).frames)
    np.testing.assert_array_equal(sample["audio"], sound_of(scene))
    np.testing.assert_allclose(sample["times"], np.arange(16) / 8)
    assert sample["sampling_rate"] == 16_000
    assert sample["caption"] == caption(scene)
    assert len(sample["objects"]) == len(scene.sprites) == sample["masks"].max()
    assert (sample["index"], sample["split"], sample["scene"]) == (2, "test", scene)


def test_frames_asked_for_and_their_times():
    sample = WorldClips("train", 1, frame_indices=(1, 5, 9), size=48)[0]
    assert sample["frames"].shape == (3, 48, 48, 3)
    assert sample["times"].tolist() == [0.125, 0.625, 1.125]


def test_it_can_be_iterated_again_and_indexed_from_the_end():
    clips = WorldClips("train", 4)
    first, second = ([sample["index"] for sample in clips] for _ in range(2))
    assert first == second == [0, 1, 2, 3]
    assert clips[-1]["index"] == 3
    with pytest.raises(IndexError, match="clip 4 of 4"):
        clips[4]


def test_workers_give_the_same_samples():
    clips = pickle.loads(pickle.dumps(WorldClips("train", 6, num_objects=2)))
    loader = DataLoader(clips, batch_size=3, num_workers=1, collate_fn=list)
    loaded = [sample["frames"] for batch in loader for sample in batch]
    np.testing.assert_array_equal(loaded, [sample["frames"] for sample in clips])


@pytest.mark.parametrize("name", WORLD_PRESETS)
def test_presets_draw(name):
    preset = WORLD_PRESETS[name]
    sample = WorldClips("train", 1, **preset)[0]
    assert sample["frames"].shape == (preset["num_frames"], preset["size"], preset["size"], 3)
    assert set(np.unique(sample["masks"])) == set(range(len(sample["objects"]) + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("train", 0), "num is 0"), (("dev", 3), "unknown split 'dev'"), (("train", 3, -1), "seed")],
)
def test_wrong_settings_are_named_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        WorldClips(*arguments)
