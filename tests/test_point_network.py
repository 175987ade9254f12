"""Matching, scoring and refinement: peaks, independent queries, and equal results if a long clip is processed in parts."""

import pytest
import torch

from modeling_sen.point_network import EncodedFrames, PointNetwork, find_peaks
from modeling_sen.point_refiner import FRAMES


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = PointNetwork([]).eval()
    for module in network.modules():
        if hasattr(module, "init_own_weights"):
            module.init_own_weights(0.02)
    torch.nn.init.normal_(network.refiner.leave[1].weight, std=0.05)  # otherwise the refiner would move nothing
    return network


@pytest.fixture(scope="module")
def frames():
    torch.manual_seed(1)
    coarse = torch.rand(6, 3, 16, 16) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 255)
    return smooth.round().to(torch.uint8).movedim(1, -1).contiguous()


QUERIES = torch.tensor([[0.0, 20.0, 30.0], [3.0, 40.5, 11.25], [0.0, 0.0, 63.0], [5.0, 50.0, 50.0]])


def refined(network, encoded, chosen, num_frames=6):
    queries = network.encode_queries(encoded, QUERIES[chosen])
    time = torch.arange(num_frames)[:, None] - QUERIES[chosen, 0]
    start = QUERIES[chosen, 1:].expand(num_frames, -1, -1)
    poses = torch.tensor([1.0, 0.0]).expand_as(start)
    return network.refine(encoded, queries, QUERIES[chosen, 1:], time, start, poses, steps=3)


def test_peaks_have_positions_between_cells():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    bumps = [(7.25, 5.375, 12.0), (22.0, 14.0, 9.0)]  # x, y in cells, height
    cost = sum(height * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4) for cx, cy, height in bumps)
    peaks = find_peaks(cost[None, None], 3)[0, 0]
    expected = torch.tensor([[cx * 4 + 1.5, cy * 4 + 1.5] for cx, cy, _ in bumps])
    torch.testing.assert_close(peaks[:2], expected, atol=0.7, rtol=0)


def test_an_image_with_fewer_cells_than_peaks_gives_the_same_shape():
    assert find_peaks(torch.zeros(1, 2, 1, 2), 3).shape == (1, 2, 3, 2)


@torch.inference_mode()
def test_a_query_does_not_depend_on_other_queries(network, frames):
    encoded = network.encode_frames(frames)
    together = network.encode_queries(encoded, QUERIES)
    cost, places = network.match(encoded, together), torch.rand(6, 4, 2) * 63
    poses = torch.tensor([1.0, 0.0]).expand(6, 4, 2)
    scores = network.score(encoded, together, places, poses)
    steps = refined(network, encoded, slice(None))
    for row in range(len(QUERIES)):
        single = network.encode_queries(encoded, QUERIES[row : row + 1])
        torch.testing.assert_close(network.match(encoded, single)[0], cost[row], atol=1e-4, rtol=1e-4)
        found = network.score(encoded, single, places[:, row : row + 1], poses[:, row : row + 1])
        torch.testing.assert_close(found[:, 0], scores[:, row], atol=1e-4, rtol=1e-4)
        last = refined(network, encoded, [row])[-1]
        torch.testing.assert_close(last.tracks[:, 0], steps[-1].tracks[:, row], atol=1e-3, rtol=1e-4)


@torch.inference_mode()
def test_a_query_matches_best_at_its_own_position(network, frames):
    encoded = network.encode_frames(frames)
    inner = QUERIES[[0, 1, 3]]
    cost = network.match(encoded, network.encode_queries(encoded, inner))
    peaks = find_peaks(cost, 1)[torch.arange(3), inner[:, 0].long(), 0]
    torch.testing.assert_close(peaks, inner[:, 1:], atol=4.0, rtol=0)


@torch.inference_mode()
def test_comparing_a_long_clip_in_parts_gives_the_same(network):
    torch.manual_seed(2)
    count = FRAMES + 7
    encoded = network.encode_frames(torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8))
    queries = network.encode_queries(encoded, torch.tensor([[0.0, 5.0, 6.0]]))
    places, poses = torch.rand(count, 1, 2) * 15, torch.tensor([1.0, 0.0]).expand(count, 1, 2)
    whole = network.comparison(encoded.levels, queries.patches, places, poses)
    parts = [
        network.comparison(encoded[part].levels, queries.patches, places[part], poses[part])
        for part in (slice(0, 30), slice(30, count))
    ]
    torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=1e-5)
    half = network.comparison(encoded.to(torch.float16).levels, queries.patches, places, poses)
    torch.testing.assert_close(half, whole, atol=5e-3, rtol=1e-2)


def test_refinement_steps_pass_no_gradient_to_earlier_steps(network, frames):
    """Each step is trained by its own error only."""
    encoded = network.encode_frames(frames)
    start = QUERIES[:, 1:].expand(6, -1, -1).clone().requires_grad_()
    queries = network.encode_queries(encoded, QUERIES)
    time = torch.arange(6)[:, None] - QUERIES[:, 0]
    poses = torch.tensor([1.0, 0.0]).expand_as(start)
    steps = network.refine(encoded, queries, QUERIES[:, 1:], time, start, poses, steps=2)
    (gradient,) = torch.autograd.grad(steps[-1].tracks.sum(), start, allow_unused=True)
    assert gradient is None


@torch.inference_mode()
def test_semantic_weights_of_zero_change_nothing(frames):
    torch.manual_seed(0)
    network = PointNetwork([12, 20]).eval()
    network.init_own_weights(0.02)
    tokens = [torch.randn(6, 4, 4, 12), torch.randn(6, 2, 3, 20)]
    encoded = network.encode_frames(frames, tokens)
    assert encoded.semantic.shape == (6, 32, 16, 16)
    pixels = EncodedFrames(encoded.levels, None)
    queries, places = network.encode_queries(encoded, QUERIES), torch.rand(6, 4, 2) * 63
    poses = torch.tensor([1.0, 0.0]).expand(6, 4, 2)
    torch.testing.assert_close(network.match(encoded, queries), network.match(pixels, queries))
    torch.testing.assert_close(
        network.score(encoded, queries, places, poses), network.score(pixels, queries, places, poses)
    )
    network.semantic_scale.fill_(2.0)
    assert not torch.equal(network.match(encoded, queries), network.match(pixels, queries))
