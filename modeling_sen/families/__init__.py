# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Encoders that Transformers lacks, written in its style."""

from functools import cache
from typing import Any


@cache
def register() -> dict[str, Any]:
    """Registers the families with the Auto classes.

    Returns:
        All model classes by name, including those with projections, which no Auto class loads.
    """
    from modeling_sen.families.imagebind import register as register_imagebind
    from modeling_sen.families.languagebind import register as register_languagebind

    return {**register_imagebind(), **register_languagebind()}


__all__ = ["register"]
