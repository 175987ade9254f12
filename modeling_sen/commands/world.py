# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen world`: writes clips of the generated world."""

import json
from pathlib import Path
from typing import Annotated

import typer


def world(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Folder to write to; resumes an interrupted run in it.")],
    split: Annotated[str, typer.Option(help="train, validation, test or unseen_pairs.")] = "train",
    num: Annotated[int, typer.Option(help="Number of clips.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the clips.")] = 0,
    hops: Annotated[
        int | None, typer.Option(help="1, 2 or 3: clips for chains of this length, always with a sounding sprite.")
    ] = None,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    num_frames: Annotated[int, typer.Option("--frames", help="Frames per clip, at 8 frames per second.")] = 16,
    num_objects: Annotated[
        str | None,
        typer.Option("--objects", help="Sprites per clip: 3, or 1-4 for a range. Default 1-4, or 3 with --hops."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Write clips for point tracking, 256 pixels wide, with seeds SEED, SEED + 1, ...: base, rotation, "
            "scale, deform, lighting, blur, noise, fast, smooth, repetitive, occluder, shake, lookalike, long or all. "
            "Only --num and --seed can be combined with it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write generated clips with sound and complete ground truth."""
    from modeling_sen.world.tracking_write import write_tracking_world
    from modeling_sen.world.write import parse_objects, write_world

    if preset is None:
        summary = write_world(
            out, split, num, seed, num_objects=parse_objects(num_objects), size=size, num_frames=num_frames, hops=hops
        )
    else:
        fixed = ("split", "hops", "size", "num_frames", "num_objects")
        for option in context.command.params:
            if option.name in fixed and "DEFAULT" not in str(context.get_parameter_source(option.name)):
                raise ValueError(f"{option.opts[0]} cannot be used with --preset, which fixes its value")
        summary = write_tracking_world(out, preset, num, seed)
    if as_json:
        print(json.dumps(summary))
    else:
        print(f"{out}: {summary['clips']} {preset or split} clips of seed {seed} ({summary['written']} new)")


__all__ = ["world"]
