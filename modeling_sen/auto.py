# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Make SEN known to the Auto classes and to `pipeline`; runs once, when `modeling_sen` is imported."""

from functools import cache

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.configuration_sen_chat import SENChatConfig
from modeling_sen.families import register as register_families
from modeling_sen.modeling_sen import SENModel
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.modeling_sen_editing import SENEditingConfig, SENForVideoEditing
from modeling_sen.modeling_sen_tracking import SENForVideoTracking, SENTrackingConfig
from modeling_sen.pipelines.video_chat import VideoChatPipeline
from modeling_sen.pipelines.video_editing import VideoEditingPipeline
from modeling_sen.pipelines.video_tracking import VideoTrackingPipeline
from modeling_sen.pipelines.zero_shot_video_classification import ZeroShotVideoClassificationPipeline
from modeling_sen.presets import SEN_TINY, SEN_TINY_CHAT, SEN_TINY_EDITING, SEN_TINY_TRACKING
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.processing_sen_chat import SENChatProcessor


@cache  # Transformers warns of a task that is registered again
def register() -> None:
    """Registers configuration, model, processor and pipeline tasks with Transformers."""
    AutoConfig.register(SENConfig.model_type, SENConfig, exist_ok=True)
    AutoModel.register(SENConfig, SENModel, exist_ok=True)
    AutoConfig.register(SENTrackingConfig.model_type, SENTrackingConfig, exist_ok=True)
    AutoModel.register(SENTrackingConfig, SENForVideoTracking, exist_ok=True)
    AutoConfig.register(SENEditingConfig.model_type, SENEditingConfig, exist_ok=True)
    AutoModel.register(SENEditingConfig, SENForVideoEditing, exist_ok=True)
    AutoConfig.register(SENChatConfig.model_type, SENChatConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText):
        auto_class.register(SENChatConfig, SENForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(SENConfig, SENProcessor, exist_ok=True)
    AutoProcessor.register(SENChatConfig, SENChatProcessor, exist_ok=True)
    register_families()
    for task, pipeline_class, folder, kind in (
        ("zero-shot-video-classification", ZeroShotVideoClassificationPipeline, SEN_TINY, "multimodal"),
        ("video-tracking", VideoTrackingPipeline, SEN_TINY_TRACKING, "video"),
        ("video-chat", VideoChatPipeline, SEN_TINY_CHAT, "multimodal"),
        ("video-editing", VideoEditingPipeline, SEN_TINY_EDITING, "video"),
    ):
        default = {"model": (folder, None)}
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=pipeline_class, pt_model=AutoModel, default=default, type=kind
        )


__all__ = ["register"]
