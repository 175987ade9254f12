# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen push`: uploads a checkpoint folder with its card to the Hub, or lists the files in a dry run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeling_sen.presets import resolve_checkpoint

if TYPE_CHECKING:
    from modeling_sen.publishing import Publication


def push(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a checkpoint or adapter, or sen-tiny.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Include the model's code, for use without the package.")
    ] = False,
    include_neurons: Annotated[
        bool,
        typer.Option("--include-neurons", help="Include towers and language model, for a self-contained repository."),
    ] = False,
    licence: Annotated[str, typer.Option("--license", help="Licence of the trained weights.")] = "apache-2.0",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and print the card without using the network.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Upload a checkpoint or adapter with its card to the Hub. The card's example is first run on a generated clip."""
    from modeling_sen.auto import register
    from modeling_sen.publishing import push_folder

    register()
    pushed = push_folder(
        Path(resolve_checkpoint(folder)),
        repository,
        private=private or None,
        with_code=with_code,
        include_neurons=include_neurons,
        licence=licence,
        dry_run=dry_run,
    )
    if as_json:
        files = [{"path": path, "bytes": size} for path, size in pushed.files.items()]
        print(json.dumps({"repository": pushed.repo_id, "url": pushed.url, "files": files, "card": pushed.card}))
    else:
        _print(pushed)


def _print(pushed: "Publication") -> None:
    for path, size in pushed.files.items():
        print(f"{_readable(size):>10}  {path}")
    total = f"{_readable(sum(pushed.files.values())):>10}  {len(pushed.files)} files"
    if pushed.url is not None:
        print(f"{total}\n{pushed.url}")
        return
    print(f"{total} would be uploaded to {pushed.repo_id}\n\nREADME.md:\n\n{pushed.card}")


def _readable(size: int) -> str:
    """`1331004` -> `"1.3 MB"`."""
    for number, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= number:
            return f"{size / number:.1f} {unit}"
    return f"{size} B"


__all__ = ["push"]
