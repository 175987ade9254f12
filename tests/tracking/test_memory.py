"""The estimate against what the arrays of a tracked clip really hold."""

import numpy as np
import pytest
import torch

from modeling_sen.point_network import PointNetwork
from modeling_sen.tracking.memory import memory_estimate
from modeling_sen.tracking.path_search import FrameStates
from modeling_sen.tracking.track_clip import LONG


@pytest.mark.parametrize("semantic", [False, True])
def test_the_estimate_is_the_size_of_what_is_held(semantic):
    frames, points = np.zeros((5, 64, 96, 3), dtype=np.uint8), np.zeros((7, 2), dtype=np.float32)
    encoded = PointNetwork([4] if semantic else []).encode_frames(
        torch.from_numpy(frames), [torch.zeros(5, 2, 3, 4)] if semantic else []
    )
    maps = [*encoded.levels, *([encoded.semantic] if semantic else [])]
    states = FrameStates.unreached(points)
    held = frames.nbytes + frames[..., 0].nbytes  # colours and grey
    held += sum(each.element_size() * each.nelement() for each in maps)
    held += 5 * sum(getattr(states, name).nbytes for name in states.__dataclass_fields__)
    assert memory_estimate(5, (64, 96), 7, 512, semantic) == held


def test_frames_of_another_size_are_held_twice_and_long_clips_in_half_precision():
    small = memory_estimate(10, (256, 256), 0, 512, False)
    assert memory_estimate(10, (512, 512), 0, 256, False) == small + 10 * 512 * 512 * 3
    per_frame = 256 * 256 * (24 / 4 + 48 / 16 + 64 / 64)
    longer = memory_estimate(LONG + 1, (256, 256), 0, 512, False)
    assert longer == (LONG + 1) * (256 * 256 * 4 + per_frame * 2)
