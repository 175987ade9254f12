"""The frames of a stretch of a video, at its own or a lower rate."""

import math

import numpy as np
import pytest
from frame_stamps import write_clip
from PIL import Image

pytest.importorskip("diffusers")

from modeling_sen.editing import edit_frames
from modeling_sen.editing.edit_frames import read_stretch, resized
from modeling_sen.video_io import read_video


def clip(frames=12):
    """Frame t is of brightness 10 t."""
    return np.broadcast_to(np.arange(frames, dtype=np.uint8).reshape(-1, 1, 1, 1) * 10, (frames, 6, 8, 3)).copy()


def numbers(found):
    return (found.frames[:, 0, 0, 0] // 10).tolist()
