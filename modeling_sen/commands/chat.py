# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen chat`: answers questions about videos, from options or interactively, and prints answers as they are generated."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.commands.video_paths import listed_videos
from modeling_sen.presets import SEN_TINY_CHAT, resolve_checkpoint

if TYPE_CHECKING:
    from modeling_sen.chat.session import ChatSession
    from modeling_sen.video_windows import ChatVideo

COMMANDS = "/reset starts a new conversation about the same videos, /quit ends"
SHOWN_TIMES = 16


def chat(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO", help="Paths, folders or http(s) URLs.")],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="Question to answer; may be given several times.")
    ] = None,
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny (included).")] = "sen-tiny",
    num_frames: Annotated[int | None, typer.Option(help="Frames of each video; by default one window.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second, instead of --num-frames.")] = None,
    start: Annotated[float | None, typer.Option(help="Start of the part to read, in seconds.")] = None,
    end: Annotated[float | None, typer.Option(help="End of the part to read, in seconds.")] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Maximum tokens of an answer; by default 256, or a quarter of a shorter context.", min=1),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per answer.")] = False,
) -> None:
    """Answer questions about videos: those of --question, or lines of input until /quit or the end of the input."""
    from modeling_sen.chat.messages import question_message
    from modeling_sen.media_source import open_media_source
    from modeling_sen.video_windows import check_sampling

    videos = listed_videos(videos)
    # Options are checked before any work is done.
    check_sampling(num_frames, fps, start, end)
    for asked in question or []:
        question_message(asked, [])
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open_media_source(video)) for video in videos]
        session = _session(resolve_checkpoint(model, SEN_TINY_CHAT), max_new_tokens, **model_arguments(device, dtype))
        read = [session.add_video(source, num_frames=num_frames, fps=fps, start=start, end=end) for source in sources]
    for name, found in zip(videos, read, strict=True):
        typer.echo(f"{name}: {_description(found)}", err=True)
    facts = {"videos": videos, "sound": [found.has_sound for found in read]}
    if question:
        for asked in question:
            _answer(session, asked, facts, as_json)
    else:
        _converse(session, facts, as_json)


def _converse(session: "ChatSession", facts: dict[str, Any], as_json: bool) -> None:
    """Answers lines of input. On a terminal, the conversation continues after an error or an interrupted answer."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (lines can be edited)
    is_typed = sys.stdin.isatty()
    if is_typed:
        typer.echo(COMMANDS, err=True)
    for line in _lines("> " if is_typed and sys.stdout.isatty() else ""):
        if line == "/quit":
            return
        if line == "/reset":
            session.reset(keep_videos=True)
            continue
        try:
            if line.startswith("/"):
                raise ValueError(f"{line}: expected /reset, /quit or a question")
            _answer(session, line, facts, as_json)
        except ValueError as error:
            if not is_typed:
                raise
            typer.echo(f"sen chat: {error}", err=True)
        except KeyboardInterrupt:
            if not is_typed:
                raise
            typer.echo("\nsen chat: interrupted; ask again, or /quit", err=True)


def _lines(prompt: str) -> Iterator[str]:
    """Non-empty lines of input."""
    with contextlib.suppress(EOFError):
        while True:
            if line := input(prompt).strip():
                yield line


def _answer(session: "ChatSession", question: str, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**facts, "question": question, **session.ask(question)}), flush=True)
        return
    for piece in session.ask(question, stream=True):
        if isinstance(piece, str):
            print(piece, end="", flush=True)
        else:
            print(flush=True)
            if piece["finish_reason"] == "length":
                typer.echo("(truncated: increase --max-new-tokens for a longer answer)", err=True)


def _description(video: "ChatVideo") -> str:
    """`"8 frames at 0.1, 0.4, ... s, with sound"`."""
    times = [f"{seconds:.1f}" for seconds in video.frame_times.flatten().tolist()]
    shown = times if len(times) <= SHOWN_TIMES else [*times[: SHOWN_TIMES - 1], "...", times[-1]]
    return f"{len(times)} frames at {', '.join(shown)} s, {'with' if video.has_sound else 'without'} sound"


def _session(checkpoint: str, max_new_tokens: int | None, device: str | None, dtype: str | None) -> "ChatSession":
    from transformers import AutoModel

    from modeling_sen.auto import register
    from modeling_sen.chat.session import ChatSession
    from modeling_sen.pipelines.video_chat import VideoChatPipeline
    from modeling_sen.processing_sen_chat import SENChatProcessor

    register()
    processor = SENChatProcessor.from_pretrained(checkpoint)  # raises an error for other kinds of checkpoints
    loaded = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    pipeline = VideoChatPipeline(model=loaded, processor=processor, device=device, task="video-chat")
    return ChatSession(pipeline.model, pipeline.processor, max_new_tokens=max_new_tokens)


__all__ = ["chat"]
