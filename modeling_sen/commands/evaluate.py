# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen eval`: a SEN on test clips by a public protocol, to a JSON file that says all that the number depends on."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from modeling_sen.commands.whole_file import replace_text
from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.clip_embeddings import embed_clips, model_sha1
from modeling_sen.evaluation.dataset_lists import TestSet, open_test_sets
from modeling_sen.evaluation.few_shot import Head, load_head
from modeling_sen.evaluation.protocols import DATASETS, PROTOCOLS, Protocol
from modeling_sen.evaluation.recognition_metrics import (
    confusion_matrix,
    mean_and_spread,
    mean_class_accuracy,
    retrieval_metrics,
    top_k_accuracy,
)
from modeling_sen.evaluation.recognition_plots import plot_confusion, plot_per_class
from modeling_sen.presets import resolve_checkpoint
from modeling_sen.training.data import LabelledClips, open_clips

TASKS = ("recognition", "retrieval")

# Options that `sen fit` has too.
ProtocolName = Annotated[str, typer.Option("--protocol", help=f"One of {', '.join(PROTOCOLS)}.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help=f"Whose templates and Hub id: one of {', '.join(DATASETS)}.")
]
Root = Annotated[Path | None, typer.Option(help="Folder of the clips; DATA are list files then.")]
ClassNames = Annotated[
    list[Path] | None, typer.Option(help="File of class names (id,name), once or once for each DATA.")
]
Templates = Annotated[
    list[str] | None, typer.Option("--template", help="Text with {} for the label instead of the protocol's.")
]
Column = Annotated[
    str | None, typer.Option(help="Of labels or texts in a table, or the world's colour, shape, motion.")
]
BatchSize = Annotated[int, typer.Option(help="Clips that the model sees at once.", min=1)]


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id, or sen-tiny.")],
    data: Annotated[
        list[str] | None,
        typer.Argument(help="Test sets, one for each split: list files, folders, tables, world:..., ID@COMMIT."),
    ] = None,
    protocol: ProtocolName = "own",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and embeddings.")] = Path(
        "evaluation"
    ),
    task: Annotated[str, typer.Option(help="recognition or retrieval.")] = "recognition",
    dataset: DatasetName = None,
    root: Root = None,
    class_names: ClassNames = None,
    split: Annotated[str, typer.Option(help="Of a folder or Hub data set.")] = "test",
    column: Column = None,
    template: Templates = None,
    head: Annotated[Path | None, typer.Option(help="A head of `sen fit` instead of class texts.")] = None,
    num: Annotated[
        int | None, typer.Option(help="Only so many clips of each split, drawn by the seed.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    skip_missing: Annotated[bool, typer.Option(help="Leave out listed clips that do not exist.")] = False,
    batch_size: BatchSize = 8,
    plot: Annotated[bool, typer.Option("--plot", help="Draw confusion and accuracy of each class.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure a SEN on test clips. Run again after an interruption, it goes on."""
    if task not in TASKS:
        raise ValueError(f"--task {task!r}, expected {' or '.join(TASKS)}")
    if task == "retrieval" and (head is not None or root is not None or template or class_names or plot):
        raise ValueError(
            "--task retrieval takes clips with texts: no --head, --root, --template, --class-names, --plot"
        )
    used = chosen_protocol(protocol, dataset)
    sources = chosen_sources(data, used, dataset)
    encoder = SENEncoder.from_pretrained(resolve_checkpoint(model))
    results: dict[str, Any] = {"task": task, **described_run(encoder, model, used), "num": num, "seed": seed}
    if task == "retrieval":
        sets: Sequence[Any] = [open_clips(source, "text", split, target_column=column) for source in sources]
        results["data"] = [
            {"file": clips.source, "clips": len(set(clips.keys)), "texts": len(clips)} for clips in sets
        ]
        splits = [
            _retrieval(encoder, used, _drawn(clips, num, seed), output, batch_size, not as_json) for clips in sets
        ]
    else:
        fitted, facts = (None, None) if head is None else load_head(head)
        if facts is not None and facts["model"]["sha1"] != results["model"]["sha1"]:
            raise ValueError(f"--head {head} was fitted on another model, {facts['model']['name']}")
        texts = tuple(template or used.templates_for(dataset))
        sets = open_test_sets(sources, root, class_names or (), split, skip_missing, column)
        results |= {"dataset": dataset, "templates": texts if head is None else None, "head": facts}
        results["data"] = [
            {
                "listed": part.listed,
                "clips": len(part.clips),
                "missing": part.missing,
                "classes": len(part.class_names),
            }
            for part in sets
        ]
        splits = []
        for number, part in enumerate(sets, 1):
            drawn = replace(part, clips=_drawn(part.clips, num, seed))
            scores = _scores(encoder, used, drawn, texts, fitted, output, batch_size, not as_json)
            splits.append(_recognition(scores, drawn, output, f"-{number}" if len(sets) > 1 else "", plot))
    results["splits"] = splits
    numbers = [{name: value for name, value in part.items() if isinstance(value, float)} for part in splits]
    results["mean"], results["std"] = mean_and_spread(numbers)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2)
    replace_text(output / "results.json", text + "\n")
    print(text if as_json else _summary(results, output))


def chosen_protocol(name: str, dataset: str | None) -> Protocol:
    """
    Raises:
        ValueError: no such protocol or data set.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"--protocol {name!r}, expected one of {', '.join(PROTOCOLS)}")
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"--dataset {dataset!r}, expected one of {', '.join(DATASETS)}")
    return PROTOCOLS[name]


def chosen_sources(data: Sequence[str] | None, protocol: Protocol, dataset: str | None) -> list[str]:
    """What was named, or the protocol's data set on the Hub, at its commit.

    Raises:
        ValueError: neither.
    """
    if data:
        return list(data)
    if dataset is None or dataset not in protocol.hub_datasets:
        known = ", ".join(protocol.hub_datasets) or "none"
        raise ValueError(f"expected DATA, or a --dataset that protocol {protocol.name} has on the Hub ({known})")
    return ["@".join(protocol.hub_datasets[dataset])]


def described_run(encoder: SENEncoder, model: str, protocol: Protocol) -> dict[str, Any]:
    """What a number depends on beside the data, JSON-able."""
    neurons = [neuron for _, neuron in encoder.model.neurons.by_name.items()]
    if encoder.model.neurons.text_tower is not None:
        neurons.append(encoder.model.neurons.text_tower)
    packages = ("modeling-sen", "transformers", "torch", "av", "pillow")
    described = asdict(replace(protocol, templates={}))
    described["resample"] = protocol.resample.name
    return {
        "protocol": {name: value for name, value in described.items() if name not in ("templates", "hub_datasets")},
        "model": {
            "name": model,
            "revision": encoder.processor.base_revision,
            "sha1": model_sha1(encoder.model),
            "neurons": [
                {"name": neuron.spec.name, "hub_id": neuron.spec.hub_id, "revision": _commit(neuron)}
                for neuron in neurons
            ],
        },
        "versions": {package: version(package) for package in packages},
    }


def mean_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """(clips, views, width) -> (clips, width) of length 1: what heads and retrieval read."""
    mean = embeddings.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def class_scores(embeddings: np.ndarray, class_embeds: np.ndarray, logit_scale: float, aggregation: str) -> np.ndarray:
    """(clips, classes) float64 scores of embeddings (clips, views, width), views averaged as the protocol says."""
    logits = logit_scale * embeddings.astype(np.float64) @ class_embeds.T.astype(np.float64)  # (clips, views, classes)
    if aggregation == "probabilities":
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        logits = powers / powers.sum(axis=-1, keepdims=True)
    return logits.mean(axis=1)


def _scores(
    encoder: SENEncoder,
    protocol: Protocol,
    part: TestSet,
    templates: tuple[str, ...],
    head: Head | None,
    output: Path,
    batch_size: int,
    show_progress: bool,
) -> np.ndarray:
    """(clips, classes) by class texts or by a head."""
    columns: list[int] = []
    for text in templates if head is None else ():
        if "{}" not in text:
            raise ValueError(f"--template {text!r}: expected {{}} where the label goes")
    if head is not None:
        if unknown := sorted(set(part.class_names) - set(head.class_names)):
            raise ValueError(
                f"{part.clips.source}: class {unknown[0]!r} is not among the {len(head.class_names)} of --head"
            )
        columns = [head.class_names.index(name) for name in part.class_names]
    embeddings = embed_clips(encoder, protocol, part.clips, output / "embeddings", batch_size, show_progress)
    if head is not None:
        return head.scores(mean_embeddings(embeddings))[:, columns]
    class_embeds = encoder.embed_labels(part.class_names, templates).float().cpu().numpy()
    return class_scores(embeddings, class_embeds, encoder.model.logit_scale.exp().item(), protocol.aggregation)


def _recognition(scores: np.ndarray, part: TestSet, output: Path, suffix: str, plot: bool) -> dict[str, Any]:
    labels, predicted = np.array(part.labels), scores.argmax(axis=1)
    counts = confusion_matrix(predicted, labels, len(part.class_names))
    output.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    csv.writer(table).writerows([["", *part.class_names]])
    csv.writer(table).writerows([name, *row] for name, row in zip(part.class_names, counts.tolist(), strict=True))
    replace_text(output / f"confusion{suffix}.csv", table.getvalue())
    if plot:
        plot_confusion(counts, part.class_names, output / f"confusion{suffix}.png")
        plot_per_class(counts, part.class_names, output / f"per_class{suffix}.png")
    return {
        "source": part.clips.source,
        "clips": len(labels),
        "top1": top_k_accuracy(scores, labels),
        "top5": top_k_accuracy(scores, labels, 5),
        "mean_class_accuracy": mean_class_accuracy(predicted, labels),
    }


def _retrieval(
    encoder: SENEncoder, protocol: Protocol, clips: LabelledClips, output: Path, batch_size: int, show_progress: bool
) -> dict[str, Any]:
    embeddings = mean_embeddings(
        embed_clips(encoder, protocol, clips, output / "embeddings", batch_size, show_progress)
    )
    first: dict[str, int] = {}
    for key in clips.keys:
        first.setdefault(key, len(first))
    of = np.array([first[key] for key in clips.keys])
    rows = np.unique(of, return_index=True)[1]  # one of each clip
    similarity = encoder.encode_text(clips.targets) @ embeddings[rows].T
    return {"source": clips.source, "clips": len(rows), "texts": len(of), **retrieval_metrics(similarity, of)}


def _drawn(clips: LabelledClips, num: int | None, seed: int) -> LabelledClips:
    if num is None or num >= len(clips):
        return clips
    rows = sorted(np.random.default_rng(seed).permutation(len(clips))[:num].tolist())
    return LabelledClips(
        clips.source,
        [clips.targets[row] for row in rows],
        [clips.keys[row] for row in rows],
        lambda row: clips.read(rows[row]),
    )


def _commit(neuron: Any) -> str | None:
    return getattr(neuron.commit, "resolved", neuron.commit) or neuron.spec.revision


def _summary(results: dict[str, Any], output: Path) -> str:
    protocol = results["protocol"]
    lines = [f"{results['task']}, protocol {protocol['name']} version {protocol['version']}"]
    for part in results["splits"]:
        lines.append(f"{part['source']}: {part['clips']} clips")
    for name, value in results["mean"].items():
        percent = not name.endswith(("MdR", "MnR"))
        shown = f"{100 * value:.1f} %" if percent else f"{value:.1f}"
        if (spread := results["std"][name]) is not None:
            shown += f" +- {100 * spread if percent else spread:.1f} over {len(results['splits'])} splits"
        lines.append(f"{name:20} {shown}")
    return "\n".join([*lines, str(output / "results.json")])
