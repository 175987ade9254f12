"""sen-tiny's video tower, trained on alone: when image, depth and sound are learned, motion is not."""

import torch
import torch.nn.functional as F
from torch import nn

from recipes.sen_tiny.tiny_towers import PICTURE_MEAN, PICTURE_STD, TinyTowers, as_colour, name_patches, normalise

HEADS = ("video_shape", "video_motion")


class LongerVideo(nn.Module):
    """The towers, of which only the video tower, its projection and its dense heads are trained, against the frozen text
    tower. Called on a batch of `TinyBatches` it returns the losses."""

    def __init__(self, towers: TinyTowers):
        super().__init__()
        self.towers = towers.requires_grad_(False)
        for part in (towers.video, towers.video_projection, *(towers.dense_heads[name] for name in HEADS)):
            part.requires_grad_(True)

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        towers, half = self.towers, len(batch["many_ids"])
        grey = normalise(as_colour(batch["grey"]), PICTURE_MEAN, PICTURE_STD)  # (batch, frames, 3, H, W)
        masked = ~batch["kept"] if "kept" in batch else None
        tokens = towers.video(grey, bool_masked_pos=masked).last_hidden_state  # (batch, N, width)
        embedding = F.normalize(towers.video_projection(tokens.mean(1)).float(), dim=-1)
        with torch.no_grad():
            one, many = towers.encode_text(batch["one_ids"]), towers.encode_text(batch["many_ids"])
        losses = {
            "video": towers.contrast(embedding[:half], one, batch["one_truth"]),
            "video_lists": towers.contrast(embedding[half:], many, batch["many_truth"]),
        }
        named = {}
        for name in HEADS:
            labels = batch[name]
            if masked is not None:
                labels = labels[~masked].view(len(labels), -1)
            named[name] = name_patches(towers.dense_heads[name](tokens).float(), labels)
        loss = (
            torch.stack(list(losses.values())).sum() + batch["dense_weight"] * torch.stack(list(named.values())).sum()
        )
        return {"loss": loss, **losses, **named}
