# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Run a frozen tower once, and its crown again with prompts, through the tower's own forward.

Hooks capture the input of the crown's first layer (the trunk's output). A prompted pass bypasses the embeddings and the
trunk's layers, adds the prompts to the input of the crown, and removes them from the output of its last layer. In a pass of
queries only the prompts run through the crown, see `prompt_queries.py`.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .prompt_queries import RecordedLayer, named_arguments, recording, run_prompts

# Hooks are attached to the tower, so passes of other threads, or of other neurons with the same tower, must wait. The locks
# are not attributes of the towers, because modules are copied and pickled, and locks cannot be.
_LOCKS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()  # type: ignore[valid-type]


def one_pass(tower: nn.Module) -> Any:
    """The lock of a tower, held during each of its passes."""
    return _LOCKS.setdefault(tower, threading.RLock())


@dataclass
class TrunkOutput:
    """Results of the first pass that later passes use.

    Attributes:
        hidden_states: (batch, tokens, width), the input of the crown's first layer.
        inputs: the tower's keyword inputs.
        rest: further outputs of the trunk's last layer besides hidden states (WavLM: the relative position bias); `None` if
            layers return only hidden states, or if there is no trunk.
        below: outputs of the modules in front of the layers, on the meta device, because their values are not used.
        layers: the recorded keys and values of the crown's layers, for a pass of queries; `None` until recorded.
    """

    hidden_states: Tensor
    inputs: dict[str, Any]
    rest: tuple | None
    below: list[Any]
    layers: list[RecordedLayer] | None = None


