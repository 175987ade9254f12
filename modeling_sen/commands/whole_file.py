# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Text files that are written whole."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole: whoever looks finds the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
