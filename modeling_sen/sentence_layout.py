# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads checkpoints of sentence-transformers, whose `modules.json` lists the modules that turn tokens into an embedding.

The tower and its tokenizer are in one folder of the checkpoint; pooling, linear layers and normalisation are in others.
Embeddings equal those of `SentenceTransformer.encode`, without its library. Unsupported modules and settings raise an error,
because ignoring them would give embeddings that the checkpoint was not trained for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import logging

from .hub_files import HubSource, readable_weights

logger = logging.get_logger(__name__)

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# Names of the tower's settings file; all but the first are from early versions.
_FIRST_TOWERS = ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TOWER_SETTINGS = tuple(f"sentence_{name}_config.json" for name in ("bert", *_FIRST_TOWERS))
TOWERS = ("Transformer", "CLIPModel")
AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# Older files have a key per mode; several modes are concatenated in this order.
_MODE_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Settings that change embeddings and are not supported.
_UNSUPPORTED_SETTINGS = ("processing_kwargs", "tokenizer_name_or_path")


@dataclass(frozen=True)
class SentenceLayout:
    """Content of a checkpoint's settings files.

    Attributes:
        root: location of `modules.json`.
        tower: location of the tower and its tokenizer.
        modules: (kind, folder, settings in its `config.json`) of each module after the tower, in order.
        settings: content of `config_sentence_transformers.json`.
        tower_settings: content of `sentence_bert_config.json`.
    """

    root: HubSource
    tower: HubSource
    modules: tuple[tuple[str, str, dict[str, Any]], ...]
    settings: dict[str, Any]
    tower_settings: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The default prompt, which precedes every text; empty if there is none."""
        name = self.settings.get("default_prompt_name")
        return "" if name is None else self.settings["prompts"][name] or ""

    @property
    def lower_case(self) -> bool:
        return bool(self.tower_settings.get("do_lower_case"))

    @property
    def tokenizer_arguments(self) -> dict[str, Any]:
        """For `AutoTokenizer.from_pretrained`."""
        settings, found = self.tower_settings, dict[str, Any]()
        for name in ("tokenizer_args", "processor_kwargs"):
            found |= {key: value for key, value in (settings.get(name) or {}).items() if key != "trust_remote_code"}
        if settings.get("max_seq_length") is not None:
            found.setdefault("model_max_length", settings["max_seq_length"])
        return found

    @property
    def modes(self) -> tuple[str, ...]:
        """Pooling modes, whose vectors are concatenated; empty if the tower's own pooled output is the embedding."""
        return next((_pooling_modes(settings) for kind, _, settings in self.modules if kind == "Pooling"), ())

    @property
    def pools_prompt(self) -> bool:
        """Whether pooling includes the prompt's tokens."""
        return not self.prompt or all(settings.get("include_prompt", True) for _, _, settings in self.modules)

    @property
    def facts(self) -> dict[str, Any]:
        """All settings on which embeddings depend, JSON-serialisable."""
        return {"modules": self.modules, "settings": self.settings, "tower_settings": self.tower_settings}

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Writes the layout to a folder in which the tower was saved.

        Args:
            folder: the folder.
            weights: the state dict of the [`SentenceHead`].
        """
        after = [number for number, (kind, *_) in enumerate(self.modules, 1) if kind in AFTER_POOLING]
        modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
        for number, (kind, _, settings) in enumerate(self.modules, 1):
            entry = {"name": str(number), "path": f"{number}_{kind}", "type": f"sentence_transformers.models.{kind}"}
            modules.append({"idx": number, **entry})
            (folder / entry["path"]).mkdir()
            _write_json(folder / entry["path"] / "config.json", settings)
            if kind in ("Dense", "LayerNorm"):
                prefix = f"after.{after.index(number)}."
                found = {key.removeprefix(prefix): each for key, each in weights.items() if key.startswith(prefix)}
                on_cpu = {key: each.to("cpu").contiguous() for key, each in found.items()}
                save_file(on_cpu, folder / entry["path"] / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / MODULES, modules)
        for name, found in ((SETTINGS, self.settings), (TOWER_SETTINGS[0], self.tower_settings)):
            if found:
                _write_json(folder / name, found)


def tower_source(source: HubSource) -> HubSource:
    """Location of a checkpoint's tower: the folder that `modules.json` names, or the checkpoint itself.

    Raises:
        ValueError: `modules.json` is damaged, or its path leads out of the checkpoint.
        OSError: there is no such folder.
    """
    entries = _read_json(source, MODULES)
    has_tower = isinstance(entries, list) and entries and _kind(entries[0]) in TOWERS
    path = _path(source, entries[0]) if has_tower else ""
    if not path or not Path(source.location).is_dir():
        return replace(source, subfolder="/".join(filter(None, (source.subfolder, path))))
    folder = Path(source.location, path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{_where(source, MODULES)}: the folder of the tower, {path!r}, is not there")
    return replace(source, location=str(folder))


def read_layout(source: HubSource) -> SentenceLayout | None:
    """The checkpoint's layout; `None` if it has no `modules.json`.

    Raises:
        ValueError: a damaged file, or an unsupported module or setting; the message names file and module.
        OSError: a file cannot be fetched.
    """
    entries = _read_json(source, MODULES)
    if entries is None:
        return None
    where = _where(source, MODULES)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where}: found {entries!r}, expected a list of modules")
    kinds = [_kind(entry) for entry in entries]
    for number, (entry, kind) in enumerate(zip(entries, kinds, strict=True)):
        expected = TOWERS if number == 0 else ("Pooling", *AFTER_POOLING) if number == 1 else AFTER_POOLING
        if kind not in expected:
            raise ValueError(
                f"{where}: module {number} is {entry.get('type')!r}, expected sentence_transformers' "
                f"{' or '.join(expected)}"
            )
    tower = tower_source(source)
    modules = []
    for kind, path in zip(kinds[1:], (_path(source, entry) for entry in entries[1:]), strict=True):
        found = _read_json(source, f"{path}/config.json")
        if found is None and kind in ("Pooling", "Dense", "LayerNorm"):
            raise ValueError(f"{_where(source, path)}: found no config.json of {kind}, which {MODULES} names")
        _check_module(_where(source, f"{path}/config.json"), kind, found or {})
        modules.append((kind, path, found or {}))
    settings = _read_json(source, SETTINGS) or {}
    name = settings.get("default_prompt_name")
    if name is not None and name not in (settings.get("prompts") or {}):
        prompts = ", ".join(settings.get("prompts") or ()) or "none"
        raise ValueError(
            f"{_where(source, SETTINGS)}: default_prompt_name is {name!r}, expected one of its prompts, {prompts}"
        )
    tower_settings = {}
    for file in TOWER_SETTINGS:
        if (found := _read_json(tower, file)) is not None:
            _check_tower(_where(tower, file), found, bool(modules) and modules[0][0] == "Pooling")
            tower_settings = found
            break
    return SentenceLayout(source, tower, tuple(modules), settings, tower_settings)


class SentenceHead(nn.Module):
    """The modules after the text tower of a sentence-transformers checkpoint.

    Args:
        layout: the checkpoint's layout.
        prompt_tokens: number of tokens at the start of each text that are not pooled.

    Raises:
        OSError, ValueError: weights are missing, damaged, or do not have the shapes in the module's settings.
    """

    def __init__(self, layout: SentenceLayout, prompt_tokens: int = 0):
        super().__init__()
        self.layout, self.modes, self.prompt_tokens = layout, layout.modes, prompt_tokens
        after = [_after_pooling(layout.root, *module) for module in layout.modules if module[0] in AFTER_POOLING]
        width = layout.settings.get("truncate_dim")
        self.after = nn.Sequential(*after, *([] if width is None else [_FirstUnits(width)]))

    def pool(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (batch, tokens, width) and mask (batch, tokens) bool, false for padding -> (batch, modes * width)."""
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        # Positions count from each text's first token, after any padding.
        positions = torch.arange(tokens.shape[1], device=tokens.device) - mask.int().argmax(dim=1, keepdim=True)
        mask = mask & (positions >= self.prompt_tokens)
        return torch.cat([_POOLED[mode](tokens, mask, positions) for mode in self.modes], dim=-1)


