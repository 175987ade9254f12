"""The parts of a base pipeline beside its UNet: what is loaded, in which dtype, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusion import make_base, make_text_encoder, make_vae

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, StableDiffusionPipeline

from modeling_sen.editing.base_parts import load_base_parts
from modeling_sen.hub_files import HubSource


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(vae, prediction) -> folder."""
    folder = tmp_path_factory.mktemp("bases")
    kinds = [("kl", "epsilon"), ("unshuffle", "v_prediction")]
    return {kind: make_base(folder / "-".join(kind), *kind) for kind in kinds}


@pytest.fixture
def base(saved, tmp_path):
    """A folder to damage."""
    return shutil.copytree(saved["kl", "epsilon"], tmp_path / "base")


def load(folder, **kwargs):
    return load_base_parts(HubSource.of(folder, {}), **kwargs)


def same_weights(found, expected):
    expected = expected.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())


def test_parts_equal_the_saved_ones_and_are_frozen(saved):
    parts = load(saved["kl", "epsilon"])
    assert type(parts.vae).__name__ == "AutoencoderKL"
    assert same_weights(parts.vae, make_vae())
    assert same_weights(parts.text_encoder, make_text_encoder())
    assert parts.tokenizer("a dog").input_ids[0] == 512
    for module in (parts.vae, parts.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_vae_without_weights_is_loaded(saved):
    parts = load(saved["unshuffle", "v_prediction"])
    assert type(parts.vae).__name__ == "PixelUnshuffle"
    assert parts.vae.config.scaling_factor == 1.5


def test_the_scheduler_has_the_noise_levels_of_the_base(saved):
    found = load(saved["kl", "epsilon"]).scheduler
    base = StableDiffusionPipeline.from_pretrained(saved["kl", "epsilon"]).scheduler
    assert type(base).__name__ == "PNDMScheduler"
    assert isinstance(found, DDIMScheduler)
    assert torch.equal(found.alphas_cumprod, base.alphas_cumprod)
    assert torch.equal(found.final_alpha_cumprod, base.final_alpha_cumprod)
    assert (found.config.steps_offset, found.config.clip_sample) == (1, False)
    assert (found.config.prediction_type, found.config.timestep_spacing) == ("epsilon", "leading")
    zero = load(saved["unshuffle", "v_prediction"]).scheduler
    assert zero.alphas_cumprod[-1] == 0
    assert (zero.config.prediction_type, zero.config.timestep_spacing) == ("v_prediction", "trailing")


def test_the_dtype_is_float32_unless_another_is_asked_for(base):
    half = make_text_encoder().half()
    half.save_pretrained(f"{base}/text_encoder")
    parts = load(base)
    assert (parts.vae.dtype, parts.text_encoder.dtype) == (torch.float32, torch.float32)
    parts = load(base, torch_dtype=torch.bfloat16)
    assert (parts.vae.dtype, parts.text_encoder.dtype) == (torch.bfloat16, torch.bfloat16)


@pytest.mark.parametrize("folder", ["vae", "text_encoder"])
def test_missing_weights_are_an_error(base, folder):
    file = next((base / folder).glob("*.safetensors"))
    weights = load_file(file)
    weights.pop(gone := sorted(weights)[0])
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(RuntimeError, match=rf"{folder}: 1 weights are missing \(e.g. {gone}\) and would stay random"):
        load(base)


@pytest.mark.parametrize("folder", ["vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_an_error_that_names_it(base, folder):
    shutil.rmtree(base / folder)
    with pytest.raises(OSError, match=rf"base model .*: {folder}: .*has no file"):
        load(base)


@pytest.mark.parametrize("folder", ["vae", "text_encoder"])
def test_pickled_weights_are_not_read(base, folder):
    file = next((base / folder).glob("*.safetensors"))
    name = {"vae": "diffusion_pytorch_model.bin", "text_encoder": "pytorch_model.bin"}[folder]
    torch.save(load_file(file), base / folder / name)
    file.unlink()
    with pytest.raises(OSError, match=rf"base model .*: {folder}: "):
        load(base)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("vae/config.json", "_class_name", "VQModel", "vae: its class is 'VQModel', expected AutoencoderKL or Pixel"),
        (
            "scheduler/scheduler_config.json",
            "prediction_type",
            "sample",
            "scheduler: its prediction_type is 'sample', expected epsilon or v_prediction",
        ),
    ],
)
def test_other_kinds_are_errors(base, file, key, value, message):
    settings = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps({**settings, key: value}))
    with pytest.raises(ValueError, match=message):
        load(base)
