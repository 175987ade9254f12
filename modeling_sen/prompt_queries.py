# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Prompt tokens run alone through frozen layers and attend to keys and values recorded in the first look.

The tower's tokens are those of the first look and do not attend to the prompts, so nothing of them is computed again: as in
decoding with a KV cache. One attention function, registered with Transformers, stands in front of the function that the tower
was loaded with (sdpa, eager, flash or flex attention); layers that call attention through the registry need no code of their
own.
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
# Arguments of attention functions that describe the tokens' places: prompts have none.
_PLACES = ("position_bias", "position_ids", "sliding_window")


@dataclass
class RecordedAttention:
    """One attention call of a layer.

    Attributes:
        keys, values: (batch, heads, tokens, width of a head).
        mask: which tokens any token attends to: boolean or added (batch, 1 or heads, 1, tokens), or (batch, tokens); `None`
            for all.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None


@dataclass
class RecordedLayer:
    """What prompt tokens need of one layer's first pass.

    Attributes:
        arguments: the layer's arguments by name, without the hidden states.
        calls: its attention calls.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    calls: list[RecordedAttention] = field(default_factory=list)


@contextmanager
def recording(layers: Sequence[nn.Module]) -> Iterator[list[RecordedLayer]]:
    """Records what each layer is called with in one pass, and its keys and values.

    Raises:
        ValueError: when the pass has ended, for layers that did not make exactly one attention call over their tokens; in the
            pass, where trained layers run with reentrant activation checkpointing.
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
            call.keys, call.values = _alone(call.keys), _alone(call.values)


def run_alone(layers: Sequence[nn.Module], records: Sequence[RecordedLayer], prompts: Tensor, place: int) -> Tensor:
    """Prompt tokens' outputs of the last layer.

    The same as of a pass over all tokens in which prompts attend to each other and to every token that any token attends to,
    and the tokens attend to no prompt.

    Args:
        layers: of the crown.
        records: of the layers' pass over the tokens.
        prompts: (batch, prompt_tokens, width).
        place: of the first prompt, in layers that count places themselves.

    Returns:
        (batch, prompt_tokens, width).
    """
    for layer, record in zip(layers, records, strict=True):
        arguments = _without_places(record.arguments, prompts, place)
        with _attention_replaced(layer, _attend(record.calls[0])), _not_checkpointed(layer):
            output = layer(prompts, **arguments)
        prompts = output[0] if isinstance(output, tuple) else output
    return prompts


def named_arguments(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Arguments behind the first by their names, so that a mask is found however it is passed, also where it is None."""
    parameters = list(inspect.signature(type(layer).forward).parameters.values())[2:]  # without self, hidden_states
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return args[:1], {**dict(zip(names, args[1:], strict=False)), **kwargs}


def _attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The function that Transformers calls under `ATTENTION_NAME`."""
    routed: Any = module.config
    module.config = routed.original  # flash attention reads there which of its kernels is meant
    return routed.function(routed.base(module), module, *args, **kwargs)


AttentionInterface.register(ATTENTION_NAME, _attention)


class _RoutedConfig:
    """Stands for the configuration of an attention module while its attention function is replaced."""

    _attn_implementation = ATTENTION_NAME

    def __init__(self, original: PreTrainedConfig, function: Callable):
        self.original, self.function = original, function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def base(self, module: nn.Module) -> Callable:
        """The attention function that the tower was loaded with, as its own file chooses it."""
        names = inspect.unwrap(type(module).forward).__globals__
        return names["ALL_ATTENTION_FUNCTIONS"].get_interface(
            self.original._attn_implementation, names["eager_attention_forward"]
        )


@contextmanager
def _attention_replaced(layer: nn.Module, function: Callable) -> Iterator[None]:
    """Attention modules of a layer call `function(base, module, query, key, value, attention_mask, **kwargs)` instead of
    `base(module, query, ...)`.

    Not modules that say `attends_over_frames`: there each token attends to itself in other frames, a prompt token as well.
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
    """Prompts are few: their activations are kept. Computed again in the backward pass, attention would not be replaced."""
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
        kwargs = {name: None if name in _PLACES else given for name, given in kwargs.items()}
        mask = _with_prompts(recorded.mask, query.shape[2], key.shape[2])
        if mask is not None and module.config._attn_implementation == "flex_attention":
            mask = _block_mask(mask)
        return base(module, query, keys, values, mask, **{**kwargs, "is_causal": False})

    return function


def num_extra_keys(module: nn.Module) -> int:
    """Rows of keys and values that an attention module adds behind those of its tokens, such as ImageBind's learned one.

    They are added in each pass, so that they are not recorded.
    """
    return getattr(module, "num_extra_keys", 0)


def _alone(tensor: Tensor) -> Tensor:
    """A copy where the memory behind a tensor is larger: where queries, keys and values are one product (ModernBERT)."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _of_any_token(mask: Any) -> Tensor | None:
    """A mask's row for a token that attends to what any token attends to."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):  # a BlockMask of flex attention
        from torch.nn.attention.flex_attention import create_mask

        batch, _, queries, keys = mask.shape
        mask = create_mask(mask.mask_mod, batch, 1, queries, keys, device=mask.kv_num_blocks.device)
    # The largest value is what visible tokens have, in masks that are added (0) and boolean ones.
    return mask.amax(dim=-2, keepdim=True) if mask.ndim == 4 else mask


def _with_prompts(mask: Tensor | None, count: int, keys: int) -> Tensor | None:
    """(..., tokens) -> (..., tokens + keys): prompts attend to each other, and to what the module adds."""
    if mask is None:
        return None
    prompts = mask.new_full((*mask.shape[:-1], keys), not mask.is_floating_point())
    mask = torch.cat([mask, prompts], dim=-1)
    return mask.expand(*mask.shape[:-2], count, mask.shape[-1]) if mask.ndim == 4 else mask


def _block_mask(mask: Tensor) -> Any:
    """A boolean mask as flex attention takes it; an added one it reads out of bounds on CPUs (torch 2.13)."""
    if mask.is_floating_point():
        return mask
    from torch.nn.attention.flex_attention import create_block_mask

    batch, _, queries, keys = mask.shape
    visible = mask[:, 0, 0].contiguous()  # the same for all prompts
    return create_block_mask(
        lambda sample, head, query, key: visible[sample, key], batch, None, queries, keys, device=mask.device
    )


def _without_places(arguments: dict[str, Any], prompts: Tensor, place: int) -> dict[str, Any]:
    """A layer's arguments for prompts alone: no mask, no biases by place, the identity rotation."""
    count = prompts.shape[1]
    arguments = {name: None if "mask" in name or name in _PLACES else value for name, value in arguments.items()}
    positions = arguments.get("position_embeddings")
    if isinstance(positions, (tuple, list)):
        cosine, sine = positions
        shape = (*cosine.shape[:-2], count, cosine.shape[-1])
        arguments["position_embeddings"] = (cosine.new_ones(shape), sine.new_zeros(shape))
    if "position_mask" in arguments:  # V-JEPA2's attention rotates by the tokens' places, counted from the first
        places = torch.arange(place, place + count, device=prompts.device)
        arguments["position_mask"] = places.expand(len(prompts), -1)
    return arguments


__all__ = ["RecordedAttention", "RecordedLayer", "named_arguments", "recording", "run_alone"]
