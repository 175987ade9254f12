# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen tune`: an editing adapter tuned on one video and kept as a checkpoint, for any number of edits of that video."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.presets import SEN_TINY_EDITING, resolve_checkpoint

RUN = "tuning"  # folder of an unfinished run in that of the checkpoint


def tune(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path or http(s) URL.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What the video shows.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the checkpoint; an interrupted run there goes on.")
    ],
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny, the one inside.")] = "sen-tiny",
    steps: Annotated[int | None, typer.Option(help="Steps at most; it stops earlier where it overfits.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Constant.")] = None,
    start: Annotated[float, typer.Option(help="Seconds, where the stretch that is tuned on starts.", min=0.0)] = 0.0,
    end: Annotated[float | None, typer.Option(help="Seconds, where it ends.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second; by default every frame.")] = None,
    seed: Annotated[int, typer.Option(help="Of windows, noise and its levels.", min=0)] = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Tune an adapter on a video; `sen edit --model FOLDER` edits with it."""
    from modeling_sen.auto import register
    from modeling_sen.media_source import open_media_source

    arguments = model_arguments(device, dtype)
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output}: found a file, expected a folder to save to")
    with open_media_source(video) as opened:
        from modeling_sen.editing.tuning import TuningSettings
        from modeling_sen.editing.tuning_record import video_name
        from modeling_sen.pipelines.sen_video_editing import SENVideoEditingPipeline

        given = {"steps": steps, "learning_rate": learning_rate}
        settings = TuningSettings(seed=seed, **{name: value for name, value in given.items() if value is not None})
        register()
        checkpoint = resolve_checkpoint(model, SEN_TINY_EDITING)
        pipeline = SENVideoEditingPipeline.from_pretrained(
            checkpoint, **({} if dtype is None else {"dtype": dtype})
        ).to(arguments["device"] or default_device())
        result = pipeline.tune(
            opened,
            prompt,
            settings,
            start=start,
            end=end,
            fps=fps,
            video_name=video_name(video),
            output_dir=output / RUN,
        )
    pipeline.save_pretrained(output)
    shutil.rmtree(output / RUN)
    record = pipeline.model.adapter.config.tuning
    if as_json:
        print(json.dumps({"folder": str(output), **record, "validation_losses": result.validation_losses}))
    else:
        print(f"{output}: tuned on {record['frames']} frames, best after {record['best_step']} of {result.steps} steps")


def default_device() -> str:
    """The first GPU, or the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


__all__ = ["tune"]
