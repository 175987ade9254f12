"""Features of the pyramid, and sampling them around points."""

import pytest
import torch

from modeling_sen.point_features import (
    CHANNELS,
    STRIDES,
    FeaturePyramid,
    patch_offsets,
    query_patches,
    sample_features,
    turn,
)


@pytest.fixture(scope="module")
def pyramid():
    torch.manual_seed(0)
    return FeaturePyramid().eval()


def test_levels_have_their_strides_and_features_of_unit_length(pyramid):
    frames = torch.randint(0, 256, (3, 40, 64, 3), dtype=torch.uint8)
    levels = pyramid(frames)
    assert [tuple(level.shape) for level in levels] == [
        (3, channels, 40 // stride, 64 // stride) for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    for level in levels:
        torch.testing.assert_close(level.norm(dim=1), torch.ones_like(level[:, 0]))


def test_a_frame_is_encoded_independently_of_the_others(pyramid):
    frames = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    for together, single in zip(pyramid(frames), pyramid(frames[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", STRIDES)
def test_positions_are_pixel_centres_at_whole_numbers(stride):
    """A cell contains the mean position of its pixels; sampling at a point then returns the point."""
    height, width = 48 // stride, 64 // stride
    x = (torch.arange(width) + 0.5) * stride - 0.5
    y = (torch.arange(height) + 0.5) * stride - 0.5
    cells = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]  # (1, 2, h, w)
    points = torch.tensor([[[10.0, 12.0], [31.25, 20.5], [40.0, 33.0]]])
    torch.testing.assert_close(sample_features(cells, points, stride), points)


def test_query_patches_are_sampled_in_the_frame_of_their_query():
    torch.manual_seed(0)
    levels = tuple(
        torch.randn(5, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    )
    queries = torch.cat([torch.randint(0, 4, (40, 1)).float(), torch.rand(40, 2) * 63], dim=1)
    patches = query_patches(levels, queries)
    for level, stride, patch in zip(levels, STRIDES, patches, strict=True):
        for query, found in zip(queries, patch, strict=True):
            frame = int(query[0])
            points = query[1:] + patch_offsets(queries) * stride
            torch.testing.assert_close(found, sample_features(level[frame : frame + 1], points[None], stride)[0])
    assert [patch.shape[0] for patch in query_patches(levels, queries[:0])] == [0, 0, 0]


def test_turn_rotates_and_scales_offsets():
    offsets = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    turned = turn(offsets, torch.tensor([[0.0, 3.0]]))  # clockwise on the screen, scaled by three
    torch.testing.assert_close(turned, torch.tensor([[[0.0, 3.0], [-6.0, 0.0]]]))
