# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen classify`: runs the zero-shot pipeline on files and prints tables or JSON, or draws a plot."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.commands.video_paths import listed_videos
from modeling_sen.presets import resolve_checkpoint
from modeling_sen.templates import DEFAULT_TEMPLATE
from modeling_sen.text_tables import read_labels

BAR_WIDTH = 24


def classify(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO", help="Paths, folders or http(s) URLs.")],
    labels: Annotated[str | None, typer.Option(help="Comma-separated labels.")] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="File with one label per line, or csv file with a column name, label or class.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help=f"Text with {{}} for the label, by default '{DEFAULT_TEMPLATE}'; several are averaged."),
    ] = None,
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny (included).")] = "sen-tiny",
    top_k: Annotated[int | None, typer.Option(help="Number of best labels to show.")] = None,
    views: Annotated[int, typer.Option(help="Number of temporal views whose scores are averaged.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Videos per forward pass.", min=1)] = 8,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw frames, sound and scores of each round (one video).")] = None,
) -> None:
    """Score free-text labels for videos with sound."""
    videos = listed_videos(videos)
    if (labels is None) == (labels_file is None):
        raise ValueError("expected either --labels or --labels-file")
    candidates = labels.split(",") if labels is not None else read_labels(labels_file)  # type: ignore[arg-type]
    if plot is not None:
        from modeling_sen.explain import check_plot_path, explain, plot_rounds

        if len(videos) > 1 or views > 1:
            raise ValueError(f"--plot draws one view of one video, found {len(videos)} videos and {views} views")
        check_plot_path(plot)
    import torch

    from modeling_sen.encoding import SENEncoder
    from modeling_sen.pipelines.zero_shot_video_classification import ZeroShotVideoClassificationPipeline

    encoder = SENEncoder.from_pretrained(resolve_checkpoint(model), **model_arguments(device, dtype))
    pipeline = ZeroShotVideoClassificationPipeline(
        processor=encoder.processor,
        model=encoder.model,
        device=encoder.model.device,
        task="zero-shot-video-classification",
        candidate_labels=candidates,
        hypothesis_template=template or DEFAULT_TEMPLATE,
        num_views=views,
        top_k=top_k,
    )
    if plot is not None:
        rounds = explain(pipeline.model, pipeline.processor, videos[0], candidates, template or [DEFAULT_TEMPLATE])
        plot_rounds(rounds, plot, title=Path(videos[0]).name)
        results: Any = [
            pipeline.postprocess({"probabilities": torch.from_numpy(rounds.fused[-1])}, rounds.labels, top_k)
        ]
    else:
        results = _by_batches(pipeline, videos, batch_size)
    shown = tqdm(results, total=len(videos), desc="videos", unit="video", disable=len(videos) == 1 or None)
    scores, failure = [], None
    try:
        for video, ranked in zip(videos, shown, strict=True):
            scores.append({"video": video, "scores": ranked})
    except (ValueError, OSError) as error:  # after the scores of the videos before
        failure = error
    if as_json:
        print(json.dumps(scores))
    else:
        _print_tables(scores)
    if failure is not None:
        raise failure


def _by_batches(pipeline: Any, videos: Sequence[str], batch_size: int) -> Iterator[Any]:
    """Scores of one video after the other. A batch with a bad video is read again, one by one, up to that video."""
    for start in range(0, len(videos), batch_size):
        batch = list(videos[start : start + batch_size])
        try:
            scores = pipeline(batch, batch_size=len(batch))
        except (ValueError, OSError):
            scores = (pipeline(video) for video in batch)
        yield from scores


def _print_tables(results: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for result in results:
        console.print(f"[italic]{escape(result['video'])}[/italic]", soft_wrap=True, highlight=False)
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(overflow="fold")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for entry in result["scores"]:
            bar = "█" * round(BAR_WIDTH * entry["score"])
            table.add_row(escape(entry["label"]), f"{entry['score']:.3f}", bar)
        console.print(table)


__all__ = ["classify"]
