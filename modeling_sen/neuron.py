# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A neuron: a frozen encoder that looks once, and then looks again with prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_sen import NeuronSpec
from .neuron_registry import Grid, NeuronAdapter, adapter_for, find_layers, modules_below
from .prompt_injection import ONE_PASS, PromptedTower, Trunk


@dataclass
class NeuronState:
    """What a neuron knows in one round.

    Attributes:
        last_hidden_state: (batch, t * h * w, width) tokens of the grid; class tokens are not among them.
        pooler_output: (batch, width), the tower's own pooled output, or the mean of its tokens; mean over folded frames.
        grid: (t, h, w).
        token_mask: (batch, t * h * w) bool, which tokens are not padding, where some may be.
        answers: (batch, prompt_tokens, width), what each prompt token found among the tokens; `None` in round 0.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    grid: Grid
    token_mask: Tensor | None = None
    answers: Tensor | None = None


@dataclass
class NeuronTrunk:
    """The part of a first look that later looks reuse: the trunk's output and how frames were folded."""

    trunk: Trunk | None  # None for neurons re-associated after the tower
    first_state: NeuronState
    grid: Grid | None  # of one frame where frames are folded
    batch_size: int
    recorded: dict[str, tuple[Tensor, ...] | None]  # what of the tower's outputs was asked for


