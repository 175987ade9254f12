# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Encoders that Transformers lacks, in its classes."""

from functools import cache
from typing import Any


@cache
def register() -> dict[str, Any]:
    """Makes the families known to the Auto classes.

    Returns:
        All their model classes by name, those with projections among them, which no Auto class has.
    """
    from modeling_sen.families.imagebind import register as register_imagebind
    from modeling_sen.families.languagebind import register as register_languagebind

    return {**register_imagebind(), **register_languagebind()}


__all__ = ["register"]
