# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen edit`: runs the editing pipeline on a file and writes, for each prompt, an mp4 with sound and a JSON record."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.commands.video_paths import named_videos, output_for
from modeling_sen.presets import SEN_TINY_EDITING, resolve_checkpoint

if TYPE_CHECKING:
    from modeling_sen.editing.editing_output import SENEditingOutput
    from modeling_sen.pipelines.video_editing import VideoEditingPipeline


def edit(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, folder of videos or http(s) URL.")],
    source: Annotated[str, typer.Option(help="Description of the video.")],
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="Description of the edit; may be given several times.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="An mp4 file; for several prompts NAME-1.mp4, for a folder NAME-VIDEO.mp4."
        ),
    ] = Path("edited.mp4"),
    compare: Annotated[
        Path | None, typer.Option(help="An mp4 file to write with source and edits side by side.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Where the video may change: an image, a folder of images or a video.")
    ] = None,
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny (included).")] = "sen-tiny",
    adapter: Annotated[str | None, typer.Option(help="Folder or Hub id of an adapter tuned on this video.")] = None,
    tune_steps: Annotated[
        int | None, typer.Option(help="Maximum steps of tuning; 0 edits without tuning.", min=0)
    ] = None,
    inversion: Annotated[str | None, typer.Option(help="ddim (default), or none to edit without inversion.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Noise levels; by default the checkpoint's setting, else 50.", min=1)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance, 1 disables it; by default the checkpoint's, else 7.5.", min=0.0),
    ] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt of guidance.")] = "",
    start: Annotated[float, typer.Option(help="Start of the part to edit, in seconds.", min=0.0)] = 0.0,
    end: Annotated[float | None, typer.Option(help="End of the part to edit, in seconds.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second; by default every frame.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of tuning and noise.", min=0)] = 0,
    scorer: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a CLIP or SEN that scores alignment with the prompts.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Edit a video by prompts. The model is first tuned on the video, once for all prompts."""
    from modeling_sen.media_source import open_media_source
    from modeling_sen.write_video import check_video_path

    # Options are checked before any work is done.
    if adapter is not None and tune_steps:
        raise ValueError(f"--adapter, --tune-steps: expected one of them, found {adapter} and {tune_steps} steps")
    for path in [output, *([compare] if compare is not None else [])]:
        check_video_path(path)
    sampling: dict[str, Any] = {"inversion": inversion, "num_inference_steps": steps, "guidance_scale": guidance}
    pipeline, results = None, []
    for one, name in named_videos(video).items():
        paths = output_paths(output_for(output, name), len(prompt))
        compared = None if compare is None else output_for(compare, name)
        with open_media_source(one) as opened:  # opened once: a pipe or URL is read for editing and for its sound
            if pipeline is None:
                pipeline = _load(resolve_checkpoint(model, SEN_TINY_EDITING), **model_arguments(device, dtype))
            from modeling_sen.editing.editing_output import save_comparison
            from modeling_sen.editing.tuning_record import settings_for

            edits = pipeline(
                opened,
                source,
                prompt,
                adapter=adapter,
                tune=None if tune_steps is None else tune_steps > 0,
                tuning=settings_for(pipeline.model, steps=tune_steps or None, seed=seed),
                scorer=scorer,
                mask=mask,
                negative_prompt=negative,
                start=start,
                end=end,
                fps=fps,
                seed=seed,
                **{option: value for option, value in sampling.items() if value is not None},
            )
            for edited, path in zip(edits, paths, strict=True):
                edited.save(path)
                edited.save_record(path.with_suffix(".json"))
            if compared is not None:
                save_comparison(compared, edits)
        if as_json:
            records = [{"output": str(path), **edited.record()} for edited, path in zip(edits, paths, strict=True)]
            results.append({"compare": None if compared is None else str(compared), "edits": records})
        else:
            _print(edits, paths, compared)
    if as_json:
        print(json.dumps(results if Path(video).is_dir() else results[0]))


def output_paths(output: Path, count: int) -> list[Path]:
    """`out.mp4` for one prompt, `out-1.mp4`, `out-2.mp4`, ... for several."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]


def _print(edits: "list[SENEditingOutput]", paths: list[Path], compare: Path | None) -> None:
    from modeling_sen.commands.evaluate_editing import SHOWN, editing_cells
    from modeling_sen.commands.tables import print_table

    settings = edits[0].settings
    print(f"encoder {settings['scorer'] or '-'}, tracker {settings['tracker'] or '-'}")
    rows = [[edited.edit_prompt, *editing_cells(edited.scores)] for edited in edits]
    print_table(["prompt", *SHOWN], rows)
    for path in [*paths, *([compare] if compare is not None else [])]:
        print(path)


def _load(checkpoint: str, device: str | None, dtype: str | None) -> "VideoEditingPipeline":
    from transformers import AutoModel

    from modeling_sen.auto import register
    from modeling_sen.pipelines.video_editing import VideoEditingPipeline

    register()
    loaded = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    return VideoEditingPipeline(model=loaded, device=device, task="video-editing")


__all__ = ["edit", "output_paths"]
