"""Latents of frames and back, states of prompts, the size of an edit, and bad inputs."""

import numpy as np
import pytest
import torch
from random_editing import make_unet
from tiny_diffusion import make_base, make_text_encoder, make_vae
from tiny_towers import clip_tokenizer

pytest.importorskip("diffusers")

from modeling_sen.editing.base_parts import BaseParts
from modeling_sen.editing.latents import decode_latents, edit_size, encode_frames, encode_prompts, vae_factor

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def parts():
    return BaseParts(make_vae(), make_text_encoder(), clip_tokenizer(), None)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_a_lossless_vae_reconstructs_frames_bit_for_bit():
    vae = make_vae("unshuffle")
    latents = encode_frames(vae, FRAMES)
    assert latents.shape == (1, 48, 5, 2, 3)
    np.testing.assert_array_equal(decode_latents(vae, latents), FRAMES)
    assert latents.max() <= vae.config.scaling_factor
    assert latents.min() >= -vae.config.scaling_factor


def test_latents_are_the_scaled_mode_of_each_frame():
    vae = make_vae()
    latents = encode_frames(vae, FRAMES, chunk=2)
    pixels = torch.from_numpy(FRAMES[3:4]).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.no_grad():
        mean = vae.quant_conv(vae.encoder(pixels)).chunk(2, dim=1)[0]
        back = vae.decoder(vae.post_quant_conv(mean))
    torch.testing.assert_close(latents[:, :, 3], mean * 0.18215)
    expected = ((back.clamp(-1, 1) + 1) * 127.5).numpy().transpose(0, 2, 3, 1)
    assert abs(decode_latents(vae, latents, chunk=3)[3:4] - expected).max() < 0.51  # rounding


def test_the_vae_gets_a_chunk_at_a_time_and_the_result_does_not_depend_on_it():
    vae, seen = make_vae("unshuffle"), []
    encode, decode = vae.encode, vae.decode
    vae.encode = lambda x: seen.append(len(x)) or encode(x)
    vae.decode = lambda z: seen.append(len(z)) or decode(z)
    latents = encode_frames(vae, FRAMES, chunk=2)
    assert torch.equal(latents, encode_frames(vae, FRAMES, chunk=9))
    np.testing.assert_array_equal(decode_latents(vae, latents, chunk=4), FRAMES)
    assert seen == [2, 2, 1, 5, 4, 1]


def test_latents_have_the_dtype_of_the_vae():
    vae = make_vae().bfloat16()
    latents = encode_frames(vae, FRAMES)
    assert latents.dtype == torch.bfloat16
    assert decode_latents(vae, latents.float()).shape == FRAMES.shape


def test_other_frames_and_latents_are_errors():
    vae = make_vae()
    with pytest.raises(ValueError, match=r"frames: expected \(T, H, W, 3\) uint8, found shape \(8, 12, 3\) of uint8"):
        encode_frames(vae, FRAMES[0])
    with pytest.raises(ValueError, match=r"found shape \(5, 8, 12, 3\) of float64"):
        encode_frames(vae, FRAMES / 255)
    with pytest.raises(ValueError, match="expected height and width in multiples of 4, found 8 x 11"):
        encode_frames(vae, FRAMES[:, :, 1:])
    with pytest.raises(ValueError, match=r"latents: expected \(1, 4, T, h, w\), found shape \(1, 5, 4, 2, 3\)"):
        decode_latents(vae, torch.zeros(1, 5, 4, 2, 3))


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_states_are_those_of_the_base_pipeline(tmp_path):
    from diffusers import StableDiffusionPipeline

    from modeling_sen.editing.base_parts import load_base_parts
    from modeling_sen.hub_files import HubSource

    folder = make_base(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    with torch.no_grad():
        wanted, negative = pipeline.encode_prompt("a red dog", "cpu", 1, True, negative_prompt="blur")
    parts = load_base_parts(HubSource.of(folder, {}))
    found = encode_prompts(parts, ["a red dog", "a cat"], negative_prompt="blur")
    assert found.shape == (3, 77, 12)
    torch.testing.assert_close(found[:2], torch.cat([negative, wanted]))
    torch.testing.assert_close(encode_prompts(parts, ["a cat"]), found[2:])


def test_only_the_negative_prompt_may_be_empty(parts):
    assert encode_prompts(parts, ["a dog"], negative_prompt="").shape == (2, 77, 12)
    for empty in ("", " \n"):
        with pytest.raises(ValueError, match="prompt: expected some words, found "):
            encode_prompts(parts, ["a dog", empty])


def test_a_prompt_of_too_many_tokens_is_an_error(parts):
    most = "x" * 75  # a token each, of a tokenizer without merges
    assert encode_prompts(parts, [most]).shape == (1, 77, 12)
    with pytest.raises(ValueError, match=r"prompt 'x+': expected at most 77 tokens with start and end, found 78"):
        encode_prompts(parts, [most + "x"])
    with pytest.raises(ValueError, match="found 82"):
        encode_prompts(parts, ["a dog"], negative_prompt="y" * 80)


# --- size ------------------------------------------------------------------------------------------------------------


def stable_diffusion():
    """VAE and UNet that have the sizes of Stable Diffusion 1, as far as the size of an edit depends on them."""
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    unet = make_unet(block_out_channels=(4, 4, 4, 4), down_block_types=down, up_block_types=up, sample_size=64)
    vae = make_vae()
    vae.register_to_config(block_out_channels=(4, 4, 4, 4))
    return vae, unet


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((480, 480), (448, 448)),
        ((1080, 1920), (384, 640)),
        ((1920, 1080), (640, 384)),
        ((720, 960), (448, 576)),
        ((64, 64), (64, 64)),
        ((300, 130), (256, 128)),
        ((70, 20000), (64, 4096)),
        ((4000, 4001), (512, 512)),
    ],
)
def test_sizes_at_stable_diffusion(size, expected):
    assert edit_size(*size, *stable_diffusion()) == expected


def test_sizes_fit_the_base_and_about_keep_the_aspect_ratio():
    vae, unet = stable_diffusion()
    assert vae_factor(vae) == 8
    random = np.random.default_rng(1)
    for height, width in random.integers(256, 3000, (200, 2)).tolist():
        high, wide = edit_size(height, width, vae, unet)
        assert high % 64 == 0
        assert wide % 64 == 0
        assert 64 <= high <= height
        assert 64 <= wide <= width
        assert 512 * 512 / 3 < high * wide <= 512 * 512 or min(height, width) < 512
        if max(height, width) < 2 * min(height, width):
            assert 0.8 < high / wide * width / height < 1.25


@pytest.mark.parametrize("size", [(64, 64), (1080, 1920), (200, 100), (5000, 64)])
def test_a_base_of_one_position_in_the_lowest_block_edits_at_its_own_size(size):
    vae, unet = stable_diffusion()
    unet.register_to_config(sample_size=8)
    assert edit_size(*size, vae, unet) == (64, 64)


def test_frames_smaller_than_the_lowest_block_are_an_error():
    with pytest.raises(ValueError, match="expected at least 64 pixels a side for this base model, found 63 x 500"):
        edit_size(63, 500, *stable_diffusion())
