# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Few-shot heads on embeddings: a cache of labelled clips, after Tip-Adapter (arXiv 2111.03930), or a linear probe.

The SEN itself is not trained; a head is saved as two small files.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.clip_embeddings import embed_clips, mean_embeddings
from modeling_sen.evaluation.dataset_lists import TestSet, take_clips
from modeling_sen.evaluation.protocols import Protocol
from modeling_sen.whole_file import replaced_folder


@dataclass
class CacheHead:
    """Classifies clips by similarity to class texts and to cached labelled clips, without training.

    A class's score is `logit_scale * z . text + residual * sum of exp(-sharpness * (1 - z . cached))`, summed over the
    cached clips of the class.

    Attributes:
        class_names: names of the classes.
        cached: (clips, width) float32 embeddings of length 1.
        labels: (clips,) int64 class numbers.
        class_embeds: (classes, width) float32 text embeddings of length 1.
        logit_scale: scale of the SEN's similarities.
        residual, sharpness: Tip-Adapter's alpha and beta.
    """

    class_names: tuple[str, ...]
    cached: np.ndarray
    labels: np.ndarray
    class_embeds: np.ndarray
    logit_scale: float
    residual: float = 1.0
    sharpness: float = 5.5

    def __post_init__(self) -> None:
        _check_clips(self.cached, self.labels, self.class_names)
        if self.class_embeds.shape != (len(self.class_names), self.cached.shape[1]):
            raise ValueError(f"class_embeds: expected a row for each class, found shape {self.class_embeds.shape}")

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores (clips, classes) of embeddings (clips, width) of length 1."""
        similarities = np.exp(-self.sharpness * (1 - embeddings @ self.cached.T))  # (clips, cached)
        one_hot = np.eye(len(self.class_names), dtype=np.float32)[self.labels]  # (cached, classes)
        return self.logit_scale * embeddings @ self.class_embeds.T + self.residual * similarities @ one_hot


@dataclass
class LinearProbe:
    """Logistic regression on embeddings.

    Attributes:
        class_names: names of the classes.
        weight, bias: (classes, width) and (classes,) float32.
    """

    class_names: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores (clips, classes) of embeddings (clips, width)."""
        return embeddings @ self.weight.T + self.bias


Head = CacheHead | LinearProbe
HEADS: dict[str, type[CacheHead] | type[LinearProbe]] = {"cache": CacheHead, "linear": LinearProbe}


def fit_head(
    kind: str,
    encoder: SENEncoder,
    protocol: Protocol,
    clips: TestSet,
    folder: Path,
    templates: Sequence[str],
    shots: int | None = None,
    seed: int = 0,
    residual: float = 1.0,
    sharpness: float = 5.5,
    strength: float = 1.0,
    batch_size: int = 8,
    show_progress: bool = False,
) -> tuple[Head, int]:
    """Fits a head on labelled clips.

    Args:
        kind: `"cache"` or `"linear"`.
        encoder: embeds the clips.
        protocol: frames and preprocessing of the clips.
        clips: the labelled clips.
        folder: embeddings are stored in its `embeddings`, so that an interrupted run can resume.
        templates: texts with `{}` for the class name, whose embeddings are averaged; for the cache only.
        shots, seed: maximum number of clips per class, and seed for their selection; default: all clips.
        residual, sharpness: for the cache, see [`CacheHead`].
        strength: for the linear probe, see [`fit_linear_probe`].
        batch_size: clips per forward pass.
        show_progress: whether to show a progress bar.

    Returns:
        (the head, the number of clips it was fitted on)

    Raises:
        ValueError: no such kind.
        ImportError, ValueError: see [`fit_linear_probe`].
        ValueError, OSError: a clip cannot be read; embeddings of earlier clips are kept.
    """
    if kind not in HEADS:
        raise ValueError(f"kind {kind!r}, expected one of {', '.join(HEADS)}")
    all_labels = clips.labels
    rows = list(range(len(all_labels))) if shots is None else take_shots(all_labels, shots, seed)
    taken = take_clips(clips.clips, rows)
    views = embed_clips(encoder, protocol, taken, folder / "embeddings", batch_size, show_progress)
    embeddings, labels = mean_embeddings(views), np.array([all_labels[row] for row in rows], dtype=np.int64)
    if kind == "linear":
        return fit_linear_probe(embeddings, labels, clips.class_names, strength), len(rows)
    texts = encoder.embed_labels(clips.class_names, templates).float().cpu().numpy()
    scale = encoder.model.logit_scale.exp().item()
    return CacheHead(clips.class_names, embeddings, labels, texts, scale, residual, sharpness), len(rows)


