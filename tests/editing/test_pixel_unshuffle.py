"""The autoencoder without weights: nothing is lost, each place keeps its pixels, and it saves and loads."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from modeling_sen.editing.pixel_unshuffle import PixelUnshuffle

PICTURES = torch.rand(2, 3, 12, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_decoding_reconstructs_the_picture_bit_for_bit():
    vae = PixelUnshuffle()
    latents = vae.encode(PICTURES).latent_dist.mode()
    assert latents.shape == (2, vae.config.latent_channels, 3, 2)
    assert torch.equal(vae.decode(latents).sample, PICTURES)
    assert torch.equal(vae(PICTURES).sample, PICTURES)


def test_a_latent_position_holds_the_pixels_of_its_square():
    latents = PixelUnshuffle((3, 12), 12).encode(PICTURES).latent_dist.mode()
    assert torch.equal(latents[1, :, 4, 3].sort().values, PICTURES[1, :, 8:10, 6:8].flatten().sort().values)


def test_only_a_configuration_is_saved(tmp_path):
    vae = PixelUnshuffle((3, 12), 12, scaling_factor=1.7)
    vae.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "PixelUnshuffle"
    found = PixelUnshuffle.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert (found.config.scaling_factor, found.factor, found.dtype) == (1.7, 2, torch.bfloat16)
    assert found.device == torch.device("cpu")
    assert not found.training
    assert PixelUnshuffle.from_pretrained(tmp_path).dtype == torch.float32


@pytest.mark.parametrize(("channels", "latent"), [((3, 12), 48), ((4, 16), 16), ((), 3)])
def test_inconsistent_channels_are_an_error(channels, latent):
    with pytest.raises(ValueError, match=rf"latent_channels {latent}, expected 3, 12, 48"):
        PixelUnshuffle(channels, latent)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError):
        PixelUnshuffle.from_pretrained(tmp_path / "nothing")
