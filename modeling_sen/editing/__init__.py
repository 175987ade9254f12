# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Components of video editing: the adapter of a diffusion UNet, loading of base models, tuning, sampling and masks."""

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError("video editing needs Diffusers: pip install 'modeling-sen[editing]'") from error
