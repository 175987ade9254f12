# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Dense features of every frame of a clip, which a SEN reads in windows of consecutive frames.

Heads with an output at each frame and place read them: tracking and editing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .modeling_sen import SENModel
from .processing_sen import SENProcessor

WINDOWS = 8  # windows of frames that the SEN reads at once


def config_for_windows(sen: SENModel, names: Sequence[str], window: int) -> dict[str, Any]:
    """The SEN's configuration, with neurons that read windows of consecutive frames, whole, and modulate their tokens.

    Args:
        names: of the neurons that are read. Image neurons read every frame of a window, others as many as before.
        window: frames.

    Raises:
        ValueError: a neuron whose frames have no fixed size.
    """
    settings, processor = sen.config.to_dict(), SENProcessor(sen.config, sen.neurons.base)
    settings.pop("_name_or_path", None)  # where the SEN was loaded from, which may be a local folder
    settings["dense_neurons"] = list(dict.fromkeys([*(settings["dense_neurons"] or []), *names]))
    for neuron in settings["neurons"]:
        if neuron["name"] in names:
            size = list(processor.frame_size(neuron["name"]))
            neuron["preprocessing"] = {**(neuron.get("preprocessing") or {}), "size": size, "crop": size}
            neuron["sampling"] = "uniform"  # of as many frames as there are: each, in order
            if neuron["modality"] == "image":
                neuron["num_frames"] = window
    return settings


def read_windows(
    sen: SENModel,
    processor: SENProcessor,
    frames: np.ndarray,
    names: Sequence[str],
    window: int,
    text: str | None = None,
) -> dict[str, Tensor]:
    """Dense features of each frame, by a SEN whose configuration is that of [`config_for_windows`].

    The last window is filled with the last frame. A neuron with fewer steps in time than frames gives each step to the frames
    around it. Of less than a window, as in streams, an image neuron reads no frame twice.

    Args:
        frames: (T, H, W, 3) uint8.
        names: of the neurons that are read.
        text: for text neurons, the same for all windows.

    Returns:
        Neuron -> (T, h, w, width). A neuron that the frames give no inputs for is left out, such as one of depth where the
        SEN has no depth estimator.
    """
    count = min(window, len(frames))
    filled = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % window, axis=0)])
    clips: list[Any] = list(filled.reshape(-1, window, *frames.shape[1:]))
    if text is not None:
        clips = [{"video": clip, "text": text} for clip in clips]
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(clips), WINDOWS):
        inputs = processor(videos=clips[start : start + WINDOWS]).to(sen.gate.device)
        given = [name for name in names if f"{name}_pixel_values" in inputs]
        for name in given:
            if sen.specs[name].modality == "image":
                inputs[f"{name}_pixel_values"] = inputs[f"{name}_pixel_values"][:, :count]
        output = sen(**inputs)
        for name in given:
            features = sen.dense_features(name, output)
            tokens = features.tokens.unflatten(1, features.grid)  # (windows, t, h, w, width)
            read = count if sen.specs[name].modality == "image" else window
            steps = torch.arange(count, device=tokens.device) * tokens.shape[1] // read
            found.setdefault(name, []).append(tokens[:, steps].flatten(0, 1))
    return {name: torch.cat(parts)[: len(frames)] for name, parts in found.items()}


__all__ = ["config_for_windows", "read_windows"]
