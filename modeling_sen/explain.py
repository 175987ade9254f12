# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Label probabilities of a clip by each neuron and by association in each round, and a plot of them."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_sen.audio_io import read_audio
from modeling_sen.clip_inputs import opened_clip
from modeling_sen.encoding import SENEncoder
from modeling_sen.modeling_sen import SENModel
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.templates import DEFAULT_TEMPLATE
from modeling_sen.video_io import classify_video_input, read_video
from modeling_sen.whole_file import whole_file

SHOWN_FRAMES = 8
SHOWN_LABELS = 8
SOUND_RATE = 16_000
SHOWN_SOUND = 60.0  # seconds: the middle of longer clips, or the start of longer sound without video
LABEL_WIDTH = 34  # characters per line


@dataclass
class RoundScores:
    """Label probabilities of one clip.

    Attributes:
        frames: (F, height, width, 3) uint8, at most 8 frames of the clip; F is 0 for a clip without frames.
        frame_times: (F,) seconds.
        sound: (S,) float32 mono samples at `SOUND_RATE`; `None` for a clip without sound.
        sound_start: time of the first sample in seconds.
        labels: L names.
        fused: (rounds + 1, L) probabilities by the fused embedding; row 0 is round 0, the last row the result.
        frozen_mean: (L,) probabilities by the mean of the aligned neurons in round 0; `None` without aligned neurons.
        neurons: aligned neuron -> (rounds + 1, L) probabilities by its own embedding in each round; row 0 is the frozen
            encoder.
    """

    frames: np.ndarray
    frame_times: np.ndarray
    sound: np.ndarray | None
    sound_start: float
    labels: list[str]
    fused: np.ndarray
    frozen_mean: np.ndarray | None
    neurons: dict[str, np.ndarray]


@torch.no_grad()
def explain(
    model: SENModel,
    processor: SENProcessor,
    clip: Any,
    labels: Sequence[str],
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
) -> RoundScores:
    """Label probabilities of one clip in each round, by the fused embedding and by each aligned neuron.

    Args:
        model: a loaded SEN.
        processor: its processor.
        clip: a clip as [`SENProcessor`] takes it.
        labels: at least one.
        templates: texts with `{}` for the label, whose embeddings are averaged.

    Raises:
        ValueError, OSError, TypeError: the clip cannot be read, see [`SENProcessor`], or labels are not valid, see
            [`SENEncoder`].
    """
    labels = [label.strip() for label in labels]
    texts = SENEncoder(model, processor).embed_labels(labels, templates)  # (labels, projection_dim)
    with opened_clip(clip) as entries:
        rounds = model(**processor(videos=[entries]), output_all_rounds=True).all_rounds
        frames, times, sound, sound_start = _frames_and_sound(model, entries)
    scale = model.logit_scale.exp()

    def probabilities(embeds: Tensor) -> np.ndarray:
        return (scale * embeds @ texts.to(embeds).t()).float().softmax(dim=-1).cpu().numpy()  # (..., labels)

    frozen = {name: embeds for name, embeds in rounds[0].neuron_embeds.items() if bool(embeds.any())}
    mean = torch.nn.functional.normalize(sum(frozen.values()), dim=-1) if frozen else None  # type: ignore[arg-type]
    return RoundScores(
        frames=frames,
        frame_times=times,
        sound=sound,
        sound_start=sound_start,
        labels=labels,
        fused=np.concatenate([probabilities(one.fused_embeds) for one in rounds]),
        frozen_mean=None if mean is None else probabilities(mean)[0],
        neurons={name: np.concatenate([probabilities(one.neuron_embeds[name]) for one in rounds]) for name in frozen},
    )


