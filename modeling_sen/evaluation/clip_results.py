# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Results of clips, stored on disk so that an interrupted run can resume."""

import json
import math
from pathlib import Path
from typing import Any

from modeling_sen.whole_file import whole_file


class ClipResults:
    """Results by clip key, in a JSON file that is written atomically after each clip. NaN is stored as null.

    Args:
        file: the file; created, with its folder, when the first result is added.

    Raises:
        ValueError: the file has other content.
    """

    def __init__(self, file: Path):
        self.file = file
        self.rows: dict[str, Any] = {}
        if file.exists():
            try:
                self.rows = json.loads(file.read_text())["clips"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{file}: expected results of clips, found {error!r}") from error

    def add(self, key: str, row: Any) -> None:
        """Stores a JSON-serialisable result."""
        self.rows[key] = nan_to_null(row)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.file) as unfinished:
            unfinished.write_text(json.dumps({"clips": self.rows}, allow_nan=False) + "\n")


def nan_to_null(value: Any) -> Any:
    """Replaces each NaN, which JSON does not have, by `None` in a JSON-serialisable value."""
    if isinstance(value, dict):
        return {name: nan_to_null(part) for name, part in value.items()}
    if isinstance(value, list):
        return [nan_to_null(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def null_to_nan(numbers: dict[str, float | None]) -> dict[str, float]:
    """Replaces each `None` by NaN."""
    return {name: math.nan if number is None else number for name, number in numbers.items()}


__all__ = ["ClipResults", "nan_to_null", "null_to_nan"]
