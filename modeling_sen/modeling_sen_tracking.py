# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENForVideoTracking: any point of a video, followed through all its frames.

Convolutions over the pixels say where a point is, dense features of a SEN's neurons which point it is. The head is ours; the
paper's tracker optimises a model of each clip (CaDeX++) with SEN features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from .configuration_sen import NeuronSpec, SENConfig
from .modeling_sen import SENModel
from .point_network import PointNetwork, find_peaks
from .pretrained_sen import SENPreTrainedModel
from .processing_sen import SENProcessor
from .window_features import config_for_windows, read_windows

SEMANTIC = ("sharpening.", "semantic_")  # how the names of those weights of the network begin that read tokens


class SENTrackingConfig(PreTrainedConfig):
    """Configuration of a [`SENForVideoTracking`].

    Args:
        sen_config: of the SEN.
        tracked_neurons: names of the neurons whose dense features are read; none for pixels alone.
        window: consecutive frames that the SEN reads as one clip.
        longest_side: pixels; larger frames are tracked at this size. Positions are returned in pixels of the original.
        refinement_steps: of each track.
        visibility_threshold: a point counts as visible from this probability on, of being visible and found within 4 pixels
            at 256 x 256. The default is best by AJ, on clips of the seeds 3000 to 3002 of five presets; it hardly matters.
        calibration: scale and shift of the logit of that probability, fitted on clips that no weight was trained on.
        initializer_range: standard deviation of the initial weights.
    """

    model_type = "sen_tracking"
    sub_configs_defaults = {"sen_config": SENConfig}  # type: ignore[dict-item]  # noqa: RUF012 (Transformers' own)

    sen_config: dict | SENConfig | None = None
    tracked_neurons: list[str] | None = None
    window: int = 8
    longest_side: int = 512
    refinement_steps: int = 4
    visibility_threshold: float = 0.4
    calibration: tuple[float, float] | list[float] = (1.0, 0.0)
    initializer_range: float = 0.02


@dataclass
class SENPointTracks(ModelOutput):
    """`tracks` (T, N, 2) x, y in pixels of the frames given; `visibility_logits` (T, N); `confidence_logits` (T, N), of a
    visible point being within 4 pixels of its place.
    """

    tracks: Tensor | None = None
    visibility_logits: Tensor | None = None
    confidence_logits: Tensor | None = None


