"""Shared fixtures: tiny random towers, built once for the session; no test reaches the network."""

import copy
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that share tiny tensors only wait for each other

from pathlib import Path

import pytest
import torch
from tiny_towers import make_towers

import modeling_sen

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared clips are not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> dict[str, str]:
    """Family -> folder of a whole random checkpoint."""
    return make_towers(tmp_path_factory.mktemp("towers"))


SMALL = {"hidden_size": 24, "num_prompt_tokens": 2, "bottleneck_size": 4}


@pytest.fixture(scope="session")
def built() -> dict:
    """What was asked of `make_sen` -> the SEN and the state of torch's generator after it was built."""
    return {}


@pytest.fixture
def make_sen(towers, built):
    """Builds a SEN over CLIP frames, VideoMAE motion and AST sound, all tiny: a copy of one built once a session."""

    def make(**overrides) -> "modeling_sen.SENModel":
        key = json.dumps(overrides, sort_keys=True)
        if key not in built:
            torch.manual_seed(1)
            neurons = overrides.pop(
                "neurons", [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"]]
            )
            settings = {**SMALL, **overrides}
            model = modeling_sen.SENModel.from_neurons(neurons, text_tower=towers["clip"], **settings)
            built[key] = model, torch.get_rng_state()
        model, generator_state = built[key]
        torch.set_rng_state(generator_state)
        return copy.deepcopy(model)

    return make


@pytest.fixture(scope="session")
def sen_folder(towers, tmp_path_factory) -> Path:
    """A saved SEN that stands alone: frames, motion, sound, words; its gate is open, so that association shows."""
    torch.manual_seed(1)
    image = {"hub_id": towers["clip"], "num_frames": 2}
    neurons = [image, towers["videomae"], towers["ast"], towers["bert"]]
    model = modeling_sen.SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL)
    model.gate.data.fill_(0.8)
    folder = tmp_path_factory.mktemp("checkpoints") / "sen"
    model.save_pretrained(folder, include_neurons=True)
    modeling_sen.SENProcessor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def built_trackers() -> dict:
    return {}


@pytest.fixture
def pixel_tracker(make_sen, built_trackers) -> "modeling_sen.SENForVideoTracking":
    """A tracker with random networks of pixels, which reads no neuron."""
    if "pixels" not in built_trackers:
        torch.manual_seed(3)
        config = modeling_sen.SENTrackingConfig(sen_config=make_sen().config.to_dict(), window=4, refinement_steps=2)
        built_trackers["pixels"] = modeling_sen.SENForVideoTracking(config).eval()
    return copy.deepcopy(built_trackers["pixels"])


@pytest.fixture
def tiny_tracker(make_sen, pixel_tracker, built_trackers) -> "modeling_sen.SENForVideoTracking":
    """The same networks of pixels, with untrained features of tiny CLIP frames and VideoMAE motion."""
    if "tokens" not in built_trackers:
        torch.manual_seed(4)
        built_trackers["tokens"] = modeling_sen.SENForVideoTracking.from_sen(make_sen(), pixel_tracker, window=4)
    return copy.deepcopy(built_trackers["tokens"])


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> list[Path]:
    """Three mp4 files of two seconds with sound."""
    from modeling_sen.world.write import write_world

    folder = tmp_path_factory.mktemp("world")
    write_world(folder, "test", 3, size=32, num_frames=16)
    return sorted((folder / "videos").glob("*.mp4"))


def random_inputs(batch_size: int = 2, seed: int = 0, frames: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image_pixel_values": torch.randn(batch_size, frames, 3, 16, 16, generator=generator),
        "video_pixel_values": torch.randn(batch_size, 4, 3, 16, 16, generator=generator),
        "audio_input_features": torch.randn(batch_size, 64, 16, generator=generator),
    }


def random_weights(model: "modeling_sen.SENModel", gate: float = 0.7) -> "modeling_sen.SENModel":
    """As after training: every association weight is something, and the gate is open."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.gate.fill_(gate)
        model.logit_scale.fill_(2.0)
    return model


def assert_gradient_is_that_of_finite_differences(parameter: torch.Tensor, loss, message: str | None = None) -> None:
    """Of one element in the middle of a float64 parameter whose gradient of `loss()` was computed before."""
    index, step, values = tuple(size // 2 for size in parameter.shape), 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):
            parameter[index] += sign * step
            values.append(loss())
        parameter[index] += step
    expected = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(parameter.grad[index], expected, rtol=1e-4, atol=1e-8, msg=message)
