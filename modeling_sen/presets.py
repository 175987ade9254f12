# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Presets: combinations of neurons by hub id, with parameters and memory measured by `benchmarks/preset_cost.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEN_TINY = str(Path(__file__).with_name("sen_tiny"))
SEN_TINY_TRACKING = str(Path(SEN_TINY, "tracking"))
SEN_TINY_CHAT = str(Path(SEN_TINY, "chat"))
SEN_TINY_EDITING = str(Path(SEN_TINY, "editing"))


def resolve_checkpoint(model: str, sen_tiny: str = SEN_TINY) -> str:
    """The folder `sen_tiny` for the model name `"sen-tiny"`; other names are returned unchanged."""
    return sen_tiny if model == "sen-tiny" else model


@dataclass(frozen=True)
class SENPreset:
    """A combination of neurons, with its parameters and memory at full size in float32.

    Attributes:
        description: one line.
        neurons, text_tower, settings: fields of [`SENConfig`].
        parameters: number of parameters of each neuron's tower and projection, and of the text tower, by name, and of the
            trainable `"association"`.
        peak_memory: peak main memory in bytes to load the model and run one clip through three rounds. Weights are
            memory-mapped, so that only the used rows of a large vocabulary's embedding are counted.
        extra: extra of the package that the neurons need.
        conversion: command that makes the checkpoint, if the weights are not on the Hub; `hub_id` is then the name of the
            original.
    """

    description: str
    neurons: list[dict[str, Any]]
    text_tower: dict[str, Any]
    settings: dict[str, Any]
    parameters: dict[str, int]
    peak_memory: int
    extra: str | None = None
    conversion: str | None = None

    @property
    def licences(self) -> dict[str, str | None]:
        """Hub id -> licence of each checkpoint; `None` if its page states none, or none is recorded in `LICENCES`."""
        return {part["hub_id"]: LICENCES.get(part["hub_id"]) for part in [*self.neurons, self.text_tower]}

    @property
    def weight_memory(self) -> int:
        """Size of all weights in float32, in bytes."""
        return 4 * sum(self.parameters.values())


# Licences of weights: as the page of each checkpoint on the Hub states them; of ImageBind and LanguageBind, as their
# repositories do. The page of OpenAI's CLIP states none.
LICENCES = {
    "microsoft/xclip-base-patch16": "mit",
    "MCG-NJU/videomae-base": "cc-by-nc-4.0",
    "MCG-NJU/videomae-small-finetuned-kinetics": "cc-by-nc-4.0",
    "MIT/ast-finetuned-audioset-10-10-0.4593": "bsd-3-clause",
    "openai/whisper-small": "apache-2.0",
    "openai/whisper-tiny": "apache-2.0",
    "imagebind_huge": "cc-by-nc-sa-4.0",
    **{f"LanguageBind/LanguageBind_{part}": "mit" for part in ("Image", "Video_FT", "Audio_FT", "Depth", "Thermal")},
}

