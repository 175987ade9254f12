"""The generated world: short clips with sound and complete ground truth (`make_scene`, `render`, `sound_of`)."""

from modeling_sen.world.chat_questions import ChatQuestion, chat_questions
from modeling_sen.world.dataset import WORLD_PRESETS, WorldClips
from modeling_sen.world.drawing import Clip, render
from modeling_sen.world.edits import EDITED_ATTRIBUTES, Edit, edit, edit_attribute
from modeling_sen.world.scene import Background, Scene, Sprite, make_scene, positions
from modeling_sen.world.sound import SAMPLING_RATE, sound_of
from modeling_sen.world.tracking_clips import TrackingClip, tracking_clip
from modeling_sen.world.tracking_scene import TRACKING_PRESETS
from modeling_sen.world.tracks import tracks
from modeling_sen.world.truth import (
    Question,
    association_question,
    attribute_caption,
    caption,
    legend,
    objects,
    questions,
)
from modeling_sen.world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SIZES,
    SPLITS,
    all_descriptions,
    describe,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "EDITED_ATTRIBUTES",
    "HELD_OUT_PAIRS",
    "MOTIONS",
    "PITCHES",
    "SAMPLING_RATE",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TRACKING_PRESETS",
    "WORLD_PRESETS",
    "Background",
    "ChatQuestion",
    "Clip",
    "Edit",
    "Question",
    "Scene",
    "Sprite",
    "TrackingClip",
    "WorldClips",
    "all_descriptions",
    "association_question",
    "attribute_caption",
    "caption",
    "chat_questions",
    "describe",
    "edit",
    "edit_attribute",
    "legend",
    "make_scene",
    "objects",
    "positions",
    "questions",
    "render",
    "sound_of",
    "tracking_clip",
    "tracks",
]
