# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Replace a checkpoint folder whole: whoever looks, even after a kill, finds the old checkpoint or the new one.

The new files are written to a sibling folder, what else the old folder held is linked into it, and the two folders change
places in one system call (Linux `renameat2`). Where the system has none, files are moved one by one, weights first.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def replaced_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty folder to write to; on success its files replace those of the same names in `folder`.

    Because files are new ones, weights mapped from the old files stay readable while they are saved over.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    target = Path(folder).absolute()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{folder}: found a file, expected a folder to save to")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    staging = target.with_name(f".{target.name}.saving-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        _commit(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _commit(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    target = target.resolve()  # a link to the folder stays a link
    written = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    replaced = {path.parts[0] for path in written}
    for entry in target.iterdir():
        if entry.name not in replaced and not _is_old_weight(entry.name, replaced):
            _link(entry, staging / entry.name)
    for path in [staging, *staging.rglob("*")]:
        _flush(path)
    if not _exchange(staging, target):
        moved = sorted(written, key=lambda path: (path.suffix == ".json", path))
        for path in moved:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / path, target / path)


def _is_old_weight(name: str, replaced: set[str]) -> bool:
    """Shards of the old checkpoint must not outlive it, or a loader could mix the two."""
    saves_weights = any(new.endswith(".safetensors") for new in replaced)
    return saves_weights and name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))


def _link(source: Path, copy: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, copy, copy_function=_link_file, symlinks=True)
    else:
        _link_file(source, copy)


def _link_file(source: str | Path, copy: str | Path) -> None:
    try:
        os.link(source, copy, follow_symlinks=False)
    except OSError:  # file systems without hard links
        shutil.copy2(source, copy, follow_symlinks=False)


def _flush(path: Path) -> None:
    """To the disk, so that a power cut after the exchange finds the new files' content."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Two folders change places in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return renameat2(*arguments) == 0


def _remove_abandoned(target: Path) -> None:
    """Removes the leftovers of saves that were killed."""
    for path in target.parent.glob(f".{target.name}.saving-*"):
        process = path.name.rpartition("-")[2]
        if process.isdigit() and int(process) != os.getpid() and not _is_running(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


__all__ = ["replaced_folder"]
