# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""All towers of a SEN, including the text tower: resolves, loads, shares and saves them."""

import os
from collections.abc import ItemsView, Iterable, Mapping, Sequence, ValuesView
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .configuration_sen import TEXT_TOWER_NAME, NeuronSpec, SENConfig
from .first_look import FirstLook
from .hub_files import HubSource
from .neuron import Neuron
from .neuron_loading import load_neuron, resolve_spec
from .tower_weights import all_weights, loaded_name, same_weight, save_tower, weight_names

logger = logging.get_logger(__name__)

# Fields of a specification that determine a tower's weights.
TOWER_SOURCE = ("hub_id", "revision", "class_name", "submodule", "key_mapping", "dtype", "projection", "base_model")
# Arguments of `from_pretrained` that do not determine the weights, or that are fixed when a tower is saved.
_PLACEMENT = ("device_map", "max_memory", "offload_folder", "offload_buffers", "force_download", "revision", "dtype")


class NeuronBank(nn.ModuleDict):
    """The frozen towers by neuron name, and the text tower as `"class_text"`; empty until [`NeuronBank.load`].

    Towers are children of the model, but their weights are left out of its state dict and so of its checkpoints. Weights
    added after loading (adapters) are included.

    Args:
        config: the SEN's configuration.

    Raises:
        ValueError: a neuron has the name of an attribute of this class, such as `train`.
    """

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Neuron: ...
        def values(self) -> ValuesView[Neuron]: ...  # type: ignore[override]
        def items(self) -> ItemsView[str, Neuron]: ...  # type: ignore[override]

    def __init__(self, config: SENConfig):
        super().__init__()
        self.config = config
        self.specs = specs_of(config)
        self.neuron_specs = {name: spec for name, spec in self.specs.items() if name != TEXT_TOWER_NAME}
        self.base: HubSource | None = None  # the checkpoint that relative hub ids refer to
        self.arguments: dict[str, dict[str, Any]] = {}  # name -> arguments of from_pretrained
        self.loaded_names: dict[str, frozenset[str]] = {}  # name -> names of its weights when it was loaded
        if taken := [name for name in self.neuron_specs if hasattr(self, name)]:
            raise ValueError(f"neurons: {', '.join(taken)} is the name of an attribute of a module, expected another")
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_expect_none)

    @property
    def text_tower(self) -> Neuron | None:
        """The encoder of class texts; `None` if the SEN has none or it is not loaded."""
        return self._modules.get(TEXT_TOWER_NAME)  # type: ignore[return-value]

    @property
    def missing(self) -> list[str]:
        """Names of towers that are not loaded."""
        return [name for name in self.specs if name not in self]

    def load(self, device: torch.device, arguments: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Loads the towers that are not loaded yet.

        Args:
            device: device of the association, to which towers without a `device_map` are moved.
            arguments: `{neuron name: from_pretrained arguments}`.

        Raises:
            OSError, RuntimeError, ValueError: see [`load_neuron`].
            ValueError: `arguments` names no tower of this model, or embeddings do not fit the text space.
        """
        if unknown := set(arguments or {}) - set(self.specs) - {TEXT_TOWER_NAME}:
            expected = f"expected some of {sorted(self.neuron_specs)}"
            raise ValueError(f"neuron_kwargs: no neurons {sorted(unknown)}, {expected}")
        self.arguments |= {name: dict(given) for name, given in (arguments or {}).items()}
        for name, spec in self.specs.items():
            if name not in self:
                self.add(self._load(spec), device)

    def add(self, neuron: Neuron, device: torch.device) -> None:
        """Adds a loaded tower.

        Raises:
            ValueError: the tower does not take the configured prompts, or its embeddings do not fit the text space.
        """
        spec, is_text, width = neuron.spec, neuron.spec.name == TEXT_TOWER_NAME, self.config.projection_dim
        takes_queries = neuron.prompted_tower is not None and neuron.adapter.takes_queries
        if not is_text and not takes_queries and self.config.prompt_of(spec) == "queries":
            instead = "after" if neuron.prompted_tower is None else "tokens"
            raise ValueError(
                f"neuron {spec.name!r}: {type(neuron.tower).__name__} takes no prompt 'queries', expected \"prompt\": "
                f'"{instead}" in its specification'
            )
        if (spec.aligned or is_text) and neuron.embedding_size != width:
            raise ValueError(
                f"neuron {spec.name!r} {'embeds class texts' if is_text else 'is aligned'}, but its embeddings have width "
                f"{neuron.embedding_size} and projection_dim is {width}"
            )
        neuron.train(self.training)
        shared = [self.loaded_names[name] for name, other in self.items() if other.tower is neuron.tower]
        self.loaded_names[spec.name] = shared[0] if shared else frozenset(weight_names(neuron))
        self[spec.name] = neuron if "device_map" in self.arguments.get(spec.name, {}) else neuron.to(device)

    def share(self, other: "NeuronBank") -> None:
        """Uses the loaded towers of another bank with the same neurons; the weights are shared, not copied."""
        self.base, self.arguments = other.base, other.arguments
        for name, neuron in other.items():
            self[name] = Neuron(
                self.specs[name],
                neuron.tower,
                neuron.projection,
                self.config.prompt_depth,
                neuron.source,
                neuron.sentence,
            )
            self.loaded_names[name] = other.loaded_names[name]

    def added_names(self, name: str) -> list[str]:
        """Names of a neuron's parameters and buffers that were added after loading, such as those of adapters."""
        loaded = self.loaded_names[name]
        return [each for each in weight_names(self[name]) if loaded_name(each, loaded) is None]

    def _load(self, spec: NeuronSpec) -> Neuron:
        arguments = self.arguments.get(spec.name, {})
        for other in self.values():
            same = all(getattr(spec, field) == getattr(other.spec, field) for field in TOWER_SOURCE)
            if same and arguments == self.arguments.get(other.spec.name, {}):
                return Neuron(
                    spec, other.tower, other.projection, self.config.prompt_depth, other.source, other.sentence
                )
        if (attention := self.config._attn_implementation) not in (None, "sdpa"):  # towers choose sdpa themselves
            arguments = {"attn_implementation": attention, **arguments}
        return load_neuron(spec, self.config.prompt_depth, self.base, **arguments)

    def first_looks(
        self,
        inputs: Mapping[str, Tensor],
        neuron_mask: Tensor | None,
        device: torch.device,
        records: Mapping[str, Sequence[str]],
        outputs: Sequence[str] = (),
    ) -> tuple[dict[str, FirstLook], dict[str, Tensor]]:
        """First looks of the neurons with inputs in at least one sample, and neuron -> (batch,) bool, see `present`.

        Args:
            inputs, neuron_mask: as for `SENModel.forward`.
            device: device of the association.
            records: neuron -> what its first look records for later ones.
            outputs: any of `hidden_states` and `attentions`.

        Raises:
            TypeError, ValueError: see [`NeuronBank.split_inputs`] and [`NeuronBank.present`].
        """
        by_neuron = self.split_inputs(inputs)
        sizes = {name: len(next(iter(tensors.values()))) for name, tensors in by_neuron.items()}
        present = self.present(sizes, neuron_mask, device)
        looks = {name: self[name].first_look(by_neuron[name], records[name], outputs) for name in present}
        return looks, present

    def split_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """`{neuron}_{input}` -> neuron -> input; neurons without inputs are left out.

        Raises:
            TypeError: an input that belongs to no neuron.
        """
        specs = self.neuron_specs
        if unknown := set(inputs).difference(*(spec.model_inputs for spec in specs.values())):
            expected = [f"{name}_{spec.input_name}" for name, spec in specs.items()]
            raise TypeError(f"unexpected input {min(unknown)!r}, expected some of {', '.join(expected)}")
        by_neuron = {
            name: {suffix: inputs[key] for key, suffix in spec.model_inputs.items() if inputs.get(key) is not None}
            for name, spec in specs.items()
        }
        return {name: found for name, found in by_neuron.items() if specs[name].input_name in found}

    def present(self, sizes: Mapping[str, int], neuron_mask: Tensor | None, device: torch.device) -> dict[str, Tensor]:
        """neuron -> (batch,) bool, whether a sample has inputs for it; neurons without inputs in any sample are left out.

        Args:
            sizes: batch size of each neuron's inputs, for neurons with inputs.
            neuron_mask: (batch, neurons) bool; default: all true.
            device: device of the results.

        Raises:
            ValueError: no inputs, different sizes, a mask of another shape, a sample with no neuron present.
        """
        specs = self.neuron_specs
        modalities = ", ".join(f"{spec.modality} ({name})" for name, spec in specs.items())
        if not sizes:
            raise ValueError(f"no neuron has inputs; missing modalities: {modalities}")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"inputs have different batch sizes: {dict(sizes)}")
        shape = (next(iter(sizes.values())), len(specs))
        if neuron_mask is None:
            neuron_mask = torch.ones(shape, dtype=torch.bool, device=device)
        if neuron_mask.shape != shape:
            raise ValueError(f"neuron_mask has shape {tuple(neuron_mask.shape)}, expected {shape}")
        has_inputs = torch.tensor([name in sizes for name in specs], device=device)
        mask = neuron_mask.to(device=device, dtype=torch.bool) & has_inputs  # (batch, neurons)
        if not bool(mask.any(dim=1).all()):
            rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"samples {rows} have no neuron present; missing modalities: {modalities}")
        anywhere = mask.any(dim=0).tolist()
        return {name: mask[:, index] for index, name in enumerate(specs) if anywhere[index]}

    def save(self, folder: str | os.PathLike, include_neurons: bool) -> dict[str, NeuronSpec]:
        """Writes towers to `folder/neuron_NAME`.

        Args:
            folder: folder of the checkpoint.
            include_neurons: whether to write all towers. Otherwise only those that were loaded from `neuron_NAME` folders,
                and those whose weights differ from their source.

        Returns:
            The specifications to save, with the loaded commits and dtypes and the written folders.

        Raises:
            ValueError: a tower to be written has dropped the layers below its prompts.
        """
        written: dict[int, NeuronSpec | None] = {}  # a tower shared by several neurons is written once
        specs = specs_of(self.config)  # the configuration may have changed since construction
        return {
            name: self._save(spec, Path(folder), include_neurons, written) if name in self else _pinned(spec)
            for name, spec in specs.items()
        }

    def _save(
        self, spec: NeuronSpec, folder: Path, include_neurons: bool, written: dict[int, NeuronSpec | None]
    ) -> NeuronSpec:
        neuron = self[spec.name]
        spec = replace(spec, dtype=str(neuron.dtype).removeprefix("torch."))
        if added := self.added_names(spec.name):
            logger.warning(
                f"neuron {spec.name!r}: {len(added)} weights that are not in its checkpoint (e.g. {added[0]}) are not saved "
                "with its tower; peft saves adapters, and merge_and_unload() makes them part of the tower"
            )
        if id(neuron.tower) not in written:
            beside, target = None, folder / f"neuron_{spec.name}"
            difference = None if include_neurons or spec.is_relative else self._difference(neuron)
            if difference is not None:
                logger.warning(f"neuron {spec.name!r}: {difference}; its tower is saved to {target.name}/")
            if include_neurons or spec.is_relative or difference is not None:
                beside = save_tower(spec, neuron, target, self._loaded_weights(neuron))
            written[id(neuron.tower)] = beside
        beside = written[id(neuron.tower)]
        if beside is None:
            return _pinned(spec, neuron.commit)
        return replace(spec, **{field: getattr(beside, field) for field in TOWER_SOURCE})

    def restore(self, folder: str | os.PathLike, config: SENConfig) -> None:
        """Loads the weights of towers that a checkpoint of this model contains, such as changed ones.

        Args:
            folder: folder of the checkpoint.
            config: the SEN's configuration in it.

        Raises:
            OSError, RuntimeError, ValueError: see [`load_neuron`]; a tower of another shape.
        """
        for name, spec in specs_of(config).items():
            if spec.is_relative and name in self:
                saved = load_neuron(spec, config.prompt_depth, HubSource.of(folder, {}))
                self[name].load_state_dict(saved.state_dict())

    def _loaded_weights(self, neuron: Neuron) -> dict[str, Tensor]:
        """Weights of tower and projection by their names at loading, without added ones."""
        loaded, added = self.loaded_names[neuron.spec.name], set(self.added_names(neuron.spec.name))
        weights = all_weights(neuron)  # quantised weights have more entries than parameters and buffers
        return {loaded_name(name, loaded) or name: weight for name, weight in weights.items() if name not in added}

    def _difference(self, neuron: Neuron) -> str | None:
        """How the tower differs from its source, or `None`: it is loaded again from local files and compared.

        A checksum at loading would slow down every load, and version counters miss changes through `.data`, which peft makes
        when it merges adapters.
        """
        spec, given = neuron.spec, self.arguments.get(neuron.spec.name, {})
        if "quantization_config" in given or hasattr(neuron.tower.config, "quantization_config"):
            return None  # quantised weights are not trained, and a second copy would double the memory
        kept = {name: value for name, value in given.items() if name not in _PLACEMENT}
        kept |= {"local_files_only": True}
        spec = replace(spec, revision=neuron.commit, dtype=str(neuron.dtype).removeprefix("torch."))
        try:
            with torch.random.fork_rng(devices=[]):  # training-only parameters may be initialised at random
                again = load_neuron(spec, self.config.prompt_depth, self.base, **kept)
        except (OSError, ImportError, RuntimeError, ValueError) as error:
            return f"it cannot be loaded again ({error})"
        # Under a device map, offloaded weights are unchanged and need no comparison.
        weights = neuron.state_dict() if "device_map" in given else self._loaded_weights(neuron)
        training_only = {f"tower.{name}" for name in neuron.adapter.training_only}
        for name, weight in again.state_dict().items():
            current = weights.get(name)
            if current is None or current.is_meta or name in training_only:
                continue
            if not same_weight(current, weight):
                return f"its weights (e.g. {name}) differ from those of {spec.hub_id}"
        return None