class SENForVideoTracking(SENPreTrainedModel):
    """A SEN and the networks that track points. [`track`] takes whole clips, [`stream`] frames as they come."""

    config: SENTrackingConfig  # type: ignore[assignment]
    main_input_name = "frames"
    # bfloat16 would round positions to whole pixels.
    _keep_in_fp32_modules_strict = ["network"]  # noqa: RUF012 (Transformers' own declaration)

    def __init__(self, config: SENTrackingConfig):
        super().__init__(config)
        self.sen = SENModel(config.sen_config)  # type: ignore[arg-type]  # the base class made it a configuration
        self.read_neurons = list(config.tracked_neurons or ())
        for name in self.read_neurons:
            self.sen.check_neuron(name)
        self.network = PointNetwork([self.sen.specs[name].hidden_size for name in self.read_neurons])
        self._processor: SENProcessor | None = None
        self.post_init()

    @classmethod
    def from_sen(
        cls,
        sen: SENModel,
        tracker: "SENForVideoTracking",
        neurons: Sequence[str] | None = None,
        window: int = 8,
        **settings: Any,
    ) -> "SENForVideoTracking":
        """A tracker with the frozen pixel networks of another, and with dense features of a SEN, which are to be trained.

        The SEN's association is copied, its towers are shared; the SEN given stays as it is. Until the features are trained,
        tracks are those of the pixel networks alone.

        Args:
            sen: its image neurons read every frame of a window in the tracker, its video neurons as many as before.
            tracker: a trained one, with or without features of a SEN.
            neurons: to read; by default all of images and video. Frames are stretched to the size that a neuron takes, and
                nothing is cropped.
            window: see [`SENTrackingConfig`].
            settings: other fields of [`SENTrackingConfig`]; by default those of the tracker.

        Raises:
            ValueError: no such neuron, or none of images or video; a neuron whose frames have no fixed size.
        """
        names = [name for name, spec in sen.specs.items() if _reads_video(spec)] if neurons is None else list(neurons)
        if not names:
            raise ValueError(f"sen: expected a neuron of images or video, found {', '.join(sen.specs)}")
        for name in names:
            sen.check_neuron(name)
            if not _reads_video(sen.specs[name]):
                raise ValueError(f"neurons: {name!r} reads {sen.specs[name].modality}, expected images or video")
        sen.ensure_loaded()
        kept = ("longest_side", "refinement_steps", "visibility_threshold", "calibration")
        model = cls(
            SENTrackingConfig(
                sen_config=config_for_windows(sen, names, window),
                tracked_neurons=names,
                window=window,
                **{**{name: getattr(tracker.config, name) for name in kept}, **settings},
            )
        )
        model.sen.neurons.share(sen.neurons)
        model.sen.load_state_dict(sen.state_dict(), strict=False)  # it may lack the modulation
        pixels = {name: value for name, value in tracker.network.state_dict().items() if not name.startswith(SEMANTIC)}
        model.network.load_state_dict(pixels, strict=False)
        model.freeze_pixel_networks()
        model.to(sen.gate.device)  # type: ignore[arg-type]
        return model.eval()

    def freeze_pixel_networks(self) -> None:
        """Leaves to training what reads the SEN, and the SEN's association."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(SEMANTIC))

    # --- features of the SEN -----------------------------------------------------------------------------------------

    @property
    def processor(self) -> SENProcessor:
        if self._processor is None:
            self._processor = SENProcessor(self.sen.config, self.sen.neurons.base)
        return self._processor

    def read_tokens(self, frames: np.ndarray) -> list[Tensor]:
        """Dense features of the neurons that are read, (T, h, w, width) each, of frames (T, H, W, 3) uint8; see
        [`read_windows`].
        """
        if not self.read_neurons:
            return []
        found = read_windows(self.sen, self.processor, frames, self.read_neurons, self.config.window)
        return list(found.values())

    # --- tracking ----------------------------------------------------------------------------------------------------

    def forward(
        self, frames: Tensor, query_points: Tensor, initial_tracks: Tensor | None = None, **kwargs: Any
    ) -> SENPointTracks:
        """Refines tracks, without the search for paths that [`track`] makes first.

        Args:
            frames: (T, H, W, 3) uint8, height and width multiples of 8.
            query_points: (N, 3) t, x, y.
            initial_tracks: (T, N, 2); by default the best match in each frame.
        """
        encoded = self.network.encode_frames(frames, self.read_tokens(frames.cpu().numpy()))
        queries = self.network.encode_queries(encoded, query_points)
        if initial_tracks is None:
            initial_tracks = find_peaks(self.network.match(encoded, queries), 1)[:, :, 0].transpose(0, 1)
        poses = torch.zeros_like(initial_tracks)
        poses[..., 0] = 1
        time = torch.arange(len(frames), device=frames.device)[:, None] - query_points[:, 0]
        steps = self.config.refinement_steps
        last = self.network.refine(encoded, queries, query_points[:, 1:], time, initial_tracks, poses, steps)[-1]
        return SENPointTracks(last.tracks, last.visibility_logits, last.confidence_logits)

    @torch.inference_mode()
    def track(
        self,
        frames: np.ndarray,
        query_points: np.ndarray,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Follows points through a clip, forwards and backwards from their query frames. A query's track depends on no other.

        Args:
            frames: (T, H, W, 3) uint8.
            query_points: (N, 3) t, x, y, in pixels of the frames, with pixel centres at whole numbers.
            progress: called with the steps that are done, and their number.

        Returns:
            [`SENTrackingOutput`].

        Raises:
            ImportError: OpenCV is not installed (the extra `tracking`).
            ValueError: frames or points that do not fit.
        """
        try:
            from modeling_sen.tracking.track_clip import track_clip
        except ImportError as error:
            raise ImportError(f"tracking needs the package modeling-sen with its extra `tracking`: {error}") from error
        return track_clip(self, frames, query_points, progress)

    def stream(self) -> Any:
        """A [`PointStream`]: tracks points in frames as they come, from the past alone.

        Raises:
            ImportError: OpenCV is not installed (the extra `tracking`).
        """
        try:
            from modeling_sen.tracking.stream import PointStream
        except ImportError as error:
            raise ImportError(f"tracking needs the package modeling-sen with its extra `tracking`: {error}") from error
        return PointStream(self)


def _reads_video(spec: NeuronSpec) -> bool:
    return spec.modality in ("image", "video")


__all__ = ["SENForVideoTracking", "SENPointTracks", "SENTrackingConfig"]
