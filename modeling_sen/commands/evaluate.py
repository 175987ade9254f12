# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen eval`: evaluates a SEN on test clips by a public protocol and writes scores and all settings to a JSON file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeling_sen.commands.evaluate_chat import evaluate_chat, print_chat
from modeling_sen.commands.evaluate_editing import evaluate_editing, print_editing
from modeling_sen.commands.evaluate_tracking import evaluate_tracking, print_tracking
from modeling_sen.commands.evaluation_options import (
    BatchSize,
    ClassNames,
    Column,
    DatasetName,
    ProtocolName,
    Root,
    Templates,
)
from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.evaluation.protocols import find_protocol
from modeling_sen.presets import SEN_TINY_CHAT, SEN_TINY_TRACKING, resolve_checkpoint
from modeling_sen.whole_file import whole_file

if TYPE_CHECKING:
    from modeling_sen.evaluation.protocols import Protocol

TASKS = ("recognition", "retrieval", "tracking", "chat", "editing")


def main(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint folder or Hub id, or sen-tiny. With --task editing: a CLIP or SEN for the scores."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="Test sets, one for each split: list files, folders, tables, world:..., ID@COMMIT. With --task tracking: "
            "presets or output folders of `sen world`, TAP-Vid pickles. With --task chat: tables of questions, "
            "world:... With --task editing: tables of edited videos, folders with edits.csv, loveu:..., world:..."
        ),
    ] = None,
    protocol: ProtocolName = "own",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and embeddings.")] = Path(
        "evaluation"
    ),
    task: Annotated[str, typer.Option(help="recognition, retrieval, tracking, chat or editing.")] = "recognition",
    dataset: DatasetName = None,
    root: Root = None,
    class_names: ClassNames = None,
    split: Annotated[str, typer.Option(help="Split of a folder or Hub data set.")] = "test",
    column: Column = None,
    template: Templates = None,
    head: Annotated[Path | None, typer.Option(help="A head of `sen fit`, used instead of class texts.")] = None,
    num: Annotated[
        int | None,
        typer.Option(help="Number of clips drawn from each split, by default all; of a preset, by default 10.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw; for a preset, seed of the first clip.")] = 0,
    query_mode: Annotated[
        str | None, typer.Option(help="Tracking: first (default), or strided, every fifth frame.")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(help="Chat: columns of the tables: plain (default), mvbench, next-qa, ..., or a JSON file."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Chat: prompt format, by default that of the mapping.")] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Chat: frames of each video, by default one window of the model.", min=1)
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(help="Editing: model that tracks points, by default sen-tiny's.")
    ] = None,
    skip_missing: Annotated[bool, typer.Option(help="Leave out listed clips that do not exist.")] = False,
    batch_size: BatchSize = 8,
    device: Device = None,
    dtype: Dtype = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the confusion matrix and the accuracy per class.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate a SEN on test clips. After an interruption, the same command resumes."""
    if task not in TASKS:
        raise ValueError(f"--task {task!r}, expected one of {', '.join(TASKS)}")
    if task != "chat" and (mapping or prompt or num_frames):
        raise ValueError(f"--mapping, --prompt and --num-frames require --task chat, found --task {task}")
    if task != "editing" and tracker is not None:
        raise ValueError(f"--tracker requires --task editing, found --task {task}")
    if task == "tracking":
        recognition_only = (head, root, template, class_names, plot, dataset, column, skip_missing)
        if any(recognition_only) or protocol != "own":
            raise ValueError(
                "--task tracking does not support --protocol, --dataset, --head, --root, --template, --class-names, "
                "--column, --skip-missing and --plot"
            )
        run_on = model_arguments(device, dtype)
        results = {"task": task} | evaluate_tracking(
            resolve_checkpoint(model, SEN_TINY_TRACKING),
            data or [],
            query_mode or "first",
            num,
            seed,
            output,
            **run_on,
            show_progress=not as_json,
        )
        _report(results, output, None if as_json else print_tracking)
        return
    if query_mode is not None:
        raise ValueError(f"--query-mode requires --task tracking, found --task {task}")
    if task == "editing":
        if any((head, root, template, class_names, plot, dataset, column, skip_missing)) or protocol != "own":
            raise ValueError(
                "--task editing does not support --protocol, --dataset, --head, --root, --template, --class-names, "
                "--column, --skip-missing and --plot"
            )
        run_on = model_arguments(device, dtype)
        results = {"task": task} | evaluate_editing(
            resolve_checkpoint(model),
            data or [],
            resolve_checkpoint(tracker or "sen-tiny", SEN_TINY_TRACKING),
            num,
            seed,
            output,
            **run_on,
            show_progress=not as_json,
        )
        _report(results, output, None if as_json else print_editing)
        return
    if task == "chat":
        if any((head, template, class_names, plot, dataset, column)) or protocol != "own":
            raise ValueError(
                "--task chat does not support --protocol, --dataset, --head, --template, --class-names, --column and --plot"
            )
        run_on = model_arguments(device, dtype)
        results = {"task": task} | evaluate_chat(
            resolve_checkpoint(model, SEN_TINY_CHAT),
            data or [],
            mapping or "plain",
            prompt,
            root,
            skip_missing,
            num,
            seed,
            num_frames,
            output,
            **run_on,
            show_progress=not as_json,
        )
        _report(results, output, None if as_json else print_chat)
        return
    if task == "retrieval" and (head is not None or root is not None or template or class_names or plot):
        raise ValueError("--task retrieval does not support --head, --root, --template, --class-names and --plot")
    used = find_protocol(protocol, dataset)
    sources = list(data) if data else [_hub_source(used, dataset)]
    from modeling_sen.encoding import SENEncoder
    from modeling_sen.evaluation.clip_embeddings import describe_run
    from modeling_sen.evaluation.dataset_lists import open_test_sets
    from modeling_sen.evaluation.few_shot import load_head
    from modeling_sen.evaluation.measure import measure_recognition, measure_retrieval
    from modeling_sen.training.data import open_clips

    encoder = SENEncoder.from_pretrained(resolve_checkpoint(model), **model_arguments(device, dtype))
    run = describe_run(encoder, model, used)
    results = {"task": task, **run, "split": split, "column": column, "num": num, "seed": seed}
    if task == "retrieval":
        texts = [open_clips(source, "text", split, target_column=column) for source in sources]
        results |= measure_retrieval(encoder, used, texts, output, num, seed, batch_size, not as_json)
    else:
        fitted, facts = (None, None) if head is None else load_head(head, results["model"]["sha1"])
        templates = tuple(template or used.templates_for(dataset))
        sets = open_test_sets(sources, root, class_names or (), split, skip_missing, column)
        results |= {"dataset": dataset, "templates": templates if head is None else None, "head": facts}
        results |= measure_recognition(
            encoder, used, sets, templates, output, fitted, num, seed, batch_size, plot, not as_json
        )
    text = _written(results, output)
    print(text if as_json else _summary(results, output))


def _report(results: dict[str, Any], output: Path, show: Callable[[dict[str, Any], Path], None] | None) -> None:
    """Writes results.json, and passes the results to `show` or prints them as JSON."""
    text = _written(results, output)
    if show is None:
        print(text)
    else:
        show(results, output / "results.json")


def _written(results: dict[str, Any], output: Path) -> str:
    """Writes results.json and returns its text."""
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2)
    with whole_file(output / "results.json") as unfinished:
        unfinished.write_text(text + "\n")
    return text


def _hub_source(protocol: "Protocol", dataset: str | None) -> str:
    """The protocol's data set on the Hub, at a fixed commit."""
    if dataset is None or dataset not in protocol.hub_datasets:
        names = ", ".join(protocol.hub_datasets) or "none"
        raise ValueError(f"expected DATA, or a --dataset that protocol {protocol.name} has on the Hub ({names})")
    return "@".join(protocol.hub_datasets[dataset])


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


__all__ = ["main"]