def _frames_and_sound(
    model: SENModel, entries: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, float]:
    """The fields `frames`, `frame_times`, `sound` and `sound_start` of [`RoundScores`]."""
    frames, times, span = np.empty((0, 1, 1, 3), dtype=np.uint8), np.empty(0), None
    if "video" in entries:
        counts = [spec.num_frames or 1 for spec in model.config.neuron_specs if spec.takes_frames]
        num_frames = min(SHOWN_FRAMES, max(counts, default=SHOWN_FRAMES))
        seen = read_video(entries["video"], num_frames, times=entries.get("times"))
        frames, times, span = seen.frames, seen.times, seen.span
        if span[1] - span[0] > SHOWN_SOUND:
            start = (span[0] + span[1] - SHOWN_SOUND) / 2
            span = (start, start + SHOWN_SOUND)
    source = entries.get("audio", entries.get("video"))
    if source is None or ("audio" not in entries and classify_video_input(source) != "file"):
        return frames, times, None, 0.0
    sound = read_audio(source, SOUND_RATE, span, SHOWN_SOUND)
    return frames, times, sound.samples if sound.present else None, span[0] if span else 0.0


def check_plot_path(path: str | os.PathLike) -> None:
    """Checks that a plot can be written to `path`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: matplotlib cannot write files with this extension.
        FileNotFoundError: the folder does not exist.
    """
    _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    supported = sorted(FigureCanvasAgg.get_supported_filetypes())
    if (suffix := Path(path).suffix.lower().removeprefix(".")) not in supported:
        raise ValueError(f"{path}: expected a picture ending in one of {', '.join(supported)}, found {suffix!r}")
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: no folder {Path(path).parent}")


def plot_rounds(scores: RoundScores, path: str | os.PathLike, title: str = "") -> None:
    """Plots frames, sound, the final scores and a heat map of all scores; the file is replaced atomically.

    Columns of the heat map: each aligned neuron in round 0, their mean, the fused embedding after each round, and each
    neuron after the last round.

    Raises:
        ImportError, ValueError, FileNotFoundError: see [`check_plot_path`].
    """
    check_plot_path(path)
    from matplotlib.figure import Figure

    shown = np.argsort(-scores.fused[-1], kind="stable")[:SHOWN_LABELS]
    map_height = 1.5 + 0.55 * len(shown)
    heights = [1.7 if len(scores.frames) else 0.4, 1.3 if scores.sound is not None else 0.4, map_height]
    figure = Figure(figsize=(13, 0.4 + sum(heights)), layout="constrained", dpi=110)
    if title:
        figure.suptitle(textwrap.shorten(title, 100), fontsize=13, weight="bold")
    parts: Any = figure.subfigures(3, 1, height_ratios=heights)
    _draw_frames(parts[0], scores)
    _draw_sound(parts[1], scores)
    _draw_scores(parts[2], scores, shown)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format=Path(path).suffix.removeprefix("."))


def _draw_frames(figure: Any, scores: RoundScores) -> None:
    if not len(scores.frames):
        figure.text(0.5, 0.5, "no pictures", ha="center", va="center", fontsize=11, color="dimgray")
        return
    axes = figure.subplots(1, len(scores.frames), squeeze=False)[0]
    for axis, frame, time in zip(axes, scores.frames, scores.frame_times, strict=True):
        axis.imshow(frame, interpolation="nearest" if max(frame.shape) < 200 else "antialiased")
        axis.set_title(f"{time:.2f} s", fontsize=10)
        axis.axis("off")


def _draw_sound(figure: Any, scores: RoundScores) -> None:
    if scores.sound is None or not len(scores.sound):
        figure.text(0.5, 0.5, "no sound", ha="center", va="center", fontsize=11, color="dimgray")
        return
    from matplotlib.mlab import specgram

    samples = np.pad(scores.sound, (0, max(0, 1024 - len(scores.sound))))
    power = np.asarray(specgram(samples, NFFT=512, Fs=SOUND_RATE, noverlap=256)[0])
    decibel = 10 * np.log10(power + 1e-12)  # (frequencies, times)
    loudest = max(float(decibel.max()), -60.0)  # keeps silence dark
    end = scores.sound_start + len(scores.sound) / SOUND_RATE
    axis = figure.subplots()
    axis.imshow(
        decibel,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest - 60,
        vmax=loudest,
        extent=(scores.sound_start, end, 0, SOUND_RATE / 2000),
    )
    axis.set_title("sound", fontsize=10)
    axis.set_xlabel("seconds", fontsize=9)
    axis.set_ylabel("kHz", fontsize=9)
    axis.tick_params(labelsize=8)


