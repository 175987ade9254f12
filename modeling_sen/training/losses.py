# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Losses of paired embeddings: contrastive (CLIP), sigmoid (SigLIP, arXiv 2303.15343), Gramian (GRAM, arXiv 2412.11959).

Row i of one argument is paired with row i of the others; all other rows are negatives. Embeddings have length 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Determinants are clamped to this value, because the gradient of the square root is unbounded at zero.
SMALLEST_DETERMINANT = 1e-6


def contrastive_loss(videos: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean of two cross-entropies: classify each video among all texts, and each text among all videos.

    Args:
        videos, texts: (n, embedding), of length 1.
        scale: factor of the cosine similarities (the reciprocal of the temperature), a scalar.
    """
    return _both_ways(scale * videos @ texts.T)


def sigmoid_loss(videos: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of every (video, text) pair, summed over texts, mean over videos, as in SigLIP.

    Args:
        videos, texts: (n, embedding), of length 1.
        scale, bias: scalars applied to the cosine similarities; SigLIP starts at a scale of 10 and a bias of -10.
    """
    logits = scale * videos @ texts.T + bias  # (videos, texts)
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum(dim=1).mean()


def gramian_volumes(anchors: Tensor, others: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
    """Volumes of the parallelotopes spanned by each anchor and the vectors of each row: 0 if parallel, 1 if orthogonal.

    Args:
        anchors: (n, embedding), of length 1.
        others: one (m, embedding) tensor per other modality, of length 1.
        present: (m, modalities) bool; absent vectors are left out of the volume.

    Returns:
        (n, m), between the square root of `SMALLEST_DETERMINANT` and 1.
    """
    stacked = torch.stack(list(others), dim=1).float()  # (m, modalities, embedding)
    inner = stacked @ stacked.mT  # (m, modalities, modalities)
    across = torch.einsum("ne,mke->nmk", anchors.float(), stacked)  # (n, m, modalities)
    if present is not None:
        # An absent vector is treated as orthogonal to all others, which leaves the volume unchanged.
        both = present.unsqueeze(1) & present.unsqueeze(2)
        inner = inner.masked_fill(~both, 0.0) + torch.diag_embed((~present).float())
        across = across.masked_fill(~present, 0.0)
    count = stacked.shape[1] + 1
    gram = across.new_ones(*across.shape[:2], count, count)
    gram[..., 1:, 1:] = inner
    gram[..., 0, 1:] = gram[..., 1:, 0] = across
    return torch.linalg.det(gram).clamp(min=SMALLEST_DETERMINANT).sqrt()


def gramian_loss(texts: Tensor, others: Sequence[Tensor], scale: Tensor, present: Tensor | None = None) -> Tensor:
    """Contrastive loss whose similarity is the negative volume spanned by a text and all modalities of a clip.

    Negating a vector does not change the volume, so the embeddings must be roughly aligned before training.

    Args:
        texts: (n, embedding), of length 1, the anchors.
        others: two or more (n, embedding) tensors of length 1: the modalities of the clips.
        scale: factor of the volumes, a scalar.
        present: (n, modalities) bool.

    Raises:
        ValueError: fewer than two other modalities; with one, the volume is a function of the cosine similarity alone.
    """
    if len(others) < 2:
        raise ValueError(f"the Gramian volume needs a text and at least two other modalities, found {len(others)}")
    return _both_ways(-scale * gramian_volumes(texts, others, present))


def _both_ways(logits: Tensor) -> Tensor:
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
