"""Clips for training: what the camera does to them is undone by their tracks and poses."""

import pytest
import torch

from modeling_sen.point_features import sample_features, turn
from modeling_sen.training.training_clips import FIRST_SEED, LEAST_SEEN, training_clip
from modeling_sen.world.tracking_scene import TrackingKnobs, scene_with_knobs

NUMBERS = (0, 1, 4, 7)


@pytest.fixture(scope="module", params=NUMBERS)
def clip(request):
    return training_clip(request.param)


def test_shapes_and_ranges(clip):
    times, points = clip.visibility.shape
    assert clip.frames.shape == (times, 256, 256, 3)
    assert clip.frames.dtype == torch.uint8
    assert clip.tracks.shape == clip.poses.shape == clip.initial_tracks.shape == (times, points, 2)
    assert clip.initial_poses.shape == (times, points, 2)
    assert (clip.visibility.sum(0) >= LEAST_SEEN).all()
    for each in (clip.tracks, clip.poses, clip.query_points, clip.initial_tracks, clip.initial_poses):
        assert each.dtype == torch.float32
        assert torch.isfinite(each).all()


def test_queries_are_visible_points_of_their_tracks(clip):
    numbers, rows = clip.query_points[:, 0].long(), torch.arange(len(clip.query_points))
    torch.testing.assert_close(clip.tracks[numbers, rows], clip.query_points[:, 1:])
    assert clip.visibility[numbers, rows].all()
    torch.testing.assert_close(
        clip.poses[numbers, rows], torch.tensor([1.0, 0.0]).expand(len(rows), 2), atol=1e-5, rtol=0
    )


def test_the_same_number_gives_the_same_clip_and_another_another():
    first, again, other = training_clip(5), training_clip(5), training_clip(6)
    for name in ("frames", "tracks", "initial_tracks", "initial_poses"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.frames[0], other.frames[0])


def test_what_surrounds_a_point_is_where_its_pose_says(monkeypatch):
    """The colours four pixels away from a point, turned by its pose, are those of the query frame."""
    plain = TrackingKnobs(rotation=6, zoom=30)
    monkeypatch.setattr("modeling_sen.training.training_clips._drawn_knobs", lambda random: plain)
    offsets = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [0.0, -4.0]])
    turned, upright = [], []
    for number in range(6):
        clip = training_clip(number)
        frames = clip.frames.movedim(-1, 1).float()
        numbers, rows = clip.query_points[:, 0].long(), torch.arange(len(clip.query_points))
        for poses, errors in ((clip.poses, turned), (torch.tensor([1.0, 0.0]).expand_as(clip.poses), upright)):
            around = clip.tracks[:, :, None] + turn(offsets, poses)  # (T, N, 4, 2)
            seen = sample_features(frames, around.flatten(1, 2), 1).unflatten(1, around.shape[1:3])
            errors.append((seen - seen[numbers, rows])[clip.visibility].abs().mean(-1).flatten())
    turned, upright = (torch.cat(errors).median() for errors in (turned, upright))
    assert turned < 3.0  # grey levels
    assert upright > 2 * turned


def test_a_start_is_wrong_but_right_at_the_query(clip):
    error = (clip.initial_tracks - clip.tracks).norm(dim=-1)[clip.visibility]
    assert 0.3 < error.median() < 8
    assert error.max() > 8


def test_training_scenes_are_no_validation_or_test_scenes(monkeypatch):
    seeds = []

    def recorded(knobs, seed, preset):
        seeds.append(seed)
        return scene_with_knobs(knobs, seed, preset)

    monkeypatch.setattr("modeling_sen.training.training_clips.scene_with_knobs", recorded)
    for number in range(2):
        training_clip(number)
    assert seeds == [FIRST_SEED, FIRST_SEED + 1]
    assert FIRST_SEED >= 10**7
