# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The frozen models that a checkpoint builds on, as its model card names them: repository, commit, licence, size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from yaml import YAMLError

from modeling_sen.configuration_sen import NeuronSpec, SENConfig
from modeling_sen.hub_files import HubSource
from modeling_sen.prompt_injection import DroppedLayer
from modeling_sen.tower_weights import loaded_name

OWN_LICENCE = "apache-2.0"  # of this package, and of the towers inside it
# Licences that forbid commercial use, among those that the Hub lists, beside the ones whose names say so.
_NON_COMMERCIAL = {"apple-amlr", "deepfloyd-if-license", "intel-research"}
# Of weights whose checkpoint states none: of the one original that towers of a type come from.
_FAMILIES = {"imagebind_": "cc-by-nc-sa-4.0"}
_SAYS_NON_COMMERCIAL = re.compile(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial|research-only")


@dataclass(frozen=True)
class BaseModel:
    """One encoder of a SEN, or the language model or diffusion model behind it.

    Attributes:
        name: of the neuron; `class_text` is the text tower, `language_model` the language model, `unet` the diffusion model.
        sees: what it is given of a clip.
        hub_id, revision: where its weights come from; `None` where that is no repository of the Hub, or is not recorded.
        is_builtin: whether it is a tower of the package, or a copy of one.
        is_beside: whether the checkpoint holds a copy of it.
        licence: as the repository's card states it; `None` where it states none or cannot be read.
        parameters: of tower and projection, or of the language model without adapters; `None` where some of its layers
            were dropped for training.
    """

    name: str
    sees: str
    hub_id: str | None
    revision: str | None
    is_builtin: bool
    is_beside: bool
    licence: str | None
    parameters: int | None

    @property
    def is_non_commercial(self) -> bool:
        return self.licence is not None and is_non_commercial(self.licence)


def is_non_commercial(licence: str) -> bool:
    """Whether a licence's name says that it forbids commercial use.

    >>> is_non_commercial("cc-by-nc-4.0"), is_non_commercial("apache-2.0")
    (True, False)
    """
    return licence.lower() in _NON_COMMERCIAL or _SAYS_NON_COMMERCIAL.search(licence.lower()) is not None


def base_models(
    model: Any, config: SENConfig, fetch: Mapping[str, Any], language_model: Mapping[str, Any] | None = None
) -> list[BaseModel]:
    """The encoders of a model, text tower last, and its language model or diffusion model where it has one.

    Args:
        model: any model with a SEN; its towers are loaded.
        config: of its SEN, as it is saved: with commits, and with the folders that towers are copied to.
        fetch: how the cards of their repositories are read (`FETCH_ARGUMENTS`).
        language_model: where the language model is, as it is saved; by default as the model has it.
    """
    specs = [*config.neuron_specs, *([config.text_tower_spec] if config.text_tower_spec else [])]
    found = []
    for spec in specs:
        hub_id, revision = _origin(spec.hub_id, spec.revision, spec.base_model)
        is_builtin = (spec.base_model or spec.hub_id).startswith("builtin:")
        neuron = model.base_model.neurons[spec.name]
        is_cut = any(isinstance(module, DroppedLayer) for module in neuron.modules())
        found.append(
            BaseModel(
                name=spec.name,
                sees=_sees(spec),
                hub_id=hub_id,
                revision=revision,
                is_builtin=is_builtin,
                is_beside=spec.is_relative,
                licence=OWN_LICENCE
                if is_builtin
                else _licence(spec, hub_id, revision, fetch) or _family_licence(neuron.tower.config.model_type),
                parameters=None if is_cut else sum(weight.numel() for weight in neuron.parameters()),
            )
        )
    if getattr(model, "language_model", None) is not None:
        found.append(_language_model(model, language_model or model.config.language_model or {}, fetch))
    if getattr(model, "unet", None) is not None:
        found.append(_diffusion_model(model, fetch))
    return found


def _diffusion_model(model: Any, fetch: Mapping[str, Any]) -> BaseModel:
    hub_id, source = model.config.base_model_id or "./", model.base_source
    is_beside, is_folder = hub_id.startswith("./"), Path(hub_id).is_dir()
    revision = None if source is None or is_beside else source.commit
    if is_beside:
        licence = None if source is None else licence_of_repository(source)
    else:
        licence = licence_of_repository(HubSource(hub_id, revision, fetch=fetch))
    return BaseModel(
        name="unet",
        sees="noisy frames, text and features",
        hub_id=None if is_beside or is_folder else hub_id,
        revision=revision,
        is_builtin=False,
        is_beside=is_beside and model.config.base_model_id is not None,
        licence=licence,
        parameters=sum(weight.numel() for weight in model.unet.parameters()),
    )


def _language_model(model: Any, where: Mapping[str, Any], fetch: Mapping[str, Any]) -> BaseModel:
    location = where.get("hub_id") or "./"
    is_beside, base_model = location.startswith("./"), where.get("base_model")
    hub_id, revision = _origin(location, where.get("revision"), base_model)
    is_builtin = (base_model or "").startswith("builtin:")
    licence = OWN_LICENCE if is_builtin else None
    if not is_builtin and not (is_beside and hub_id is None):
        licence = licence_of_repository(HubSource(hub_id or location, revision, fetch=fetch))
    weights = model.language_model.named_parameters()
    return BaseModel(
        name="language_model",
        sees="text and visual tokens",
        hub_id=hub_id,
        revision=revision,
        is_builtin=is_builtin,
        is_beside=is_beside,
        licence=licence,
        parameters=sum(weight.numel() for name, weight in weights if loaded_name(name, model.loaded_names)),
    )


def _origin(location: str, revision: str | None, base_model: str | None) -> tuple[str | None, str | None]:
    """(repository, commit) of the Hub that weights come from; `None` where they come from elsewhere.

    Args:
        location: where they are.
        base_model: `HUB_ID@COMMIT` or `builtin:NAME` that they are a copy of, where that is known.
    """
    origin = base_model or ("" if Path(location).is_dir() else f"{location}@{revision or ''}")
    hub_id, _, commit = origin.partition("@")
    if not hub_id or hub_id.startswith(("builtin:", "./")):
        return None, None
    return hub_id, commit or None


def _licence(spec: NeuronSpec, hub_id: str | None, revision: str | None, fetch: Mapping[str, Any]) -> str | None:
    """Of the tower's weights; a copy of a tower has the licence of its original."""
    if hub_id is not None:
        return licence_of_repository(HubSource(hub_id, revision, fetch=fetch))
    return None if spec.is_relative else licence_of_repository(HubSource(spec.hub_id))


def _family_licence(model_type: str) -> str | None:
    return next((licence for start, licence in _FAMILIES.items() if model_type.startswith(start)), None)


def licence_of_repository(source: HubSource) -> str | None:
    """As its card states it; `None` where it states none, or cannot be read."""
    try:
        path = source.file("README.md", optional=True)
        data = None if path is None else ModelCard.load(path, ignore_metadata_errors=True).data
    except (OSError, ValueError, YAMLError):  # no reason to push nothing
        return None
    if data is None:
        return None
    stated = data.get("license")
    name = (data.get("license_name") or stated) if stated in ("other", None) else stated
    return ", ".join(name) if isinstance(name, list) else name


def _sees(spec: NeuronSpec) -> str:
    """In words: `8 frames`, `1 frame`, `sound`, `motion sensors`, `text`."""
    if spec.takes_frames:
        what = {"image": "", "video": "", "depth": " of depth", "thermal": " of heat"}[spec.modality]
        grey = " in grey" if (spec.preprocessing or {}).get("gray") else ""
        return f"{spec.num_frames} {'frame' if spec.num_frames == 1 else 'frames'}{what}{grey}"
    if spec.modality in ("audio", "imu"):
        return {"audio": "sound", "imu": "motion sensors"}[spec.modality]
    return "class texts" if spec.name == "class_text" else "text"


__all__ = ["OWN_LICENCE", "BaseModel", "base_models", "is_non_commercial", "licence_of_repository"]
