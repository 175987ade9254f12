# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Runs only prompt tokens through frozen layers; they attend to keys and values recorded in the first look.

As in decoding with a KV cache, the tower's tokens are not computed again, because they do not attend to the prompts. One
attention function, registered with Transformers, wraps the function that the tower was loaded with (sdpa, eager, flash or
flex attention); it works for all layers that call attention through Transformers' registry.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

ATTENTION_NAME = "sen_recorded_attention"
# Arguments of attention functions that describe token positions; prompts have no position.
_POSITION_ARGUMENTS = ("position_bias", "position_ids", "sliding_window")


@dataclass
class RecordedAttention:
    """One attention call of a layer.

    Attributes:
        keys, values: (batch, heads, tokens, width of a head).
        mask: the tokens that at least one token attends to, as a boolean or additive mask (batch, 1 or heads, 1, tokens), or
            (batch, tokens); `None` for all tokens.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None


@dataclass
class RecordedLayer:
    """Values of one layer's first pass that a pass of prompt tokens uses.

    Attributes:
        arguments: the layer's arguments by name, without the hidden states.
        calls: its attention calls.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    calls: list[RecordedAttention] = field(default_factory=list)


@contextmanager
def recording(layers: Sequence[nn.Module]) -> Iterator[list[RecordedLayer]]:
    """Records each layer's arguments, keys and values in one pass.

    Raises:
        ValueError: after the pass, if a layer did not make exactly one attention call over its tokens; during the pass, if
            trained layers run with reentrant activation checkpointing.
    """
    records, shapes = [RecordedLayer() for _ in layers], [torch.Size()] * len(layers)
    with ExitStack() as stack:
        for number, (layer, record) in enumerate(zip(layers, records, strict=True)):

            def enter(module, args, kwargs, number=number, record=record):
                args, kwargs = named_arguments(module, args, kwargs)
                shapes[number] = (args[0] if args else kwargs["hidden_states"]).shape
                record.arguments = {name: value for name, value in kwargs.items() if name != "hidden_states"}

            stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.enter_context(_attention_replaced(layer, _record(record.calls)))
        yield records
    for layer, record, shape in zip(layers, records, shapes, strict=True):
        keys = [call.keys.shape for call in record.calls]
        if len(keys) != 1 or (keys[0][0], keys[0][2]) != tuple(shape[:2]):
            raise ValueError(
                f"{type(layer).__name__} takes no prompt 'queries': found attention over {[list(each) for each in keys]} "
                f"through Transformers' attention interface, expected one call for all {shape[1]} tokens; give the neuron "
                "prompt 'tokens'"
            )
        for call in record.calls:
            call.keys, call.values = _own_storage(call.keys), _own_storage(call.values)


def run_prompts(
    layers: Sequence[nn.Module], records: Sequence[RecordedLayer], prompts: Tensor, position: int
) -> Tensor:
    """The last layer's outputs for the prompt tokens.

    Equal to a pass over all tokens in which the tokens attend to no prompt, and the prompts attend to each other and to every
    token that at least one token attends to.

    Args:
        layers: layers of the crown.
        records: records of the layers' pass over the tokens.
        prompts: (batch, prompt_tokens, width).
        position: position of the first prompt, for layers that count positions themselves.

    Returns:
        (batch, prompt_tokens, width).
    """
    for layer, record in zip(layers, records, strict=True):
        arguments = _without_positions(record.arguments, prompts, position)
        with _attention_replaced(layer, _attend(record.calls[0])), _not_checkpointed(layer):
            output = layer(prompts, **arguments)
        prompts = output[0] if isinstance(output, tuple) else output
    return prompts


