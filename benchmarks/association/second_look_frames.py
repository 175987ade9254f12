"""Does a second look read what a real encoder's last layers have lost? Frames of real clips are found by their clip.

The ViT of the folder VIT was fine-tuned for saliency, so its last layers describe clips worse than inner ones do. A SEN over
this one neuron is trained so that frames of a clip have similar embeddings. Then each frame of a clip that was left out is a
query for the clip's other frames among the frames of all clips. Three folds of clips, each left out once.

    python -m benchmarks.association.second_look_frames VIT FOLDER... [--seeds 3] [--steps 100]
"""

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from modeling_sen import SENModel, SENProcessor, read_video
from modeling_sen.first_look import FirstLook
from modeling_sen.recursive_association import PROMPT

SUFFIXES = (".avi", ".mkv", ".mov", ".mp4")
FOLDS = 3
TEST_FRAMES = 4  # one a second
TRAINING_BATCHES, FRAMES_A_CLIP = 4, 4  # in each batch
TEMPERATURE = 0.1
# Fields of the neuron and of the configuration. The tower has twelve layers.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "final tokens, none": ({}, {"prompt": "none"}),
    "layer 6, none": ({"output_layer": 6}, {"prompt": "none"}),
    "final tokens, queries at a quarter": ({}, {"prompt": "queries"}),
    "final tokens, queries through the upper half": ({}, {"prompt": "queries", "prompt_depth": 6}),
}


def read_frames(paths: Sequence[Path]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each clip frames (n, H, W, 3) for training, spread over the clip, and for the test."""
    count = TRAINING_BATCHES * FRAMES_A_CLIP
    train = [read_video(str(path), num_frames=count).frames for path in tqdm(paths, desc="reading")]
    test = [read_video(str(path), num_frames=TEST_FRAMES, sampling="fps:1").frames for path in paths]
    return train, test


@torch.no_grad()
def look_at(model: SENModel, clips: Sequence[np.ndarray]) -> dict[str, FirstLook]:
    """First looks of all frames of all clips, each frame a clip of its own."""
    frames = [frame[None] for clip in clips for frame in clip]
    found = SENProcessor(model.config)(videos=frames)
    inputs = {name: found[name] for name in model.neurons.neuron_specs["image"].model_inputs}
    mask = found["neuron_mask"]
    records = {spec.name: PROMPT[model.config.prompt_of(spec)].records for spec in model.config.neuron_specs}
    return model.neurons.first_looks(inputs, mask, mask.device, records, [])[0]


def same_clip_loss(embeds: Tensor, clips: Tensor) -> Tensor:
    """Each frame's cross-entropy over the other frames, of which those of its clip are right (supervised contrastive loss,
    arXiv 2004.11362)."""
    diagonal = torch.eye(len(clips), dtype=torch.bool)
    logits = (embeds @ embeds.T / TEMPERATURE).masked_fill(diagonal, -math.inf)
    right = (clips[:, None] == clips) & ~diagonal
    return -(F.log_softmax(logits, dim=-1).masked_fill(~right, 0.0).sum(-1) / right.sum(-1)).mean()


def mean_average_precision(features: Tensor, clips: Tensor, asked: Tensor) -> float:
    """Frames of the clips `asked` are queries for the other frames of their clip, ranked by cosine among all frames.

    Args:
        features: (frames, width); clips: (frames,) number of each frame's clip; asked: numbers of clips.
    """
    features = F.normalize(features, dim=-1)
    scores = (features @ features.T).fill_diagonal_(-math.inf)
    order = scores.argsort(dim=-1, descending=True)[:, :-1]  # without the query
    found = (clips[order] == clips[:, None]).double()
    precision = found.cumsum(-1) / torch.arange(1, order.shape[1] + 1)
    average = (precision * found).sum(-1) / found.sum(-1)
    return average[torch.isin(clips, asked)].mean().item()


def train(model: SENModel, batches: Sequence[Mapping[str, FirstLook]], clips: Tensor, steps: int) -> None:
    """AdamW with warm-up and cosine; the loss of the last embedding and of each round's, as in a SEN's own training."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        output = model(trunks=batches[step % len(batches)])
        rounds = [same_clip_loss(each, clips) for each in output.association_embeds.unbind(1)]
        loss = same_clip_loss(output.fused_embeds, clips) + torch.stack(rounds).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()


def build_model(vit: str, row: str) -> SENModel:
    neuron, settings = ROWS[row]
    return SENModel.from_neurons(
        [{"hub_id": vit, "name": "image", "num_frames": 1, **neuron}], projection_dim=128, **settings
    )


def run_row(vit: str, row: str, frames: tuple[list, list], seeds: int, steps: int) -> tuple[float, list[float], float]:
    """mAP of the mean of the neuron's tokens, mAP of the trained SEN for each seed, and seconds of training a step."""
    count, seconds = len(frames[0]), []
    clips = torch.arange(count).repeat_interleave(TEST_FRAMES)
    model = build_model(vit, row)
    test = look_at(model, frames[1])
    untrained = mean_average_precision(test["image"].state.last_hidden_state.mean(1), clips, torch.arange(count))
    folds = np.array_split(np.random.default_rng(0).permutation(count), FOLDS)
    measured = torch.zeros(seeds, FOLDS)
    for fold, left_out in enumerate(folds):
        kept = [frames[0][number] for number in sorted(set(range(count)) - set(left_out.tolist()))]
        batches = [look_at(model, [clip[part::TRAINING_BATCHES] for clip in kept]) for part in range(TRAINING_BATCHES)]
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = build_model(vit, row)
            started = time.perf_counter()
            train(model, batches, torch.arange(len(kept)).repeat_interleave(FRAMES_A_CLIP), steps)
            seconds.append((time.perf_counter() - started) / steps)
            with torch.no_grad():
                embeds = model(trunks=test).fused_embeds
            measured[seed, fold] = mean_average_precision(embeds, clips, torch.from_numpy(left_out))
    return untrained, measured.mean(1).tolist(), float(np.mean(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vit", help="folder of the encoder")
    parser.add_argument("folders", type=Path, nargs="+", help="of clips")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for folder in options.folders for path in folder.rglob("*") if path.suffix in SUFFIXES)
    frames = read_frames(paths)
    print(
        f"{len(paths)} clips\n\n| | mean of tokens, untrained | SEN K=3 | seconds a step |\n|---|---|---|---|",
        flush=True,
    )
    for row in ROWS:
        untrained, trained, seconds = run_row(options.vit, row, frames, options.seeds, options.steps)
        spread = f"{np.mean(trained):.3f} ± {np.std(trained, ddof=1):.3f}" if len(trained) > 1 else f"{trained[0]:.3f}"
        print(f"| {row} | {untrained:.3f} | {spread} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
