"""Each protocol takes the frames, crops and words that its public code takes.

The references are the formulas of that code, written out here; the listed numbers are documented examples.
"""

import math

import numpy as np
import pytest
import torch

from modeling_sen import SEN_TINY, SENProcessor
from modeling_sen.evaluation.protocols import (
    ACTIONS_48,
    DATASETS,
    KINETICS_28,
    PROTOCOLS,
    protocol_processors,
)
from modeling_sen.frame_sampling import sample_indices


def indices(protocol, total, rate=25.0, view=0):
    protocol = PROTOCOLS[protocol]
    return sample_indices(protocol.sampling[view], protocol.num_frames, total, np.arange(total) / rate).tolist()


def mmaction_test_frames(total, clips=32):
    """SampleFrames(clip_len=1, frame_interval=1, num_clips=32, test_mode=True)."""
    average = (total - 1 + 1) / float(clips)
    offsets = (np.arange(clips) * average + average / 2.0).astype(int)
    return np.mod(offsets, total).tolist()


def slowfast_test_frames(total, rate, view):
    """get_start_end_idx(use_offset=True, num_clips_uniform=3) and temporal_sampling, 8 frames at 16 steps of 1/30 s."""
    size = max(1.0, 16 * 8 / 30 * rate)
    start = view * math.floor(max(total - size, 0) / 2)
    index = torch.linspace(start, start + size - 1, 8)
    return torch.clamp(index, 0, total - 1).long().tolist()


@pytest.mark.parametrize("total", [1, 7, 31, 32, 33, 64, 150, 250, 299, 300, 1799])
def test_frames_are_those_of_the_public_code(total):
    assert indices("xclip", total) == indices("vifi", total) == mmaction_test_frames(total)
    assert indices("pe", total) == [int(i * (total - 1) / 7) for i in range(8)]
    if total >= 8:
        assert indices("mteb", total) == [int(i) for i in np.linspace(0, total - 1, 8).round()]
    else:
        assert indices("mteb", total) == [i * total // 8 for i in range(8)]
    for rate in (25.0, 30.0, 29.97, 12.0):
        for view in range(3):
            assert indices("openvclip", total, rate, view) == slowfast_test_frames(total, rate, view)


def test_documented_examples():
    """A Kinetics clip of ten seconds at 30 frames per second."""
    assert indices("xclip", 300)[:4] == [4, 14, 23, 32]
    assert indices("xclip", 300)[-1] == 295
    assert indices("pe", 300) == [0, 42, 85, 128, 170, 213, 256, 299]
    assert indices("mteb", 300) == [0, 43, 85, 128, 171, 214, 256, 299]
    assert indices("openvclip", 300, 30.0, 0) == [0, 18, 36, 54, 72, 90, 108, 127]
    assert indices("openvclip", 300, 30.0, 1) == [86, 104, 122, 140, 158, 176, 194, 213]
    assert indices("openvclip", 300, 30.0, 2) == [172, 190, 208, 226, 244, 262, 280, 299]


def test_prompt_texts():
    assert len(set(KINETICS_28)) == 28
    assert len(set(ACTIONS_48)) == 48
    assert PROTOCOLS["pe"].templates_for("hmdb51") == ACTIONS_48
    assert PROTOCOLS["pe"].templates_for("kinetics-600") == PROTOCOLS["pe"].templates_for(None) == KINETICS_28
    assert "a example of a person during {}." in KINETICS_28
    assert "a demonstration of the person practicing {}." in ACTIONS_48
    assert PROTOCOLS["xclip"].templates_for("ucf101") == ("{}",)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_says_where_it_is_from(name):
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    assert protocol.version >= 1
    assert protocol.source
    assert protocol.differs
    assert protocol.aggregation in ("probabilities", "logits")
    assert set(protocol.templates) - {""} <= set(DATASETS)
    assert all(len(commit) == 40 for _, commit in protocol.hub_datasets.values())


@pytest.fixture(scope="module")
def processor():
    return SENProcessor.from_pretrained(SEN_TINY)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_view_has_the_protocols_frames(name, processor):
    protocol = PROTOCOLS[name]
    specs = {spec.name: spec for spec in processor.config.neuron_specs}
    video = np.random.default_rng(0).integers(0, 256, (40, 48, 96, 3), dtype=np.uint8)
    views = [view(video) for view in protocol_processors(processor, protocol)]
    assert len(views) == (3 if name == "openvclip" else 1)
    for view in views:
        for neuron, spec in specs.items():
            if spec.takes_frames and f"{neuron}_pixel_values" in view:
                own = spec.modality != "image" or name == "own"
                expected = spec.num_frames if own else protocol.num_frames
                height, width = processor.frame_size(neuron)
                assert view[f"{neuron}_pixel_values"].shape == (1, expected, 3, height, width)
    assert "image_pixel_values" in views[0]


def test_cropped_or_squashed(processor):
    """Of a frame twice as wide as high, whose outer quarters are white: a crop sees none of them, a squash all."""
    video = np.zeros((1, 64, 128, 3), dtype=np.uint8)
    video[:, :, :32] = video[:, :, 96:] = 255
    (cropped,) = protocol_processors(processor, PROTOCOLS["vifi"])
    (squashed,) = protocol_processors(processor, PROTOCOLS["pe"])
    black = cropped(np.zeros_like(video))["image_pixel_values"][0, 0, 0, 0, 0]
    white = cropped(np.full_like(video, 255))["image_pixel_values"][0, 0, 0, 0, 0]
    share = {
        name: ((part(video)["image_pixel_values"][0, 0, 0] - black) / (white - black)).mean().item()
        for name, part in (("cropped", cropped), ("squashed", squashed))
    }
    assert share["cropped"] == pytest.approx(0.0, abs=0.01)
    assert share["squashed"] == pytest.approx(0.5, abs=0.02)
