"""sen-tiny's towers: stock Transformers classes at a small size, and the losses that train them together.

Each tower learns by contrast to place a clip near the texts that are true of it, and to name the object under each of
its patches through linear heads that are thrown away afterwards: RA and dense heads need tokens that stay local.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEModel,
)

from modeling_sen.whole_file import replaced_folder
from recipes.sen_tiny import tiny_batches as batches
from recipes.sen_tiny.tiny_captions import MAX_LENGTH

EMBEDDING = 128  # width of the text space
PICTURE_MEAN, PICTURE_STD = 0.48, 0.31  # of the world's colour and grey frames, in 0..1
DEPTH_MEAN, DEPTH_STD = 0.14, 0.16
NAMES = 9  # the background and eight values of an attribute
# Nine patches in ten show background; without this its loss would be most of the dense loss.
BACKGROUND_WEIGHT = 0.1


class TinyTowers(nn.Module):
    """Text, image, video, audio and depth tower with one text space. Called on a batch of `TinyBatches` it returns
    the losses, "loss" being the one to minimise."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                projection_dim=EMBEDDING,
                max_position_embeddings=MAX_LENGTH,
                hidden_act="gelu",
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.image = CLIPVisionModelWithProjection(picture_config(width=128, layers=4, heads=4))
        self.depth = CLIPVisionModelWithProjection(picture_config(width=96, layers=3, heads=3))
        self.video = VideoMAEModel(
            VideoMAEConfig(
                image_size=64,
                patch_size=batches.PATCH,
                num_frames=batches.NUM_FRAMES,
                tubelet_size=batches.TUBELET,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
            )
        )
        self.audio = ASTModel(
            ASTConfig(
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=3,
                num_mel_bins=batches.NUM_MEL_BINS,
                max_length=batches.MAX_LENGTH,
                frequency_stride=16,
                time_stride=16,
            )
        )
        self.video_projection = nn.Linear(128, EMBEDDING, bias=False)
        self.audio_projection = nn.Linear(96, EMBEDDING, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))  # CLIP's: log(1 / 0.07)
        self.dense_heads = nn.ModuleDict(
            {
                "image_colour": nn.Linear(128, NAMES),
                "image_shape": nn.Linear(128, NAMES),
                "video_shape": nn.Linear(128, NAMES),
                "video_motion": nn.Linear(128, NAMES),
                "depth_shape": nn.Linear(96, NAMES),
            }
        )

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        embeddings, tokens = self.encode(batch)
        one, many = self.encode_text(batch["one_ids"]), self.encode_text(batch["many_ids"])
        half = len(batch["many_ids"])
        losses = {}
        for name, embedding in embeddings.items():
            losses[name] = self.contrast(embedding[:half], one, batch["one_truth"])
            losses[f"{name}_lists"] = self.contrast(embedding[half:], many, batch["many_truth"])
        for name, head in self.dense_heads.items():
            labels = batch[name]
            if "kept" in batch and name.startswith("video"):
                labels = labels[batch["kept"]].view(len(labels), -1)
            losses[name] = name_patches(head(tokens[name.partition("_")[0]]).float(), labels)
        weights = {name: batch["dense_weight"] if name in self.dense_heads else 1.0 for name in losses}
        return {"loss": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(), **losses}

    def encode(self, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Normalised embeddings (batch, 128) of each tower but the text's, and its patch tokens (batch, N, width)."""
        embeddings, tokens = {}, {}
        pictures = {
            "image": normalise(batch["image"].movedim(-1, 1), PICTURE_MEAN, PICTURE_STD),  # (batch, 3, H, W)
            "depth": normalise(as_colour(batch["depth"]), DEPTH_MEAN, DEPTH_STD),
        }
        for name, pixels in pictures.items():
            output = getattr(self, name)(pixels)
            embeddings[name] = F.normalize(output.image_embeds.float(), dim=-1)
            tokens[name] = output.last_hidden_state[:, 1:]
        masked = ~batch["kept"] if "kept" in batch else None
        grey = normalise(as_colour(batch["grey"]), PICTURE_MEAN, PICTURE_STD)  # (batch, frames, 3, H, W)
        tokens["video"] = self.video(grey, bool_masked_pos=masked).last_hidden_state
        embeddings["video"] = F.normalize(self.video_projection(tokens["video"].mean(1)).float(), dim=-1)
        pooled = self.audio(batch["log_mel"]).pooler_output
        embeddings["audio"] = F.normalize(self.audio_projection(pooled).float(), dim=-1)
        return embeddings, tokens

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Normalised embeddings (texts, 128). Needs no attention mask: causal attention ends at the first end token."""
        return F.normalize(self.text(ids).text_embeds.float(), dim=-1)

    def contrast(self, clips: torch.Tensor, texts: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Contrastive loss both ways. clips (n, 128), texts (n + extra, 128), truth (n, n + extra): all texts that are
        true of a clip share its probability equally."""
        with torch.autocast(clips.device.type, enabled=False):
            logits = self.logit_scale.exp().clamp(max=100.0) * clips @ texts.T
        truth = truth.float()
        own = truth[:, : len(clips)].T  # (texts of the clips, clips)
        to_text = -(truth / truth.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
        to_clip = -(own / own.sum(1, keepdim=True) * logits.T[: len(clips)].log_softmax(1)).sum(1).mean()
        return (to_text + to_clip) / 2


def picture_config(width: int, layers: int, heads: int, size: int = 64) -> CLIPVisionConfig:
    """Configuration of an image or depth tower."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=EMBEDDING,
        image_size=size,
        patch_size=batches.PATCH,
        hidden_act="gelu",
    )


def normalise(pixels: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """uint8 -> float32, as an image processor with the same mean and deviation in every channel does."""
    return (pixels.float() / 255.0 - mean) / std


def as_colour(pictures: torch.Tensor) -> torch.Tensor:
    """(..., H, W) -> (..., 3, H, W), three times the same."""
    return pictures.unsqueeze(-3).expand(*pictures.shape[:-2], 3, *pictures.shape[-2:])


def name_patches(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of (batch, N, 9) logits against (batch, N) labels, the background weighted down."""
    weight = torch.ones(NAMES, device=logits.device)
    weight[0] = BACKGROUND_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight, ignore_index=batches.IGNORED)


def export_towers(towers: TinyTowers, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes `folder`/{text,image,video,audio,depth}: each an ordinary checkpoint in float16 with its preprocessing.

    `text/logit_scale.safetensors` holds the learned `logit_scale` (a scalar, before the exponential);
    `video/` and `audio/projection.safetensors` hold `weight` (128, width) of the map from the pooled output (the mean
    of the video tower's tokens) into the text space: `pooled @ weight.T`.
    """
    save_tower(towers.text, folder / "text", {"logit_scale": {"logit_scale": towers.logit_scale}}, tokenizer)
    save_tower(towers.image, folder / "image", {}, picture_processor("CLIPImageProcessor", 64))
    save_tower(towers.depth, folder / "depth", {}, picture_processor("CLIPImageProcessor", 64, DEPTH_MEAN, DEPTH_STD))
    save_tower(
        towers.video,
        folder / "video",
        {"projection": {"weight": towers.video_projection.weight}},
        picture_processor("VideoMAEImageProcessor", 64),
    )
    save_tower(
        towers.audio,
        folder / "audio",
        {"projection": {"weight": towers.audio_projection.weight}},
        ASTFeatureExtractor(
            num_mel_bins=batches.NUM_MEL_BINS,
            max_length=batches.MAX_LENGTH,
            mean=batches.MEL_MEAN,
            std=batches.MEL_STD,
        ),
    )


def exported_pictures(folder: Path, tokenizer: CLIPTokenizer) -> TinyTowers:
    """Towers whose image and text tower and scale are those that `export_towers` wrote; all else is new, the heads too."""
    towers = TinyTowers(tokenizer)
    for name in ("image", "text"):
        kind = type(getattr(towers, name))
        setattr(towers, name, kind.from_pretrained(folder / name, dtype=torch.float32))
    scale = load_file(folder / "text" / "logit_scale.safetensors")["logit_scale"]
    towers.logit_scale.data.copy_(scale)
    return towers


def save_tower(
    tower: PreTrainedModel, folder: Path, tensors: dict[str, dict[str, torch.Tensor]], preprocessing: Any
) -> None:
    """Writes one tower, further tensor files and its preprocessing; the folder is replaced atomically."""
    with replaced_folder(folder) as unfinished:
        copy.deepcopy(tower).half().save_pretrained(unfinished)
        for name, content in tensors.items():
            halves = {key: value.detach().half().contiguous() for key, value in content.items()}
            save_file(halves, unfinished / f"{name}.safetensors", metadata={"format": "pt"})
        if isinstance(preprocessing, dict):
            (unfinished / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
        else:
            preprocessing.save_pretrained(unfinished)


def picture_processor(
    class_name: str, size: int, mean: float = PICTURE_MEAN, std: float = PICTURE_STD
) -> dict[str, Any]:
    """What the stock image processor of this name saves. A dict, because making one may need torchvision."""
    return {
        "image_processor_type": class_name,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_center_crop": False,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean] * 3,
        "image_std": [std] * 3,
        "do_convert_rgb": True,
    }