def _draw_scores(figure: Any, scores: RoundScores, shown: np.ndarray) -> None:
    groups = _columns(scores)
    columns = [(name, values[shown]) for group in groups.values() for name, values in group.items()]
    bars, chart = figure.subplots(1, 2, sharey=True, width_ratios=[3, max(3.0, 0.95 * len(columns))])

    result = scores.fused[-1][shown]
    rows = np.arange(len(shown))
    bars.barh(rows, result, color="tab:blue", height=0.7)
    for row, score in zip(rows, result, strict=True):
        bars.text(score, row, f" {score:.1%}", va="center", fontsize=9)
    bars.set_yticks(rows, [_wrapped(scores.labels[index]) for index in shown], fontsize=10)
    bars.set_xlim(0, max(result.max() * 1.3, 1e-6))
    bars.set_xticks([])
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    more = len(scores.labels) - len(shown)
    bars.set_title("result" + (f" (best {len(shown)}, {more} more)" if more else ""), fontsize=11)

    table = np.stack([values for _, values in columns], axis=1)  # (labels, columns)
    highest = max(float(table.max()), 1e-6)
    chart.imshow(table, aspect="auto", cmap="Blues", vmin=0, vmax=highest)
    for (row, column), value in np.ndenumerate(table):
        color = "white" if value > 0.6 * highest else "black"
        chart.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=9, color=color)
    chart.set_xticks(np.arange(len(columns)), [name for name, _ in columns], fontsize=9)
    chart.tick_params(axis="both", length=0, labelleft=False)
    start = 0
    for heading, group in groups.items():
        middle = start + (len(group) - 1) / 2
        chart.annotate(
            heading, (middle, 1), xycoords=("data", "axes fraction"), xytext=(0, 5), textcoords="offset points",
            ha="center", va="bottom", fontsize=10,
        )  # fmt: skip
        start += len(group)
        if start < len(columns):
            chart.axvline(start - 0.5, color="white", linewidth=6)
    chart.spines[:].set_visible(False)


def _columns(scores: RoundScores) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Heading -> column -> (labels,) probabilities."""
    rounds = len(scores.fused) - 1
    frozen = {_wrapped(name.replace("_", " "), 11): values[0] for name, values in scores.neurons.items()}
    fused = {f"round {number}": scores.fused[number] for number in range(1, rounds + 1)}
    if scores.frozen_mean is not None:
        fused = {"mean of\nthese": scores.frozen_mean, **fused}
    if rounds == 0 or scores.frozen_mean is None:
        fused = {"round 0": scores.fused[0], **fused}
    groups = {"each alone,\nunprompted": frozen, "all together": fused}
    if any(not np.array_equal(values[0], values[-1]) for values in scores.neurons.values()):  # if crowns run again
        prompted = {_wrapped(name.replace("_", " "), 11): values[-1] for name, values in scores.neurons.items()}
        groups[f"each alone,\nafter round {rounds}"] = prompted
    return {heading: group for heading, group in groups.items() if group}


def _wrapped(text: str, width: int = LABEL_WIDTH) -> str:
    # matplotlib reads a dollar sign as the start of a formula.
    return textwrap.fill(text, width, max_lines=2, placeholder=" …", break_long_words=True).replace("$", r"\$")


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'modeling-sen[plot]'") from error


__all__ = ["RoundScores", "check_plot_path", "explain", "plot_rounds"]
