# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENEditAdapter: all that is trained to edit one video with a text-to-image UNet, kept apart from the UNet.

Attached to a UNet of Stable Diffusion 1 or 2, it makes a video UNet of it, after Tune-A-Video (arXiv 2212.11565), which reads
features of a SEN. The UNet's own weights stay as they are.
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

FEATURE_WIDTH = 256  # in which the features of neurons are fused


class BlockAdapter(nn.Module):
    """What one transformer block of the UNet gets; names are those of Tune-A-Video's checkpoints where both have the same."""

    def __init__(self, width: int, heads: int, trained_queries: Sequence[str], token_width: int | None):
        super().__init__()
        self.norm_temp = CastLayerNorm(width)
        self.attn_temp = TemporalAttention(width, heads)
        self.attn1 = QueryDelta(width) if "attn1" in trained_queries else None
        self.attn2 = QueryDelta(width) if "attn2" in trained_queries else None
        self.attn_sen = None if token_width is None else SENAttention(width, heads, token_width)

    def add_temporal_attention(self, block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Hook of the block's forward pass. Gradient checkpointing gives all arguments by position."""
        # The number of frames comes with the arguments, so that a pass that is run again for its gradients has its own.
        given = kwargs["cross_attention_kwargs"] if "cross_attention_kwargs" in kwargs else args[5]
        return output + self.attn_temp(self.norm_temp(output), (given or {}).get("num_frames", 1))


@dataclass
class Attachment:
    """A UNet with an adapter.

    Attributes:
        processors: of its attention layers before, in the order (attn1, attn2) of each block.
        hooks: handles of what was put on its blocks.
    """

    unet: Any
    processors: list[tuple[Any, Any]] = field(default_factory=list)
    hooks: list[Any] = field(default_factory=list)


class SENEditAdapter(ModelMixin, ConfigMixin):
    """Sparse-causal and temporal attention, trained query projections, and conditioning on a SEN, for one kind of UNet.

    As long as nothing is trained, a frame alone comes out of the UNet as without the adapter.

    Args:
        blocks: path of each transformer block in the UNet -> its width and number of heads.
        down_widths: channels of the UNet's down blocks.
        conditioning: `"residual"`: maps are added to the residuals of the down blocks; `"cross"`: attention to tokens of the
            same frame; `"residual+cross"`: both.
        neuron_widths: neuron -> width of its features; empty for an adapter that reads none, which is Tune-A-Video.
        trained_queries: `"attn1"`, self-attention, and `"attn2"`, attention to the text, which Tune-A-Video trains too.
        tuning: how the adapter was tuned on one clip, `None` where it was not; see `tuning_record`.

    Raises:
        ValueError: an unknown conditioning.
    """

    config: Any
    _supports_gradient_checkpointing = False  # the UNet's is what counts

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
        """An untrained adapter for a UNet, not attached yet.

        Raises:
            ValueError: no UNet of Stable Diffusion 1 or 2; an unknown conditioning.
        """
        blocks, down_widths = unet_shape(unet)
        return cls(blocks, down_widths, conditioning, dict(neuron_widths or {}), **settings)

    # --- the UNet ----------------------------------------------------------------------------------------------------

    @property
    def unet(self) -> Any:
        """That it is attached to, or `None`."""
        return None if self._attachment is None else self._attachment.unet

    def attach(self, unet: Any) -> "SENEditAdapter":
        """Makes a video UNet of a UNet2DConditionModel, whose weights stay as they are. `forward` runs it.

        Called by itself the UNet takes every frame for a video of one frame.

        Raises:
            ValueError: a UNet of another shape than the adapter was made for, or that has an adapter already; this adapter is
                attached already.
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
        """Makes of the UNet what it was before.

        Raises:
            ValueError: it is not attached.
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
        """One step of the video UNet.

        Args:
            latents: (batch, channels, frames, h, w), in the UNet's dtype.
            timesteps: (batch,), or one for all.
            text_states: (batch, tokens, width) of the text encoder, the same for all frames of a video.
            features: neuron -> (videos, frames, rows, columns, width) of a SEN; neurons that are missing have no influence,
                `None` leaves all out. The batch may hold the videos several times over, as for classifier-free guidance:
                [without text | with text].

        Returns:
            (batch, channels, frames, h, w), what the UNet predicts.

        Raises:
            ValueError: shapes that do not fit; features of an unknown neuron; the adapter is attached to no UNet.
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
            # Diffusers adds these to the output of each down block before it is halved, so that they reach the blocks below
            # and the skip connection. (`down_block_additional_residuals`, ControlNet's, reach skip connections only.)
            down_intrablock_additional_residuals=residuals,
        ).sample
        return output.unflatten(0, (batch, frames)).transpose(1, 2)

    def _condition(
        self, features: Mapping[str, Tensor], batch: int, frames: int, size: Sequence[int], dtype: torch.dtype
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Residuals of the down blocks and tokens of the frames, for all rows (batch * frames)."""
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
    """Path of each transformer block -> [width, heads]; and the channels of the down blocks.

    Raises:
        ValueError: no UNet of Stable Diffusion 1 or 2.
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
        raise ValueError(f"unet: its transformer blocks have no self-attention and attention to text each, {expected}")
    blocks = {path: [block.attn1.to_q.in_features, block.attn1.heads] for path, block in found.items()}
    return blocks, list(unet.config.block_out_channels)


def residual_sizes(unet: Any, size: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) at which each down block takes a residual, of latents of a size.

    Diffusers adds it before a block with attention halves its output, and after a block without attention has.
    """
    (height, width), sizes = size, []
    for block in unet.down_blocks:
        before = height, width
        if block.downsamplers is not None:
            height, width = -(-height // 2), -(-width // 2)
        sizes.append(before if getattr(block, "has_cross_attention", False) else (height, width))
    return sizes


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module under a dotted path, so that names of weights are those that it has in the UNet."""
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
