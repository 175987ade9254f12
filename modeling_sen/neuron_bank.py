# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""All towers of a SEN, the text tower among them: resolved, loaded, shared between neurons, and saved."""

import os
import shutil
from collections.abc import ItemsView, Iterable, Mapping, Sequence, ValuesView
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging
from transformers.utils.hub import resolve_revision

from .configuration_sen import TEXT_TOWER_NAME, NeuronSpec, SENConfig
from .first_look import FirstLook
from .hub_files import HubSource, quiet_transformers
from .neuron import Neuron
from .neuron_loading import load_neuron, resolve_spec

logger = logging.get_logger(__name__)

# Fields of a specification that say what a tower's weights are and how they are read.
TOWER_SOURCE = ("hub_id", "revision", "class_name", "submodule", "key_mapping", "dtype", "projection")
# What else a tower needs to be fed, and is saved beside it.
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


class NeuronBank(nn.ModuleDict):
    """The frozen towers by their neurons' names, and the text tower as `"class_text"`; empty until [`NeuronBank.load`].

    They are children of the model, but never part of its state dict, so that a checkpoint leaves them out.

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
        if taken := [name for name in self.neuron_specs if hasattr(self, name)]:
            raise ValueError(f"neurons: {', '.join(taken)} is the name of an attribute of a module, expected another")
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_expect_none)

    @property
    def text_tower(self) -> Neuron | None:
        """The encoder of class texts, where there is one and it is loaded."""
        return self._modules.get(TEXT_TOWER_NAME)  # type: ignore[return-value]

    @property
    def missing(self) -> list[str]:
        """Names of towers that are not loaded."""
        return [name for name in self.specs if name not in self]

    def load(self, device: torch.device, arguments: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Loads the towers that are not loaded yet.

        Args:
            device: of the association; towers with a `device_map` of their own stay where it puts them.
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
        """Adds a loaded tower, after a check that its embeddings fit the text space."""
        spec, is_text, width = neuron.spec, neuron.spec.name == TEXT_TOWER_NAME, self.config.projection_dim
        if (spec.aligned or is_text) and neuron.embedding_size != width:
            raise ValueError(
                f"neuron {spec.name!r} {'embeds class texts' if is_text else 'is aligned'}, but its embeddings have width "
                f"{neuron.embedding_size} and projection_dim is {width}"
            )
        neuron.train(self.training)
        self[spec.name] = neuron if "device_map" in self.arguments.get(spec.name, {}) else neuron.to(device)

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
        """Round 0 of the neurons that any sample has inputs for, and neuron -> (batch,) bool, which samples have them.

        Args:
            inputs, neuron_mask: of the model.
            device: of the association.
            records: neuron -> what its first look records for later ones.
            outputs: any of `hidden_states` and `attentions`.

        Raises:
            TypeError, ValueError: see [`NeuronBank.split_inputs`] and [`NeuronBank.present`].
        """
        given = self.split_inputs(inputs)
        sizes = {name: len(next(iter(each.values()))) for name, each in given.items()}
        present = self.present(sizes, neuron_mask, device)
        looks = {name: self[name].first_look(given[name], records[name], outputs) for name in present}
        return looks, present

    def split_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """`{neuron}_{input}` -> neuron -> input; neurons without inputs are left out.

        Raises:
            TypeError: an input that belongs to no neuron.
        """
        specs = self.neuron_specs
        by_neuron: dict[str, dict[str, Tensor]] = {}
        for key, value in inputs.items():
            name = next((name for name in specs if key.startswith(f"{name}_")), None)
            suffix = key[len(name) + 1 :] if name else ""
            if name is None or suffix not in (specs[name].input_name, "attention_mask"):
                expected = [f"{name}_{spec.input_name}" for name, spec in specs.items()]
                raise TypeError(f"unexpected input {key!r}, expected some of {', '.join(expected)}")
            if value is not None:
                by_neuron.setdefault(name, {})[suffix] = value
        return {name: by_neuron[name] for name in specs if specs[name].input_name in by_neuron.get(name, {})}

    def present(self, sizes: Mapping[str, int], neuron_mask: Tensor | None, device: torch.device) -> dict[str, Tensor]:
        """neuron -> (batch,) bool on the device, for the neurons that any sample has inputs for.

        Args:
            sizes: batch size of the inputs of each neuron that has some.
            neuron_mask: (batch, neurons) bool; by default all True.

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
        given = torch.tensor([name in sizes for name in specs], device=device)
        mask = neuron_mask.to(device=device, dtype=torch.bool) & given  # (batch, neurons)
        if not bool(mask.any(dim=1).all()):
            rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"samples {rows} have no neuron present; missing modalities: {modalities}")
        anywhere = mask.any(dim=0).tolist()
        return {name: mask[:, index] for index, name in enumerate(specs) if anywhere[index]}

    def save(self, folder: str | os.PathLike, include_neurons: bool) -> dict[str, NeuronSpec]:
        """Writes towers to `folder/neuron_NAME`: all of them, or those that stand beside the checkpoint they came from.

        Returns:
            The specifications to save: with the commits and dtypes that were loaded, and the folders that were written.
        """
        written: dict[int, NeuronSpec] = {}  # a tower that serves several neurons is written once
        specs = specs_of(self.config)  # as the configuration is now
        return {
            name: self._save(spec, Path(folder), include_neurons, written) if name in self else _pinned(spec)
            for name, spec in specs.items()
        }

    def _save(
        self, spec: NeuronSpec, folder: Path, include_neurons: bool, written: dict[int, NeuronSpec]
    ) -> NeuronSpec:
        neuron = self[spec.name]
        spec = replace(spec, dtype=str(neuron.dtype).removeprefix("torch."))
        if include_neurons or spec.is_relative:
            if id(neuron.tower) not in written:
                written[id(neuron.tower)] = _save_tower(spec, neuron, folder / f"neuron_{spec.name}")
            beside = written[id(neuron.tower)]
            return replace(spec, **{field: getattr(beside, field) for field in TOWER_SOURCE})
        return _pinned(spec, neuron.commit)


