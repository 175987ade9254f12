# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""`sen encode`: embeddings of videos, written to a parquet or npz file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeling_sen.commands.model_options import Device, Dtype, model_arguments
from modeling_sen.commands.video_paths import listed_videos
from modeling_sen.presets import resolve_checkpoint
from modeling_sen.whole_file import whole_file

if TYPE_CHECKING:
    import numpy as np


def encode(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO", help="Paths, folders or http(s) URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file ending in .parquet or .npz.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder or Hub id, or sen-tiny (included).")] = "sen-tiny",
    batch_size: Annotated[int, typer.Option(help="Videos per forward pass.", min=1)] = 8,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Embed videos: writes the columns `path` and `embedding` (float32, length 1)."""
    write, videos = _writer(output), listed_videos(videos)
    from modeling_sen.encoding import SENEncoder

    encoder = SENEncoder.from_pretrained(resolve_checkpoint(model), **model_arguments(device, dtype))
    embeddings = encoder.encode(list(videos), batch_size, show_progress=len(videos) > 1)
    with whole_file(output) as unfinished:
        write(unfinished, videos, embeddings)
    print(f"{output}: {len(embeddings)} embeddings of {embeddings.shape[1]} numbers")


def _writer(output: Path) -> Any:
    """The function that writes files with this ending; raises errors before any work is done."""
    writers = {".parquet": _write_parquet, ".npz": _write_npz}
    if output.suffix not in writers:
        raise ValueError(f"--output {output}: expected a file ending in {' or '.join(writers)}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: no folder {output.parent}")
    if output.suffix == ".parquet":
        _import_pyarrow()
    return writers[output.suffix]


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("parquet files need pyarrow: pip install 'modeling-sen[train]'") from error
    return pyarrow


def _write_parquet(path: Path, videos: Sequence[str], embeddings: "np.ndarray") -> None:
    pyarrow = _import_pyarrow()
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(embeddings.ravel()), embeddings.shape[1])
    pyarrow.parquet.write_table(pyarrow.table({"path": list(videos), "embedding": column}), path)


def _write_npz(path: Path, videos: Sequence[str], embeddings: "np.ndarray") -> None:
    import numpy as np

    with open(path, "wb") as file:
        np.savez(file, path=np.asarray(videos), embedding=embeddings)


__all__ = ["encode"]