class DroppedLayer(nn.Module):
    """Replaces a trunk layer whose weights were freed; keeps its plain attributes, which towers read (ModernBERT)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_"):
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the layers below the prompts were dropped: this tower runs on stored first looks only")


class PromptedTower:
    """A tower cut into trunk and crown.

    Args:
        tower: the frozen module.
        layers: its transformer layers, in order.
        prompt_depth: number of layers in the crown, 1 .. the number of layers that run.
        below: dotted paths of modules in front of the layers whose outputs only the layers read; bypassed in prompted passes.
            A path to a list means all its modules. `None`: `embeddings`, if the tower has it.
        prompt_side: position of the prompts in the sequence, `prefix` or `suffix`.
        output_layer: see [`NeuronSpec`]; layers above it never run.

    Raises:
        ValueError: the tower has fewer than `prompt_depth` layers, or no layer `output_layer`.
    """

    def __init__(
        self,
        tower: nn.Module,
        layers: nn.ModuleList,
        prompt_depth: int,
        below: Sequence[str] | None,
        prompt_side: str,
        output_layer: int | None = None,
    ):
        self.tower, self.all_layers, self.prompt_side, self._below = tower, layers, prompt_side, below
        self.output_layer = output_layer
        self.num_layers = layers_to_run(len(layers), output_layer)
        if not 1 <= prompt_depth <= self.num_layers:
            raise ValueError(f"prompt_depth is {prompt_depth}, expected 1 to {self.num_layers}, the tower's layers")
        self.prompt_depth = prompt_depth

    @property
    def below(self) -> list[nn.Module]:
        """The modules in front of the layers, looked up at each call, because adapters may have replaced them."""
        if self._below is None:
            embeddings = getattr(self.tower, "embeddings", None)
            return [embeddings] if isinstance(embeddings, nn.Module) else []
        found = [self.tower.get_submodule(path) for path in self._below]
        return [part for module in found for part in (module if isinstance(module, nn.ModuleList) else [module])]

    @property
    def trunk(self) -> list[nn.Module]:
        """Layers below the prompt site, run once."""
        return list(self.all_layers)[: self.num_layers - self.prompt_depth]

    @property
    def crown(self) -> list[nn.Module]:
        """Layers from the prompt site up, run once per round."""
        return list(self.all_layers)[self.num_layers - self.prompt_depth : self.num_layers]

    def first_pass(self, inputs: dict[str, Any], record: bool = False) -> tuple[Any, TrunkOutput]:
        """Runs the whole tower; returns its outputs (see [`run_to_output_layer`]) and the trunk's.

        Args:
            inputs: the tower's keyword arguments.
            record: whether to record the crown's keys and values.

        Raises:
            ValueError: `record`, but the layers' attention cannot be recorded, see [`recording`].
        """
        entered: list[Tensor] = []
        left: list[Any] = []
        below: list[list[Any]] = [[] for _ in self.below]
        with ExitStack() as stack:
            stack.enter_context(one_pass(self.tower))
            handle = self.crown[0].register_forward_pre_hook(
                lambda module, args, kwargs: entered.append(_hidden_states(args, kwargs)), with_kwargs=True
            )
            stack.enter_context(_hook(handle))
            if self.trunk:
                stack.enter_context(_hook(self.trunk[-1].register_forward_hook(_keep_rest(left))))
            for module, shapes in zip(self.below, below, strict=True):
                stack.enter_context(_hook(module.register_forward_hook(_keep_shapes(shapes))))
            recorded = stack.enter_context(recording(self.crown)) if record else None
            outputs = run_to_output_layer(self.tower, self.all_layers, self.output_layer, inputs)
        if len(entered) != 1:
            raise RuntimeError(f"{type(self.tower).__name__}: a layer ran {len(entered)} times in one pass")
        if any(len(shapes) != 1 for shapes in below):
            raise RuntimeError(
                f"{type(self.tower).__name__}: modules below the layers did not run once each in a pass"
            )
        rest = left[0] if left else None
        return outputs, TrunkOutput(entered[0], inputs, rest, [shapes[0] for shapes in below], recorded)

    def prompted_pass(self, trunk: TrunkOutput, prompts: Tensor) -> Any:
        """Runs the crown over `[prompts ; trunk.hidden_states]`; returns the tower's outputs without the prompts.

        Args:
            trunk: the trunk's output.
            prompts: (batch, prompt_tokens, width).
        """
        count, tokens = prompts.shape[1], trunk.hidden_states.shape[1]

        def enter(module, args, kwargs):
            args, kwargs = _replace_hidden_states(args, kwargs, self._join(prompts, trunk.hidden_states))
            return stay(module, args, kwargs)

        def stay(module, args, kwargs):
            args, kwargs = named_arguments(module, args, kwargs)
            return args, _with_prompts(kwargs, count, trunk.hidden_states, self.prompt_side)

        def leave(module, args, output):
            hidden_states, rest = _split_output(output)
            if hidden_states.shape[1] != count + tokens:
                raise RuntimeError(f"{type(self.tower).__name__}: its layers do not keep prompt tokens")
            start = count if self.prompt_side == "prefix" else 0
            hidden_states = hidden_states[:, start : start + tokens]
            return (hidden_states, *rest) if rest is not None else hidden_states

        with ExitStack() as stack:
            stack.enter_context(one_pass(self.tower))
            stack.enter_context(self.trunk_bypassed(trunk))
            for index, layer in enumerate(self.crown):
                handle = layer.register_forward_pre_hook(enter if index == 0 else stay, with_kwargs=True)
                stack.enter_context(_hook(handle))
            # This hook runs first, so that other hooks of the layer (captured hidden states) get no prompts.
            stack.enter_context(_hook(self.crown[-1].register_forward_hook(leave, prepend=True)))
            return run_to_output_layer(self.tower, self.all_layers, self.output_layer, trunk.inputs)

    def shifted_pass(self, trunk: TrunkOutput, shift: Tensor) -> Any:
        """Runs the crown over `trunk.hidden_states + shift`, with shift (batch, 1, width); returns the tower's outputs."""
        with one_pass(self.tower):
            return self._crown_pass(trunk, trunk.hidden_states + shift)

    def record(self, trunk: TrunkOutput) -> None:
        """Runs the crown over the trunk's output to record keys and values, if the first pass did not."""
        with one_pass(self.tower), recording(self.crown) as layers:
            self._crown_pass(trunk, trunk.hidden_states)
        trunk.layers = layers

    def query_pass(self, trunk: TrunkOutput, prompts: Tensor) -> Tensor:
        """Runs only the prompts through the crown; they attend to the recorded keys and values.

        Args:
            trunk: with recorded layers.
            prompts: (batch, prompt_tokens, width).

        Returns:
            (batch, prompt_tokens, width), the crown's last layer's outputs for the prompts.
        """
        assert trunk.layers is not None
        position = trunk.hidden_states.shape[1] if self.prompt_side == "suffix" else 0
        with one_pass(self.tower):
            return run_prompts(self.crown, trunk.layers, prompts, position)

    def _crown_pass(self, trunk: TrunkOutput, hidden_states: Tensor) -> Any:
        def enter(module, args, kwargs):
            return _replace_hidden_states(args, kwargs, hidden_states)

        with self.trunk_bypassed(trunk), _hook(self.crown[0].register_forward_pre_hook(enter, with_kwargs=True)):
            return run_to_output_layer(self.tower, self.all_layers, self.output_layer, trunk.inputs)

    def drop_trunk(self) -> int:
        """Frees the trunk's layers, after which the tower only runs on stored first looks. Returns the bytes freed."""
        freed = 0
        for index, layer in enumerate(self.trunk):
            freed += sum(parameter.nbytes for parameter in layer.parameters())
            self.all_layers[index] = DroppedLayer(layer)
        return freed

    def _join(self, prompts: Tensor, hidden_states: Tensor) -> Tensor:
        prompts = prompts.to(hidden_states)
        parts = [prompts, hidden_states] if self.prompt_side == "prefix" else [hidden_states, prompts]
        return torch.cat(parts, dim=1)  # (batch, prompt_tokens + tokens, width)

    @contextmanager
    def trunk_bypassed(self, trunk: TrunkOutput) -> Iterator[None]:
        """The trunk's layers return the stored hidden states, and the modules below them zeros, without computation."""
        stored = trunk.hidden_states if trunk.rest is None else (trunk.hidden_states, *trunk.rest)
        with ExitStack() as stack:
            for module, shapes in zip(self.below, trunk.below, strict=True):
                stack.enter_context(_forward_replaced(module, _zeros(shapes, trunk.hidden_states.device)))
            for layer in self.trunk:
                stack.enter_context(_forward_replaced(layer, lambda *args, **kwargs: stored))
            yield


