"""Checkpoints as the Hub has them, at full size with random weights: layout, widths and preprocessing, without a network.

Each entry is the class that the Hub's file was saved from (whole dual encoders, heads, encoder-decoders), the arguments of
its configuration, and the files that say how it is fed. Tokenizers are stand-ins: any text has tokens, of no meaning.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertTokenizer, CLIPTokenizer, PreTrainedConfig, PreTrainedModel, RobertaTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from modeling_sen.families.imagebind import ImageBindConfig, ImageBindProcessor
from modeling_sen.hub_files import family_classes

_HALF = [0.5, 0.5, 0.5]
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_PLAIN = {"image_mean": _HALF, "image_std": _HALF}


def _frames(
    kind: str, size: int, colours: dict[str, Any], crop: int | None = None, resample: int = 3
) -> dict[str, Any]:
    """An image or video processor's settings: the shorter side and a centre crop, or a square."""
    return {
        "video_processor_type"
        if "Video" in kind and kind != "VideoMAEImageProcessor"
        else "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": size, "width": size} if crop is None else {"shortest_edge": size},
        "do_center_crop": crop is not None,
        **({} if crop is None else {"crop_size": {"height": crop, "width": crop}}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "resample": resample,
        **colours,
    }


def _sound(kind: str, **settings: Any) -> dict[str, Any]:
    return {"feature_extractor_type": kind, "feature_size": 1, "sampling_rate": 16_000, **settings}


_CLIP_FRAMES = _frames("CLIPImageProcessor", 224, _CLIP, crop=224)
_VIDEOMAE_FRAMES = _frames("VideoMAEImageProcessor", 224, _IMAGENET, crop=224, resample=2)
_WAVES = _sound("Wav2Vec2FeatureExtractor", do_normalize=True, return_attention_mask=False, padding_value=0.0)
_CLIP_TEXT = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}  # as the first checkpoints say, which are still in use
_SIGLIP2_TEXT = {"vocab_size": 256_000}
_DINOV2_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
_WIDTH_768 = {
    **{f"{part}_layers": 12 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 12 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 3072 for part in ("encoder", "decoder")},
}
_WIDTH_384 = {
    **{f"{part}_layers": 4 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 6 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 1536 for part in ("encoder", "decoder")},
}
_PE_FRAMES = {
    "model_type": "timm_wrapper",
    "architecture": "vit_pe_core_large_patch14_336",
    "num_labels": 1024,
    "do_pooling": True,
    "initializer_range": 0.02,
}


# Of OpenCLIP's ViT-L/14, from which all towers of LanguageBind began.
_LANGUAGEBIND_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "gelu",
}


@dataclass(frozen=True)
class HubCheckpoint:
    """What a repository of the Hub holds.

    Attributes:
        class_name: the class of Transformers, or of the package, that was saved.
        config: arguments of its configuration.
        preprocessor, video_preprocessor: contents of `preprocessor_config.json` and `video_preprocessor_config.json`.
        tokenizer: key of `TOKENIZERS`.
    """

    class_name: str
    config: dict[str, Any]
    preprocessor: dict[str, Any] | None = None
    video_preprocessor: dict[str, Any] | None = None
    tokenizer: str | None = None