def specs_of(config: SENConfig) -> dict[str, NeuronSpec]:
    """Specifications of all towers by name; the text tower is last."""
    text_spec = config.text_tower_spec
    return {spec.name: spec for spec in [*config.neuron_specs, *([] if text_spec is None else [text_spec])]}


def resolve_specs(
    neurons: Iterable[str | Mapping[str, Any] | NeuronSpec],
    text_tower: str | Mapping[str, Any] | NeuronSpec | None,
    arguments: Mapping[str, Mapping[str, Any]],
    prompt: str,
) -> tuple[list[NeuronSpec], NeuronSpec | None]:
    """Full specifications of neurons and text tower, see [`SENModel.from_neurons`]."""
    text_spec = None
    if text_tower is not None:
        text_spec = resolve_spec(text_tower, "text_tower", **arguments.get(TEXT_TOWER_NAME, {}))
        text_spec = replace(text_spec, name=TEXT_TOWER_NAME)
    specs: list[NeuronSpec] = []
    for neuron in neurons:
        given = {"hub_id": neuron} if isinstance(neuron, str) else neuron
        if text_spec and not isinstance(given, NeuronSpec) and given.get("hub_id") == text_spec.hub_id:
            given = {"aligned": True, **given}
        name = given.name if isinstance(given, NeuronSpec) else given.get("name", "")
        taken = tuple(spec.name for spec in specs)
        specs.append(resolve_spec(given, "tower", taken, prompt, **arguments.get(name, {})))
    return specs, text_spec


def _leave_out(module: NeuronBank, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
    added = {f"{prefix}{name}.{each}" for name in module for each in module.added_names(name)}
    for key in [key for key in state_dict if key.startswith(prefix) and key not in added]:
        del state_dict[key]


def _expect_none(module: NeuronBank, incompatible_keys: Any) -> None:
    names = {f"{name}.{each}" for name, neuron in module.items() for each in weight_names(neuron)}
    own = names - {f"{name}.{each}" for name in module for each in module.added_names(name)}
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not any(key == name or key.endswith(f".{name}") for name in own)]


def _pinned(spec: NeuronSpec, commit: str | None = None) -> NeuronSpec:
    """The specification with `revision` set to the loaded commit, or by default to the branch's current one."""
    if os.path.isdir(spec.hub_id):
        logger.warning(f"neuron {spec.name!r} is a local folder; elsewhere the checkpoint needs include_neurons=True")
        return spec
    if spec.is_builtin or spec.is_relative:
        return spec
    return replace(spec, revision=commit or HubSource(spec.hub_id, spec.revision).at_commit().commit)


__all__ = ["TOWER_SOURCE", "NeuronBank", "resolve_specs"]
