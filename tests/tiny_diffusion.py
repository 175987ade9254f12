"""A tiny random base pipeline like Stable Diffusion, saved in the Hub's layout: all folders and model_index.json."""

import json
from pathlib import Path

import torch
from random_editing import make_unet
from tiny_towers import clip_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

PIXELS = 4  # pixels per side of one latent position, for both kinds of VAE
SIZE = 32  # pixels per side that the UNet is built for
TEXT_WIDTHS = {"sd1": 12, "sd2": 20}
# Schedulers as saved with Stable Diffusion 1, and with a v-prediction model with zero terminal signal-to-noise ratio.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SCHEDULERS = {
    "epsilon": ("PNDMScheduler", {"steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True}),
    "v_prediction": (
        "DDIMScheduler",
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        },
    ),
}


def make_vae(kind="kl"):
    """`AutoencoderKL` of 4 channels, or `PixelUnshuffle` of 48."""
    if kind == "unshuffle":
        from modeling_sen.editing.pixel_unshuffle import PixelUnshuffle

        return PixelUnshuffle(scaling_factor=1.5)
    from diffusers import AutoencoderKL

    torch.manual_seed(3)
    sizes = {"block_out_channels": (4, 8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": SIZE}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return AutoencoderKL(**sizes, **types).eval()


def make_text_encoder(width=12):
    """Two layers; the 514 tokens of `clip_tokenizer`, at most 77 positions."""
    torch.manual_seed(4)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return CLIPTextModel(CLIPTextConfig(vocab_size=514, max_position_embeddings=77, **sizes, **ends)).eval()


def make_base(folder, vae="kl", prediction="epsilon", kind="sd1"):
    """Saves the pipeline; returns the folder's path as a string.

    Args:
        vae: "kl" (`AutoencoderKL`, 4 channels) or "unshuffle" (`PixelUnshuffle`, 48 channels).
        prediction: "epsilon" (scheduler of Stable Diffusion 1) or "v_prediction" (zero terminal signal-to-noise ratio).
        kind: the UNet, "sd1" (text width 12) or "sd2" (20).
    """
    import diffusers

    folder = Path(folder)
    channels = {"kl": 4, "unshuffle": 48}[vae]
    unet = make_unet(kind, in_channels=channels, out_channels=channels, sample_size=SIZE // PIXELS)
    name, settings = SCHEDULERS[prediction]
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 77
    parts = {
        "unet": unet,
        "vae": make_vae(vae),
        "text_encoder": make_text_encoder(TEXT_WIDTHS[kind]),
        "tokenizer": tokenizer,
        "scheduler": getattr(diffusers, name)(**BETAS, **settings),
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    for part, value in parts.items():
        value.save_pretrained(folder / part)
        index[part] = [type(value).__module__.split(".")[0], type(value).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return str(folder)