CHECKPOINTS: dict[str, HubCheckpoint] = {
    "openai/clip-vit-base-patch16": HubCheckpoint(
        "CLIPModel",
        {"vision_config": {"patch_size": 16}, "text_config": _CLIP_TEXT},
        _CLIP_FRAMES,
        tokenizer="clip",
    ),
    "openai/clip-vit-base-patch32": HubCheckpoint(
        "CLIPModel", {"text_config": _CLIP_TEXT}, _CLIP_FRAMES, tokenizer="clip"
    ),
    "facebook/metaclip-2-worldwide-b16": HubCheckpoint(
        "MetaClip2Model",
        # With CLIP's vocabulary: its own has 901,629 entries, a table that no layer's time depends on.
        {"vision_config": {"patch_size": 16}},
        _CLIP_FRAMES,
        tokenizer="clip",
    ),
    # Of fixed size: the first SigLIP's class with a larger vocabulary.
    "google/siglip2-base-patch16-224": HubCheckpoint(
        "SiglipModel",
        {"text_config": _SIGLIP2_TEXT},
        _frames("SiglipImageProcessor", 224, _PLAIN, resample=2),
        tokenizer="clip",
    ),
    "google/siglip2-base-patch16-naflex": HubCheckpoint(
        "Siglip2Model",
        {"text_config": _SIGLIP2_TEXT, "vision_config": {"num_patches": 256}},
        {
            "image_processor_type": "Siglip2ImageProcessor",
            "do_resize": True,
            "max_num_patches": 256,
            "patch_size": 16,
            "resample": 2,
            **_PLAIN,
        },
        tokenizer="clip",
    ),
    "facebook/dinov2-base": HubCheckpoint(
        "Dinov2Model",
        {"image_size": 518, "patch_size": 14},
        _frames("BitImageProcessor", 256, _IMAGENET, crop=224),
    ),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": HubCheckpoint(
        "DINOv3ViTModel",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_register_tokens": 4},
        _frames("DINOv3ViTImageProcessorFast", 224, _IMAGENET, resample=2),
    ),
    "depth-anything/Depth-Anything-V2-Small-hf": HubCheckpoint(
        "DepthAnythingForDepthEstimation",
        {
            "backbone_config": {
                **_DINOV2_SMALL,
                "model_type": "dinov2",
                "out_features": ["stage3", "stage6", "stage9", "stage12"],
                "reshape_hidden_states": False,
            },
            "reassemble_hidden_size": 384,
            "neck_hidden_sizes": [48, 96, 192, 384],
            "fusion_hidden_size": 64,
        },
        _frames("DPTImageProcessor", 518, _IMAGENET),
    ),
    "microsoft/xclip-base-patch16": HubCheckpoint(
        "XCLIPModel",
        {"vision_config": {"patch_size": 16}, "text_config": _CLIP_TEXT},
        _frames("VideoMAEImageProcessor", 224, _IMAGENET, crop=224, resample=2),
        tokenizer="clip",
    ),
    "MCG-NJU/videomae-base": HubCheckpoint("VideoMAEForPreTraining", {"use_mean_pooling": False}, _VIDEOMAE_FRAMES),
    "MCG-NJU/videomae-small-finetuned-kinetics": HubCheckpoint(
        "VideoMAEForVideoClassification",
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 400},
        _VIDEOMAE_FRAMES,
    ),
    "google/vivit-b-16x2-kinetics400": HubCheckpoint(
        "VivitForVideoClassification",
        {"num_labels": 400},
        _frames("VivitImageProcessor", 256, _PLAIN, crop=224, resample=2)
        | {"offset": True, "rescale_factor": 1 / 127.5},
    ),
    "facebook/vjepa2-vitl-fpc64-256": HubCheckpoint(
        "VJEPA2Model",
        {},
        video_preprocessor=_frames("VJEPA2VideoProcessor", 292, _IMAGENET, crop=256, resample=2),
    ),
    "google/videoprism-base-f16r288": HubCheckpoint(
        "VideoPrismVisionModel",
        {},
        video_preprocessor=_frames("VideoPrismVideoProcessor", 288, {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}),
    ),
    "facebook/timesformer-base-finetuned-k400": HubCheckpoint(
        "TimesformerForVideoClassification",
        {"num_labels": 400},
        _frames(
            "VideoMAEImageProcessor", 224, {"image_mean": [0.45] * 3, "image_std": [0.225] * 3}, crop=224, resample=2
        ),
    ),
    "MIT/ast-finetuned-audioset-10-10-0.4593": HubCheckpoint(
        "ASTForAudioClassification",
        {"num_labels": 527},
        _sound("ASTFeatureExtractor", num_mel_bins=128, max_length=1024, mean=-4.2677393, std=4.5689974),
    ),
    "openai/whisper-small": HubCheckpoint(
        "WhisperForConditionalGeneration",
        {"d_model": 768, **_WIDTH_768},
        _sound("WhisperFeatureExtractor", feature_size=80, chunk_length=30),
    ),
    "openai/whisper-tiny": HubCheckpoint(
        "WhisperForConditionalGeneration",
        {"d_model": 384, **_WIDTH_384},
        _sound("WhisperFeatureExtractor", feature_size=80, chunk_length=30),
    ),
    "facebook/wav2vec2-base-960h": HubCheckpoint("Wav2Vec2ForCTC", {}, _WAVES),
    "facebook/hubert-base-ls960": HubCheckpoint("HubertModel", {}, _WAVES),
    "microsoft/wavlm-base-plus": HubCheckpoint("WavLMModel", {}, _WAVES),
    "laion/clap-htsat-unfused": HubCheckpoint(
        "ClapModel",
        {},
        _sound("ClapFeatureExtractor", feature_size=64, truncation="rand_trunc", padding="repeatpad", max_length_s=10)
        | {"sampling_rate": 48_000, "frequency_min": 50, "frequency_max": 14_000},
        tokenizer="roberta",
    ),
    "facebook/pe-av-large": HubCheckpoint(
        "PeAudioVideoModel",
        {"audio_video_config": {"video_config": {"model_type": "pe_video_encoder", "vision_config": _PE_FRAMES}}},
        _sound("PeAudioFeatureExtractor", hop_length=1920) | {"sampling_rate": 48_000},
        _frames("PeVideoVideoProcessor", 336, _PLAIN, resample=2),
        tokenizer="bert",
    ),
    **{
        f"LanguageBind/LanguageBind_{name}": HubCheckpoint(
            f"LanguageBind{name.removesuffix('_FT')}", {"text_config": _LANGUAGEBIND_TEXT}, tokenizer="clip"
        )
        for name in ("Image", "Video_FT", "Audio_FT", "Depth", "Thermal")
    },
    "imagebind_huge": HubCheckpoint("ImageBindModel", {}, tokenizer="clip"),  # as converted; not on the Hub
    "google-bert/bert-base-uncased": HubCheckpoint("BertForMaskedLM", {}, tokenizer="bert"),
    "answerdotai/ModernBERT-base": HubCheckpoint("ModernBertForMaskedLM", {}, tokenizer="bert"),
}


