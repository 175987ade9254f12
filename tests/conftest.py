"""Shared fixtures: tiny random towers, built once for the session; no test reaches the network."""

import copy
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are slower on tensors this small

from pathlib import Path

import pytest
import torch
from random_sen import SMALL
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
    """Family -> folder of a complete random checkpoint."""
    return make_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="session")
def built() -> dict:
    """Arguments of `make_sen` -> the SEN and the state of torch's generator after it was built."""
    return {}


@pytest.fixture
def make_sen(towers, built):
    """Builds a tiny SEN of CLIP frames, VideoMAE motion and AST sound; each call returns a copy of one built per session."""

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
    """A saved SEN that needs no other folder: frames, motion, sound, words; its gate is open, so association has effect."""
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
def worded_config(towers) -> "modeling_sen.SENConfig":
    """The configuration of a SEN like `sen_folder`; the paths of its towers do not exist."""
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["bert"]]
    return modeling_sen.SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL).config


@pytest.fixture(scope="session")
def built_trackers() -> dict:
    return {}


@pytest.fixture
def pixel_tracker(make_sen, built_trackers) -> "modeling_sen.SENForVideoTracking":
    """A tracker with random pixel networks that reads no neuron."""
    if "pixels" not in built_trackers:
        torch.manual_seed(3)
        config = modeling_sen.SENTrackingConfig(sen_config=make_sen().config.to_dict(), window=4, refinement_steps=2)
        built_trackers["pixels"] = modeling_sen.SENForVideoTracking(config).eval()
    return copy.deepcopy(built_trackers["pixels"])


@pytest.fixture
def tiny_tracker(make_sen, pixel_tracker, built_trackers) -> "modeling_sen.SENForVideoTracking":
    """The same pixel networks, with untrained features of tiny CLIP frames and VideoMAE motion."""
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