def layers_to_run(num_layers: int, output_layer: int | None) -> int:
    """Number of a tower's layers that run, counted from the bottom.

    Raises:
        ValueError: the tower has no layer `output_layer`.
    """
    count = num_layers if output_layer is None else output_layer if output_layer > 0 else num_layers + 1 + output_layer
    if not 1 <= count <= num_layers:
        raise ValueError(f"output_layer is {output_layer}, but the tower has {num_layers} layers")
    return count


def run_to_output_layer(
    tower: nn.Module, layers: nn.ModuleList | None, output_layer: int | None, inputs: dict[str, Any]
) -> Any:
    """The tower's outputs. With an `output_layer`, `last_hidden_state` is that layer's output, and there is no pooled output.

    The layers above it return their input, so that the rest of the tower's forward still runs.
    """
    if output_layer is None or layers is None:
        return tower(**inputs)
    count, found = layers_to_run(len(layers), output_layer), []
    with ExitStack() as stack:
        handle = layers[count - 1].register_forward_hook(lambda module, args, output: found.append(output))
        stack.enter_context(_hook(handle))
        for layer in layers[count:]:
            stack.enter_context(_forward_replaced(layer, lambda *args, **kwargs: found[0]))
        outputs = tower(**inputs)
    outputs.last_hidden_state, outputs.pooler_output = _split_output(found[0])[0], None
    return outputs


