# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENPreTrainedModel: loads, saves and pushes SENs and their heads.

A checkpoint contains the weights of the association and of the head, if any. The frozen towers are loaded by hub id, or from
`neuron_NAME/` folders in the checkpoint. A head is a subclass whose configuration has a `sen_config` and whose SEN is
`self.sen`.
"""

import copy
import functools
import inspect
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import create_and_tag_model_card

from .configuration_sen import TEXT_TOWER_NAME, SENConfig
from .hub_files import (
    FETCH_ARGUMENTS,
    CheckpointError,
    HubSource,
    check_shapes,
    commit_folder,
    naming_hub_errors,
    quiet_transformers,
    readable_weights,
)
from .whole_file import replaced_folder


class SENPreTrainedModel(PreTrainedModel):
    """Base of [`SENModel`] and of every head."""

    config: SENConfig
    base_model_prefix = "sen"
    main_input_name = "neuron_mask"
    input_modalities = ["video", "image", "audio", "text"]  # noqa: RUF012 (Transformers' own declaration)
    _no_split_modules = ["RABlock", "FusionHead"]  # noqa: RUF012 (Transformers' own declaration)
    supports_gradient_checkpointing = True
    _save_arguments: tuple[str, ...] = ()  # arguments that `save_pretrained` passes to a head's `_config_to_save`
    accepts_loss_kwargs = False  # the losses are means over videos, so the Trainer must not pass `num_items_in_batch`
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_own: Callable[[float], None] | None = getattr(module, "init_own_weights", None)
        if init_own is not None:  # bare parameters, which Transformers does not initialise
            init_own(self.config.initializer_range)

    # --- loading -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, neuron_kwargs=None, **kwargs):  # type: ignore[override]
        """As for any Transformers model; loads the neurons too.

        Args:
            neuron_kwargs: `{neuron name: from_pretrained arguments}`, e.g. `{"image": {"attn_implementation": "eager"}}`;
                `"class_text"` is the text tower. `trust_remote_code` applies to a neuron only if given here; the SEN's own is
                not passed on.

        Raises:
            OSError: the checkpoint, or a neuron's, cannot be found or read.
            RuntimeError: the checkpoint lacks weights of the association or the head, which would stay random, or has them
                in another shape.
            ValueError: the checkpoint is of another model, or of an adapter.
        """
        name = pretrained_model_name_or_path
        # All files of this load, including neurons in the checkpoint, are read at one commit.
        source = None if name is None else HubSource.of(name, kwargs).at_commit()
        if source is not None and source.revision is not None:
            kwargs["revision"] = source.revision
        adapter = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")  # set by Auto classes
        with naming_hub_errors(f"{name}"):
            if source is not None and not adapter:
                adapter = source.file("adapter_config.json", optional=True) and name
        if adapter:
            raise ValueError(  # Transformers would apply it before the towers are loaded
                f"{adapter}: found an adapter (adapter_config.json), expected a SEN; load the SEN that it was trained on, "
                f"and then peft's PeftModel.from_pretrained(model, {str(adapter)!r})"
            )
        if source is not None and "config" not in kwargs:
            _check_model_type(source, cls.config_class.model_type)  # type: ignore[union-attr]
        wants_info = kwargs.pop("output_loading_info", False)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        # Missing weights raise below, so Transformers need not report them.
        with quiet_transformers(), readable_weights(f"{name}"), naming_hub_errors(f"{name}"):
            if source is not None:
                source.prefetch_model(kwargs)
            # Transformers' own error about shapes refers to its report; the check below names weight and shapes.
            settings = {**kwargs, "ignore_mismatched_sizes": True}
            model, info = super().from_pretrained(name, *args, output_loading_info=True, **settings)
        if not kwargs.get("ignore_mismatched_sizes"):
            check_shapes(f"{name}", info["mismatched_keys"])
        if info["missing_keys"] and source is not None:
            missing = sorted(info["missing_keys"])
            raise CheckpointError(
                f"{name}: {len(missing)} weights of {cls.__name__} are missing (e.g. {missing[0]}) and would stay random"
            )
        shared = {key: kwargs[key] for key in FETCH_ARGUMENTS if key in kwargs and key != "force_download"}
        if dtype not in (None, "auto"):
            shared["dtype"] = dtype
        sen: Any = model.base_model
        sen.neurons.base = source
        names = [*sen.specs, *(neuron_kwargs or {}), TEXT_TOWER_NAME]
        sen.load_neurons({key: {**shared, **(neuron_kwargs or {}).get(key, {})} for key in names})
        model.eval()
        return (model, info) if wants_info else model

    # --- saving ------------------------------------------------------------------------------------------------------

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        include_neurons: bool = False,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves configuration and trained weights; the folder is replaced atomically.

        Args:
            save_directory: the folder.
            include_neurons: whether to write all towers to `neuron_NAME/`, so that the folder needs no other checkpoint.
                Towers that were loaded from such folders, and changed ones, are always written. A language model is written
                to `language_model/`, unless `include_language_model` is false.
            push_to_hub: whether to push the folder's files to the repository `repo_id`; default: the folder's name.
            kwargs: as for any Transformers model.
        """
        if not kwargs.get("is_main_process", True):
            return
        head_arguments = {key: kwargs.pop(key) for key in self._save_arguments if key in kwargs}
        hub_kwargs = {key: kwargs.pop(key) for key in ("repo_id", "commit_message", "private") if key in kwargs}
        sen: Any = self.base_model
        if include_neurons or any(spec.is_relative for spec in sen.neurons.specs.values()):
            sen.ensure_loaded()
        with replaced_folder(save_directory) as folder:
            with quiet_transformers():
                super().save_pretrained(folder, save_original_format=False, **kwargs)
            if (folder / "config.json").exists():  # false if only adapters are saved
                self._config_to_save(folder, include_neurons, **head_arguments).save_pretrained(folder)
        if push_to_hub:
            repo_id = hub_kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            options = {**head_arguments, "include_neurons": include_neurons, "token": kwargs.get("token")}
            self.push_to_hub(repo_id, **options, **hub_kwargs)

    def _config_to_save(self, folder: Path, include_neurons: bool, **own: Any) -> Any:
        """Writes towers to `folder`; returns the configuration with commits, dtypes and the written towers."""
        sen: Any = self.base_model
        specs = {name: spec.to_dict() for name, spec in sen.neurons.save(folder, include_neurons).items()}
        config = copy.deepcopy(self.config)
        sen_config = config if sen is self else config.sen_config
        sen_config.text_tower = specs.pop(TEXT_TOWER_NAME, None)
        sen_config.neurons = list(specs.values())
        return config

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        include_neurons: bool = False,
        processor: Any = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: list[str] | None = None,
        **save_arguments: Any,
    ) -> str:
        """As for any Transformers model, with a model card that lists encoders, licences and measured results.

        Args:
            include_neurons: as for `save_pretrained`.
            processor: saved with the model, in the same commit.
            tags: tags to add to the card.
            save_arguments: arguments of `save_pretrained`.

        Raises:
            ValueError: a tower or language model is a local folder, and `include_neurons` is false.
            OSError: the Hub refuses or fails; the repository then has all files of this push, or none.
        """
        try:
            from modeling_sen.publishing import add_card
        except ImportError:  # remote code does not include the module that writes cards
            add_card = _add_plain_card
        message, api = commit_message or f"Upload {type(self).__name__}", HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, include_neurons=include_neurons, **save_arguments)
            if processor is not None:
                processor.save_pretrained(folder)
            with naming_hub_errors(repo_id):
                repo_id = add_card(self, Path(folder), repo_id, api, private=private, revision=revision, tags=tags)
                options = {"commit_description": commit_description, "revision": revision, "create_pr": create_pr}
                return commit_folder(api, repo_id, folder, message, **options)

    # --- parameters --------------------------------------------------------------------------------------------------

    def trainable_parameters(self) -> tuple[int, int]:
        """Numbers of (trainable, all) parameters; the second includes the loaded towers."""
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in self.parameters())

    def print_trainable_parameters(self) -> None:
        """Prints the trainable share, as `peft` does."""
        sen: Any = self.base_model
        sen.ensure_loaded()
        trainable, total = self.trainable_parameters()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")


