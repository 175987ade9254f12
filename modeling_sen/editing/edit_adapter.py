# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENEditAdapter: the trainable weights for editing a video with a text-to-image UNet, stored separately from the UNet.

Attached to a UNet of Stable Diffusion 1 or 2, the adapter turns it into a video UNet, following Tune-A-Video
(arXiv 2212.11565), and conditions it on features of a SEN. It does not change the UNet's weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from modeling_sen.editing.attention import (
    CastLayerNorm,
    QueryDelta,
    SENAttention,
    SparseCausalAttention,
    TemporalAttention,
    TextAttention,
)
from modeling_sen.editing.conditioning import FeatureReader, ResidualConditioning, frame_tokens
from modeling_sen.modeling_sen_editing import CONDITIONING

FEATURE_WIDTH = 256  # common width of the neurons' features


class BlockAdapter(nn.Module):
    """The adapter's modules for a transformer block of the UNet; shared modules have the names of Tune-A-Video's weights."""

    def __init__(self, width: int, heads: int, trained_queries: Sequence[str], token_width: int | None):
        super().__init__()
        self.norm_temp = CastLayerNorm(width)
        self.attn_temp = TemporalAttention(width, heads)
        self.attn1 = QueryDelta(width) if "attn1" in trained_queries else None
        self.attn2 = QueryDelta(width) if "attn2" in trained_queries else None
        self.attn_sen = None if token_width is None else SENAttention(width, heads, token_width)

    def add_temporal_attention(self, block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Forward hook of the block. Under gradient checkpointing, all arguments are positional."""
        # The number of frames is read from the arguments, so that a recomputed forward pass uses the right one.
        attention_kwargs = kwargs["cross_attention_kwargs"] if "cross_attention_kwargs" in kwargs else args[5]
        return output + self.attn_temp(self.norm_temp(output), (attention_kwargs or {}).get("num_frames", 1))


@dataclass
class Attachment:
    """A UNet with an adapter.

    Attributes:
        unet: the UNet.
        processors: the original processors of its attention layers, as a pair (attn1, attn2) per block.
        hooks: handles of the hooks on its blocks.
    """

    unet: Any
    processors: list[tuple[Any, Any]] = field(default_factory=list)
    hooks: list[Any] = field(default_factory=list)


class SENEditAdapter(ModelMixin, ConfigMixin):
    """Sparse-causal and temporal attention, trained query projections, and conditioning on a SEN, for one kind of UNet.

    With an untrained adapter, the UNet's output for a single frame is the same as without an adapter.

    Args:
        blocks: path of each transformer block in the UNet -> its width and number of heads.
        down_widths: channels of the UNet's down blocks.
        conditioning: `"residual"` adds maps to the residuals of the down blocks; `"cross"` adds attention to tokens of the
            same frame; `"residual+cross"` does both.
        neuron_widths: neuron -> width of its features; empty for an adapter that reads none, as in Tune-A-Video.
        trained_queries: attention layers whose query projection is trained: `"attn1"` for self-attention, `"attn2"` for
            attention to the text. Tune-A-Video trains both.
        tuning: record of the tuning on a clip, see `tuning_record`; `None` for an adapter that was not tuned.

    Raises:
        ValueError: an unknown conditioning.
    """

    config: Any
    _supports_gradient_checkpointing = False  # the UNet has its own

    @register_to_config
    def __init__(
        self,
        blocks: dict[str, tuple[int, int]],
        down_widths: list[int],
        conditioning: str = "residual",
        neuron_widths: dict[str, int] | None = None,
        trained_queries: tuple[str, ...] = ("attn1",),
        tuning: dict[str, Any] | None = None,
    ):
        super().__init__()
        if conditioning not in CONDITIONING:
            raise ValueError(f"conditioning is {conditioning!r}, expected one of {', '.join(CONDITIONING)}")
        self.neuron_widths = dict(neuron_widths or {})
        kinds = conditioning.split("+") if self.neuron_widths else []
        token_width = FEATURE_WIDTH if "cross" in kinds else None
        root: Any = self  # mypy does not find that it is a module
        for path, (width, heads) in blocks.items():
            _place(root, path, BlockAdapter(width, heads, trained_queries, token_width))
        self.reader = FeatureReader(self.neuron_widths, FEATURE_WIDTH) if kinds else None
        self.residual = ResidualConditioning(FEATURE_WIDTH, down_widths) if "residual" in kinds else None
        self.reads_tokens = "cross" in kinds
        self._attachment: Attachment | None = None

    @classmethod
    def from_unet(
        cls, unet: Any, conditioning: str = "residual", neuron_widths: Mapping[str, int] | None = None, **settings: Any
    ) -> "SENEditAdapter":
        """Builds an untrained adapter for a UNet, without attaching it.

        Args:
            unet: the UNet, only read for its shape.
            conditioning, neuron_widths, settings: arguments of the adapter.

        Raises:
            ValueError: `unet` is not a UNet of Stable Diffusion 1 or 2; an unknown conditioning.
        """
        blocks, down_widths = unet_shape(unet)
        return cls(blocks, down_widths, conditioning, dict(neuron_widths or {}), **settings)

    # --- the UNet ----------------------------------------------------------------------------------------------------

    @property
    def unet(self) -> Any:
        """The attached UNet, or `None`."""
        return None if self._attachment is None else self._attachment.unet

    def attach(self, unet: Any) -> "SENEditAdapter":
        """Turns a UNet2DConditionModel into a video UNet, which `forward` runs, without changing its weights.

        If the UNet is called directly, it treats each frame as a video of one frame.

        Args:
            unet: the UNet.

        Raises:
            ValueError: the UNet's shape differs from the adapter's, or it has an adapter already; this adapter is attached
                already.
        """
        if self._attachment is not None:
            raise ValueError("this adapter is attached to a UNet already; expected detach() first")
        blocks, down_widths = unet_shape(unet)
        expected = {path: list(shape) for path, shape in self.config.blocks.items()}
        if blocks != expected or down_widths != list(self.config.down_widths):
            raise ValueError(
                f"adapter of another base model: it was made for a UNet with {_words(expected, self.config.down_widths)}, "
                f"found one with {_words(blocks, down_widths)}"
            )
        modules = [(unet.get_submodule(path), self.get_submodule(path)) for path in blocks]
        if any(isinstance(block.attn1.processor, SparseCausalAttention) for block, _ in modules):
            raise ValueError(
                "this UNet has an adapter already; expected one without, or detach() of that adapter first"
            )
        attachment = Attachment(unet)
        for block, own in modules:
            attachment.processors.append((block.attn1.processor, block.attn2.processor))
            block.attn1.set_processor(SparseCausalAttention(own.attn1))  # type: ignore[arg-type]
            block.attn2.set_processor(TextAttention(own.attn2, own.attn_sen))  # type: ignore[arg-type]
            hook = block.register_forward_hook(own.add_temporal_attention, with_kwargs=True)  # type: ignore[arg-type]
            attachment.hooks.append(hook)
        self._attachment = attachment
        return self

    def detach(self) -> None:
        """Restores the UNet to its original state.

        Raises:
            ValueError: the adapter is not attached.
        """
        attachment = self._attached()
        for path, (first, second) in zip(self.config.blocks, attachment.processors, strict=True):
            block = attachment.unet.get_submodule(path)
            block.attn1.set_processor(first)
            block.attn2.set_processor(second)
        for hook in attachment.hooks:
            hook.remove()
        self._attachment = None

    def _attached(self) -> Attachment:
        if self._attachment is None:
            raise ValueError("this adapter is attached to no UNet; expected attach(unet) first")
        return self._attachment

    # --- forward -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor | float,
        text_states: Tensor,
        features: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """A forward pass of the video UNet.

        Args:
            latents: (batch, channels, frames, h, w), in the UNet's dtype.
            timesteps: (batch,), or one for all.
            text_states: (batch, tokens, width) of the text encoder, the same for all frames of a video.
            features: neuron -> (videos, frames, rows, columns, width) features of a SEN; missing neurons are left out, `None`
                leaves all out. The batch may contain the videos several times, as for classifier-free guidance:
                [without text | with text].

        Returns:
            (batch, channels, frames, h, w), the UNet's prediction.

        Raises:
            ValueError: wrong shapes; features of an unknown neuron; the adapter is attached to no UNet.
        """
        unet = self._attached().unet
        if latents.ndim != 5:
            raise ValueError(f"latents: expected (batch, channels, frames, h, w), found shape {tuple(latents.shape)}")
        batch, _, frames, *size = latents.shape
        if len(text_states) != batch:
            raise ValueError(
                f"text_states: expected {batch} rows, one for each video of latents, found {len(text_states)}"
            )
        timesteps = torch.as_tensor(timesteps, device=latents.device).expand(batch)
        residuals, tokens = self._condition(features or {}, batch, frames, size, latents.dtype)
        output = unet(
            latents.transpose(1, 2).flatten(0, 1),  # (batch * frames, channels, h, w)
            timesteps.repeat_interleave(frames),
            encoder_hidden_states=text_states.repeat_interleave(frames, dim=0),
            cross_attention_kwargs={"num_frames": frames, "sen_tokens": tokens, "latent_size": tuple(size)},
            # Diffusers adds these to the output of each down block before downsampling, so they affect the lower blocks and
            # the skip connection. (ControlNet's `down_block_additional_residuals` affect only skip connections.)
            down_intrablock_additional_residuals=residuals,
        ).sample
        return output.unflatten(0, (batch, frames)).transpose(1, 2)

    def _condition(
        self, features: Mapping[str, Tensor], batch: int, frames: int, size: Sequence[int], dtype: torch.dtype
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Residuals for the down blocks and tokens of the frames, for all rows (batch * frames)."""
        for name, values in features.items():
            if name not in self.neuron_widths:
                expected = ", ".join(self.neuron_widths) or "none"
                raise ValueError(f"features: this adapter reads no neuron {name!r}, expected {expected}")
            width = self.neuron_widths[name]
            if values.ndim != 5 or values.shape[1] != frames or values.shape[-1] != width or batch % len(values):
                raise ValueError(
                    f"features of {name!r}: expected (videos, {frames}, rows, columns, {width}) with a number of videos that "
                    f"divides the batch of {batch}, found shape {tuple(values.shape)}"
                )
        if self.reader is None or not features:
            return None, None
        maps = self.reader(features, dtype)
        times = batch * frames // len(maps[0])
        residuals = tokens = None
        if self.residual is not None:
            found = self.residual(maps, residual_sizes(self._attached().unet, size))
            residuals = [each.repeat(times, 1, 1, 1) for each in found]
        if self.reads_tokens:
            tokens = frame_tokens(maps, frames).repeat(times, 1, 1)
        return residuals, tokens


def unet_shape(unet: Any) -> tuple[dict[str, list[int]], list[int]]:
    """A dict from the path of each transformer block to [width, heads], and the channels of the down blocks.

    Raises:
        ValueError: `unet` is not a UNet of Stable Diffusion 1 or 2.
    """
    expected = "expected a UNet2DConditionModel of Stable Diffusion 1 or 2"
    model_class: Any = UNet2DConditionModel
    if not isinstance(unet, model_class):
        raise ValueError(f"unet: found a {type(unet).__name__}, {expected}")
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if unet.config.get(name) is not None:
            raise ValueError(f"unet: its {name} is {unet.config[name]!r}, {expected}, which has none")
    found = {path: module for path, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)}
    if not found:
        raise ValueError(f"unet: it has no transformer blocks, {expected}")
    if any(block.only_cross_attention or block.attn2 is None for block in found.values()):
        raise ValueError(f"unet: a transformer block lacks self-attention or attention to text, {expected}")
    blocks = {path: [block.attn1.to_q.in_features, block.attn1.heads] for path, block in found.items()}
    return blocks, list(unet.config.block_out_channels)


def residual_sizes(unet: Any, size: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) of the residual of each down block, for latents of (height, width) `size`.

    Diffusers adds the residual before downsampling in blocks with attention, and after it in blocks without.
    """
    (height, width), sizes = size, []
    for block in unet.down_blocks:
        before = height, width
        if block.downsamplers is not None:
            height, width = -(-height // 2), -(-width // 2)
        sizes.append(before if getattr(block, "has_cross_attention", False) else (height, width))
    return sizes


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Registers a module under a dotted path, so that its weights have the same names as in the UNet."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def _words(blocks: Mapping[str, Sequence[int]], down_widths: Sequence[int]) -> str:
    shapes = dict.fromkeys(f"{width}/{heads}" for width, heads in blocks.values())
    return f"{len(blocks)} transformer blocks (width/heads {', '.join(shapes)}) and down blocks of {list(down_widths)}"


__all__ = ["SENEditAdapter", "residual_sizes", "unet_shape"]
