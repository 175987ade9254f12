"""What a SEN is trained on: naming a clip's label among all labels, or finding a clip by its text.

A task is called with the model and a batch of a [`ClipDataset`], and returns the loss and the fused embeddings; `measure`
takes the fused embeddings of all validation clips (`compute_metrics` of the Trainer).
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
SIGMOID_BIAS = -10.0  # SigLIP's start


class Recognition:
    """The fused embedding is to name a clip's label: the model's own cross-entropy over the labels' texts in templates.

    Args:
        model: loaded.
        processor: of the model.
        datasets: training clips, and validation clips where there are some.
        templates: texts with `{}` for the label, averaged.

    Labels are those of all data sets: a text names a class, whether or not there are clips of it to train on.

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
        number_of = {label: number for number, label in enumerate(self.labels)}
        self.numbers = torch.tensor([number_of[label] for each in datasets for label in each.clips.targets])
        self.class_embeds = SENEncoder(model, processor).embed_labels(self.labels, templates)

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = self.numbers[batch["rows"].cpu()].to(batch["rows"].device)
        output = model(**model_inputs(self.datasets, batch), text_embeds=self.class_embeds, labels=labels)
        return {"loss": output.loss, "fused_embeds": output.fused_embeds}

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Shares of the validation clips whose label ranks first, and among the first five."""
        rows, fused = each_row_once(prediction)
        scores, truth = fused @ self.class_embeds.float().cpu().numpy().T, self.numbers[rows].numpy()
        return {f"top{k}": top_k_accuracy(scores, truth, k) for k in (1, 5) if k < len(self.labels)}


class Retrieval:
    """The fused embedding is to find its clip's text among those of a batch, and the text its clip.

    The batch is that of all processes. Each text is embedded once, before training. As in the model's own loss, the embedding
    of association alone after each round is trained too, with the weight `config.association_loss`.

    Args:
        model: loaded.
        processor: of the model.
        datasets: training clips, and validation clips where there are some.
        loss: "contrastive", "sigmoid", or "gram": the volume of the text, the fused embedding and each aligned neuron's
            embedding in the last round.

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
                "loss 'gram' needs three vectors a clip, but no neuron of this SEN is aligned with its texts"
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
        own = self.text_embeds[rows.cpu()].to(rows.device)
        # The texts make scale and bias part of the model's outputs, without which DDP would take them for unused.
        asked = {"text_embeds": own, "output_all_rounds": self.loss == "gram"}
        output = model(**model_inputs(self.datasets, batch), **asked)
        with torch.autocast(rows.device.type, enabled=False):  # similarities need all digits
            return {"loss": self._loss(output, own), "fused_embeds": output.fused_embeds}

    def _loss(self, output: Any, own_texts: Tensor) -> Tensor:
        own = output.fused_embeds.float()
        texts, fused = gather_rows(own_texts), gather_rows(own)
        if self.loss == "gram":
            said = output.all_rounds[-1].neuron_embeds or {}
            # Absent are zeros; a neuron that no clip of this process has too, so that all processes gather the same.
            heard = [
                gather_rows(said[name].float() if name in said else torch.zeros_like(own)) for name in self.aligned
            ]
            present = torch.stack([each.norm(dim=1) > 0.5 for each in (fused, *heard)], dim=1)
            loss = gramian_loss(texts, [fused, *heard], self.sen.logit_scale.exp(), present)
        else:
            loss = self._paired_loss(fused, texts)
        if weight := self.sen.config.association_loss:
            alone = gather_rows(output.association_embeds.float()).unbind(dim=1)
            loss = loss + weight * torch.stack([self._paired_loss(each, texts) for each in alone]).mean()
        return loss

    def _paired_loss(self, videos: Tensor, texts: Tensor) -> Tensor:
        scale = self.sen.logit_scale.exp()
        if self.loss == "sigmoid":
            assert self.sen.logit_bias is not None
            return sigmoid_loss(videos, texts, scale, self.sen.logit_bias)
        return contrastive_loss(videos, texts, scale)

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """`retrieval_metrics` of the validation clips and their texts, and the mean of its two R@1."""
        rows, fused = each_row_once(prediction)
        found = retrieval_metrics(self.text_embeds[rows].numpy() @ fused.T)
        return {self.metric: (found["text_to_video_R@1"] + found["video_to_text_R@1"]) / 2, **found}


def model_inputs(datasets: Sequence[ClipDataset], batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the model takes of a batch: decoded inputs, or trunks from the cache of the data set that its rows are of."""
    given = {name: value for name, value in batch.items() if name != "rows"}
    if given:
        return given
    rows = batch["rows"].cpu().numpy()
    dataset = max((each for each in datasets if each.first_row <= rows[0]), key=lambda each: each.first_row)
    assert dataset.cache is not None
    own = rows - dataset.first_row
    return {"trunks": dataset.cache.trunks(own), "neuron_mask": dataset.cache.neuron_mask(own)}


def each_row_once(prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the validation clips, in order, and their fused embeddings (n, embedding): a clip may stand in for another."""
    rows, places = np.unique(prediction.label_ids, return_index=True)
    return rows, np.asarray(prediction.predictions)[places]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of processes; gradients reach this process's own as if it had all."""
    from accelerate import PartialState
    from accelerate.utils import gather

    state = PartialState()
    if state.num_processes == 1:
        return rows
    every: Any = gather(rows.detach().contiguous())
    if not rows.requires_grad:
        return every
    own = rows.clone()
    # Each process has the gradient of the whole loss; of weights it will be averaged over processes.
    own.register_hook(lambda gradient: gradient * state.num_processes)
    start = state.process_index * len(rows)
    return torch.cat([every[:start], own, every[start + len(rows) :]])