def named_arguments(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Turns all arguments after the first into keywords, so that a mask is found even if it is passed by position."""
    parameters = list(inspect.signature(type(layer).forward).parameters.values())[2:]  # without self, hidden_states
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return args[:1], {**dict(zip(names, args[1:], strict=False)), **kwargs}


def _attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The function that Transformers calls under `ATTENTION_NAME`."""
    routed: Any = module.config
    module.config = routed.original  # flash attention selects its kernel by the original configuration
    return routed.function(routed.base(module), module, *args, **kwargs)


AttentionInterface.register(ATTENTION_NAME, _attention)


class _RoutedConfig:
    """Replaces the configuration of an attention module while its attention function is replaced."""

    _attn_implementation = ATTENTION_NAME

    def __init__(self, original: PreTrainedConfig, function: Callable):
        self.original, self.function = original, function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def base(self, module: nn.Module) -> Callable:
        """The attention function that the tower was loaded with, selected as in the tower's own file."""
        names = inspect.unwrap(type(module).forward).__globals__
        return names["ALL_ATTENTION_FUNCTIONS"].get_interface(
            self.original._attn_implementation, names["eager_attention_forward"]
        )


@contextmanager
def _attention_replaced(layer: nn.Module, function: Callable) -> Iterator[None]:
    """Attention modules of a layer call `function(base, module, query, key, value, attention_mask, **kwargs)` instead of
    `base(module, query, ...)`.

    Modules with `attends_over_frames` are left unchanged: there each token, a prompt token too, attends to itself in other
    frames.
    """
    configs = {
        module: config
        for module in layer.modules()
        if isinstance(config := getattr(module, "config", None), PreTrainedConfig)
        and not getattr(module, "attends_over_frames", False)
    }
    try:
        for module, config in configs.items():
            module.config = _RoutedConfig(config, function)  # type: ignore[assignment]
        yield
    finally:
        for module, config in configs.items():
            module.config = config  # type: ignore[assignment]


@contextmanager
def _not_checkpointed(layer: nn.Module) -> Iterator[None]:
    """Disables activation checkpointing: a recomputation in the backward pass would run without the replaced attention."""
    checkpointed = [part for part in layer.modules() if isinstance(part, GradientCheckpointingLayer) and part.training]
    try:
        for part in checkpointed:
            part.training = False
        yield
    finally:
        for part in checkpointed:
            part.training = True


def _record(calls: list[RecordedAttention]) -> Callable:
    with_gradients = torch.is_grad_enabled()

    def function(base, module, query, key, value, attention_mask=None, **kwargs):
        if with_gradients and not torch.is_grad_enabled():  # a reentrant checkpoint
            raise ValueError(
                "prompt 'queries' and a trained tower: found activation checkpointing with use_reentrant True, which keeps "
                "no gradients of keys and values; expected use_reentrant False"
            )
        tokens = key.shape[2] - num_extra_keys(module)
        mask = _of_any_token(attention_mask)
        calls.append(RecordedAttention(key[:, :, :tokens], value[:, :, :tokens], mask))
        return base(module, query, key, value, attention_mask, **kwargs)

    return function


def _attend(recorded: RecordedAttention) -> Callable:
    def function(base, module, query, key, value, attention_mask=None, **kwargs):
        keys = torch.cat([recorded.keys.to(key), key], dim=2)  # (batch, heads, tokens + prompts, width of a head)
        values = torch.cat([recorded.values.to(value), value], dim=2)
        kwargs = {name: None if name in _POSITION_ARGUMENTS else value for name, value in kwargs.items()}
        mask = _with_prompts(recorded.mask, query.shape[2], key.shape[2])
        if mask is not None and module.config._attn_implementation == "flex_attention":
            mask = _block_mask(mask)
        return base(module, query, keys, values, mask, **{**kwargs, "is_causal": False})

    return function


def num_extra_keys(module: nn.Module) -> int:
    """Number of keys that an attention module appends to those of its tokens, such as ImageBind's learned one.

    The module appends them in every pass, so they are not recorded.
    """
    return getattr(module, "num_extra_keys", 0)


def _own_storage(tensor: Tensor) -> Tensor:
    """Copies a view of a larger tensor, so that the larger one is freed (queries, keys and values in ModernBERT)."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _of_any_token(mask: Any) -> Tensor | None:
    """A mask's row for a token that attends to every token that at least one token attends to."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):  # a BlockMask of flex attention
        from torch.nn.attention.flex_attention import create_mask

        batch, _, queries, keys = mask.shape
        mask = create_mask(mask.mask_mod, batch, 1, queries, keys, device=mask.kv_num_blocks.device)
    # Visible tokens have the largest value, in additive masks (0) and in boolean ones.
    return mask.amax(dim=-2, keepdim=True) if mask.ndim == 4 else mask


def _with_prompts(mask: Tensor | None, count: int, keys: int) -> Tensor | None:
    """(..., tokens) -> (..., tokens + keys): prompts attend to each other and to the keys that the module appends."""
    if mask is None:
        return None
    prompts = mask.new_full((*mask.shape[:-1], keys), not mask.is_floating_point())
    mask = torch.cat([mask, prompts], dim=-1)
    return mask.expand(*mask.shape[:-2], count, mask.shape[-1]) if mask.ndim == 4 else mask


def _block_mask(mask: Tensor) -> Any:
    """A boolean mask as flex attention's BlockMask: its CPU kernel reads tensor masks out of bounds (torch 2.13)."""
    if mask.is_floating_point():
        return mask
    from torch.nn.attention.flex_attention import create_block_mask

    batch, _, queries, keys = mask.shape
    visible = mask[:, 0, 0].contiguous()  # the same for all prompts
    return create_block_mask(
        lambda sample, head, query, key: visible[sample, key], batch, None, queries, keys, device=mask.device
    )


def _without_positions(arguments: dict[str, Any], prompts: Tensor, position: int) -> dict[str, Any]:
    """A layer's arguments for a pass of prompts: no mask, no position bias, the identity rotation."""
    count = prompts.shape[1]
    arguments = {
        name: None if "mask" in name or name in _POSITION_ARGUMENTS else value for name, value in arguments.items()
    }
    positions = arguments.get("position_embeddings")
    if isinstance(positions, (tuple, list)):
        cosine, sine = positions
        shape = (*cosine.shape[:-2], count, cosine.shape[-1])
        arguments["position_embeddings"] = (cosine.new_ones(shape), sine.new_zeros(shape))
    if "position_mask" in arguments:  # token positions for V-JEPA2's rotary embedding
        indices = torch.arange(position, position + count, device=prompts.device)
        arguments["position_mask"] = indices.expand(len(prompts), -1)
    return arguments


__all__ = ["RecordedAttention", "RecordedLayer", "named_arguments", "recording", "run_prompts"]