def _add_plain_card(
    model: Any,
    folder: Path,
    repo_id: str,
    api: HfApi,
    private: bool | None,
    revision: str | None,
    tags: list[str] | None,
) -> str:
    """Creates the repository and copies its card, or else Transformers' default card, to the folder; returns its full id."""
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    # Raises if the existing card cannot be downloaded, so that it is not overwritten.
    HubSource(repo_id, fetch={"token": api.token}).prefetch("README.md")
    create_and_tag_model_card(repo_id, tags, token=api.token).save(folder / "README.md")  # type: ignore[arg-type]
    return repo_id


def _check_model_type(source: HubSource, expected: str) -> None:
    """Checks the model types of a checkpoint and of its parts, because a SEN can be loaded from a head's checkpoint."""
    source.prefetch("config.json")
    settings, _ = PreTrainedConfig.get_config_dict(source.location, **source.files)
    parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]
    if expected not in [part.get("model_type") for part in parts]:
        raise ValueError(f"{source.location}: its model type is {settings.get('model_type')!r}, expected {expected!r}")


class lists_neuron_inputs:
    """Lists a model's neuron inputs in the signature of its `forward(..., **inputs)`.

    They depend on the model's neurons, and the Trainer drops dataset columns that are not in the signature.
    """

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward
        functools.update_wrapper(self, forward)  # type: ignore[arg-type]

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self.forward
        bound: Any = functools.partial(self.forward, model)
        _, *named, rest = inspect.signature(self.forward).parameters.values()
        columns = [column for spec in model.base_model.specs.values() for column in spec.model_inputs]
        inputs = [inspect.Parameter(column, inspect.Parameter.KEYWORD_ONLY, default=None) for column in columns]
        bound.__signature__ = inspect.Signature([*named, *inputs, rest])
        return bound


__all__ = ["SENPreTrainedModel", "lists_neuron_inputs"]
