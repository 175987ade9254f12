# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A neuron: a frozen encoder with a first look, without prompts, and later looks with prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_sen import TEXT_TOWER_NAME, NeuronSpec
from .first_look import CROWN_INPUT, CROWN_KEYS, FirstLook, NeuronState, sizes_of, unpack_shapes
from .hub_files import HubSource
from .neuron_by_rule import adapter_for, find_layers, main_input_of, tokens_of
from .neuron_registry import NeuronAdapter
from .prompt_injection import PromptedTower, TrunkOutput, layers_to_run, one_pass, run_to_output_layer
from .sentence_layout import SentenceHead


class Neuron(nn.Module):
    """A frozen tower with its adapter.

    Args:
        spec: the neuron's specification.
        tower: the frozen encoder.
        projection: maps pooled outputs into the text tower's space; `None` for the identity.
        prompt_depth: number of layers in the crown, `"all"`, or `None` for a quarter of them, at least 1.
        source: source of the tower.
        sentence: pooling and further modules of a sentence-transformers checkpoint. The pooling also gives the pooled output
            that association reads; the further modules only apply to embeddings.

    Raises:
        ValueError: the specification does not fit the tower: its modality, pooling, number of frames or layers.
    """

    tower: PreTrainedModel

    def __init__(
        self,
        spec: NeuronSpec,
        tower: PreTrainedModel,
        projection: nn.Module | None,
        prompt_depth: int | str | None,
        source: HubSource | None = None,
        sentence: SentenceHead | None = None,
    ):
        super().__init__()
        self.spec, self.tower, self.projection, self.source, self.sentence = spec, tower, projection, source, sentence
        if sentence is not None and len(sentence.modes) > 1 and spec.name != TEXT_TOWER_NAME:
            raise ValueError(
                f"neuron {spec.name!r}: its checkpoint concatenates the pooling modes {' and '.join(sentence.modes)}, "
                "which is only supported for a text tower; expected one pooling mode"
            )
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
        self.prompted_tower = self._cut(prompt_depth)
        self.requires_grad_(False)
        for layer in self._checkpointed_layers():
            for name, value in vars(layer).items():
                if name.endswith("dropout") and isinstance(value, float):
                    setattr(layer, name, 0.0)  # applied when the layer's own flag is set, see `train`
        self.train(False)

    def _cut(self, prompt_depth: int | str | None) -> PromptedTower | None:
        """The tower, cut at the prompt site; `None` if its state is updated after the tower, without prompts."""
        spec, adapter = self.spec, self.adapter
        takes_prompts = adapter.takes_prompts and spec.prompt_side != "after"
        if not takes_prompts and spec.output_layer is None:
            return None
        layers = find_layers(self.tower, adapter.layers)
        if layers is None:
            raise ValueError(f"neuron {spec.name!r}: {type(self.tower).__name__} has no list of transformer layers")
        if spec.output_layer is not None and not adapter.output_layers:
            raise ValueError(
                f"neuron {spec.name!r}: output_layer is {spec.output_layer}, but the layers of {type(self.tower).__name__} "
                "differ in the shape of their tokens, or run more than once; expected none"
            )
        try:
            depth = crown_layers(prompt_depth, layers_to_run(len(layers), spec.output_layer))
            if not takes_prompts:
                return None
            side = spec.prompt_side or adapter.prompt_side
            return PromptedTower(self.tower, layers, depth, adapter.below, side, spec.output_layer)
        except ValueError as error:
            raise ValueError(f"neuron {spec.name!r}: {error}") from error

    def _checkpointed_layers(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, GradientCheckpointingLayer)]

    def train(self, mode: bool = True) -> "Neuron":
        """Towers stay in evaluation mode; `mode` only switches activation checkpointing, which needs training mode."""
        super().train(False)
        for layer in self._checkpointed_layers():
            layer.training = mode  # not of the modules inside
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the tower layer by layer, so that all layers and rounds share a few graphs.

        Args:
            args, kwargs: of `torch.compile`.
        """
        # All layer types run through one function of Transformers, so their graphs count against one limit.
        limits: Any = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, 64)
        for module in [self.tower] if self.prompted_tower is None else self.prompted_tower.all_layers:
            module.compile(*args, **kwargs)

    @property
    def commit(self) -> str | None:
        """The commit that the tower was loaded from; `None` if it did not come from a repository."""
        return None if self.source is None else self.source.commit

    @property
    def device(self) -> torch.device:
        """The device for the tower's inputs; for an offloaded tower, the device it runs on."""
        device = next(self.tower.parameters()).device
        if device.type != "meta":
            return device
        hooks = [module._hf_hook for module in self.tower.modules() if hasattr(module, "_hf_hook")]
        hooks += [part for hook in hooks for part in getattr(hook, "hooks", ())]
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((found for found in devices if found is not None), "meta"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Neuron":
        """`.to()` and similar calls do nothing if a device map has placed the tower's weights."""
        if not is_dispatched(self.tower):
            return super()._apply(fn, recurse)
        return self  # the projection is already on the tower's device

    @property
    def dtype(self) -> torch.dtype:
        # Quantised towers also have integer parameters.
        return next(parameter.dtype for parameter in self.tower.parameters() if parameter.is_floating_point())

    @property
    def embedding_size(self) -> int:
        """Width of the projected pooled output."""
        pooled = torch.zeros(1, self._pooled_width, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            return self.project(pooled).shape[-1]

    @property
    def _pooled_width(self) -> int:
        modes = 1 if self.sentence is None else max(1, len(self.sentence.modes))  # concatenated
        return modes * self.spec.hidden_size

    @torch.compiler.disable  # hooks come and go between passes; compiled layers inside stay compiled
    def first_look(
        self, inputs: Mapping[str, Tensor], record: Sequence[str] = (CROWN_INPUT,), outputs: Sequence[str] = ()
    ) -> FirstLook:
        """Round 0, the unprompted pass. Gradients are computed only if something in the tower is trained.

        Args:
            inputs: `pixel_values` (batch, time, channels, height, width), `input_features` (the output of the tower's feature
                extractor: (batch, time, bins), waveforms (batch, samples) or others), or `input_ids` (batch, tokens); the
                latter two with an `attention_mask` if some are padding.
            record: records for later looks, see `records` of the entries of `PROMPT`.
            outputs: any of `hidden_states` and `attentions`, to request from the tower.
        """
        tower_inputs, trunk = self.tower_inputs(inputs), None
        arguments = {**tower_inputs, **{f"output_{name}": True for name in outputs}}
        with self._gradients():
            if self.prompted_tower is not None and CROWN_INPUT in record:
                found, trunk = self.prompted_tower.first_pass(arguments, CROWN_KEYS in record)
                # Later passes cannot return layers' outputs, because the trunk's layers do not run.
                trunk.inputs = tower_inputs
            else:
                output_layer = self.spec.output_layer
                layers = None if output_layer is None else find_layers(self.tower, self.adapter.layers)
                with one_pass(self.tower):
                    found = run_to_output_layer(self.tower, layers, output_layer, arguments)
            state = self.state_of(found, inputs, tower_inputs)
        layers_outputs = {name: getattr(found, name, None) for name in outputs}
        has_rest = trunk is not None and any(isinstance(value, Tensor) for value in trunk.rest or ())
        storable = not has_rest or self.adapter.returned_beside is not None
        return FirstLook(state, dict(inputs), trunk, layers_outputs, storable)

    @torch.compiler.disable
    def look_again(self, look: FirstLook, prompts: Tensor) -> NeuronState:
        """Runs the crown over the trunk's tokens joined by prompt tokens.

        Args:
            look: first look at the same clips.
            prompts: (batch, prompt_tokens, width).

        Raises:
            ValueError: the tower takes no prompts, or `look` has no trunk output.
        """
        prompted, trunk = self._crown_of(look)
        return self.state_of(prompted.prompted_pass(trunk, _folded(prompts, trunk)), look.inputs, trunk.inputs)

    @torch.compiler.disable
    def look_again_shifted(self, look: FirstLook, shift: Tensor) -> NeuronState:
        """Runs the crown over the trunk's tokens with `shift` (batch, 1, width) added; arguments as for `look_again`."""
        prompted, trunk = self._crown_of(look)
        return self.state_of(prompted.shifted_pass(trunk, _folded(shift, trunk)), look.inputs, trunk.inputs)

    @torch.compiler.disable
    def query(self, look: FirstLook, prompts: Tensor) -> Tensor:
        """Runs only the prompt tokens through the crown; they attend to the keys and values of the first look.

        Args:
            look: first look at the same clips; keys and values are recorded now if it has none.
            prompts: (batch, prompt_tokens, width).

        Returns:
            (batch, prompt_tokens, width), the prompts' outputs after the crown; mean over folded frames.

        Raises:
            ValueError: the tower takes no prompts, or `look` has no trunk output.
        """
        prompted, trunk = self._crown_of(look)
        if trunk.layers is None:
            with self._gradients():
                prompted.record(trunk)
        outputs = prompted.query_pass(trunk, _folded(prompts, trunk))
        return outputs.unflatten(0, (look.batch_size, -1)).mean(dim=1)

    def _gradients(self) -> Any:
        """Disables gradients, unless something in the tower is trained."""
        is_trained = any(parameter.requires_grad for parameter in self.tower.parameters())
        return torch.set_grad_enabled(torch.is_grad_enabled() and is_trained)

    def _crown_of(self, look: FirstLook) -> tuple[PromptedTower, TrunkOutput]:
        if self.prompted_tower is None or look.trunk is None:
            reason = (
                "takes no prompts"
                if self.prompted_tower is None
                else "was given a first look without a trunk's output"
            )
            raise ValueError(
                f"neuron {self.spec.name!r} {reason}, expected prompt_side 'after' or prompt 'none' for it"
            )
        return self.prompted_tower, look.trunk

    def unpack(self, packed: Mapping[str, Tensor]) -> FirstLook:
        """Inverse of [`FirstLook.pack`]; tensors are on the tower's device and in its dtype.

        Rows may come from different batches, padded with zeros at the end.
        """

        def placed(key: str) -> Tensor:
            return packed[key].to(self.device, self.dtype)

        inputs: dict[str, Tensor] = {}
        for key, value in packed.items():
            kind, _, rest = key.partition(".")
            name, _, stored_as = rest.rpartition(".")
            if kind == "input":
                zero = torch.zeros((), device=self.device)  # expanded, it takes no memory
                inputs[name] = zero.expand(len(value), *sizes_of(value)) if stored_as == "shape" else value
        inputs |= {name: value.long() for name, value in inputs.items() if name == "attention_mask"}
        mask = packed["token_mask"].to(self.device) if "token_mask" in packed else None
        t, h, w = sizes_of(packed["grid"])
        look = FirstLook(NeuronState(placed("tokens"), placed("pooled"), (t, h, w), mask), inputs)
        if "trunk" in packed:
            hidden_states = placed("trunk").flatten(0, 1)  # (batch * frames, tokens, width)
            (length,) = sizes_of(packed["returned_beside"])
            returned = (None,) * (length - 1) if length else None
            if self.adapter.returned_beside is not None and returned:
                returned = self.adapter.returned_beside(self.tower, hidden_states)
            below: list[Any] = []
            while any(key.startswith(f"below.{len(below)}.") for key in packed):
                below.append(unpack_shapes(f"below.{len(below)}", packed, self.device))
            look.trunk = TrunkOutput(hidden_states, self.tower_inputs(inputs), returned, below)
        return look

    def project(self, pooled: Tensor) -> Tensor:
        """(batch, width) -> (batch, embedding) in the text tower's space; normalised only if the checkpoint does so."""
        after = None if self.sentence is None else self.sentence.after
        steps = [self.projection, after]  # a dual encoder's projection is part of the tower
        if self.sentence is not None and self.sentence.modes:
            steps.reverse()
        for step in steps:
            pooled = pooled if step is None else step(pooled)
        return pooled

    def _folded(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The neuron's inputs; an image tower's frames are folded into the batch."""
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

    def tower_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The tower's keyword arguments, on its device and in its dtype."""
        folded = {
            name: values.to(self.device, self.dtype if values.is_floating_point() else None)
            for name, values in self._folded(inputs).items()
        }
        if self.adapter.tower_inputs is not None:
            return self.adapter.tower_inputs(self.tower.config, folded)
        if self.spec.input_name != "input_ids":
            folded[main_input_of(self.tower)] = folded.pop(self.spec.input_name)
        return folded

    def state_of(self, outputs: Any, inputs: Mapping[str, Tensor], tower_inputs: Mapping[str, Any]) -> NeuronState:
        """The state in a tower's outputs for `inputs` (see `first_look`) and `tower_inputs`, without special tokens.

        Raises:
            ValueError: outputs of another width than `hidden_size`, or fewer tokens than the grid has places.
        """
        tokens, grid = tokens_of(self.tower, outputs), None  # (batch * frames, tokens, width)
        batch_size = len(next(iter(inputs.values())))
        width = self.spec.hidden_size
        if tokens.ndim == 4:  # a feature map, (batch * frames, channels, height, width) or channels last
            tokens = tokens if tokens.shape[1] == width else tokens.movedim(-1, 1)
            grid = (1, *tokens.shape[-2:])
            tokens = tokens.flatten(2).transpose(1, 2)
        elif self.adapter.grid is not None:
            grid_inputs = {**self._folded(inputs), "num_tokens": tokens.shape[1]}
            grid = self.adapter.grid(self.tower.config, grid_inputs)
        mask = self._token_mask(tokens, tower_inputs)
        pooled = getattr(outputs, "pooler_output", None)
        if self.sentence is not None and self.sentence.modes:
            pooled = self.sentence.pool(tokens, mask)
        elif pooled is None:
            pooled = _mean_of_tokens(tokens, mask)
        else:  # some towers pool to a small feature map
            pooled = pooled.flatten(2).mean(dim=2) if pooled.ndim == 4 else pooled.flatten(1)
        if tokens.shape[-1] != width or pooled.shape[-1] != self._pooled_width:
            raise ValueError(
                f"neuron {self.spec.name!r}: hidden_size is {width}, but its tower's tokens and pooled output have widths "
                f"{tokens.shape[-1]} and {pooled.shape[-1]}"
            )
        if len(tokens) % batch_size:
            raise ValueError(
                f"neuron {self.spec.name!r}: its tower returns tokens of batch size {len(tokens)}, expected a multiple of "
                f"{batch_size}"
            )
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

    def _token_mask(self, tokens: Tensor, tower_inputs: Mapping[str, Any]) -> Tensor | None:
        """(batch, tokens) bool, true for tokens that are not padding; `None` if the inputs have no mask."""
        mask = tower_inputs.get("attention_mask")
        if mask is not None and mask.shape != tokens.shape[:2]:
            to_tokens = getattr(self.tower, "_get_feature_vector_attention_mask", None)  # towers that read waveforms
            mask = None if to_tokens is None else to_tokens(tokens.shape[1], mask)
        return None if mask is None else mask.bool()


def is_dispatched(module: nn.Module) -> bool:
    """Whether accelerate has attached hooks that move a module's weights or inputs to the device it runs on."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


def crown_layers(prompt_depth: int | str | None, num_layers: int) -> int:
    """Number of layers in the crown: `prompt_depth`, all for `"all"`, a quarter (at least 1) for `None`."""
    if prompt_depth == "all":
        return num_layers
    return max(1, num_layers // 4) if prompt_depth is None else int(prompt_depth)


def _folded(prompts: Tensor, trunk: TrunkOutput) -> Tensor:
    """(batch, tokens, width) -> (batch * frames, tokens, width): every frame gets the same prompts."""
    prompts = prompts.to(trunk.hidden_states)
    return prompts.repeat_interleave(len(trunk.hidden_states) // len(prompts), dim=0)


def _mean_of_tokens(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return tokens.mean(dim=1)
    weight = attention_mask.to(tokens).unsqueeze(-1)  # (batch, tokens, 1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


__all__ = ["Neuron", "crown_layers", "is_dispatched"]
