"""Tiny random UNets like those of Stable Diffusion, an editing model that uses one, and inputs for it."""

from pathlib import Path

import torch
from safetensors.torch import save_file

import modeling_sen

SIZES = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
}
# As Stable Diffusion 1, whose `attention_head_dim` is the number of heads, and 2, which has linear projections.
UNETS = {
    "sd1": {"attention_head_dim": 2},
    "sd2": {"attention_head_dim": (2, 4), "use_linear_projection": True, "cross_attention_dim": 20},
}


def make_unet(kind="sd1", **settings):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(2)
    return UNet2DConditionModel(**{**SIZES, **UNETS[kind], **settings}).eval()


def randomize(adapter, scale=0.3):
    """As after training: no weight of the adapter is zero."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return adapter


def make_editing(sen, base=None, **settings):
    """The adapter reads the tiny SEN's frames and motion in windows of four frames."""
    base = make_unet() if base is None else base
    torch.manual_seed(8)
    return modeling_sen.SENForVideoEditing.from_base(base, sen, **{"num_frames": 4, **settings})


def random_step(batch=2, frames=3, size=(8, 8), text_width=12, seed=0):
    """(latents, timesteps, text_states) of one step."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, frames, *size, generator=generator)
    timesteps = torch.randint(1000, (batch,), generator=generator)
    return latents, timesteps, torch.randn(batch, 5, text_width, generator=generator)


def per_frame(unet, latents, timesteps, text_states):
    """The UNet without an adapter, applied to each frame separately."""
    frames = latents.shape[2]
    folded = latents.transpose(1, 2).flatten(0, 1)
    times, texts = timesteps.repeat_interleave(frames), text_states.repeat_interleave(frames, dim=0)
    with torch.no_grad():
        output = unet(folded, times, texts).sample
    return output.unflatten(0, (-1, frames)).transpose(1, 2)


def tuned_weights():
    """State dict of a UNet as Tune-A-Video saves it: names and shapes of its UNet3DConditionModel."""
    from modeling_sen.editing.edit_adapter import unet_shape

    unet = make_unet()
    weights, generator = dict(unet.state_dict()), torch.Generator().manual_seed(4)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    for path, (width, _) in unet_shape(unet)[0].items():
        for name in ("attn1", "attn2"):
            weights[f"{path}.{name}.to_q.weight"] = weights[f"{path}.{name}.to_q.weight"] + random(width, width)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            weights[f"{path}.attn_temp.{name}.weight"] = random(width, width)
        weights[f"{path}.attn_temp.to_out.0.bias"] = random(width)
        weights[f"{path}.norm_temp.weight"], weights[f"{path}.norm_temp.bias"] = torch.ones(width), torch.zeros(width)
    return weights


def save_tuned(weights, folder, kind="bin"):
    """Saves the part of a pipeline's folder that is read; returns the folder."""
    file = Path(folder, "unet", f"diffusion_pytorch_model.{kind}")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, file) if kind == "bin" else save_file(weights, file)
    return str(folder)


def gaussian_predictor(scheduler, mean, variance):
    """The exact prediction for Gaussian data: (sample, timestep) -> noise or velocity, as the scheduler is configured."""

    def predict(sample, timestep):
        product = scheduler.alphas_cumprod[timestep].item()
        alpha, sigma = product**0.5, (1 - product) ** 0.5
        # Posterior mean of the noise: linear regression of the noise on the sample.
        noise = sigma / (product * variance + 1 - product) * (sample - alpha * mean)
        if scheduler.config.prediction_type == "epsilon":
            return noise
        clean = mean + alpha * variance / (product * variance + 1 - product) * (sample - alpha * mean)
        return alpha * noise - sigma * clean

    return predict