_CLIP_IMAGE = {
    "name": "image",
    "modality": "image",
    "hub_id": "openai/clip-vit-base-patch16",
    "class_name": "CLIPVisionModelWithProjection",
    "submodule": "vision_model",
    "projection": "visual_projection",
    "hidden_size": 768,
    "num_frames": 8,
    "aligned": True,
}
_CLIP_TEXT = {
    "name": "class_text",
    "modality": "text",
    "hub_id": "openai/clip-vit-base-patch16",
    "class_name": "CLIPTextModelWithProjection",
    "submodule": "text_model",
    "projection": "text_projection",
    "hidden_size": 512,
    "aligned": True,
}
# SigLIP 2 with a fixed frame size uses the classes of SigLIP.
_SIGLIP2_IMAGE = {
    "name": "image",
    "modality": "image",
    "hub_id": "google/siglip2-base-patch16-224",
    "class_name": "SiglipVisionModel",
    "hidden_size": 768,
    "num_frames": 8,
    "aligned": True,
}
_SIGLIP2_TEXT = {
    "name": "class_text",
    "modality": "text",
    "hub_id": "google/siglip2-base-patch16-224",
    "class_name": "SiglipTextModel",
    "hidden_size": 768,
    "aligned": True,
}
_XCLIP = {
    "name": "video",
    "modality": "video",
    "hub_id": "microsoft/xclip-base-patch16",
    "class_name": "XCLIPVisionModel",
    "key_mapping": {r"^vision_model\.": ""},
    "hidden_size": 768,
    "num_frames": 8,
    "prompt": "tokens",  # its layers mix frames by a message token per frame, which a pass of prompts cannot compute
}
_VIDEOMAE = {
    "name": "video",
    "modality": "video",
    "hub_id": "MCG-NJU/videomae-base",
    "class_name": "VideoMAEModel",
    "hidden_size": 768,
    "num_frames": 16,
}
# V-JEPA 2 was trained on 64 frames, which are 8,192 tokens; its rotary positions allow fewer frames.
_VJEPA2 = {
    "name": "video",
    "modality": "video",
    "hub_id": "facebook/vjepa2-vitl-fpc64-256",
    "class_name": "VJEPA2Model",
    "hidden_size": 1024,
    "num_frames": 16,
}
_AST = {
    "name": "audio",
    "modality": "audio",
    "hub_id": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "class_name": "ASTModel",
    "hidden_size": 768,
}
_WHISPER = {
    "name": "audio",
    "modality": "audio",
    "hub_id": "openai/whisper-small",
    "class_name": "models.whisper.modeling_whisper.WhisperEncoder",
    "key_mapping": {r"^(model\.)?encoder\.": ""},
    "hidden_size": 768,
}
# Both towers come from one checkpoint. Its text heads are not used, because there is one per pair of modalities, and a text
# tower has one embedding.
_PE_VIDEO = {
    "name": "video",
    "modality": "video",
    "hub_id": "facebook/pe-av-large",
    "class_name": "PeVideoEncoder",
    "key_mapping": {r"^video_model\.video_encoder\.": ""},
    "hidden_size": 1792,
    "num_frames": 16,
}
_PE_AUDIO = {
    "name": "audio",
    "modality": "audio",
    "hub_id": "facebook/pe-av-large",
    "class_name": "PeAudioEncoder",
    "key_mapping": {r"^audio_model\.audio_encoder\.": ""},
    "hidden_size": 1792,
}


def _imagebind(name: str, modality: str, part: str, hidden_size: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "modality": modality,
        "hub_id": "imagebind_huge",
        "class_name": f"ImageBind{part.title()}ModelWithProjection",
        "submodule": f"{part}_model",
        "projection": f"{part}_projection",
        "hidden_size": hidden_size,
        "aligned": True,
        **more,
    }


# Disparity has its own mean and standard deviation; thermal images are not normalised.
_DISPARITY = {"gray": True, "mean": [0.0418] * 3, "std": [0.0295] * 3}
_HEAT = {"gray": True, "mean": [0.0] * 3, "std": [1.0] * 3}


def _languagebind(name: str, checkpoint: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "modality": name,
        "hub_id": f"LanguageBind/LanguageBind_{checkpoint}",
        "class_name": f"LanguageBind{checkpoint.removesuffix('_FT')}",
        "submodule": "vision_model",
        "projection": "visual_projection",
        "hidden_size": 1024,
        "aligned": True,
        **more,
    }


# All LanguageBind towers share one text tower, which was frozen in their training.
_LANGUAGEBIND_TEXT = {**_CLIP_TEXT, "hub_id": "LanguageBind/LanguageBind_Image", "hidden_size": 768}

