"""The losses of point tracking against numbers written out, and that a few steps lower them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from modeling_sen.point_network import PointNetwork
from modeling_sen.point_refiner import RefinedTracks
from modeling_sen.training.tracking_task import DISCOUNT, FAR, HIDDEN, matching_loss, refinement_loss, tracking_loss
from modeling_sen.training.training_clips import training_clip


@pytest.fixture(scope="module")
def clip():
    """A small part of a clip: 5 frames, cut to 64 pixels, points that are queried there."""
    whole = training_clip(3)
    first = int(whole.query_points[:, 0].mode().values)
    frames = slice(max(0, first - 2), max(0, first - 2) + 5)
    rows = (whole.query_points[:, 0] >= frames.start) & (whole.query_points[:, 0] < frames.stop)
    queries = whole.query_points[rows]
    queries[:, 0] -= frames.start
    parts = {
        name: getattr(whole, name)[frames][:, rows]
        for name in ("tracks", "visibility", "poses", "initial_tracks", "initial_poses")
    }
    return dataclasses.replace(whole, frames=whole.frames[frames], query_points=queries, **parts)


def test_matching_loss_is_the_cross_entropy_of_the_four_cells_around_a_point():
    torch.manual_seed(0)
    tracks = torch.tensor([[[10.0, 6.0]], [[13.5, 9.5]]])  # the second is the centre of cell 3, 2
    clip = training_clip(0)
    clip = dataclasses.replace(
        clip,
        frames=clip.frames[:2],
        tracks=tracks,
        visibility=torch.ones(2, 1, dtype=torch.bool),
        query_points=torch.tensor([[0.0, 10.0, 6.0]]),
    )
    cost = torch.randn(1, 2, 8, 8)
    target = torch.tensor([2 * 8 + 3])
    torch.testing.assert_close(matching_loss(cost, clip), F.cross_entropy(cost[:, 1].flatten(1), target))
    between = dataclasses.replace(clip, tracks=tracks + torch.tensor([1.0, 0.0]))  # a quarter of the way to the next
    mixed = 0.75 * F.cross_entropy(cost[:, 1].flatten(1), target) + 0.25 * F.cross_entropy(
        cost[:, 1].flatten(1), target + 1
    )
    torch.testing.assert_close(matching_loss(cost, between), mixed)


def test_refinement_losses_written_out(clip):
    torch.manual_seed(0)
    shape = clip.visibility.shape
    steps = [
        RefinedTracks(clip.tracks + torch.randn(*shape, 2) * 6, clip.poses, torch.randn(shape), torch.randn(shape))
        for _ in range(2)
    ]
    position = visibility = 0.0
    for number, step in enumerate(steps):
        total = weights = visible = count = 0.0
        for time in range(shape[0]):
            for row in range(shape[1]):
                if time == int(clip.query_points[row, 0]):
                    continue
                seen = bool(clip.visibility[time, row])
                error = float(((step.tracks - clip.tracks)[time, row].square().sum() + 0.01).sqrt())
                bounded = error if error < FAR else FAR * (1 + float(torch.tensor(error / FAR).log()))
                weight = 1.0 if seen else HIDDEN
                total, weights = total + bounded * weight, weights + weight
                logit = step.visibility_logits[time, row]
                visible += float(F.softplus(-logit if seen else logit))
                count += 1
        discount = DISCOUNT ** (1 - number)
        position, visibility = position + discount * total / weights, visibility + discount * visible / count
    losses = refinement_loss(steps, clip)
    assert float(losses["position"]) == pytest.approx(position, rel=1e-4)
    assert float(losses["visibility"]) == pytest.approx(visibility, rel=1e-4)
    assert float(losses["pose"]) == 0


def test_all_parameters_are_trained_and_a_few_steps_lower_the_loss(clip):
    torch.manual_seed(0)
    network = PointNetwork([8])
    tokens = [torch.randn(len(clip.frames), 4, 4, 8)]
    network.init_own_weights(0.02)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(1)
        loss = tracking_loss(network, clip, tokens)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # the scale of the cosines is zero at first, so what is under it is reached from the second step on
    assert [name for name, each in network.named_parameters() if each.grad is None] == []
    assert losses[-1] < 0.9 * losses[0]
