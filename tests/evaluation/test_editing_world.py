"""Comparison of edited clips with the exact edit, by a reader that knows what was drawn."""

import numpy as np
import pytest

from modeling_sen.evaluation.editing_world import world_edit_metrics
from modeling_sen.world import edit_attribute, make_scene, positions, render


class ReaderOf:
    """Reads what a scene has, whatever the frames show; frames are told apart by nothing."""

    def __init__(self, scene):
        self.scene = scene

    def read_sprites(self, frames, centres):
        assert len(frames) == len(centres)
        path = [positions(sprite, self.scene.num_frames) / 256 for sprite in self.scene.sprites]
        near = [np.abs(places[:, None] - centres).sum(-1).min(0) for places in path]  # (sprites, N)
        found = [self.scene.sprites[number] for number in np.argmin(near, axis=0)]
        return {name: [getattr(sprite, name) for sprite in found] for name in ("colour", "shape")}

    def read_backgrounds(self, frames):
        return [self.scene.background.kind] * len(frames)


@pytest.fixture(params=["colour", "shape", "background"])
def attribute(request):
    return request.param


def test_an_exact_edit_has_full_accuracy(attribute):
    scene = make_scene("test", 0, 3, num_objects=2)
    change = edit_attribute(scene, attribute)
    found = world_edit_metrics(render(change.scene).frames, scene, change, ReaderOf(change.scene))
    expected = ("edit", "kept", "colour", "shape", "background")
    assert [found[f"{name}_accuracy"] for name in expected] == [1] * 5
    assert found["exact_psnr"] == 100
    assert found["exact_ssim"] == pytest.approx(1)


def test_a_copy_of_the_source_keeps_all_and_edits_nothing(attribute):
    scene = make_scene("test", 0, 3, num_objects=2)
    change = edit_attribute(scene, attribute)
    frames = range(0, 16, 2)
    found = world_edit_metrics(render(scene, frames).frames, scene, change, ReaderOf(scene), frames)
    assert found["edit_accuracy"] == 0
    assert found["kept_accuracy"] == 1
    assert found[f"{attribute}_accuracy"] < 1
    for other in {"colour", "shape", "background"} - {attribute}:
        assert found[f"{other}_accuracy"] == 1
    assert 10 < found["exact_psnr"] < 50


def test_shares_by_hand():
    """One sprite in sight in all frames; the reader errs in the shape in the first of four frames."""
    scene = make_scene("test", 0, 5, num_objects=1)
    change = edit_attribute(scene, "colour")

    class Errs(ReaderOf):
        def read_sprites(self, frames, centres):
            found = super().read_sprites(frames, centres)
            return {**found, "shape": ["nothing", *found["shape"][1:]]}

    frames = range(6, 10)
    found = world_edit_metrics(render(change.scene, frames).frames, scene, change, Errs(change.scene), frames)
    assert (found["edit_accuracy"], found["kept_accuracy"]) == (1, 7 / 8)  # four shapes, four backgrounds
    assert (found["colour_accuracy"], found["shape_accuracy"], found["background_accuracy"]) == (1, 3 / 4, 1)


def test_a_hidden_sprite_is_not_evaluated():
    seen = []

    class Counts(ReaderOf):
        def read_sprites(self, frames, centres):
            seen.append(len(frames))
            return super().read_sprites(frames, centres)

    scene = make_scene("test", 0, 9, num_objects=8)
    change = edit_attribute(scene, "shape")
    exact = render(change.scene)
    world_edit_metrics(exact.frames, scene, change, Counts(change.scene))
    areas = [[(mask == number + 1).sum() for mask in exact.masks] for number in range(8)]
    halves = [2 * np.array(area) >= max(area) for area in areas]
    assert sum(seen) < 8 * 16
    assert sum(seen) == pytest.approx(np.sum(halves), abs=4)  # the whole area need not be in sight in any frame


def test_another_number_of_frames_is_refused():
    scene = make_scene("test", 0, 0)
    change = edit_attribute(scene, "colour")
    with pytest.raises(ValueError, match="edited: expected frames like those of the source"):
        world_edit_metrics(render(scene).frames[:4], scene, change, ReaderOf(scene))
