# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Template that turns a label into a text for the text tower."""

DEFAULT_TEMPLATE = "a video of {}"

__all__ = ["DEFAULT_TEMPLATE"]