def specs_of(config: SENConfig) -> dict[str, NeuronSpec]:
    """All towers' specifications by name, the text tower's last."""
    text_spec = config.text_tower_spec
    return {spec.name: spec for spec in [*config.neuron_specs, *([] if text_spec is None else [text_spec])]}


def resolve_specs(
    neurons: Iterable[str | Mapping[str, Any] | NeuronSpec],
    text_tower: str | Mapping[str, Any] | NeuronSpec | None,
    arguments: Mapping[str, Mapping[str, Any]],
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
        specs.append(resolve_spec(given, "tower", taken, **arguments.get(name, {})))
    return specs, text_spec


def _leave_out(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]


def _expect_none(module: nn.Module, incompatible_keys: Any) -> None:
    # A tower that serves several neurons has its weights under the name of each.
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    own = {key for key, _ in named}
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not any(key == name or key.endswith(f".{name}") for name in own)]


def _pinned(spec: NeuronSpec, commit: str | None = None) -> NeuronSpec:
    """The specification at the commit that was loaded, not at what the branch has become; by default at the present one."""
    if os.path.isdir(spec.hub_id):
        logger.warning(f"neuron {spec.name!r} is a local folder; elsewhere the checkpoint needs include_neurons=True")
        return spec
    if spec.is_builtin or spec.is_relative:
        return spec
    found = commit or resolve_revision(spec.hub_id, spec.revision)
    return replace(spec, revision=getattr(found, "resolved", found))


def _save_tower(spec: NeuronSpec, neuron: Neuron, folder: Path) -> NeuronSpec:
    """Writes a tower, its projection and its processor's files; returns the specification that finds it there."""
    with quiet_transformers():
        # As the tower names its weights: not as the checkpoint did, before a key mapping cut the tower out of it.
        neuron.tower.save_pretrained(folder, state_dict=_weights(neuron.tower), save_original_format=False)
    if neuron.projection is not None:
        weights = {name: weight.to("cpu").contiguous() for name, weight in _weights(neuron.projection).items()}
        save_file(weights, folder / "projection.safetensors", metadata={"format": "pt"})
    if neuron.sentence is not None:
        neuron.sentence.layout.save(folder)
    for name in _PROCESSOR_FILES:
        found = None if neuron.source is None else neuron.source.file(name, optional=True)
        if found is not None:
            shutil.copyfile(found, folder / name)
    return replace(
        spec,
        hub_id=f"./{folder.name}",
        revision=None,
        class_name=_class_name(neuron.tower),
        submodule=None,
        key_mapping=None,
        projection=None if neuron.projection is None else "projection.safetensors",
    )


def _weights(module: nn.Module) -> dict[str, Any]:
    """The state dict, with weights that hooks of accelerate bring one module at a time."""
    weights: dict[str, Any] = {}
    for path, part in module.named_modules():
        hook: Any = getattr(part, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(part)
        here = {f"{path}.{name}" if path else name: weight for name, weight in part.state_dict().items()}
        weights |= {name: weight for name, weight in here.items() if not weight.is_meta}
        if hook is not None:
            hook.post_forward(part, None)
    return weights


def _class_name(tower: nn.Module) -> str:
    kind = type(tower)
    if hasattr(transformers, kind.__name__) or not kind.__module__.startswith("transformers."):
        return kind.__name__
    return f"{kind.__module__}.{kind.__name__}".removeprefix("transformers.")


__all__ = ["TOWER_SOURCE", "NeuronBank", "resolve_specs"]
