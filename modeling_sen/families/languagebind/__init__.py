# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""LanguageBind: image, video, sound, depth and thermal towers with one text space, whose licence is MIT."""