@contextmanager
def _hook(handle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    # An instance attribute, so that the class is unchanged; device-map hooks set theirs there too.
    before, compiled = module.__dict__.get("forward"), module._compiled_call_impl
    module.__dict__["forward"] = forward
    module._compiled_call_impl = None  # it calls the replaced forward
    try:
        yield
    finally:
        module._compiled_call_impl = compiled
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def _keep_rest(kept: list[Any]) -> Callable:
    return lambda module, args, output: kept.append(_split_output(output)[1])


def _keep_shapes(kept: list[Any]) -> Callable:
    def shape(output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(shape(part) for part in output)
        # Integer and boolean tensors are masks, whose values are used.
        return output.to("meta") if isinstance(output, Tensor) and output.is_floating_point() else output

    return lambda module, args, output: kept.append(shape(output))


def _zeros(shapes: Any, device: torch.device) -> Callable:
    def zeros(shape: Any) -> Any:
        if isinstance(shape, tuple):
            return tuple(zeros(part) for part in shape)
        return torch.zeros_like(shape, device=device) if isinstance(shape, Tensor) and shape.is_meta else shape

    return lambda *args, **kwargs: zeros(shapes)


def _hidden_states(args: tuple, kwargs: dict) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _replace_hidden_states(args: tuple, kwargs: dict, hidden_states: Tensor) -> tuple[tuple, dict]:
    if args:
        return (hidden_states, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden_states}


def _split_output(output: Any) -> tuple[Tensor, tuple | None]:
    return (output[0], tuple(output[1:])) if isinstance(output, tuple) else (output, None)


def _with_prompts(kwargs: dict, count: int, hidden_states: Tensor, side: str) -> dict:
    """A layer's arguments, with masks, biases and rotary positions extended to the prompt tokens."""
    tokens = hidden_states.shape[1]
    kwargs = {
        name: _extend_mask(value, count, tokens, side) if "mask" in name else value for name, value in kwargs.items()
    }
    if kwargs.get("is_causal") and kwargs.get("attention_mask") is None:
        # Under causal attention, prompts in front could not attend to the tokens; make the mask explicit and extend it.
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=hidden_states.device).tril()
        kwargs["attention_mask"] = _extend_mask(mask, count, tokens, side)
    positions = kwargs.get("position_embeddings")
    if isinstance(positions, (tuple, list)) and len(positions) == 2 and positions[0].shape[-2] == tokens:
        cosine, sine = positions
        kwargs["position_embeddings"] = (
            _pad(cosine, count, side, -2, 1.0),  # prompts have no position: the identity rotation
            _pad(sine, count, side, -2, 0.0),
        )
    bias = kwargs.get("position_bias")
    if isinstance(bias, Tensor) and bias.shape[-2:] == (tokens, tokens):  # (batch * heads, queries, keys)
        kwargs["position_bias"] = _pad(_pad(bias, count, side, -1, 0.0), count, side, -2, 0.0)
    return kwargs


def _pad(tensor: Tensor, count: int, side: str, dim: int, value: float) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = count
    return _beside(tensor, tensor.new_full(shape, value), side, dim)


def _beside(tensor: Tensor, prompts: Tensor, side: str, dim: int) -> Tensor:
    return torch.cat([prompts, tensor] if side == "prefix" else [tensor, prompts], dim=dim)


def _extend_mask(mask: Any, count: int, tokens: int, side: str) -> Any:
    """Extends a (batch, keys) or (batch, heads, queries, keys) mask by the prompts.

    All tokens attend to the prompts. Prompts attend to every token that at least one token attends to.
    """
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or mask.shape[-1] != tokens:
        return mask
    # Visible tokens have the largest value, in additive (0), multiplied (1) and boolean masks.
    visible = mask.flatten(1).amax(dim=1).view(-1, *[1] * (mask.ndim - 1))
    if mask.ndim == 4 and mask.shape[-2] == tokens:
        rows = mask.amax(dim=-2, keepdim=True).expand(*mask.shape[:-2], count, tokens)
        mask = _beside(mask, rows, side, -2)
    return _beside(mask, visible.expand(*mask.shape[:-1], count), side, -1)


__all__ = ["DroppedLayer", "PromptedTower", "TrunkOutput", "layers_to_run", "one_pass", "run_to_output_layer"]
