"""Tiny random towers, saved as the Hub has them: whole checkpoints with their processors' files."""

import json
from pathlib import Path

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    SiglipConfig,
    SiglipModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    XCLIPConfig,
    XCLIPModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

LAYERS = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
VISION = {**LAYERS, "image_size": 16, "patch_size": 8}
TEXT = {
    **LAYERS,
    "vocab_size": 600,
    "max_position_embeddings": 32,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level CLIP tokenizer without merges: any text has tokens."""
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
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12, logit_scale_init_value=2.0))
    siglip = SiglipModel(SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=VISION))
    x_clip_vision = {**VISION, "num_frames": 4, "mit_hidden_size": 16, "mit_intermediate_size": 32}
    x_clip_vision |= {"mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}
    x_clip = XCLIPModel(
        XCLIPConfig(text_config=TEXT, vision_config=x_clip_vision, projection_dim=12, prompt_num_attention_heads=2)
    )
    videomae = VideoMAEModel(VideoMAEConfig(**VISION, num_frames=4, tubelet_size=2, use_mean_pooling=False))
    ast = ASTModel(
        ASTConfig(**LAYERS, patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=16)
    )
    bert = BertModel(BertConfig(**LAYERS, vocab_size=40, max_position_embeddings=32))
    depth = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=Dinov2Config(
                **VISION, out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False
            ),
            reassemble_hidden_size=16,
            neck_hidden_sizes=[4, 8, 12, 16],
            fusion_hidden_size=4,
            patch_size=8,
        )
    )
    timesformer = TimesformerModel(TimesformerConfig(**VISION, num_frames=4))
    models = {
        "clip": clip,
        "siglip": siglip,
        "xclip": x_clip,
        "videomae": videomae,
        "ast": ast,
        "bert": bert,
        "depth_anything": depth,
        "timesformer": timesformer,
    }
    paths = {}
    for name, model in models.items():
        for parameter in model.parameters():  # as usually initialised, hardly a token would hear of another
            torch.nn.init.normal_(parameter, std=0.25)
        if name in ("clip", "siglip"):
            model.logit_scale.data.fill_(2.0)
        path = folder / name
        model.save_pretrained(path)
        paths[name] = str(path)
        if name in ("clip", "siglip", "xclip"):
            clip_tokenizer().save_pretrained(path)
        if name not in ("ast", "bert"):
            _image_processor("CLIPImageProcessor" if name != "videomae" else "VideoMAEImageProcessor", 16, path)
    ASTFeatureExtractor(num_mel_bins=16, max_length=64).save_pretrained(paths["ast"])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "barks", "man", "speaks"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(paths["bert"])
    return paths
