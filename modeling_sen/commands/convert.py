# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen convert`: converts an original checkpoint of ImageBind, LanguageBind or Tune-A-Video to Transformers' classes."""

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

# Family -> module:function, `function(source, **options) -> Conversion`, and its options.
FAMILIES = {
    "imagebind": ("modeling_sen.conversion.imagebind:convert", ("config", "tokenizer")),
    "languagebind": ("modeling_sen.conversion.languagebind:convert", ("config", "tokenizer")),
    "tune-a-video": ("modeling_sen.conversion.tune_a_video:convert", ("base",)),
}


def convert(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help=f"One of {', '.join(FAMILIES)}.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="File or folder of the original checkpoint; for Tune-A-Video, a folder or Hub id."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    config: Annotated[
        Path | None,
        typer.Option(help="JSON of sizes: arguments of ImageBind's constructor, or LanguageBind's config.json."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Hub id, folder or BPE file of CLIP's tokenizer, saved with the weights."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of the text-to-image model that Tune-A-Video tuned."),
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="safetensors of input.NAME and output.NAME; status 1 if an output differs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert an original checkpoint to Transformers' classes, with its processor and a card that names its licence."""
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, expected one of {', '.join(FAMILIES)}")
    entry, taken = FAMILIES[family]
    options = {"config": config, "tokenizer": tokenizer, "base": base}
    options = {name: value for name, value in options.items() if value is not None}
    if others := [name for name in options if name not in taken]:
        expected = " and ".join(f"--{name}" for name in taken)
        raise ValueError(f"found --{others[0]}, which {family} does not support, expected {expected}")
    from modeling_sen.conversion.original_checkpoint import TOLERANCE, DifferentOutputs, save

    module, function = entry.split(":")
    conversion = getattr(import_module(module), function)(source, **options)
    try:
        differences, is_right = save(conversion, folder, verify), True
    except DifferentOutputs as error:
        differences, is_right = error.differences, False
    count = sum(parameter.numel() for parameter in conversion.model.parameters())
    if as_json:
        found = {"folder": str(folder), "parameters": count, "differences": differences, "saved": is_right}
        print(json.dumps(found))
    else:
        for name, difference in differences.items():
            print(f"{name:16} differs by at most {difference:.1e}")
        if is_right:
            print(f"{folder}: {count:,} parameters")
            for note in conversion.notes:
                print(note)
        else:
            print(f"nothing written: expected differences of at most {TOLERANCE:.0e}")
    if not is_right:
        raise typer.Exit(1)


__all__ = ["FAMILIES", "convert"]