class Neuron(nn.Module):
    """A frozen tower with its adapter.

    Args:
        spec: the neuron's specification.
        tower: the frozen encoder, cut out of whatever was loaded.
        projection: maps pooled outputs into the text tower's space; `None` for the identity.
        prompt_depth: layers below the top where prompts enter, `"all"`, or `None` for a quarter of them.
        commit: the repository's commit that the tower was loaded from, where it came from one.
    """

    tower: PreTrainedModel

    def __init__(
        self,
        spec: NeuronSpec,
        tower: PreTrainedModel,
        projection: nn.Module | None,
        prompt_depth: int | str | None,
        commit: str | None = None,
    ):
        super().__init__()
        self.spec, self.tower, self.projection, self.commit = spec, tower, projection, commit
        self.adapter: NeuronAdapter = adapter_for(tower)
        reads_frames = self.adapter.modality in ("image", "video", "depth", "thermal")
        if not (reads_frames if spec.takes_frames else self.adapter.modality == spec.modality):
            raise ValueError(
                f"neuron {spec.name!r}: its modality is {spec.modality!r}, but {type(tower).__name__} reads "
                f"{self.adapter.modality}"
            )
        if self.adapter.fixed_frames and spec.num_frames != tower.config.num_frames:
            raise ValueError(
                f"neuron {spec.name!r}: num_frames is {spec.num_frames}, but its tower takes {tower.config.num_frames}"
            )
        self.prompted_tower: PromptedTower | None = None
        if self.adapter.takes_prompts and spec.prompt_side != "after":
            layers = find_layers(tower, self.adapter.layers)
            if layers is None:
                raise ValueError(f"neuron {spec.name!r}: {type(tower).__name__} has no list of transformer layers")
            site = len(layers) - crown_depth(prompt_depth, len(layers), spec.name)
            side = spec.prompt_side or self.adapter.prompt_side
            self.prompted_tower = PromptedTower(tower, layers, site, modules_below(tower, self.adapter.below), side)
        self.requires_grad_(False)
        for layer in self._checkpointed_layers():
            for name, value in vars(layer).items():
                if name.endswith("dropout") and isinstance(value, float):
                    setattr(layer, name, 0.0)  # what a layer drops by its own flag, see `train`
        self.train(False)

    def _checkpointed_layers(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, GradientCheckpointingLayer)]

    def train(self, mode: bool = True) -> "Neuron":
        """Towers stay in evaluation mode; only activation checkpointing, which asks for it, sees `mode`."""
        super().train(False)
        for layer in self._checkpointed_layers():
            layer.training = mode  # the layer's own flag: modules inside keep theirs
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the tower layer by layer: its layers and all rounds share a few graphs.

        Args:
            args, kwargs: of `torch.compile`.
        """
        # Layers of all types run through one function of Transformers, whose graphs count together.
        limits: Any = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, 64)
        for module in [self.tower] if self.prompted_tower is None else self.prompted_tower.layers:
            module.compile(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the tower takes its inputs: of an offloaded one, whose weights are elsewhere, where it is run."""
        device = next(self.tower.parameters()).device
        if device.type != "meta":
            return device
        hooks = [module._hf_hook for module in self.tower.modules() if hasattr(module, "_hf_hook")]
        hooks += [part for hook in hooks for part in getattr(hook, "hooks", ())]
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((found for found in devices if found is not None), "meta"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Neuron":
        """`.to()` and the like leave a tower alone whose weights a device map has distributed."""
        if not is_dispatched(self.tower):
            return super()._apply(fn, recurse)
        return self  # its projection stands where the tower runs

    @property
    def dtype(self) -> torch.dtype:
        # Of a quantised tower's parameters some are integers.
        return next(parameter.dtype for parameter in self.tower.parameters() if parameter.is_floating_point())

    @property
    def embedding_size(self) -> int:
        """Width of the projected pooled output."""
        pooled = torch.zeros(1, self.spec.hidden_size, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            return self.project(pooled).shape[-1]

    @torch.compiler.disable  # hooks come and go between passes; compiled layers inside stay compiled
    def first_look(self, inputs: Mapping[str, Tensor], record: Sequence[str] = ()) -> tuple[NeuronState, NeuronTrunk]:
        """Round 0, without gradients: nothing below the prompts is trained.

        Args:
            inputs: `pixel_values` (batch, time, channels, height, width), `input_features` (batch, time, bins or whatever
                the tower's feature extractor makes of sound, samples included), or `input_ids` (batch, tokens); the latter
                two with an `attention_mask` where some are padding.
            record: any of `hidden_states` and `attentions`, which the tower is asked for.
        """
        tower_inputs = self._tower_inputs(inputs)
        grid = self.adapter.grid(self.tower.config, self._folded(inputs)) if self.adapter.grid else None
        batch_size = next(iter(inputs.values())).shape[0]
        trunk = None
        asked = {**tower_inputs, **{f"output_{what}": True for what in record}}
        with torch.no_grad():
            if self.prompted_tower is None:
                with ONE_PASS:  # another neuron may share the tower, and prompt it
                    outputs = self.tower(**asked)
            else:
                outputs, trunk = self.prompted_tower.first_pass(asked)
                trunk.inputs = tower_inputs  # later looks are not asked: their lower layers do not run
            state = self._state(outputs, tower_inputs, grid, batch_size)
        recorded = {what: getattr(outputs, what, None) for what in record}
        return state, NeuronTrunk(trunk, state, grid, batch_size, recorded)

    @torch.compiler.disable
    def look_again(self, trunk: NeuronTrunk, prompts: Tensor, prompt: str = "tokens") -> NeuronState:
        """A round's prompted pass through the crown.

        Args:
            trunk: of this clip's first look.
            prompts: (batch, prompt_tokens, width). For neurons re-associated after the tower: the shift (batch, 1, width)
                of tokens and pooled output.
            prompt: `tokens` (prompts enter as extra tokens) or `add` (their mean is added to every token).
        """
        if self.prompted_tower is None or trunk.trunk is None:
            first, shift = trunk.first_state, prompts.to(trunk.first_state.pooler_output)
            tokens, pooled = first.last_hidden_state + shift, first.pooler_output + shift[:, 0]
            return replace(first, last_hidden_state=tokens, pooler_output=pooled)
        hidden_states = trunk.trunk.hidden_states
        frames = hidden_states.shape[0] // prompts.shape[0]
        folded = prompts.to(hidden_states).repeat_interleave(frames, dim=0)  # every frame gets the same prompts
        if prompt == "add":
            outputs = self.prompted_tower.shifted_pass(trunk.trunk, folded.mean(dim=1, keepdim=True))
        else:
            outputs = self.prompted_tower.prompted_pass(trunk.trunk, folded)
        return self._state(outputs, trunk.trunk.inputs, trunk.grid, trunk.batch_size)

    def project(self, pooled: Tensor) -> Tensor:
        """(batch, width) -> (batch, embedding) in the text tower's space, not normalised."""
        return pooled if self.projection is None else self.projection(pooled)

    def _folded(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The neuron's inputs, with frames folded into the batch where it is an image tower."""
        folded = dict(inputs)
        if self.spec.takes_frames:
            pixels = inputs["pixel_values"]
            if pixels.ndim != 5:
                raise ValueError(
                    f"{self.spec.name}_pixel_values: found shape {tuple(pixels.shape)}, expected (batch, time, channels, "
                    "height, width)"
                )
            if self.adapter.folds_frames:
                folded["pixel_values"] = pixels.flatten(0, 1)  # (batch * time, channels, height, width)
        return folded

    def _tower_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The tower's keyword arguments, on its device and in its dtype."""
        folded = {
            name: values.to(self.device, self.dtype if values.is_floating_point() else None)
            for name, values in self._folded(inputs).items()
        }
        if self.adapter.tower_inputs is not None:
            return self.adapter.tower_inputs(self.tower.config, folded)
        if self.spec.input_name != "input_ids":
            folded[self.tower.main_input_name] = folded.pop(self.spec.input_name)
        return folded

    def _state(self, outputs: Any, tower_inputs: dict[str, Any], grid: Grid | None, batch_size: int) -> NeuronState:
        tokens = outputs.last_hidden_state  # (batch * frames, tokens, width)
        if tokens.ndim == 4:  # a plane of features: (batch * frames, width, height, width of the plane)
            grid = (1, *tokens.shape[-2:])
            tokens = tokens.flatten(2).transpose(1, 2)
        mask = self._token_mask(tokens, tower_inputs)
        pooled = getattr(outputs, "pooler_output", None)
        pooled = _mean_of_tokens(tokens, mask) if pooled is None else pooled.flatten(1)
        t, h, w = grid or (1, 1, tokens.shape[1])
        special = tokens.shape[1] - t * h * w
        if special < 0:
            raise ValueError(
                f"neuron {self.spec.name!r}: grid {(t, h, w)} is larger than its {tokens.shape[1]} tokens"
            )
        frames = tokens.shape[0] // batch_size
        tokens = tokens[:, special:].unflatten(0, (batch_size, frames)).flatten(1, 2)
        pooled = pooled.unflatten(0, (batch_size, frames)).mean(dim=1)
        if mask is not None:
            mask = mask[:, special:].unflatten(0, (batch_size, frames)).flatten(1, 2)
        return NeuronState(tokens, pooled, (t * frames, h, w), mask)

    def _token_mask(self, tokens: Tensor, tower_inputs: dict[str, Any]) -> Tensor | None:
        """(batch, tokens) bool: which tokens are not padding, where some may be."""
        mask = tower_inputs.get("attention_mask")
        if mask is not None and mask.shape != tokens.shape[:2]:
            of_samples = getattr(self.tower, "_get_feature_vector_attention_mask", None)  # towers that read waveforms
            mask = None if of_samples is None else of_samples(tokens.shape[1], mask)
        return None if mask is None else mask.bool()


def is_dispatched(module: nn.Module) -> bool:
    """Whether hooks of accelerate bring a module's weights to where it runs."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


def crown_depth(prompt_depth: int | str | None, num_layers: int, name: str) -> int:
    """Layers of the crown: `prompt_depth`, all of them for `"all"`, a quarter (at least 1) for `None`.

    Raises:
        ValueError: when the tower has fewer layers.
    """
    if prompt_depth == "all":
        return num_layers
    depth = max(1, num_layers // 4) if prompt_depth is None else int(prompt_depth)
    if depth > num_layers:
        raise ValueError(f"prompt_depth is {depth}, but neuron {name!r} has {num_layers} layers")
    return depth


def _mean_of_tokens(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return tokens.mean(dim=1)
    weight = attention_mask.to(tokens).unsqueeze(-1)  # (batch, tokens, 1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


__all__ = ["Neuron", "NeuronState", "NeuronTrunk", "crown_depth", "is_dispatched"]
