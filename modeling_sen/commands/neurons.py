# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen neurons`: lists the registered encoder types."""

import json
from typing import Annotated

import typer

from modeling_sen.commands.tables import print_table
from modeling_sen.neuron_registry import NEURON_ADAPTERS, list_neurons


def neurons(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the encoder types registered as neurons. Other types are supported by a rule, see docs/extending.md."""
    rows = []
    for model_type in list_neurons():
        adapter = NEURON_ADAPTERS[model_type]
        rows.append(
            {
                "model_type": model_type,
                "modality": adapter.modality,
                "prompt_side": adapter.prompt_side if adapter.takes_prompts else "after",
                "queries": adapter.takes_prompts and adapter.takes_queries,
                "grid": "none" if adapter.grid is None else adapter.grid.__name__.removesuffix("_grid"),
            }
        )
    if as_json:
        print(json.dumps(rows))
    else:
        words = {"True": "yes", "False": "no"}
        table = [[words.get(str(value), str(value)) for value in row.values()] for row in rows]
        print_table(["type", "modality", "prompts", "queries", "token grid"], table)


__all__ = ["neurons"]
