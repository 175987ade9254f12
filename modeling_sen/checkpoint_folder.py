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
    target = Path(folder).resolve()  # a link to the folder stays a link
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{folder}: found a file, expected a folder to save to")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, or inside it where nothing can be put beside it.
    inside = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
    home = target if inside else target.parent
    _remove_abandoned(home, target.name)
    staging = home / f".{target.name}.saving-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        _commit(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _commit(staging: Path, target: Path) -> None:
    written = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    replaced = {path.parts[0] for path in written}
    kept = [
        entry
        for entry in (target.iterdir() if target.exists() else ())
        if entry != staging and entry.name not in replaced and not _is_old_weight(entry.name, replaced)
    ]
    # A process must not find itself in a folder that is gone.
    exchangeable = staging.parent != target and not _is_current_folder(target)
    if exchangeable:
        for entry in kept:
            _link(entry, staging / entry.name)
    for path in [*(staging / path for path in written), staging, *filter(Path.is_dir, staging.rglob("*"))]:
        _flush(path)
    if not target.exists():
        os.rename(staging, target)
    elif exchangeable and _exchange(staging, target):
        for entry in list(staging.iterdir()):  # what another process wrote meanwhile, such as its random state
            if not (target / entry.name).exists() and not _is_old_weight(entry.name, replaced):
                os.rename(entry, target / entry.name)
    else:
        _move_files(staging, target, written)


def _move_files(staging: Path, target: Path, written: list[Path]) -> None:
    """The way without an exchange: file by file, weights first, and then away with what they replace."""
    for path in sorted(written, key=lambda path: (path.suffix == ".json", path)):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / path, target / path)
    replaced = {path.parts[0] for path in written}
    for entry in list(target.iterdir()):
        if _is_old_weight(entry.name, replaced) and Path(entry.name) not in written:
            entry.unlink()
        elif entry.name in replaced and entry.is_dir():
            for path in entry.rglob("*"):
                if path.is_file() and path.relative_to(target) not in written:
                    path.unlink()


def _is_current_folder(target: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:  # the current folder is gone already
        return False


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


def _remove_abandoned(home: Path, name: str) -> None:
    """Removes the leftovers of saves that were killed."""
    for path in list(home.iterdir()):
        start, _, process = path.name.rpartition("-")
        if start == f".{name}.saving" and process.isdigit() and not _is_running(int(process)):
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
