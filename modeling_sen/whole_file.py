# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Writes files and folders atomically: at any time, even after a kill, the old one or the new one is there, complete."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path to write to. After the block the file replaces `path`; if the block raises, `path` is kept."""
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty folder to write to. After the block its entries replace those of the same names in `folder`.

    In a mounted folder, the current folder, or without Linux's `renameat2`, entries are moved one by one, weights first.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    target = Path(folder).resolve()  # a link to the folder stays a link
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{folder}: found a file, expected a folder to save to")
    target.parent.mkdir(parents=True, exist_ok=True)
    inside = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
    staging = (target if inside else target.parent) / f".{target.name}.saving-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process with the same number
    for other in staging.parent.glob(f".{escape(target.name)}.saving-[0-9]*"):
        try:
            os.getpgid(int(other.name.rpartition("-")[2]))
        except ProcessLookupError:
            shutil.rmtree(other, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        _replace(target, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(target: Path, staging: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    new = sorted(staging.iterdir(), key=lambda path: (path.suffix == ".json", path))
    old = {path.name for path in new if (target / path.name).exists()}
    if any(path.suffix == ".safetensors" for path in new):  # a loader could mix old weights with the new ones
        old |= {path.name for path in target.glob("model*.safetensors*")}
    exchange, ignored = getattr(ctypes.CDLL(None), "renameat2", None), {str(target): old}
    # An exchange would remove the process's current folder.
    if exchange and staging.parent != target and not Path.cwd().is_relative_to(target):
        with suppress(OSError):  # of file systems without hard links
            shutil.copytree(target, staging, True, lambda at, _: ignored.get(at, ()), os.link, dirs_exist_ok=True)
            if exchange(-100, os.fsencode(target), -100, os.fsencode(staging), 2) == 0:  # 2: RENAME_EXCHANGE
                return
    for name in old:
        if not (staging / name).is_file():
            os.rename(target / name, staging / f"{name}.old")
    for path in new:
        os.replace(path, target / path.name)


__all__ = ["replaced_folder", "whole_file"]
