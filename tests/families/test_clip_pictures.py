"""Sizes and crops of pictures, against those that torchvision and pytorchvideo have."""

import pytest
import torch

from modeling_sen.families.clip_pictures import by_shorter_side, by_shorter_side_of_video, centre


@pytest.mark.parametrize(
    ("size", "image", "video"),
    [
        ((480, 640), (224, 298), (224, 298)),
        ((640, 480), (298, 224), (298, 224)),
        ((300, 300), (224, 224), (224, 224)),
        ((112, 115), (224, 230), (224, 229)),  # 115 / 112 * 224 is less than 230 in floating point
        ((115, 112), (230, 224), (229, 224)),
    ],
)
def test_the_longer_side_is_rounded_down_in_the_originals_order(size, image, video):
    assert by_shorter_side(*size, 224) == image
    assert by_shorter_side_of_video(*size, 224) == video


def test_a_centre_crop_begins_at_the_even_pixel_where_two_are_as_near():
    values = torch.arange(9.0).expand(1, 7, 9)
    assert centre(values, 4, 6)[0, 0].tolist() == [2, 3, 4, 5, 6, 7]  # 1.5 pixels are left at each side
    assert centre(values.transpose(-1, -2), 8, 6)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
