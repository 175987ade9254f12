# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Texts around the labels that a text tower embeds."""

DEFAULT_TEMPLATE = "a video of {}"

__all__ = ["DEFAULT_TEMPLATE"]
