# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Replaces a checkpoint folder atomically: at any time, even after a kill, it holds the old checkpoint or the new one.

New files are written to a sibling folder, the old folder's other files are linked into it, and one system call exchanges the
two folders (Linux `renameat2`). On systems without it, files are moved one by one, weights first.
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

    Old files are not overwritten in place, so weights that are memory-mapped from them stay readable.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    target = Path(folder).resolve()  # a link to the folder stays a link
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{folder}: found a file, expected a folder to save to")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, or inside it if nothing can be written beside it.
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
    # An exchange would remove the process's current folder.
    exchangeable = staging.parent != target and not _is_current_folder(target)
    if exchangeable:
        for entry in kept:
            _link(entry, staging / entry.name)
    for path in [*(staging / path for path in written), staging, *filter(Path.is_dir, staging.rglob("*"))]:
        _flush(path)
    if not target.exists():
        os.rename(staging, target)
    elif exchangeable and _exchange(staging, target):
        for entry in list(staging.iterdir()):  # files that another process wrote meanwhile, such as its random state
            if not (target / entry.name).exists() and not _is_old_weight(entry.name, replaced):
                os.rename(entry, target / entry.name)
    else:
        _move_files(staging, target, written)


def _move_files(staging: Path, target: Path, written: list[Path]) -> None:
    """Without an exchange: moves files one by one, weights first, then removes the files that they replace."""
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
    except FileNotFoundError:  # the current folder was removed
        return False


def _is_old_weight(name: str, replaced: set[str]) -> bool:
    """Whether a file is a weight of the old checkpoint, which a loader could mix with the new ones."""
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
    """Flushes to the disk, so that the new files survive a power cut after the exchange."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two folders atomically; returns false if the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return renameat2(*arguments) == 0


def _remove_abandoned(home: Path, name: str) -> None:
    """Removes staging folders of killed saves."""
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