def _mean(tokens: Tensor, weights: Tensor, power: float = 1.0) -> Tensor:
    """Weighted sum of the tokens, divided by a power of the sum of the weights (batch, tokens); at least in float32."""
    weights = weights.to(torch.promote_types(tokens.dtype, torch.float32))
    total = (tokens * weights.unsqueeze(-1)).sum(dim=1)
    return (total / weights.sum(dim=1, keepdim=True).clamp(min=1e-9) ** power).to(tokens.dtype)


def _one(tokens: Tensor, numbers: Tensor) -> Tensor:
    """One token of each text, by its index (batch,)."""
    return tokens[torch.arange(len(tokens), device=tokens.device), numbers]


# mode -> function of tokens (batch, tokens, width), the mask of pooled tokens and their positions (batch, tokens)
_POOLED: dict[str, Any] = {
    "cls": lambda tokens, mask, positions: _one(tokens, mask.int().argmax(dim=1)),
    "max": lambda tokens, mask, positions: tokens.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1),
    "mean": lambda tokens, mask, positions: _mean(tokens, mask),
    "mean_sqrt_len_tokens": lambda tokens, mask, positions: _mean(tokens, mask, 0.5),
    "weightedmean": lambda tokens, mask, positions: _mean(tokens, mask * (positions + 1)),
    "lasttoken": lambda tokens, mask, positions: _one(tokens, tokens.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)),
}


