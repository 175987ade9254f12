"""Training tasks of a SEN: recognition (classify clips by label) and retrieval (match clips and texts).

A task is called with the model and a batch of a [`ClipDataset`], and returns the loss and the fused embeddings. `measure`
computes metrics from the fused embeddings of all validation clips (`compute_metrics` of the Trainer).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction
from transformers.utils import logging

from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.recognition_metrics import retrieval_metrics, top_k_accuracy
from modeling_sen.modeling_sen import SENModel
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.clip_dataset import ClipDataset
from modeling_sen.training.losses import contrastive_loss, gramian_loss, sigmoid_loss

logger = logging.get_logger(__name__)

LOSSES = ("contrastive", "sigmoid", "gram")
SIGMOID_BIAS = -10.0  # SigLIP's initial value


class Recognition:
    """Classification by class texts, with the model's own cross-entropy loss.

    The classes are the labels of all data sets; a class needs no training clips.

    Args:
        model: the SEN, with loaded towers.
        processor: its processor.
        datasets: training clips and, optionally, validation clips.
        templates: texts with `{}` for the label, whose embeddings are averaged.

    Raises:
        ValueError: fewer than two labels.
    """

    metric = "top1"

    def __init__(
        self, model: SENModel, processor: SENProcessor, datasets: Sequence[ClipDataset], templates: Sequence[str]
    ):
        self.datasets = datasets
        trained = set(datasets[0].clips.targets)
        self.labels = sorted(trained.union(*(each.clips.targets for each in datasets)))
        if len(self.labels) < 2:
            raise ValueError(f"{datasets[0].clips.source}: expected at least two labels, found {self.labels}")
        if unknown := sorted(set(self.labels) - trained):
            logger.warning(f"no clip to train on has the labels {', '.join(unknown)}")
        index_of = {label: index for index, label in enumerate(self.labels)}
        self.label_indices = torch.tensor([index_of[label] for each in datasets for label in each.clips.targets])
        self.class_embeds = SENEncoder(model, processor).embed_labels(self.labels, templates)

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = self.label_indices[batch["rows"].cpu()].to(batch["rows"].device)
        output = model(**model_inputs(self.datasets, batch), text_embeds=self.class_embeds, labels=labels)
        return {"loss": output.loss, "fused_embeds": output.fused_embeds}

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Top-1 and top-5 accuracy on the validation clips."""
        rows, fused = each_row_once(prediction)
        scores, truth = fused @ self.class_embeds.float().cpu().numpy().T, self.label_indices[rows].numpy()
        return {f"top{k}": top_k_accuracy(scores, truth, k) for k in (1, 5) if k < len(self.labels)}


