# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen track`: runs the tracking pipeline on a file, and writes a table of positions and a video with the points."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.commands.video_paths import named_videos, output_for
from modeling_sen.presets import SEN_TINY_TRACKING, resolve_checkpoint

if TYPE_CHECKING:
    from modeling_sen.pipelines.video_tracking import VideoTrackingPipeline


def track(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, folder of videos or http(s) URL.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A file ending in .csv, .json or .npz; for a folder NAME-VIDEO.csv, ..."),
    ],
    points: Annotated[
        Path | None, typer.Option(help="A csv, json or npy file of points: x, y on frame 0, or t, x, y.")
    ] = None,
    grid: Annotated[
        int | None, typer.Option(help="Points per side of a grid to track; 10 if no points are given.", min=1)
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Track points inside a mask, a png of the frames' size.")] = None,
    query_frame: Annotated[int, typer.Option(help="Frame number of the grid or mask.", min=0)] = 0,
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny (included).")] = "sen-tiny",
    render: Annotated[Path | None, typer.Option(help="An mp4 file to write with the points drawn.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Track points through a video: positions, visibility and confidence in every frame."""
    from modeling_sen.media_source import open_media_source
    from modeling_sen.tracking.clip_frames import clip_shape
    from modeling_sen.tracking.query_points import as_mask, as_query_points, check_one_kind, resolve_query_points
    from modeling_sen.tracking.tracking_output import tracks_writer
    from modeling_sen.write_video import check_video_path

    # Options are checked before any work is done.
    tracks_writer(output)
    if render is not None:
        check_video_path(render)
    check_one_kind(points, grid, mask, query_frame)
    options: dict[str, Any] = {
        "query_points": None if points is None else as_query_points(points),
        "grid_size": grid,
        "mask": None if mask is None else as_mask(mask),
        "query_frame": query_frame,
    }
    pipeline, summaries = None, []
    for one, name in named_videos(video).items():
        tracks = output_for(output, name)
        drawn = None if render is None else output_for(render, name)
        with open_media_source(one) as source:  # opened once: a pipe or URL is read for tracking and for drawing
            num_frames, *size = clip_shape(source)
            queries = resolve_query_points(num_frames, (size[0], size[1]), **options)
            if pipeline is None:
                pipeline = _load(resolve_checkpoint(model, SEN_TINY_TRACKING), **model_arguments(device, dtype))
            needed = _memory(pipeline.model, num_frames, (size[0], size[1]), len(queries))
            what = f"{num_frames} frames of {size[1]} x {size[0]}, {len(queries)} points"
            typer.echo(f"{what}: about {needed / 1e6:,.0f} MB of memory, besides the model's", err=True)
            with tqdm(desc="track", disable=None) as bar:
                tracked = pipeline(source, progress=partial(_show, bar), query_points=queries)
            tracked.save(tracks)
            if drawn is not None:
                tracked.render(source, drawn)
        num_frames, num_points = tracked.visibility.shape
        visible = float(tracked.visibility.mean())  # there is at least one point
        summaries.append(
            {
                "video": one,
                "output": str(tracks),
                "render": None if drawn is None else str(drawn),
                "frames": num_frames,
                "points": num_points,
                "visible": visible,
            }
        )
        if not as_json:
            print(f"{tracks}: {num_points} points in {num_frames} frames, visible in {100 * visible:.0f} % of them")
            if drawn is not None:
                print(drawn)
    if as_json:
        print(json.dumps(summaries if Path(video).is_dir() else summaries[0]))


def _show(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _memory(model: Any, num_frames: int, size: tuple[int, int], num_points: int) -> int:
    from modeling_sen.tracking.memory import memory_estimate

    config = model.config
    return memory_estimate(num_frames, size, num_points, config.longest_side, bool(config.tracked_neurons))


def _load(checkpoint: str, device: str | None, dtype: str | None) -> "VideoTrackingPipeline":
    from transformers import AutoModel

    from modeling_sen.auto import register
    from modeling_sen.pipelines.video_tracking import VideoTrackingPipeline

    register()
    tracker = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    return VideoTrackingPipeline(model=tracker, device=device, task="video-tracking")


__all__ = ["track"]