def _clip_tokenizer() -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=64)


def _roberta_tokenizer() -> RobertaTokenizer:
    words = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values(), "<mask>"]
    return RobertaTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=512)


def _bert_tokenizer() -> BertTokenizer:
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=512)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "clip": _clip_tokenizer,
    "roberta": _roberta_tokenizer,
    "bert": _bert_tokenizer,
}


def local_name(hub_id: str) -> str:
    """The folder's name of a repository."""
    return hub_id.replace("/", "--")


def save_configuration(hub_id: str, folder: Path) -> Path:
    """Writes all but the weights to `folder/OWNER--NAME`; returns that."""
    checkpoint, target = CHECKPOINTS[hub_id], folder / local_name(hub_id)
    config: Any = _configuration(checkpoint)
    config.save_pretrained(target)
    if isinstance(config, ImageBindConfig):
        ImageBindProcessor.for_config(config).save_pretrained(target)
    for name, settings in (
        ("preprocessor_config.json", checkpoint.preprocessor),
        ("video_preprocessor_config.json", checkpoint.video_preprocessor),
    ):
        if settings is not None:
            (target / name).write_text(json.dumps(settings, indent=2))
    if checkpoint.tokenizer is not None:
        TOKENIZERS[checkpoint.tokenizer]().save_pretrained(target)
    return target


def save_checkpoint(hub_id: str, folder: Path) -> Path:
    """Writes the whole checkpoint with random weights, float32, to `folder/OWNER--NAME`; returns that."""
    target, checkpoint = save_configuration(hub_id, folder), CHECKPOINTS[hub_id]
    torch.manual_seed(0)
    model: PreTrainedModel = _class_of(checkpoint)(_configuration(checkpoint))
    model.save_pretrained(target)
    return target


def _class_of(checkpoint: HubCheckpoint) -> Any:
    return getattr(transformers, checkpoint.class_name, None) or family_classes()[checkpoint.class_name]


def _configuration(checkpoint: HubCheckpoint) -> PreTrainedConfig:
    config = _class_of(checkpoint).config_class(**copy.deepcopy(checkpoint.config))
    config.architectures = [checkpoint.class_name]
    return config