class Retrieval:
    """Matches fused embeddings and texts, in both directions, within the batch of all processes.

    Texts are embedded once, before training. As in the model's own loss, F of each round has a loss too, with the weight
    `config.association_loss`.

    Args:
        model: the SEN, with loaded towers.
        processor: its processor.
        datasets: training clips and, optionally, validation clips.
        loss: "contrastive", "sigmoid", or "gram", the volume spanned by the text, the fused embedding and each aligned
            neuron's embedding in the last round.

    Raises:
        ValueError: an unknown loss, or "gram" without an aligned neuron.
    """

    metric = "R@1"

    def __init__(
        self, model: SENModel, processor: SENProcessor, datasets: Sequence[ClipDataset], loss: str = "contrastive"
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}, expected one of {', '.join(LOSSES)}")
        self.aligned = [spec.name for spec in model.config.neuron_specs if spec.aligned]
        if loss == "gram" and not self.aligned:
            raise ValueError(
                "loss 'gram' needs three vectors per clip, but no neuron of this SEN is aligned with its texts"
            )
        if loss == "sigmoid" and model.logit_bias is None:
            model.add_logit_bias(SIGMOID_BIAS)
        self.sen, self.datasets, self.loss = model, datasets, loss
        texts = [text for each in datasets for text in each.clips.targets]
        number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        embeds = torch.from_numpy(SENEncoder(model, processor).encode_text(list(number_of)))
        self.text_embeds = embeds[[number_of[text] for text in texts]]

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = batch["rows"]
        text_embeds = self.text_embeds[rows.cpu()].to(rows.device)
        # The texts make scale and bias contribute to the model's outputs; without them DDP would treat both as unused.
        arguments = {"text_embeds": text_embeds, "output_all_rounds": self.loss == "gram"}
        output = model(**model_inputs(self.datasets, batch), **arguments)
        with torch.autocast(rows.device.type, enabled=False):  # similarities need float32
            return {"loss": self._loss(output, text_embeds), "fused_embeds": output.fused_embeds}

    def _loss(self, output: Any, text_embeds: Tensor) -> Tensor:
        """Loss over the rows of all processes, from this process's outputs and texts."""
        local = output.fused_embeds.float()
        texts, fused = gather_rows(text_embeds), gather_rows(local)
        if self.loss == "gram":
            embeds = output.all_rounds[-1].neuron_embeds or {}
            # Zeros for neurons without inputs in this process, so that all processes gather the same number of tensors.
            neurons = [
                gather_rows(embeds[name].float() if name in embeds else torch.zeros_like(local))
                for name in self.aligned
            ]
            present = torch.stack([each.norm(dim=1) > 0.5 for each in (fused, *neurons)], dim=1)
            loss = gramian_loss(texts, [fused, *neurons], self.sen.logit_scale.exp(), present)
        else:
            loss = self._paired_loss(fused, texts)
        if weight := self.sen.config.association_loss:
            rounds = gather_rows(output.association_embeds.float()).unbind(dim=1)
            loss = loss + weight * torch.stack([self._paired_loss(each, texts) for each in rounds]).mean()
        return loss

    def _paired_loss(self, videos: Tensor, texts: Tensor) -> Tensor:
        scale = self.sen.logit_scale.exp()
        if self.loss == "sigmoid":
            assert self.sen.logit_bias is not None
            return sigmoid_loss(videos, texts, scale, self.sen.logit_bias)
        return contrastive_loss(videos, texts, scale)

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """`retrieval_metrics` of the validation clips and their texts, and the mean of both directions' R@1."""
        rows, fused = each_row_once(prediction)
        found = retrieval_metrics(self.text_embeds[rows].numpy() @ fused.T)
        return {self.metric: (found["text_to_video_R@1"] + found["video_to_text_R@1"]) / 2, **found}


def model_inputs(datasets: Sequence[ClipDataset], batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model's inputs for a batch: the decoded inputs, or first looks from the data set's cache."""
    decoded = {name: value for name, value in batch.items() if name != "rows"}
    if decoded:
        return decoded
    rows = batch["rows"].cpu().numpy()
    dataset = max((each for each in datasets if each.first_row <= rows[0]), key=lambda each: each.first_row)
    assert dataset.cache is not None
    local_rows = rows - dataset.first_row
    return {"trunks": dataset.cache.trunks(local_rows), "neuron_mask": dataset.cache.neuron_mask(local_rows)}


def each_row_once(prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows of the validation clips, and their fused embeddings (n, embedding).

    Rows can occur twice, because a clip replaces one that cannot be read.
    """
    rows, positions = np.unique(prediction.label_ids, return_index=True)
    return rows, np.asarray(prediction.predictions)[positions]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in process order; gradients flow to this process's rows only."""
    from accelerate import PartialState
    from accelerate.utils import gather

    state = PartialState()
    if state.num_processes == 1:
        return rows
    every: Any = gather(rows.detach().contiguous())
    if not rows.requires_grad:
        return every
    local = rows.clone()
    # DDP averages weight gradients over processes; the factor makes them those of the whole loss.
    local.register_hook(lambda gradient: gradient * state.num_processes)
    start = state.process_index * len(rows)
    return torch.cat([every[:start], local, every[start + len(rows) :]])