def fit_linear_probe(
    embeddings: np.ndarray, labels: np.ndarray, class_names: Sequence[str], strength: float = 1.0
) -> LinearProbe:
    """Fits scikit-learn's logistic regression.

    Args:
        embeddings: (clips, width).
        labels: (clips,) class numbers; every class needs a clip.
        strength: inverse of the regularisation, scikit-learn's C.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: fewer than two classes, or a class without clips.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("a linear probe needs the extra `train`: pip install 'modeling-sen[train]'") from error
    _check_clips(embeddings, labels, class_names)
    without = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if len(class_names) < 2 or without:
        found = f"none of {class_names[without[0]]!r}" if without else f"{len(class_names)} class"
        raise ValueError(f"a linear probe needs clips of at least two classes and of each, found {found}")
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(embeddings, labels)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(class_names) == 2:  # scikit-learn has one row for two classes
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearProbe(tuple(class_names), weight.astype(np.float32), bias.astype(np.float32))


def take_shots(labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """Sorted rows of at most `shots` randomly selected clips per class.

    Raises:
        ValueError: shots below 1.
    """
    if shots < 1:
        raise ValueError(f"shots is {shots}, expected at least 1")
    order = np.random.default_rng(seed).permutation(len(labels))
    taken: dict[int, list[int]] = {}
    for row in order.tolist():
        taken.setdefault(labels[row], []).append(row)
    return sorted(row for rows in taken.values() for row in rows[:shots])


def save_head(head: Head, folder: str | os.PathLike, facts: dict[str, Any]) -> None:
    """Writes `head.safetensors` and `head.json`; the folder is replaced atomically.

    Args:
        head: the head.
        folder: the folder.
        facts: JSON-serialisable description of the model and data, saved in `head.json`.
    """
    kind = next(name for name, head_class in HEADS.items() if isinstance(head, head_class))
    fields = dict(vars(head))
    arrays = {name: np.ascontiguousarray(value) for name, value in fields.items() if isinstance(value, np.ndarray)}
    settings = {name: value for name, value in fields.items() if name not in arrays}
    with replaced_folder(folder) as unfinished:
        save_file(arrays, Path(unfinished) / "head.safetensors")
        described = {"kind": kind, **settings, "fitted_on": facts}
        (Path(unfinished) / "head.json").write_text(json.dumps(described, indent=2) + "\n")


def load_head(folder: str | os.PathLike, sha1: str | None = None) -> tuple[Head, dict[str, Any]]:
    """Loads a head and the facts saved by `save_head`.

    Args:
        folder: the folder.
        sha1: expected [`model_sha1`] of the model on which the head was fitted; `None` for no check.

    Raises:
        FileNotFoundError: the folder has no head.
        ValueError: the head is damaged, of an unknown kind, or fitted on another model.
    """
    path = Path(folder)
    for name in ("head.json", "head.safetensors"):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path}: expected a head as `sen fit` saves it, found no {name}")
    try:
        settings = json.loads((path / "head.json").read_text())
        facts, kind = settings.pop("fitted_on"), settings.pop("kind")
        settings["class_names"] = tuple(settings["class_names"])
        arrays: dict[str, Any] = load_file(path / "head.safetensors")
        head = HEADS[kind](**settings, **arrays)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected a head as `sen fit` saves it, found a damaged one ({error})") from error
    if sha1 is not None and facts["model"]["sha1"] != sha1:
        raise ValueError(f"{path}: the head was fitted on another model, {facts['model']['name']}")
    return head, facts


def _check_clips(embeddings: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    if embeddings.ndim != 2 or not len(embeddings) or labels.shape != (len(embeddings),):
        raise ValueError(f"expected a label for each embedding, found shapes {embeddings.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"labels: expected numbers in 0..{len(class_names) - 1}, found {labels.min()}..{labels.max()}"
        )
