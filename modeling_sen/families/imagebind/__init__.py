# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBind in Transformers' classes: configuration, models and processor."""
