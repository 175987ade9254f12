# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen fit`: fits a head on a SEN's embeddings of a few labelled clips, without training the SEN."""

from pathlib import Path
from typing import Annotated

import typer

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
from modeling_sen.presets import resolve_checkpoint


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id, or sen-tiny.")],
    data: Annotated[str, typer.Argument(help="Labelled clips: a list file, folder, table, world:..., ID@COMMIT.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the head.")],
    kind: Annotated[str, typer.Option(help="cache or linear.")] = "cache",
    shots: Annotated[int | None, typer.Option(help="Number of clips drawn from each class; by default all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    protocol: ProtocolName = "own",
    dataset: DatasetName = None,
    root: Root = None,
    class_names: ClassNames = None,
    split: Annotated[str, typer.Option(help="Split of a folder or Hub data set.")] = "train",
    column: Column = None,
    template: Templates = None,
    residual: Annotated[float, typer.Option(help="Cache: weight of the cached clips relative to the texts.")] = 1.0,
    sharpness: Annotated[float, typer.Option(help="Cache: how fast weights fall with dissimilarity.")] = 5.5,
    strength: Annotated[float, typer.Option(help="Linear: inverse regularisation strength.")] = 1.0,
    batch_size: BatchSize = 8,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Fit a head on a few labelled clips: a cache that complements the class texts, or a linear probe."""
    from modeling_sen.encoding import SENEncoder
    from modeling_sen.evaluation.clip_embeddings import describe_run
    from modeling_sen.evaluation.dataset_lists import open_test_sets
    from modeling_sen.evaluation.few_shot import fit_head, save_head

    used = find_protocol(protocol, dataset)
    sets = open_test_sets([data], root, class_names or (), split, column=column)
    if len(sets) > 1:
        raise ValueError(f"{data}: expected one set of clips, found the lists of {len(sets)} splits")
    (clips,) = sets
    encoder = SENEncoder.from_pretrained(resolve_checkpoint(model), **model_arguments(device, dtype))
    templates = tuple(template or used.templates_for(dataset))
    head, count = fit_head(
        kind, encoder, used, clips, output, templates, shots, seed, residual, sharpness, strength, batch_size, True
    )
    facts = {
        **describe_run(encoder, model, used),
        "data": {"listed": clips.listed, "clips": count, "shots": shots, "seed": seed},
    }
    save_head(head, output, facts)
    print(f"{output}: {kind} head of {count} clips and {len(clips.class_names)} classes")


__all__ = ["main"]