class _FirstUnits(nn.Module):
    """Truncates a Matryoshka embedding to its first units."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, embeds: Tensor) -> Tensor:
        return embeds[..., : self.width]


class _UnitLength(nn.Module):
    def forward(self, embeds: Tensor) -> Tensor:
        return nn.functional.normalize(embeds, dim=-1)


class _Dense(nn.Module):
    def __init__(self, settings: Mapping[str, Any]):
        super().__init__()
        sizes = settings["in_features"], settings["out_features"]
        self.linear = nn.Linear(*sizes, bias=settings.get("bias", True))
        self.activation = (_activation(settings) or nn.Tanh)()
        self.residual: nn.Module | None = nn.Identity() if settings.get("use_residual") else None
        if self.residual is not None and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)

    def forward(self, embeds: Tensor) -> Tensor:
        out = self.activation(self.linear(embeds))
        return out if self.residual is None else out + self.residual(embeds)


class _LayerNorm(nn.Module):
    def __init__(self, settings: Mapping[str, Any]):
        super().__init__()
        self.norm = nn.LayerNorm(settings["dimension"])

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(embeds)


def _after_pooling(root: HubSource, kind: str, path: str, settings: Mapping[str, Any]) -> nn.Module:
    if kind not in ("Dense", "LayerNorm"):
        return _UnitLength() if kind == "Normalize" else nn.Identity()  # Dropout does nothing at inference
    module = _Dense(settings) if kind == "Dense" else _LayerNorm(settings)
    file = _weights_file(root, path)
    with readable_weights(str(file)):
        weights = load_file(file)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{_where(root, path)}/model.safetensors does not fit {kind}: {error}") from error
    return module


def _weights_file(root: HubSource, path: str) -> Path:
    file = root.file(f"{path}/model.safetensors", optional=True)
    if file is None:
        raise OSError(f"{_where(root, path)}: found no model.safetensors; weights are read from safetensors only")
    return file


def _activation(settings: Mapping[str, Any]) -> type[nn.Module] | None:
    path = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    found = getattr(nn, path.rpartition(".")[2], None) if path.startswith("torch.nn.") else None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _check_module(where: str, kind: str, settings: Mapping[str, Any]) -> None:
    """Raises a ValueError for unsupported settings of a module that would change embeddings."""
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise ValueError(f"{where}: {key} of {kind} is {settings[key]!r}, expected 'sentence_embedding'")
    if kind == "Pooling" and (unknown := [mode for mode in _pooling_modes(settings) if mode not in POOLING_MODES]):
        raise ValueError(f"{where}: pooling mode {unknown[0]!r}, expected some of {', '.join(POOLING_MODES)}")
    if kind == "Dense" and _activation(settings) is None:
        raise ValueError(f"{where}: activation_function {settings['activation_function']!r}, expected one of torch.nn")
    sizes = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",)}.get(kind, ())
    if missing := [key for key in sizes if key not in settings]:
        raise ValueError(f"{where}: {kind} lacks {' and '.join(missing)}")


def _check_tower(where: str, settings: Mapping[str, Any], pools: bool) -> None:
    """Raises a ValueError for unsupported settings of the tower that would change embeddings."""
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ValueError(f"{where}: transformer_task is {task!r}, expected 'feature-extraction'")
    for key in _UNSUPPORTED_SETTINGS:
        if settings.get(key):
            raise ValueError(f"{where}: found {key}, which is not supported")
    modalities = settings.get("modality_config")
    if modalities is not None and "message" in modalities:
        raise ValueError(f"{where}: texts go through a chat template (modality 'message'), which is not supported")
    output = None if modalities is None else modalities.get("text", {}).get("method_output_name")
    if modalities is not None and output != ("last_hidden_state" if pools else "pooler_output"):
        pooling = "pools tokens" if pools else "has no Pooling"
        raise ValueError(f"{where}: the tower's output is {output!r}, and the checkpoint {pooling}")
    ignored = [key for key in ("model_args", "model_kwargs", "config_args", "config_kwargs") if settings.get(key)]
    if ignored:
        logger.warning_once(f"{where}: {', '.join(ignored)} are not read; give what is needed as neuron_kwargs")


def _pooling_modes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    found = settings.get("pooling_mode")
    if found is None:
        found = [mode for key, mode in _MODE_KEYS.items() if settings.get(key)] or ["mean"]
    return (found,) if isinstance(found, str) else tuple(found)


def _kind(entry: Any) -> str:
    """`Pooling` for `sentence_transformers.models.Pooling` or its path in later versions; other types unchanged."""
    path = str(entry.get("type")) if isinstance(entry, dict) else ""
    return path.rpartition(".")[2] if path.startswith("sentence_transformers.") else path


def _path(source: HubSource, entry: Mapping[str, Any]) -> str:
    """A module's folder in the checkpoint; empty for the checkpoint itself."""
    path = str(entry.get("path", ""))
    if ".." in path.replace("\\", "/").split("/") or path.startswith(("/", "\\")):
        raise ValueError(f"{_where(source, MODULES)}: path {path!r} leads out of the checkpoint")
    return path


def _where(source: HubSource, name: str) -> str:
    return "/".join(filter(None, (source.location, source.subfolder, name)))


def _read_json(source: HubSource, name: str) -> Any:
    """Content of a JSON file of the checkpoint; `None` if the file does not exist."""
    path = source.file(name, optional=True)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{_where(source, name)} is not JSON ({error})") from error


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


__all__ = ["SentenceHead", "SentenceLayout", "read_layout", "tower_source"]
