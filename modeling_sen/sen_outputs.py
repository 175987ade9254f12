# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Outputs of SENModel, and its loss function."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .first_look import NeuronState


@dataclass
class SENRound(ModelOutput):
    """Embeddings of one round.

    Args:
        fused_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): z with F of this round's states, normalised.
        neuron_embeds (`dict[str, torch.Tensor]`): aligned neurons' projected pooled outputs of this round, normalised, each
            `(batch, projection_dim)`; zeros in rows of samples without the neuron.
    """

    fused_embeds: Tensor | None = None
    neuron_embeds: dict[str, Tensor] | None = None


@dataclass
class SENOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor`, *optional*): cross-entropy over the texts (`labels`), or symmetric contrastive (`return_loss`),
            plus `config.association_loss` times the mean of the same loss over the rounds of `association_embeds`.
        logits_per_video (`torch.Tensor` of shape `(batch, texts)`, *optional*): scaled cosine similarities.
        logits_per_text (`torch.Tensor` of shape `(texts, batch)`, *optional*): the same, transposed.
        fused_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): the fused embedding z, normalised.
        association_embeds (`torch.Tensor` of shape `(batch, num_rounds, projection_dim)`): F of each round's states, without
            the mean of the aligned neurons, normalised; of round 0 if `num_rounds` is 0.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`, *optional*): normalised.
        knowledge (`torch.Tensor` of shape `(batch, num_rounds, hidden_size)`): knowledge of each round.
        summary (`torch.Tensor` of shape `(batch, hidden_size)`): the hidden layer of F, for the last round's states.
        neuron_states (`dict[str, NeuronState]`): each neuron's tokens, pooled output, answers and grid after the last round.
        all_rounds (`tuple[SENRound]`, *optional*): rounds 0..K.
        hidden_states (`dict[str, tuple[torch.Tensor]]`, *optional*): hidden states of each neuron's first look as returned by
            its tower, input embeddings first; each `(batch, tokens, width)`, or `(batch * frames, tokens, width)` for towers
            that fold frames into the batch.
        attentions (`dict[str, tuple[torch.Tensor]]`, *optional*): attention weights of each neuron's first look, each
            `(batch, heads, tokens, tokens)`.
    """

    loss: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None
    fused_embeds: Tensor | None = None
    association_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    knowledge: Tensor | None = None
    summary: Tensor | None = None
    neuron_states: dict[str, NeuronState] | None = None
    all_rounds: tuple[SENRound, ...] | None = None
    hidden_states: dict[str, tuple[Tensor, ...] | None] | None = None
    attentions: dict[str, tuple[Tensor, ...] | None] | None = None


def text_loss(logits: Tensor, labels: Tensor | None, contrastive: bool) -> Tensor:
    """Cross-entropy over the texts; if `contrastive`, the mean of the cross-entropies over the texts and over the videos.

    Args:
        logits: (batch, texts).
        labels: (batch,), index of each video's text; may be `None` if `contrastive` and the texts are in the videos' order.
        contrastive: whether to compute the symmetric contrastive loss.

    Raises:
        ValueError: labels of another shape, or `contrastive` without one text per video.
    """
    videos, texts = logits.shape
    if labels is not None and labels.shape != (videos,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({videos},)")
    if contrastive and videos != texts:
        raise ValueError(f"return_loss needs one text per video, found {videos} videos and {texts} texts")
    order = torch.arange(videos, device=logits.device) if labels is None else labels.to(logits.device)
    loss = nn.functional.cross_entropy(logits, order)
    return (loss + nn.functional.cross_entropy(logits.t(), order.argsort())) / 2 if contrastive else loss


__all__ = ["SENOutput", "SENRound", "text_loss"]
