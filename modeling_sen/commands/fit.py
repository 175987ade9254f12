# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen fit`: a head on a SEN's embeddings from a few labelled clips, without training the SEN."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from modeling_sen.commands.evaluate import (
    BatchSize,
    ClassNames,
    Column,
    DatasetName,
    ProtocolName,
    Root,
    Templates,
    chosen_protocol,
    described_run,
    mean_embeddings,
)
from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.clip_embeddings import embed_clips
from modeling_sen.evaluation.dataset_lists import open_test_sets
from modeling_sen.evaluation.few_shot import HEADS, CacheHead, Head, fit_linear_probe, save_head, take_shots
from modeling_sen.presets import resolve_checkpoint
from modeling_sen.training.data import LabelledClips


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id, or sen-tiny.")],
    data: Annotated[str, typer.Argument(help="Labelled clips: a list file, folder, table, world:..., ID@COMMIT.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the head.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(HEADS)}.")] = "cache",
    shots: Annotated[int | None, typer.Option(help="Clips of each class, drawn by the seed; by default all.")] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    protocol: ProtocolName = "own",
    dataset: DatasetName = None,
    root: Root = None,
    class_names: ClassNames = None,
    split: Annotated[str, typer.Option(help="Of a folder or Hub data set.")] = "train",
    column: Column = None,
    template: Templates = None,
    residual: Annotated[float, typer.Option(help="Cache: weight of the cached clips beside the texts.")] = 1.0,
    sharpness: Annotated[float, typer.Option(help="Cache: how alike clips must be.")] = 5.5,
    strength: Annotated[float, typer.Option(help="Linear: inverse of the regularisation.")] = 1.0,
    batch_size: BatchSize = 8,
) -> None:
    """Fit a head on a few labelled clips: a cache of them beside the class texts, or a linear probe."""
    if kind not in HEADS:
        raise ValueError(f"--kind {kind!r}, expected one of {', '.join(HEADS)}")
    used = chosen_protocol(protocol, dataset)
    sets = open_test_sets([data], root, class_names or (), split, column=column)
    if len(sets) > 1:
        raise ValueError(f"{data}: expected one set of clips, found the lists of {len(sets)} splits")
    (found,) = sets
    rows = range(len(found.clips)) if shots is None else take_shots(found.labels, shots, seed)
    clips = LabelledClips(
        found.clips.source,
        [found.clips.targets[row] for row in rows],
        [found.clips.keys[row] for row in rows],
        lambda row: found.clips.read(rows[row]),
    )
    encoder = SENEncoder.from_pretrained(resolve_checkpoint(model))
    embeddings = mean_embeddings(embed_clips(encoder, used, clips, output / "embeddings", batch_size, True))
    labels = np.array([found.labels[row] for row in rows], dtype=np.int64)
    templates = tuple(template or used.templates_for(dataset))
    head: Head
    if kind == "cache":
        class_embeds = encoder.embed_labels(found.class_names, templates)
        scale = encoder.model.logit_scale.exp().item()
        texts = class_embeds.float().cpu().numpy()
        head = CacheHead(found.class_names, embeddings, labels, texts, scale, residual, sharpness)
    else:
        head = fit_linear_probe(embeddings, labels, found.class_names, strength)
    facts = {
        **described_run(encoder, model, used),
        "data": {"listed": found.listed, "clips": len(rows), "shots": shots, "seed": seed},
    }
    save_head(head, output, facts)
    print(f"{output}: {kind} head of {len(rows)} clips and {len(found.class_names)} classes")
