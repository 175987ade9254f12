# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Write a file whole or not at all: readers and interrupted runs never meet half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path beside `path` to write to. After the block the file there takes the place of the old one; where the
    block raises, the old one stays.
    """
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


__all__ = ["whole_file"]
