"""A minimal point tracker: each point moves by a fixed step per frame and is hidden outside of the frame."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from modeling_sen import SENTrackingOutput

STEP = np.array([1.5, -0.5], dtype=np.float32)  # x, y


class FakeTrackerConfig(PreTrainedConfig):
    model_type = "fake_tracker"

    longest_side: int = 512
    tracked_neurons: list | None = None


class FakeTracker(PreTrainedModel):
    config_class = FakeTrackerConfig

    def __init__(self, config: FakeTrackerConfig):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def track(self, frames, query_points, *, progress=None) -> SENTrackingOutput:
        assert frames.dtype == np.uint8
        assert query_points.dtype == np.float32
        assert not torch.is_grad_enabled()
        times = np.arange(len(frames), dtype=np.float32)[:, None] - query_points[:, 0]  # (T, N)
        tracks = query_points[:, 1:] + times[..., None] * STEP * self.scale.float().cpu().numpy()
        size = np.array(frames.shape[2:0:-1])
        visibility = ((tracks >= -0.5) & (tracks < size - 0.5)).all(axis=-1)
        for frame in range(len(frames)):
            if progress is not None:
                progress(frame + 1, len(frames))
        confidence = np.where(visibility, np.float32(0.9), np.float32(0.1))
        return SENTrackingOutput(tracks, visibility, confidence, query_points, frames.shape[1:3])


def save_fake_tracker(folder) -> str:
    """Registers the type with the Auto classes and saves a checkpoint."""
    AutoConfig.register("fake_tracker", FakeTrackerConfig, exist_ok=True)
    AutoModel.register(FakeTrackerConfig, FakeTracker, exist_ok=True)
    FakeTracker(FakeTrackerConfig()).save_pretrained(folder)
    return str(folder)