PRESETS: dict[str, SENPreset] = {
    "small": SENPreset(
        "for a laptop: CLIP B/32 frames (aligned) + VideoMAE-small motion + Whisper-tiny sound",
        [
            {**_CLIP_IMAGE, "hub_id": "openai/clip-vit-base-patch32"},
            {**_VIDEOMAE, "hub_id": "MCG-NJU/videomae-small-finetuned-kinetics", "hidden_size": 384},
            {**_WHISPER, "hub_id": "openai/whisper-tiny", "hidden_size": 384},
        ],
        {**_CLIP_TEXT, "hub_id": "openai/clip-vit-base-patch32"},
        {"projection_dim": 512},
        parameters={
            "image": 87_849_216,
            "video": 21_879_168,
            "audio": 8_208_384,
            "class_text": 63_428_096,
            "association": 3_475_286,
        },
        peak_memory=1_207_160_832,
    ),
    "clip-xclip-ast": SENPreset(
        "CLIP frames (aligned) + X-CLIP video tower + AST sound",
        [_CLIP_IMAGE, _XCLIP, _AST],
        _CLIP_TEXT,
        {"projection_dim": 512},
        parameters={
            "image": 86_192_640,
            "video": 121_253_376,
            "audio": 86_187_264,
            "class_text": 63_428_096,
            "association": 4_952_918,
        },
        peak_memory=2_055_196_672,
    ),
    "clip-videomae-ast": SENPreset(
        "CLIP frames (aligned) + VideoMAE motion + AST sound",
        [_CLIP_IMAGE, _VIDEOMAE, _AST],
        _CLIP_TEXT,
        {"projection_dim": 512},
        parameters={
            "image": 86_192_640,
            "video": 86_227_200,
            "audio": 86_187_264,
            "class_text": 63_428_096,
            "association": 4_955_222,
        },
        peak_memory=1_863_270_400,
    ),
    "siglip2-videomae-ast": SENPreset(
        "SigLIP 2 frames (aligned) + VideoMAE motion + AST sound",
        [_SIGLIP2_IMAGE, _VIDEOMAE, _AST],
        _SIGLIP2_TEXT,
        {"projection_dim": 768},
        parameters={
            "image": 92_884_224,
            "video": 86_227_200,
            "audio": 86_187_264,
            "class_text": 282_303_744,
            "association": 5_021_014,
        },
        peak_memory=2_120_089_600,
    ),
    "siglip2-vjepa2-whisper": SENPreset(
        "SigLIP 2 frames (aligned) + V-JEPA 2, the specialist of motion + Whisper, that of speech",
        [_SIGLIP2_IMAGE, _VJEPA2, _WHISPER],
        _SIGLIP2_TEXT,
        {"projection_dim": 768},
        parameters={
            "image": 92_884_224,
            "video": 325_971_328,
            "audio": 88_154_112,
            "class_text": 282_303_744,
            "association": 5_514_326,
        },
        peak_memory=3_084_496_896,
    ),
    "pe-av": SENPreset(
        "SigLIP 2 frames (aligned) + the video and audio towers of PE-AV, trained with each other",
        [_SIGLIP2_IMAGE, _PE_VIDEO, _PE_AUDIO],
        _SIGLIP2_TEXT,
        {"projection_dim": 768},
        parameters={
            "image": 92_884_224,
            "video": 576_615_680,
            "audio": 282_057_664,
            "class_text": 282_303_744,
            "association": 8_967_510,
        },
        peak_memory=4_817_813_504,
        extra="pe",
    ),
    "imagebind": SENPreset(
        "ImageBind's towers of video, sound, depth, heat and motion sensors, all aligned; not for commercial use",
        [
            _imagebind("video", "video", "vision", 1280, num_frames=8),
            _imagebind("audio", "audio", "audio", 768),
            _imagebind("depth", "depth", "depth", 384, num_frames=4, preprocessing=_DISPARITY),
            _imagebind("thermal", "thermal", "thermal", 768, num_frames=4, preprocessing=_HEAT),
            _imagebind("imu", "imu", "imu", 512),
        ],
        _imagebind("class_text", "text", "text", 1024),
        {"projection_dim": 1024},
        parameters={
            "video": 632_829_440,
            "audio": 86_235_648,
            "depth": 21_871_872,
            "thermal": 86_211_072,
            "imu": 19_600_384,
            "class_text": 354_032_640,
            "association": 8_012_046,
        },
        peak_memory=4_797_173_760,
        conversion="sen convert imagebind imagebind_huge.pth FOLDER --tokenizer openai/clip-vit-base-patch32",
    ),
    "languagebind": SENPreset(
        "LanguageBind's towers of frames, video, sound, depth and heat, all aligned",
        [
            _languagebind("image", "Image", num_frames=8),
            _languagebind("video", "Video_FT", num_frames=8, sampling="linspace"),
            _languagebind("audio", "Audio_FT"),
            _languagebind("depth", "Depth", num_frames=4),
            _languagebind("thermal", "Thermal", num_frames=4),
        ],
        _LANGUAGEBIND_TEXT,
        {"projection_dim": 768},
        parameters={
            "image": 303_966_208,
            "video": 404_973_568,
            "audio": 304_310_272,
            "depth": 303_966_208,
            "thermal": 303_966_208,
            "class_text": 123_650_304,
            "association": 10_659_470,
        },
        peak_memory=7_886_819_328,
    ),
}


def list_presets() -> dict[str, str]:
    """Name -> description of all presets."""
    return {name: preset.description for name, preset in PRESETS.items()}


__all__ = ["LICENCES", "PRESETS", "SEN_TINY", "SENPreset", "list_presets", "resolve_checkpoint"]
