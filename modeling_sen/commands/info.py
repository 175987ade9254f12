# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen info`: parts and cost of a checkpoint or preset."""

import json
from typing import Annotated, Any

import typer

from modeling_sen.commands.tables import print_table, short_number


def info(
    model: Annotated[
        str, typer.Argument(help="Checkpoint folder, Hub id, name of a preset, or sen-tiny (included).")
    ] = "sen-tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show neurons, parameters and cost of a checkpoint or preset, without loading weights."""
    from modeling_sen.cost import describe

    found = describe(model)
    if as_json:
        print(json.dumps(found))
    else:
        _print_description(found)


def _print_description(found: dict[str, Any]) -> None:
    rows = []
    for part in [*found["neurons"], *([found["text_tower"]] if found["text_tower"] else [])]:
        revision = f"@{part['revision'][:8]}" if part["revision"] else ""
        if part["prompt_depth"] is not None:
            site = f"{part['prompt']} from layer {part['layers'] - part['prompt_depth']} of {part['layers']}"
        else:
            site = {"after": "after the tower", "none": "no second look"}.get(part["prompt"], "?")
        if part is found["text_tower"]:
            site = "class texts"
        flops = [short_number(part[name], "FLOPs") for name in ("first_pass_flops", "round_flops")]
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
                short_number(part["parameters"]),
                *flops,
            ]
        )
    heads = ["neuron", "modality", "Hub id", "aligned", "prompts", "parameters", "one pass", "one round"]
    print_table(heads, rows)
    share = "" if found["trainable_share"] is None else f" ({found['trainable_share']:.2%})"
    trainable, everything = short_number(found["trainable_parameters"]), short_number(found["parameters"])
    print(f"\ntrainable  {trainable} of {everything} parameters{share}")
    if found["cost_ratio"] is not None:
        print(
            f"cost       {short_number(found['first_pass_flops'], 'FLOPs')} for one pass of all neurons over a clip, "
            f"{found['cost_ratio']:.2f} times that with {found['rounds']} rounds"
        )
    if found["cache_bytes"]:
        print(f"memory     {found['cache_bytes'] / 2**20:.1f} MiB of keys and values for a clip, while it is encoded")
    for part in [*found["neurons"], found["text_tower"]]:
        if part and part["unknown"]:
            print(f"unknown    {part['name']}: {part['unknown']}")


__all__ = ["info"]
