"""The towers of the association study: four small encoders in stock Transformers classes, trained in one of two ways.

*Global* towers learn which words are true of a clip, and nothing about what belongs to what; *local* ones also learn to name
what is under each patch. Both learn by a sigmoid loss over one-word captions, so that all share one text space. From lists
alone small towers would take days to learn shapes: global ones start from the lower half of the local ones.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTModel,
    BertConfig,
    BertModel,
    ViTConfig,
    ViTModel,
    VivitConfig,
    VivitModel,
)

from benchmarks.association.association_clips import (
    ATTRIBUTES,
    LEGEND_LENGTH,
    LEGEND_VOCABULARY,
    MEL_FRAMES,
    VALUES,
    WORDS,
    legend_names,
    present_words,
    target_values,
)
from modeling_sen.configuration_sen import NeuronSpec
from recipes.sen_tiny.tiny_batches import IGNORED, NUM_FRAMES, NUM_MEL_BINS, PATCH
from recipes.sen_tiny.tiny_towers import PICTURE_MEAN, PICTURE_STD, normalise

EMBEDDING = 128  # width of the text space
SIZE = 64  # pixels
LAYERS = 4
# Which attributes a tower sees. Of the sound it is the one colour that sounds.
SEES = {"image": ("colour", "shape"), "video": ("shape", "motion"), "audio": ("colour",), "legend": ("motion", "name")}
MODALITIES = {"image": "image", "video": "video", "audio": "audio", "legend": "text"}
WIDTHS = {"image": 96, "video": 96, "audio": 64, "legend": 64}
# What local towers name: under each patch, at each name of the legend its motion, and at the other words their name.
DENSE = {"image_colour": "image", "image_shape": "image", "video_shape": "video", "video_motion": "video",
         "legend_motion": "legend", "legend_name": "legend"}  # fmt: skip
DENSE_WEIGHT = 20.0
BACKGROUND_WEIGHT = 0.1  # most patches show background


TOWER_KINDS = ("global", "local", "background")


class AssociationTowers(nn.Module):
    """Four towers and the embeddings of all words. Called on rows of `clip_arrays` it returns the losses.

    Args:
        local: also name what is under each patch.
    """

    def __init__(self, local: bool):
        super().__init__()
        self.local = local
        sizes: dict[str, Any] = {"num_hidden_layers": LAYERS, "hidden_act": "gelu"}
        picture: dict[str, Any] = {"image_size": SIZE, "layer_norm_eps": 1e-6}
        self.image = ViTModel(ViTConfig(**_width("image"), **sizes, **picture, patch_size=PATCH))
        self.video = VivitModel(
            VivitConfig(
                **_width("video"),
                **sizes,
                **picture,
                num_channels=1,
                num_frames=NUM_FRAMES,
                tubelet_size=[NUM_FRAMES, PATCH, PATCH],  # one token a place, over the whole clip
            )
        )
        self.audio = ASTModel(
            ASTConfig(
                **_width("audio"),
                **sizes,
                num_mel_bins=NUM_MEL_BINS,
                max_length=MEL_FRAMES,
                frequency_stride=16,
                time_stride=16,
            )
        )
        self.legend = BertModel(
            BertConfig(
                **_width("legend"),
                **sizes,
                vocab_size=len(LEGEND_VOCABULARY),
                max_position_embeddings=LEGEND_LENGTH,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, EMBEDDING, bias=False) for name, width in WIDTHS.items()}
        )
        self.words = nn.Parameter(torch.randn(len(WORDS), EMBEDDING))
        self.scale = nn.Parameter(torch.full((len(SEES),), 2.3))  # log; with the bias as in SigLIP
        self.bias = nn.Parameter(torch.full((len(SEES),), -4.0))
        self.dense_heads = nn.ModuleDict(
            {name: nn.Linear(WIDTHS[tower], VALUES + 1) for name, tower in DENSE.items()} if local else {}
        )

        self.trained: tuple[str, ...] = tuple(SEES)
        self.named: tuple[str, ...] = tuple(self.dense_heads)

    def train_only(self, names: tuple[str, ...], words: bool, named: tuple[str, ...] = ()) -> None:
        """From now on only these towers learn, to name these entries of `DENSE`, and the words where `words` is true."""
        self.trained, self.named = names, named
        self.requires_grad_(False)
        self.words.requires_grad_(words)
        self.scale.requires_grad_(True)
        self.bias.requires_grad_(True)
        for name in names:
            getattr(self, name).requires_grad_(True)
            self.projections[name].requires_grad_(True)
        for name in named:
            self.dense_heads[name].requires_grad_(True)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        embeds, tokens = self.encode(batch, self.trained)
        words = F.normalize(self.words, dim=-1)
        losses = {}
        for name, embed in embeds.items():
            number, columns = tuple(SEES).index(name), word_columns(SEES[name])
            logits = self.scale[number].exp() * embed @ words[columns].T + self.bias[number]
            truth = batch["heard_words" if name == "audio" else "words"][:, columns].float()
            losses[name] = F.binary_cross_entropy_with_logits(logits, truth) * len(columns)
        for name in self.named:
            logits = self.dense_heads[name](tokens[DENSE[name]]).float().flatten(0, 1)
            weight = torch.ones(VALUES + 1, device=logits.device)
            weight[0] = BACKGROUND_WEIGHT
            losses[name] = F.cross_entropy(logits, batch[name].flatten(), weight=weight, ignore_index=IGNORED)
        weights = {name: DENSE_WEIGHT if name in DENSE else 1.0 for name in losses}
        return {"loss": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(), **losses}

    def encode(
        self, batch: dict[str, Tensor], names: tuple[str, ...] = tuple(SEES)
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Normalised embeddings (batch, 128) of these towers, and their tokens (batch, N, width)."""
        inputs = tower_inputs(batch)
        embeds, tokens = {}, {}
        inputs["image"]["pixel_values"] = inputs["image"]["pixel_values"][:, 0]
        inputs["audio"] = {"input_values": inputs["audio"]["input_features"]}
        for name in names:
            output = getattr(self, name)(**inputs[name])
            tokens[name] = output.last_hidden_state[:, 1:] if name in ("image", "video") else output.last_hidden_state
            if name == "legend":
                mask = inputs[name]["attention_mask"].unsqueeze(-1)  # (batch, tokens, 1)
                pooled = (tokens[name] * mask).sum(1) / mask.sum(1)
            else:
                pooled = output.pooler_output
            embeds[name] = self.projections[name](pooled)
        return {name: F.normalize(embed.float(), dim=-1) for name, embed in embeds.items()}, tokens

    @torch.no_grad()
    def start_video_from_image(self) -> None:
        """The video tower begins as the image tower on its clip's middle frame (as ViViT's central frame initialisation,
        arXiv 2103.15691): what shapes are need not be learned twice."""
        weights = self.image.state_dict()
        patches = "embeddings.patch_embeddings.projection.weight"
        weights[patches], colour = torch.zeros_like(self.video.state_dict()[patches]), weights[patches]
        weights[patches][:, 0, NUM_FRAMES // 2] = colour.sum(1)  # grey: three equal channels
        self.video.load_state_dict(weights)

    @torch.no_grad()
    def start_from_lower_half(self, other: "AssociationTowers", names: tuple[str, ...]) -> None:
        """Embeddings and the first two of the four layers of these towers are the other's."""
        for name in names:
            kept = {
                key: value
                for key, value in getattr(other, name).state_dict().items()
                if "embeddings" in key or any(f".{layer}." in key for layer in range(LAYERS // 2))
            }
            getattr(self, name).load_state_dict(kept, strict=False)


def _width(tower: str) -> dict[str, Any]:
    width = WIDTHS[tower]
    return {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 32}


def word_columns(attributes: tuple[str, ...]) -> Tensor:
    """Columns of these attributes' words in `WORDS`."""
    return torch.cat([torch.arange(VALUES) + VALUES * ATTRIBUTES.index(name) for name in attributes])


def tower_inputs(batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Each neuron's inputs, as its tower takes them with a time axis for pictures, from fields of `clip_arrays`."""
    ids = batch["legend_ids"].long()
    return {
        "image": {"pixel_values": image_pixels(batch["image"])[:, None]},
        "video": {"pixel_values": video_pixels(batch["grey"])},
        "audio": {"input_features": batch["log_mel"].float()},
        "legend": {"input_ids": ids, "attention_mask": (ids > 0).long()},
    }


def image_pixels(frames: Tensor) -> Tensor:
    """(batch, H, W, 3) uint8 -> (batch, 3, H, W) float32, as the image tower takes them."""
    return normalise(frames.movedim(-1, 1), PICTURE_MEAN, PICTURE_STD)


def video_pixels(frames: Tensor) -> Tensor:
    """(batch, T, H, W) uint8 -> (batch, T, 1, H, W) float32, as the video tower takes them."""
    return normalise(frames, PICTURE_MEAN, PICTURE_STD)[:, :, None]


def tower_targets(clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`words` (clips, 32) bool, true of some object; `heard_words` (clips, 32), of the sounding object's colour only; and the
    dense labels as int64."""
    target = target_values(clips["attributes"], clips["sounding"])
    sounding = np.zeros((len(target), len(WORDS)), dtype=bool)
    sounding[np.arange(len(target)), target[:, 0]] = True
    clips = {**clips, "legend_name": legend_names(clips["legend_ids"])}
    dense = {name: clips[name].astype(np.int64) for name in DENSE}
    return {"words": present_words(clips["attributes"]), "heard_words": sounding, **dense}


class ClipBatches:
    """The batch of a step: rows of `clips` in an order drawn anew each epoch."""

    def __init__(self, clips: dict[str, np.ndarray], batch_size: int, seed: int):
        self.clips, self.batch_size, self.seed = clips, batch_size, seed
        self.count = len(next(iter(clips.values())))

    def rows(self, step: int) -> np.ndarray:
        epoch, number = divmod(step, self.count // self.batch_size)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return order[number * self.batch_size : (number + 1) * self.batch_size]

    def __call__(self, step: int) -> dict[str, Tensor]:
        rows = np.sort(self.rows(step))
        return {name: torch.from_numpy(values[rows]) for name, values in self.clips.items()}


def seen_shares(
    towers: AssociationTowers, clips: dict[str, np.ndarray], names: tuple[str, ...] = tuple(SEES)
) -> dict[str, float]:
    """Of each tower: how often the words it finds likeliest are all true (`_words`), and how often a patch that shows an
    object is named rightly (dense heads)."""
    right: dict[str, list[float]] = {}
    for start in range(0, len(clips["words"]), 250):
        part = {name: torch.from_numpy(values[start : start + 250]) for name, values in clips.items()}
        embeds, tokens = towers.encode(part, names)
        for name, embed in embeds.items():
            for attribute in SEES[name]:
                columns = word_columns((attribute,))
                truth = part["heard_words" if name == "audio" else "words"][:, columns]
                logits = embed @ F.normalize(towers.words, dim=-1)[columns].T
                lowest_true = logits.masked_fill(~truth, float("inf")).amin(1)
                highest_false = logits.masked_fill(truth, float("-inf")).amax(1)
                right.setdefault(f"{name}_{attribute}_words", []).append(
                    (lowest_true > highest_false).float().mean().item()
                )
        for name in towers.named:
            if DENSE[name] not in tokens:
                continue
            shown = part[name] > 0
            found = towers.dense_heads[name](tokens[DENSE[name]]).argmax(-1)
            right.setdefault(name, []).append((found == part[name])[shown].float().mean().item())
    return {name: float(np.mean(values)) for name, values in right.items()}


def save_towers(towers: AssociationTowers, folder: Path) -> None:
    """Each tower an ordinary checkpoint `folder`/NAME with its projection; the words' embeddings in `words.safetensors`."""
    for name in SEES:
        tower = getattr(towers, name)
        tower.save_pretrained(folder / name)
        save_file(towers.projections[name].state_dict(), folder / name / "projection.safetensors")
    save_file({"words": F.normalize(towers.words.detach(), dim=-1)}, folder / "words.safetensors")
    (folder / "words.json").write_text(json.dumps(WORDS) + "\n")


def read_words(folder: Path) -> Tensor:
    """(32, 128) embeddings of `WORDS`, normalised."""
    return load_file(folder / "words.safetensors")["words"]


def tower_specs(folder: Path) -> list[NeuronSpec]:
    """The four towers of a folder as neurons."""
    classes = {"image": "ViTModel", "video": "VivitModel", "audio": "ASTModel", "legend": "BertModel"}
    return [
        NeuronSpec(
            name=name,
            modality=MODALITIES[name],
            hub_id=str(folder / name),
            class_name=class_name,
            hidden_size=WIDTHS[name],
            num_frames={"image": 1, "video": NUM_FRAMES}.get(name),
            aligned=True,
            projection="projection.safetensors",
        )
        for name, class_name in classes.items()
    ]
