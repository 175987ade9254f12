"""The base model of sen-tiny-edit: a text-to-image diffusion model of the kind of Stable Diffusion for frames of 64 x 64."""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from modeling_sen.editing.pixel_unshuffle import PixelUnshuffle

SIZE = 64  # pixels a side
TRAIN_TIMESTEPS = 1000
LATENT_SHAPE = (48, SIZE // 4, SIZE // 4)  # squares of 4 x 4 pixels
TEXT_WIDTH = 128
WIDTHS = (64, 112)  # of the UNet's levels, 16 x 16 and 8 x 8
# Pixels of -1 to 1 have a standard deviation of 0.16, and the loss of velocities is balanced where it is 1. With a factor of
# 1 a tiny UNet had, after 250 steps, ten times the error in frames with noise of standard deviation 1.
SCALING_FACTOR = 6.0


class EditingBase(nn.Module):
    """UNet and text encoder, which are trained together.

    Args:
        tokenizer: whose vocabulary the text encoder has.
        widths: of the UNet's two levels.
    """

    def __init__(self, tokenizer, widths: tuple[int, int] = WIDTHS):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            # As in Stable Diffusion there is no attention in the lowest level but for the middle block.
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=widths,
            layers_per_block=1,
            attention_head_dim=2,  # the number of heads
            cross_attention_dim=TEXT_WIDTH,
            norm_num_groups=16,
            use_linear_projection=True,
        )
        # On a CPU the fused attention is the slower one backwards: a step of 32 frames took 0.61 s of a core, now 0.42.
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                hidden_act="gelu",
                projection_dim=TEXT_WIDTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                attn_implementation="eager",
            )
        )

    def forward(self, latents: Tensor, timesteps: Tensor, input_ids: Tensor) -> Tensor:
        """(B, 48, 16, 16), (B,) or one for all, (B, 77) -> velocity (B, 48, 16, 16)."""
        return self.predict(latents, timesteps, self.text_states(input_ids))

    def text_states(self, input_ids: Tensor) -> Tensor:
        """(B, 77) -> (B, 77, width)."""
        return self.text_encoder(input_ids).last_hidden_state

    def predict(self, latents: Tensor, timesteps: Tensor, text_states: Tensor) -> Tensor:
        return self.unet(latents, timesteps, text_states).sample


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, for velocities, and up to pure noise.

    With a rest of the frame in the last step, as Stable Diffusion has, a small model did not learn backgrounds. DDPM's linear
    betas left about 4 % more error at equal noise.
    """
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def make_vae() -> PixelUnshuffle:
    return PixelUnshuffle(scaling_factor=SCALING_FACTOR)


def to_latents(vae: PixelUnshuffle, frames: Tensor) -> Tensor:
    """(B, 64, 64, 3) uint8 -> (B, 48, 16, 16) float32."""
    pixels = frames.movedim(-1, 1).float() / 127.5 - 1
    return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor


def to_frames(vae: PixelUnshuffle, latents: Tensor) -> Tensor:
    """(B, 48, 16, 16) -> (B, 64, 64, 3) uint8."""
    pixels = vae.decode(latents / vae.config.scaling_factor).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)
