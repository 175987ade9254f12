# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a SENModel returns, and the loss in it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .first_look import NeuronState


@dataclass
class SENRound(ModelOutput):
    """One round as the pictures show it.

    Args:
        fused_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): z with F read from this round's states, normalised.
        neuron_embeds (`dict[str, torch.Tensor]`): aligned neurons' projected pooled outputs of this round, normalised, each
            `(batch, projection_dim)`; zeros in rows where the neuron is absent.
    """

    fused_embeds: Tensor | None = None
    neuron_embeds: dict[str, Tensor] | None = None


@dataclass
class SENOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor`, *optional*): cross-entropy over the texts (`labels`), or symmetric contrastive (`return_loss`);
            and `config.association_loss` times the mean of the same over the rounds of `association_embeds`.
        logits_per_video (`torch.Tensor` of shape `(batch, texts)`, *optional*): scaled cosine similarities.
        logits_per_text (`torch.Tensor` of shape `(texts, batch)`, *optional*): the same, transposed.
        fused_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): the fused embedding z, normalised.
        association_embeds (`torch.Tensor` of shape `(batch, num_rounds, projection_dim)`): F of each round's states, without
            the mean of the aligned neurons, normalised; of round 0 where there is no other.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`, *optional*): normalised.
        knowledge (`torch.Tensor` of shape `(batch, num_rounds, hidden_size)`): what was integrated in each round.
        summary (`torch.Tensor` of shape `(batch, hidden_size)`): the hidden layer of F, read from the last round's states; of
            round 0 where there is no other.
        neuron_states (`dict[str, NeuronState]`): each neuron's tokens, pooled output, answers and grid after the last round.
        all_rounds (`tuple[SENRound]`, *optional*): rounds 0..K.
        hidden_states (`dict[str, tuple[torch.Tensor]]`, *optional*): of each neuron's first look, before any prompt, as its
            tower returns them, the input's embeddings first: each `(batch, tokens, width)`, or `(batch * frames, tokens,
            width)` for towers that look at one frame at a time.
        attentions (`dict[str, tuple[torch.Tensor]]`, *optional*): likewise; each `(batch, heads, tokens, tokens)`.
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
    """Cross-entropy of (batch, texts) logits over the texts and, if `contrastive`, over the videos too, averaged.

    Args:
        labels: (batch,) each video's text; by default, and only if `contrastive`, the texts are in the videos' order.

    Raises:
        ValueError: labels of another shape; contrastive, but not one text per video.
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
