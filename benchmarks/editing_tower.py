"""The evaluation tower of video editing: trained apart from sen-tiny on frames of the world, it reads what edited clips show.

Trains the tower (a few minutes of one core), then states how well it reads exact edits of unseen clips, which bounds what it
can say about an editor, and what it reads in copies of the source, whose edit accuracy should be 0.

    python benchmarks/editing_tower.py tower.safetensors [--steps 2000] [--num 24]
"""

import argparse
import re
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modeling_sen.evaluation.editing_alignment import ImageTextEncoder, alignment_metrics
from modeling_sen.evaluation.editing_world import world_edit_metrics
from modeling_sen.evaluation.tracking_metrics import mean_over_clips, standard_errors
from modeling_sen.world import BACKGROUNDS, COLOURS, EDITED_ATTRIBUTES, SHAPES, edit_attribute, make_scene, render

SEED = 76_001  # of clips and weights; no other training of this repository has it
SIZE, STRIDE = 64, 4  # pixels
WIDTH = 48
BATCH = 32
FRAMES = range(0, 16, 2)  # of a test clip
PAIRS = [f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)]


class EditingTower(nn.Module):
    """Names the sprite under each fourth pixel, and the background. Its parts are read by `AttributeReader`'s methods."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 5, stride=2, padding=2), nn.GroupNorm(4, WIDTH), nn.ReLU()]
        for stride, dilation in ((2, 1), (1, 1), (1, 2), (1, 2), (1, 1)):
            layers += [
                nn.Conv2d(WIDTH, WIDTH, 3, stride, padding=dilation, dilation=dilation),
                nn.GroupNorm(4, WIDTH),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*layers)
        self.sprite = nn.Conv2d(WIDTH, 1 + len(COLOURS) + len(SHAPES), 1)
        self.background = nn.Conv2d(WIDTH, len(BACKGROUNDS), 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 64, 64, 3) uint8 -> logits at 16 x 16 places: sprite or not (N, 1, 16, 16), colour, shape (N, 8, 16, 16);
        background (N, 4)."""
        features = self.trunk(frames.permute(0, 3, 1, 2).float() / 64 - 1)
        there, colour, shape = self.sprite(features).split((1, len(COLOURS), len(SHAPES)), dim=1)
        return there, colour, shape, self.background(features).mean(dim=(2, 3))

    @torch.inference_mode()
    def read_sprites(self, frames: np.ndarray, centres: np.ndarray) -> dict[str, list[str]]:
        _, colour, shape, _ = self(torch.from_numpy(frames))
        rows = np.arange(len(frames))
        x, y = np.rint(centres / STRIDE).astype(int).clip(0, SIZE // STRIDE - 1).T
        return {
            name: [list(names)[number] for number in logits[rows, :, y, x].argmax(dim=1)]
            for name, names, logits in (("colour", COLOURS, colour), ("shape", SHAPES, shape))
        }

    @torch.inference_mode()
    def read_backgrounds(self, frames: np.ndarray) -> list[str]:
        return [BACKGROUNDS[number] for number in self(torch.from_numpy(frames))[3].argmax(dim=1)]

    @torch.inference_mode()
    def encode(self, images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(N, 68) and (L, 68): for each colour with each shape, and each background, the probability that a frame shows it,
        and whether a text names it."""
        there, colour, shape, background = self(torch.from_numpy(images))
        pairs = (colour.softmax(1)[:, :, None] * shape.softmax(1)[:, None]).flatten(1, 2) * there.sigmoid()
        shown = torch.cat([pairs.amax(dim=(2, 3)), background.softmax(1)], dim=1)
        things = [*PAIRS, *(f"{kind} background" for kind in BACKGROUNDS)]
        named = [[bool(re.search(rf"\b{thing}\b", text)) for thing in things] for text in texts]
        return shown.numpy(), np.array(named, dtype=np.float32)


def draw_batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Frames (B, 64, 64, 3) uint8; sprite or not (B, 16, 16) bool, colour, shape (B, 16, 16) and background (B,) int64."""
    frames, sprites, colours, shapes, backgrounds = [], [], [], [], []
    for index in range(step * BATCH, (step + 1) * BATCH):
        scene = make_scene("train", SEED, index)
        clip = render(scene, [index % scene.num_frames])
        mask = clip.masks[0, ::STRIDE, ::STRIDE]
        frames.append(clip.frames[0])
        sprites.append(mask > 0)
        colours.append(np.array([0, *(list(COLOURS).index(sprite.colour) for sprite in scene.sprites)])[mask])
        shapes.append(np.array([0, *(SHAPES.index(sprite.shape) for sprite in scene.sprites)])[mask])
        backgrounds.append(BACKGROUNDS.index(scene.background.kind))
    stacked = (torch.from_numpy(np.stack(values)) for values in (frames, sprites, colours, shapes))
    return *stacked, torch.tensor(backgrounds)  # type: ignore[return-value]


def train_tower(steps: int) -> EditingTower:
    torch.manual_seed(SEED)
    tower = EditingTower()
    optimizer = torch.optim.AdamW(tower.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        frames, sprites, colours, shapes, backgrounds = draw_batch(step)
        there, colour, shape, background = tower(frames)
        loss = (
            F.binary_cross_entropy_with_logits(there[:, 0], sprites.float())
            + F.cross_entropy(colour.movedim(1, -1)[sprites], colours[sprites])
            + F.cross_entropy(shape.movedim(1, -1)[sprites], shapes[sprites])
            + F.cross_entropy(background, backgrounds)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}  processor {time.process_time():.0f} s", flush=True)
    return tower.eval()


def load_tower(path: str | Path) -> EditingTower:
    tower = EditingTower()
    tower.load_state_dict(load_file(path))
    return tower.eval()


def tower_encoder(tower: EditingTower) -> ImageTextEncoder:
    """The tower as the measures of editing take it."""
    return ImageTextEncoder("editing_tower", tower.encode)


def score_exact_edits(tower: EditingTower, num: int, seed: int, copies: bool) -> None:
    """Prints a row for each kind of edit of `num` unseen clips: of exact edits, or of copies of the source."""
    encoder = tower_encoder(tower)
    for attribute in EDITED_ATTRIBUTES:
        rows = []
        for index in range(num):
            scene = make_scene("test", seed, index)
            change = edit_attribute(scene, attribute)
            source, exact = (render(one, FRAMES).frames for one in (scene, change.scene))
            edited = source if copies else exact
            aligned = alignment_metrics(source, edited, change.source_prompt, change.target_prompt, encoder)
            rows.append(world_edit_metrics(edited, scene, change, tower, FRAMES) | aligned)
        mean, errors = mean_over_clips(rows), standard_errors(rows)
        cells = []
        for name, factor in HEADS.items():
            spread = "" if np.isnan(errors[name]) else f" ± {factor * errors[name]:.1f}"
            cells.append(f"{factor * mean[name]:.1f}{spread}")
        print(f"| {'copy' if copies else 'exact'}, {attribute} | {' | '.join(cells)} |", flush=True)


HEADS = {
    "edit_accuracy": 100,
    "kept_accuracy": 100,
    "colour_accuracy": 100,
    "shape_accuracy": 100,
    "background_accuracy": 100,
    "loveu_text_alignment": 1,
    "loveu_frame_consistency": 100,
    "fatezero_frame_accuracy": 100,
    "directional_similarity": 100,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tower", type=Path, help="file of weights; made where it is not there")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--num", type=int, default=24, help="test clips, each edited in three ways")
    parser.add_argument("--seed", type=int, default=0, help="of the test clips")
    options = parser.parse_args(arguments)
    if not options.tower.exists():
        tower = train_tower(options.steps)
        save_file(tower.state_dict(), options.tower)
    tower = load_tower(options.tower)
    print(
        f"{sum(weight.numel() for weight in tower.parameters())} weights; {options.num} test clips, seed {options.seed},"
    )
    print(f"{len(FRAMES)} frames; per cent (alignment 100 x cosine), ± standard error over clips\n")
    print(f"| edits | {' | '.join(name.replace('_', ' ') for name in HEADS)} |")
    print(f"|{'---|' * (1 + len(HEADS))}")
    for copies in (False, True):
        score_exact_edits(tower, options.num, options.seed, copies)


if __name__ == "__main__":
    main()
