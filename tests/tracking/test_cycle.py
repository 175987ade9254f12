"""Which peaks match back to their queries, against a search written out."""

import pytest
import torch

from modeling_sen.point_features import sample_features
from modeling_sen.point_network import EncodedFrames, PointNetwork
from modeling_sen.tracking import cycle


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PointNetwork([]).eval()


@torch.inference_mode()
@pytest.mark.parametrize("batch", [5, 512])
def test_against_a_search_of_each_peak(network, monkeypatch, batch):
    monkeypatch.setattr(cycle, "BATCH", batch)
    torch.manual_seed(1)
    encoded = network.encode_frames(torch.randint(0, 256, (4, 48, 64, 3), dtype=torch.uint8))
    queries = torch.tensor([[2.0, 20.0, 30.0], [0.0, 41.0, 9.0], [2.0, 50.0, 12.0]])
    peaks = torch.rand(3, 4, 2, 2) * torch.tensor([63.0, 47.0])
    peaks[0, 2, 0], peaks[1, 0, 1] = queries[0, 1:], queries[1, 1:]  # of the query's own frame
    own = EncodedFrames(tuple(level[[0, 2]] for level in encoded.levels), None)
    found = cycle.cycle_is_wrong(network, encoded, own, queries, peaks)
    fine, coarse = encoded.levels[1], encoded.levels[2]
    for row in range(3):
        frame = int(queries[row, 0])
        for time in range(4):
            for number in range(2):
                place = peaks[row, time, number][None, None]
                one = torch.einsum("c,chw->hw", sample_features(fine[time : time + 1], place, 4)[0, 0], fine[frame])
                two = torch.einsum(
                    "c,chw->hw", sample_features(coarse[time : time + 1], place, 8)[0, 0], coarse[frame]
                )
                two = torch.nn.functional.interpolate(two[None, None], size=one.shape, mode="bilinear")[0, 0]
                scale = network.match_scale.exp()
                best = int((scale[0] * one + scale[1] * two).argmax())
                cell = torch.tensor([best % 16, best // 16]) * 4 + 1.5
                assert bool(found[row, time, number]) == bool((cell - queries[row, 1:]).norm() > cycle.CYCLE)
    assert not found[0, 2, 0]
    assert not found[1, 0, 1]
    assert found.any()
