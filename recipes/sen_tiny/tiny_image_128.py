"""sen-tiny's image tower for pictures of 128 pixels: two layers of the 64-pixel tower, trained on with finer tokens."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModelWithProjection

from recipes.sen_tiny import tiny_batches as batches
from recipes.sen_tiny.tiny_towers import (
    NAMES,
    PICTURE_MEAN,
    PICTURE_STD,
    TinyTowers,
    name_patches,
    normalise,
    picture_config,
)

SIZE = 128  # pixels
LAYERS = 2  # which keeps all six towers within 5 MB


class LargeImageTower(nn.Module):
    """The tower with the frozen text tower it is trained against; its heads start as those of `towers`. Called on a batch
    of `TinyBatches(..., size=128, pictures_only=True)` it returns the losses."""

    def __init__(self, towers: TinyTowers):
        super().__init__()
        self.towers = towers.requires_grad_(False)
        self.image = CLIPVisionModelWithProjection(picture_config(width=128, layers=LAYERS, heads=4, size=SIZE))
        weights = {name: value for name, value in towers.image.state_dict().items() if name in self.image.state_dict()}
        position = "vision_model.embeddings.position_embedding.weight"
        weights[position] = stretch_positions(weights[position], SIZE // batches.PATCH)
        self.image.load_state_dict(weights)
        self.dense_heads = nn.ModuleDict({name: nn.Linear(128, NAMES) for name in ("image_colour", "image_shape")})
        for name, head in self.dense_heads.items():
            head.load_state_dict(towers.dense_heads[name].state_dict())

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        embeddings, tokens = self.encode(batch)
        one, many = self.encode_text(batch["one_ids"]), self.encode_text(batch["many_ids"])
        half = len(many)
        losses = {
            "image": self.towers.contrast(embeddings["image"][:half], one, batch["one_truth"]),
            "image_lists": self.towers.contrast(embeddings["image"][half:], many, batch["many_truth"]),
        }
        for name, head in self.dense_heads.items():
            losses[name] = name_patches(head(tokens["image"]).float(), batch[name])
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def encode(self, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Normalised embeddings {"image": (batch, 128)} and patch tokens {"image": (batch, 256, 128)}."""
        output = self.image(normalise(batch["image"].movedim(-1, 1), PICTURE_MEAN, PICTURE_STD))
        embedding = F.normalize(output.image_embeds.float(), dim=-1)
        return {"image": embedding}, {"image": output.last_hidden_state[:, 1:]}

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Normalised embeddings (texts, 128) of the frozen text tower."""
        return self.towers.encode_text(ids)


def stretch_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Position embeddings (1 + n * n, width) -> (1 + side * side, width), bicubic between the patches."""
    old = int((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.reshape(1, -1, old, old)
    wide = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], wide.flatten(2)[0].T])
