# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen info`, `sen neurons`, `sen presets`: what a checkpoint is made of and costs, and what there is to choose from."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer

from modeling_sen.configuration_sen import NeuronSpec, SENConfig
from modeling_sen.cost import neuron_cost
from modeling_sen.modeling_sen import SENModel
from modeling_sen.neuron_registry import NEURON_ADAPTERS, list_neurons
from modeling_sen.presets import PRESETS, SENPreset, resolve_checkpoint
from modeling_sen.processing_sen import SENProcessor

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def info(
    model: Annotated[
        str, typer.Argument(help="Checkpoint folder, Hub id, a preset's name, or sen-tiny, the one inside.")
    ] = "sen-tiny",
    as_json: AsJson = False,
) -> None:
    """Neurons, parameters and cost of a checkpoint or preset. No weights are loaded."""
    found = describe(model)
    if as_json:
        print(json.dumps(found))
    else:
        _print_description(found)


def describe(model: str) -> dict[str, Any]:
    """What a SEN is made of and what it costs, JSON-able; numbers that cannot be known are `None`, see `unknown`.

    Returns:
        `model`; `neurons` and `text_tower` with `name, modality, hub_id, revision, aligned` and the fields of
        [`NeuronCost`]; `trainable_parameters`, `parameters`, `trainable_share`; `rounds`; `first_pass_flops` of all neurons
        over one clip, `recursion_flops` of all rounds, and `cost_ratio` of both to the first.

    Raises:
        OSError: no such checkpoint.
        ValueError: it is not a SEN.
    """
    if model in PRESETS:
        processor = SENProcessor(SENConfig.from_preset(model))
    else:
        processor = SENProcessor.from_pretrained(resolve_checkpoint(model))
    config = processor.config
    with torch.device("meta"):
        trainable = sum(weight.numel() for weight in SENModel(config).parameters())
    neurons = [_describe_neuron(spec, processor) for spec in config.neuron_specs]
    text_tower = None if config.text_tower_spec is None else _describe_neuron(config.text_tower_spec, processor)
    frozen = _sum([part["parameters"] for part in [*neurons, *([text_tower] if text_tower else [])]])
    first = _sum([neuron["first_pass_flops"] for neuron in neurons])
    one_round = _sum([neuron["round_flops"] for neuron in neurons])
    recursion = None if one_round is None else config.num_rounds * one_round
    total = None if frozen is None else frozen + trainable
    return {
        "model": model,
        "neurons": neurons,
        "text_tower": text_tower,
        "trainable_parameters": trainable,
        "parameters": total,
        "trainable_share": None if total is None else trainable / total,
        "rounds": config.num_rounds,
        "first_pass_flops": first,
        "recursion_flops": recursion,
        "cost_ratio": None if first is None or recursion is None else (first + recursion) / first,
    }


def _describe_neuron(spec: NeuronSpec, processor: SENProcessor) -> dict[str, Any]:
    names = ("name", "modality", "hub_id", "revision", "aligned")
    return {**{name: getattr(spec, name) for name in names}, **asdict(neuron_cost(spec, processor))}


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def neurons(as_json: AsJson = False) -> None:
    """Encoder types that can be neurons. Others are tried by rule."""
    rows = []
    for model_type in list_neurons():
        adapter = NEURON_ADAPTERS[model_type]
        rows.append(
            {
                "model_type": model_type,
                "modality": adapter.modality,
                "prompt_side": adapter.prompt_side if adapter.takes_prompts else "after",
                "grid": "none" if adapter.grid is None else adapter.grid.__name__.removesuffix("_grid"),
            }
        )
    if as_json:
        print(json.dumps(rows))
    else:
        _print_table(["type", "modality", "prompts", "token grid"], [list(row.values()) for row in rows])


def presets(as_json: AsJson = False) -> None:
    """Sets of neurons that go well together, and what they need in float32; measured with random weights."""
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "description": preset.description,
            "neurons": [_describe_part(neuron, preset) for neuron in preset.neurons],
            "text_tower": _describe_part(preset.text_tower, preset),
            "trainable_parameters": preset.parameters["association"],
            "parameters": sum(preset.parameters.values()),
            "weight_memory": preset.weight_memory,
            "peak_memory": preset.peak_memory,
            "extra": preset.extra,
        }
        for name, preset in PRESETS.items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    lines = []
    for row in rows:
        for part in row["neurons"]:
            shares = "shares the text space" if part["aligned"] else ""
            lines.append(["", part["name"], part["modality"], part["hub_id"], _big(part["parameters"]), shares])
        text = row["text_tower"]
        lines.append(["", text["name"], text["modality"], text["hub_id"], _big(text["parameters"]), "class texts"])
        lines[-1 - len(row["neurons"])][0] = row["name"]
        sizes = (
            f"weights {_big(row['weight_memory'], 'B')}, one clip at most {_big(row['peak_memory'], 'B')} of memory"
        )
        extra = f"; needs modeling-sen[{row['extra']}]" if row["extra"] else ""
        trained = f"{_big(row['trainable_parameters'])} trained"
        lines.append(["", "all", "", sizes + extra, _big(row["parameters"]), trained])
    _print_table(["preset", "neuron", "modality", "Hub id", "parameters", ""], lines)


def _describe_part(neuron: dict[str, Any], preset: SENPreset) -> dict[str, Any]:
    spec = NeuronSpec.from_dict(neuron)
    names = ("name", "modality", "hub_id", "aligned")
    return {**{name: getattr(spec, name) for name in names}, "parameters": preset.parameters[spec.name]}


def _print_description(found: dict[str, Any]) -> None:
    rows = []
    for part in [*found["neurons"], *([found["text_tower"]] if found["text_tower"] else [])]:
        revision = f"@{part['revision'][:8]}" if part["revision"] else ""
        if part["prompt_depth"] is not None:
            site = f"layer {part['layers'] - part['prompt_depth']} of {part['layers']}, {part['prompt_side']}"
        else:
            site = {"after": "after the tower", "none": "nowhere"}.get(part["prompt_side"], "?")
        if part is found["text_tower"]:
            site = "class texts"
        flops = [_big(part[name], "FLOPs") for name in ("first_pass_flops", "round_flops")]
        if part is found["text_tower"]:
            flops = ["", ""]
        aligned = "yes" if part["aligned"] or part is found["text_tower"] else "no"
        rows.append(
            [
                part["name"],
                part["modality"],
                part["hub_id"] + revision,
                aligned,
                site,
                _big(part["parameters"]),
                *flops,
            ]
        )
    heads = ["neuron", "modality", "Hub id", "aligned", "prompts enter", "parameters", "one pass", "one round"]
    _print_table(heads, rows)
    share = "" if found["trainable_share"] is None else f" ({found['trainable_share']:.2%})"
    print(f"\ntrainable  {_big(found['trainable_parameters'])} of {_big(found['parameters'])} parameters{share}")
    if found["cost_ratio"] is not None:
        print(
            f"cost       {_big(found['first_pass_flops'], 'FLOPs')} for one pass of all neurons over a clip, "
            f"{found['cost_ratio']:.2f} times that with {found['rounds']} rounds"
        )
    for part in [*found["neurons"], found["text_tower"]]:
        if part and part["unknown"]:
            print(f"unknown    {part['name']}: {part['unknown']}")


def _big(number: int | None, unit: str = "") -> str:
    if number is None:
        return "?"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}{unit}"
    return f"{number} {unit}".rstrip()


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head == "Hub id")  # ids are there to be copied
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


__all__ = ["describe", "info", "neurons", "presets"]
