"""Where a tracker places visible points wrongly: do an encoder's tokens prefer the true place?

Counted are points that are visible, away from their query's frame, and tracked as visible more than 8 pixels of 256 from
their place: up to 24, and further. Of each, the cosine of the query's token with the token at the true place is compared with
that at the place found, both read bilinearly, the frame's mean taken off. Tokens that prefer the true place in half of the
cases, or less, cannot correct the tracker.

    python benchmarks/tracking_failures.py [--tracker sen-tiny] [--presets smooth all] [--num 5] [--seed 3000] [--vit FOLDER]

With `--vit`, a Dinov2Model, its layers 3, 6, 9 and the last are read, on frames of 126, 252 and 504 pixels.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from trackers import make_tracker
from transformers import AutoModel

from modeling_sen.modeling_sen_tracking import SENForVideoTracking
from modeling_sen.presets import SEN_TINY_TRACKING, resolve_checkpoint
from modeling_sen.world.tracking_clips import TrackingClip, tracking_clip

WRONG, FAR = 8.0, 24.0  # pixels
LAYERS = (3, 6, 9, 12)
SIZES = (126, 252, 504)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def wrong_points(found, clip: TrackingClip) -> tuple[np.ndarray, np.ndarray]:
    """Frames and points (n,) of wrong places."""
    error = np.linalg.norm(found.tracks - clip.tracks, axis=-1)
    counted = np.arange(len(clip.frames))[:, None] != clip.queries[:, 0]
    return np.nonzero(clip.visibility & found.visibility & counted & (error > WRONG))


def token_at(tokens: Tensor, frames: np.ndarray, places: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Tokens (T, h, w, width) at places (n, 2) x, y of frames (n,) -> (n, width), without the frame's mean, of length one."""
    centred = tokens - tokens.mean((1, 2), keepdim=True)
    grid = torch.from_numpy((places + 0.5) / np.array([size[1], size[0]]) * 2 - 1).float()
    rows = [
        F.grid_sample(centred[frame][None].permute(0, 3, 1, 2), place[None, None, None], align_corners=False)[
            0, :, 0, 0
        ]
        for frame, place in zip(frames.tolist(), grid, strict=True)
    ]
    return F.normalize(torch.stack(rows), dim=-1)


def prefers_truth(tokens: Tensor, found, clip: TrackingClip, wrong: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(n,) bool."""
    frames, points = wrong
    size = (clip.frames.shape[1], clip.frames.shape[2])
    query = token_at(tokens, clip.queries[points, 0].astype(int), clip.queries[points, 1:], size)
    true = token_at(tokens, frames, clip.tracks[frames, points], size)
    other = token_at(tokens, frames, found.tracks[frames, points], size)
    return ((query * true).sum(-1) > (query * other).sum(-1)).numpy()


@torch.inference_mode()
def vit_tokens(vit, frames: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    for size in SIZES:
        resized = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        batches = [vit(batch, output_hidden_states=True).hidden_states for batch in resized.split(4)]
        side = size // vit.config.patch_size
        for layer in LAYERS:
            tokens = torch.cat([states[layer][:, 1:] for states in batches])
            yield f"vit layer {layer}, {size} pixels", tokens.unflatten(1, (side, side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracker", default="sen-tiny")
    parser.add_argument("--presets", nargs="+", default=["rotation", "smooth", "lookalike", "all"])
    parser.add_argument("--num", type=int, default=5)
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--vit", type=Path)
    options = parser.parse_args()
    track, _ = make_tracker(options.tracker)
    reader = SENForVideoTracking.from_pretrained(resolve_checkpoint(options.tracker, SEN_TINY_TRACKING))
    vit = None if options.vit is None else AutoModel.from_pretrained(options.vit).eval()
    rights: dict[str, dict[tuple[str, bool], list[np.ndarray]]] = {}  # tokens -> (preset, further) -> of each clip
    for preset in options.presets:
        for seed in range(options.seed, options.seed + options.num):
            clip = tracking_clip(preset, seed)
            found = track(clip.frames, clip.queries)
            wrong = wrong_points(found, clip)
            if not len(wrong[0]):
                continue
            with torch.inference_mode():
                read = [(f"{name} of the tracker", each) for name, each in read_by(reader, clip.frames)]
            if vit is not None:
                read += vit_tokens(vit, clip.frames)
            far = np.linalg.norm(found.tracks[wrong] - clip.tracks[wrong], axis=-1) > FAR
            for name, tokens in read:
                is_right = prefers_truth(tokens, found, clip, wrong)
                for further in (False, True):
                    rights.setdefault(name, {}).setdefault((preset, further), []).append(is_right[far == further])
    columns = [(preset, further) for preset in options.presets for further in (False, True)]
    counts = {column: sum(map(len, next(iter(rights.values())).get(column, []))) for column in columns}
    heads = [f"{preset}, {'>' if far else '<='} {FAR:g} ({counts[preset, far]})" for preset, far in columns]
    print(f"| tokens | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}")
    for name, parts in rights.items():
        shares = [100 * np.concatenate(parts.get(column) or [[np.nan]]).mean() for column in columns]
        print(f"| {name} | {' | '.join(f'{share:.0f}' for share in shares)} |")


def read_by(reader: SENForVideoTracking, frames: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    """Tokens of each neuron that the tracker reads, and what it makes of them all at stride 4."""
    tokens = reader.read_tokens(frames)
    yield from zip(reader.read_neurons, tokens, strict=True)
    if tokens:
        yield (
            "sharpened tokens",
            reader.network.encode_frames(torch.from_numpy(frames), tokens).semantic.permute(0, 2, 3, 1),
        )


if __name__ == "__main__":
    main()
