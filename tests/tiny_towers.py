"""Tiny random towers, saved in the Hub's layout: complete checkpoints with the files of their processors."""

import copy
import json
from pathlib import Path

import torch
import transformers
from tower_table import CHECKPOINTS
from transformers import (
    ASTFeatureExtractor,
    BertTokenizer,
    ClapFeatureExtractor,
    CLIPTokenizer,
    PeAudioFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from modeling_sen.families.imagebind import ImageBindProcessor
from modeling_sen.hub_files import family_classes

BIND = ("languagebind_image", "languagebind_video", "languagebind_audio", "languagebind_depth", "languagebind_thermal")
WITH_CLIP_WORDS = ("clip", "metaclip_2", "siglip", "siglip2", "xclip", "videoprism", *BIND)
WITH_BERT_WORDS = ("bert", "modernbert", "clap")
FEATURE_EXTRACTORS = {
    "ast": ASTFeatureExtractor(num_mel_bins=16, max_length=64),
    "whisper": WhisperFeatureExtractor(feature_size=8, chunk_length=1),
    "wav2vec2": Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "hubert": Wav2Vec2FeatureExtractor(),
    "wavlm": Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "pe_audio": PeAudioFeatureExtractor(sampling_rate=16000, hop_length=80),
    "clap": ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="fusion"),
}


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level CLIP tokenizer without merges: every text can be tokenized."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def _image_processor(kind: str, size: int, folder: Path) -> None:
    settings = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def make_towers(folder: Path) -> dict[str, str]:
    """Saves one random checkpoint for each family; returns family -> folder."""
    paths = {}
    for name, (class_name, settings) in CHECKPOINTS.items():
        torch.manual_seed(1)  # per tower, so that a new tower does not change the others
        model_class = getattr(transformers, class_name, None) or family_classes()[class_name]
        model = model_class(model_class.config_class(**copy.deepcopy(settings)))
        for parameter in model.parameters():  # with the usual initialisation tokens would hardly affect each other
            torch.nn.init.normal_(parameter, std=0.25)
        if name in ("clip", "siglip"):
            model.logit_scale.data.fill_(2.0)
        path = folder / name
        model.save_pretrained(path)
        paths[name] = str(path)
        if name in WITH_CLIP_WORDS:
            clip_tokenizer().save_pretrained(path)
        if name in WITH_BERT_WORDS:
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "barks", "man", "speaks"]
            BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(path)
        if name == "imagebind":
            processor = ImageBindProcessor.for_config(model.config)
            processor.tokenizer = clip_tokenizer()
            processor.save_pretrained(path)
        elif name in FEATURE_EXTRACTORS:
            FEATURE_EXTRACTORS[name].save_pretrained(path)
        elif name not in (*WITH_BERT_WORDS, *BIND):
            _image_processor("CLIPImageProcessor" if name != "videomae" else "VideoMAEImageProcessor", 16, path)
    return paths
