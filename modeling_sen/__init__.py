# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SEN for Transformers: frozen encoders, associated recursively, for video understanding.

Importing it registers SENConfig, SENModel and SENProcessor with the Auto classes, and the pipeline tasks.
"""

import sys

__version__ = "0.1.0"

# Public name -> the module that holds it, imported when the name is first used.
_MODULES = {
    "PRESETS": "presets",
    "SEN_TINY": "presets",
    "SEN_TINY_CHAT": "presets",
    "SEN_TINY_EDITING": "presets",
    "SEN_TINY_TRACKING": "presets",
    "ChatSession": "chat.session",
    "DenseFeatures": "dense_features",
    "NeuronSpec": "configuration_sen",
    "SENChatConfig": "configuration_sen_chat",
    "SENChatProcessor": "processing_sen_chat",
    "SENConfig": "configuration_sen",
    "SENEditAdapter": "editing.edit_adapter",
    "SENEditingConfig": "modeling_sen_editing",
    "SENEditingOutput": "editing.editing_output",
    "SENEncoder": "encoding",
    "SENForConditionalGeneration": "modeling_sen_chat",
    "SENForVideoEditing": "modeling_sen_editing",
    "SENForVideoTracking": "modeling_sen_tracking",
    "SENModel": "modeling_sen",
    "SENOutput": "sen_outputs",
    "SENPreTrainedModel": "pretrained_sen",
    "SENProcessor": "processing_sen",
    "SENTrackingConfig": "modeling_sen_tracking",
    "SENTrackingOutput": "tracking.tracking_output",
    "SENVideoEditingPipeline": "pipelines.sen_video_editing",
    "VideoChatPipeline": "pipelines.video_chat",
    "VideoEditingPipeline": "pipelines.video_editing",
    "VideoEditingOutput": "pipelines.sen_video_editing",
    "VideoTrackingPipeline": "pipelines.video_tracking",
    "ZeroShotVideoClassificationPipeline": "pipelines.zero_shot_video_classification",
    "clip_grid": "neuron_registry",
    "image_grid": "neuron_registry",
    "list_neurons": "neuron_registry",
    "list_presets": "presets",
    "lists_neuron_inputs": "pretrained_sen",
    "read_audio": "audio_io",
    "read_video": "video_io",
    "register_checkpoint": "neuron_registry",
    "register_neuron": "neuron_registry",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


def _is_command() -> bool:
    """Whether the program is `sen` or `python -m modeling_sen`, whose verbs name the classes that they load."""
    programs = (sys.modules.get(name) for name in ("sen_cli", "__main__"))
    is_module = sys.argv[:1] == ["-m"] and "modeling_sen" in sys.orig_argv  # it is imported before it runs
    return is_module or any(getattr(program, "is_program", False) for program in programs)


if not _is_command():  # so that a command's help does not wait seconds for the model stack
    from modeling_sen.auto import register

    register()
