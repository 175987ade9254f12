# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen tune`: tunes an editing adapter on a video and saves it as a checkpoint for edits of that video."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.commands.video_paths import named_videos
from modeling_sen.presets import SEN_TINY_EDITING, resolve_checkpoint

if TYPE_CHECKING:
    from modeling_sen.pipelines.sen_video_editing import SENVideoEditingPipeline

RUN = "tuning"  # subfolder of the checkpoint for an unfinished run


def tune(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, folder of videos or http(s) URL.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Description of the video.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the checkpoint, or of one for each video; resumes an interrupted run."
        ),
    ],
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny (included).")] = "sen-tiny",
    steps: Annotated[int | None, typer.Option(help="Maximum steps; stops earlier on overfitting.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Constant learning rate.")] = None,
    start: Annotated[float, typer.Option(help="Start of the part to tune on, in seconds.", min=0.0)] = 0.0,
    end: Annotated[float | None, typer.Option(help="End of the part to tune on, in seconds.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second; by default every frame.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of windows, noise and noise levels.", min=0)] = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Tune an adapter on a video, for use with `sen edit --model FOLDER`."""
    from modeling_sen.media_source import open_media_source

    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output}: found a file, expected a folder to save to")
    records = []
    for one, name in named_videos(video).items():
        folder = output / name
        with open_media_source(one) as opened:
            pipeline = _load(resolve_checkpoint(model, SEN_TINY_EDITING), **model_arguments(device, dtype))
            from modeling_sen.editing.tuning_record import settings_for

            settings = settings_for(pipeline.model, steps=steps, learning_rate=learning_rate, seed=seed)
            result = pipeline.tune(
                opened,
                prompt,
                settings,
                start=start,
                end=end,
                fps=fps,
                output_dir=folder / RUN,
            )
        pipeline.save_pretrained(folder)
        shutil.rmtree(folder / RUN)
        record = pipeline.model.adapter.config.tuning
        records.append({"folder": str(folder), **record, "validation_losses": result.validation_losses})
        if not as_json:
            best = record["best_step"]
            print(f"{folder}: tuned on {record['frames']} frames, best after {best} of {result.steps} steps")
    if as_json:
        print(json.dumps(records if Path(video).is_dir() else records[0]))


def _load(checkpoint: str, device: str | None, dtype: str | None) -> "SENVideoEditingPipeline":
    import torch

    from modeling_sen.auto import register
    from modeling_sen.pipelines.sen_video_editing import SENVideoEditingPipeline

    register()
    types: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    pipeline: Any = SENVideoEditingPipeline.from_pretrained(checkpoint, **types)
    return pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


__all__ = ["tune"]
