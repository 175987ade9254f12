# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training task of point tracking: losses for matching queries, scoring places and refining tracks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_sen.point_network import EncodedFrames, EncodedQueries, PointNetwork
from modeling_sen.point_refiner import SURE, RefinedTracks
from modeling_sen.training.training_clips import TrainingClip

STEPS = 3  # refinement steps
DISCOUNT = 0.7  # weight of a refinement step's loss relative to the next step's
HIDDEN = 0.2  # weight of positions where the point is hidden
CLOSE = 3.0  # distance in pixels below which a place counts as the point's
FAR = 6.0  # error in pixels above which the position loss grows logarithmically
PEAKS = 40  # number of best cells of the matching cost, of which one is drawn for scoring
WEIGHTS = {"matching": 0.3, "scoring": 0.5, "confidence": 0.5}  # weights in the sum of losses; 1 for all others


def matching_loss(cost: Tensor, clip: TrainingClip) -> Tensor:
    """Cross-entropy over the cells of each frame; the target is spread bilinearly over the four nearest cells."""
    height, width = cost.shape[-2:]
    cells = (clip.tracks + 0.5) / 4 - 0.5
    inside = ((cells >= -0.5) & (cells <= cells.new_tensor([width, height]) - 0.5)).all(-1)
    times, points = (clip.visibility & inside & ~_is_query(clip)).nonzero(as_tuple=True)
    logits = cost[points, times].flatten(1).log_softmax(-1)  # (points, cells)
    chosen = cells[times, points]
    low, loss = chosen.floor(), cost.new_zeros(())
    right, down = (chosen - low).unbind(-1)
    for column in (0, 1):
        for row in (0, 1):
            weight = (right if column else 1 - right) * (down if row else 1 - down)
            x, y = (low[:, 0] + column).clamp(0, width - 1).long(), (low[:, 1] + row).clamp(0, height - 1).long()
            loss = loss - (weight * logits.gather(1, (y * width + x)[:, None])[:, 0]).mean()
    return loss


def scoring_loss(
    network: PointNetwork, encoded: EncodedFrames, queries: EncodedQueries, cost: Tensor, clip: TrainingClip
) -> Tensor:
    """Binary cross-entropy of the scores of two places: one of the best cells, unrotated, and a place near the point with
    approximately its pose.
    """
    shape, width, device = clip.visibility.shape, cost.shape[-1], cost.device
    with torch.no_grad():
        best = cost.flatten(2).topk(PEAKS, dim=-1).indices  # (N, T, peaks)
        drawn = best.gather(2, torch.randint(PEAKS, (*best.shape[:2], 1), device=device))[..., 0].T
        peaks = torch.stack([drawn % width, drawn // width], dim=-1) * 4 + 1.5
        near = clip.tracks + torch.randn_like(clip.tracks) * 10 ** (torch.rand(*shape, 1, device=device) * 2.2 - 1)
        poses = clip.poses + torch.randn_like(clip.poses) * 10 ** (torch.rand(*shape, 1, device=device) * 2 - 2.7)
        upright = poses.new_tensor([1.0, 0.0]).expand_as(poses)
        poses = torch.where(torch.rand(*shape, 1, device=device) < 0.3, upright, poses)
    losses = []
    for places, turned in ((peaks, upright), (near, poses)):
        close = clip.visibility & ((places - clip.tracks).norm(dim=-1) < CLOSE)
        scores = network.score(encoded, queries, places, turned)
        losses.append(F.binary_cross_entropy_with_logits(scores, close.float()))
    return torch.stack(losses).sum()


def refinement_loss(steps: list[RefinedTracks], clip: TrainingClip) -> dict[str, Tensor]:
    """Losses of position, pose, visibility and confidence, summed over all steps with higher weights for later ones."""
    counted = (~_is_query(clip)).float()
    seen = clip.visibility.float()
    weight = counted * (seen + HIDDEN * (1 - seen))
    total = {name: torch.zeros(()) for name in ("position", "pose", "visibility", "confidence")}
    for number, step in enumerate(steps):
        error = ((step.tracks - clip.tracks).square().sum(-1) + 0.01).sqrt()  # (T, N)
        bounded = torch.where(error < FAR, error, FAR * (1 + (error.clamp(min=FAR) / FAR).log()))
        turned = (step.poses - clip.poses).abs().sum(-1).clamp(max=1.0)
        visible = F.binary_cross_entropy_with_logits(step.visibility_logits, seen, reduction="none")
        sure = F.binary_cross_entropy_with_logits(
            step.confidence_logits, (error.detach() < SURE).float(), reduction="none"
        )
        discount = DISCOUNT ** (len(steps) - 1 - number)
        for name, loss, weights in (
            ("position", bounded, weight),
            ("pose", turned, weight),
            ("visibility", visible, counted),
            ("confidence", sure, counted * seen),
        ):
            total[name] = total[name] + discount * (loss * weights).sum() / weights.sum()
    return total


def tracking_loss(network: PointNetwork, clip: TrainingClip, tokens: list[Tensor]) -> dict[str, Tensor]:
    """All losses of a clip, and their weighted sum `loss`; `tokens` has (T, h, w, width) for each neuron."""
    encoded = network.encode_frames(clip.frames, tokens)
    queries = network.encode_queries(encoded, clip.query_points)
    cost = network.match(encoded, queries)
    time = torch.arange(len(clip.frames))[:, None] - clip.query_points[:, 0]
    steps = network.refine(
        encoded, queries, clip.query_points[:, 1:], time, clip.initial_tracks, clip.initial_poses, STEPS
    )
    losses = {
        "matching": matching_loss(cost, clip),
        "scoring": scoring_loss(network, encoded, queries, cost, clip),
        **refinement_loss(steps, clip),
    }
    return {"loss": _weighted_sum(losses), **losses}


def semantic_loss(network: PointNetwork, clip: TrainingClip, tokens: list[Tensor]) -> dict[str, Tensor]:
    """The losses that depend on tokens (refinement does not), and their weighted sum `loss`."""
    encoded = network.encode_frames(clip.frames, tokens)
    queries = network.encode_queries(encoded, clip.query_points)
    cost = network.match(encoded, queries)
    losses = {
        "matching": matching_loss(cost, clip),
        "scoring": scoring_loss(network, encoded, queries, cost, clip),
    }
    return {"loss": _weighted_sum(losses), **losses}


def _weighted_sum(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([WEIGHTS.get(name, 1.0) * value for name, value in losses.items()]).sum()


def _is_query(clip: TrainingClip) -> Tensor:
    """(T, N) bool: true in the query's frame, where nothing is predicted."""
    return torch.arange(len(clip.frames), device=clip.frames.device)[:, None] == clip.query_points[:, 0]
