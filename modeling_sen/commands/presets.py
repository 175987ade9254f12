# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen presets`: lists preset combinations of neurons with their memory needs."""

import json
from typing import Annotated, Any

import typer

from modeling_sen.commands.tables import print_table, short_number
from modeling_sen.presets import PRESETS, SENPreset


def presets(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List preset combinations of neurons, with licences and memory needs in float32, measured with random weights."""
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
            "conversion": preset.conversion,
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
            lines.append(
                [
                    *("", part["name"], part["modality"], part["hub_id"], _shown_licence(part)),
                    *(short_number(part["parameters"]), shares),
                ]
            )
        text = row["text_tower"]
        lines.append(
            [
                *("", text["name"], text["modality"], text["hub_id"], _shown_licence(text)),
                *(short_number(text["parameters"]), "class texts"),
            ]
        )
        lines[-1 - len(row["neurons"])][0] = row["name"]
        weights, peak = short_number(row["weight_memory"], "B"), short_number(row["peak_memory"], "B")
        sizes = f"weights {weights}, one clip at most {peak} of memory"
        extra = f"; needs modeling-sen[{row['extra']}]" if row["extra"] else ""
        extra += "; made by sen convert" if row["conversion"] else ""
        trained = f"{short_number(row['trainable_parameters'])} trained"
        lines.append(["", "all", "", sizes + extra, "", short_number(row["parameters"]), trained])
    print_table(["preset", "neuron", "modality", "Hub id", "licence", "parameters", ""], lines)


def _shown_licence(part: dict[str, Any]) -> str:
    return part["licence"] or "unknown"


def _describe_part(neuron: dict[str, Any], preset: SENPreset) -> dict[str, Any]:
    described = {name: neuron[name] for name in ("name", "modality", "hub_id")}
    return {
        **described,
        "licence": preset.licences[neuron["hub_id"]],
        "aligned": neuron.get("aligned", False),
        "parameters": preset.parameters[neuron["name"]],
    }


__all__ = ["presets"]
