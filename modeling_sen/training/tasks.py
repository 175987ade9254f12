"""What `sen train` trains a SEN on: naming a clip's label among all labels, or finding a clip by its text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.recognition_metrics import retrieval_metrics, top_k_accuracy
from modeling_sen.modeling_sen import SENModel, SENOutput
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.clip_batches import ClipInputs
from modeling_sen.training.losses import contrastive_loss, gramian_loss, sigmoid_loss

logger = logging.get_logger(__name__)

LOSSES = ("contrastive", "sigmoid", "gram")
SIGMOID_BIAS = -10.0  # SigLIP's start
EVALUATED_AT_ONCE = 32


class Recognition(nn.Module):
    """A SEN whose fused embedding is to name a clip's label: cross-entropy over the labels' texts in their templates.

    Args:
        model: loaded.
        processor: of the model.
        train, validation: the data sets, the second `None` where nothing is validated.
        templates: texts with `{}` for the label, averaged.

    Labels are those of both data sets: a text names a class, whether or not there are clips of it to train on.

    Raises:
        ValueError: fewer than two labels.
    """

    metric = "top1"
    class_embeds: Tensor

    def __init__(
        self,
        model: SENModel,
        processor: SENProcessor,
        train: ClipInputs,
        validation: ClipInputs | None,
        templates: Sequence[str],
    ):
        super().__init__()
        self.model, self.train_inputs, self.validation_inputs = model, train, validation
        trained = set(train.clips.targets)
        self.labels = sorted(trained | set(validation.clips.targets if validation is not None else ()))
        if len(self.labels) < 2:
            raise ValueError(f"{train.clips.source}: expected at least two labels, found {self.labels}")
        if unknown := sorted(set(self.labels) - trained):
            logger.warning(f"no clip to train on has the labels {', '.join(unknown)}")
        number_of = {label: number for number, label in enumerate(self.labels)}
        self.numbers = {
            id(inputs): torch.tensor([number_of[label] for label in inputs.clips.targets])
            for inputs in (train, validation)
            if inputs is not None
        }
        self.register_buffer(
            "class_embeds", SENEncoder(model, processor).embed_labels(self.labels, templates), persistent=False
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = self.numbers[id(self.train_inputs)][batch["rows"].cpu()].to(batch["rows"].device)
        output = self.train_inputs.look(self.model, batch, text_embeds=self.class_embeds, labels=labels)
        assert output.logits_per_video is not None
        assert output.loss is not None
        right = output.logits_per_video.argmax(dim=1) == labels
        return {"loss": output.loss, "train_top1": right.float().mean()}

    def evaluate(self) -> dict[str, float]:
        """Shares of the validation clips whose label ranks first, and among the first five."""
        inputs = self.validation_inputs
        assert inputs is not None
        rows, fused = embed_all(self.model, inputs)
        truth = self.numbers[id(inputs)][rows]
        scores = (fused @ self.class_embeds.cpu().float().T).numpy()
        return {f"top{k}": top_k_accuracy(scores, truth.numpy(), k) for k in (1, 5) if k < len(self.labels)}


class Retrieval(nn.Module):
    """A SEN whose fused embedding is to find its clip's text among those of a batch, and the text its clip.

    Each text is embedded once, before training. As of the model's own loss, what association says alone after each round is
    trained too, with the weight `config.association_loss`.

    Args:
        model: loaded.
        processor: of the model.
        train, validation: the data sets, the second `None` where nothing is validated.
        loss: "contrastive", "sigmoid", or "gram": the volume of the text, the fused embedding and what each aligned neuron
            says in the last round.

    Raises:
        ValueError: an unknown loss, or "gram" without an aligned neuron.
    """

    metric = "R@1"

    def __init__(
        self,
        model: SENModel,
        processor: SENProcessor,
        train: ClipInputs,
        validation: ClipInputs | None,
        loss: str = "contrastive",
    ):
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}, expected one of {', '.join(LOSSES)}")
        self.aligned = [spec.name for spec in model.config.neuron_specs if spec.aligned]
        if loss == "gram" and not self.aligned:
            raise ValueError(
                "loss 'gram' needs three vectors a clip, but no neuron of this SEN is aligned with its texts"
            )
        self.model, self.train_inputs, self.validation_inputs, self.loss = model, train, validation, loss
        if loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS))
        self.text_embeds = {
            id(inputs): _embed_texts(model, processor, inputs.clips.targets)
            for inputs in (train, validation)
            if inputs
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        asked = {"output_all_rounds": True} if self.loss == "gram" else {}
        output = self.train_inputs.look(self.model, batch, **asked)
        with torch.autocast(batch["rows"].device.type, enabled=False):  # similarities need all digits
            return self._results(output, batch["rows"].cpu())

    def _results(self, output: SENOutput, rows: Tensor) -> dict[str, Tensor]:
        assert output.fused_embeds is not None
        assert output.association_embeds is not None
        own = output.fused_embeds.float()
        texts = gather_rows(self.text_embeds[id(self.train_inputs)][rows].to(own))
        fused = gather_rows(own)
        if self.loss == "gram":
            assert output.all_rounds is not None
            said = output.all_rounds[-1].neuron_embeds or {}
            # Absent are zeros; a neuron that no clip of this process has too, so that all processes gather the same.
            heard = [
                gather_rows(said[name].float() if name in said else torch.zeros_like(own)) for name in self.aligned
            ]
            present = torch.stack([each.norm(dim=1) > 0.5 for each in (fused, *heard)], dim=1)
            loss = gramian_loss(texts, [fused, *heard], self.model.logit_scale.exp(), present)
        else:
            loss = self._paired_loss(fused, texts)
        if weight := self.model.config.association_loss:
            alone = gather_rows(output.association_embeds.float()).unbind(dim=1)
            loss = loss + weight * torch.stack([self._paired_loss(each, texts) for each in alone]).mean()
        found = (fused @ texts.T).argmax(dim=1)
        right = (texts[found] * texts).sum(dim=1) > 1 - 1e-4  # clips may share a text
        return {"loss": loss, "train_R@1": right.float().mean()}

    def _paired_loss(self, videos: Tensor, texts: Tensor) -> Tensor:
        scale = self.model.logit_scale.exp()
        if self.loss == "sigmoid":
            return sigmoid_loss(videos, texts, scale, self.logit_bias)
        return contrastive_loss(videos, texts, scale)

    def evaluate(self) -> dict[str, float]:
        """`retrieval_metrics` of the validation clips and their texts, and the mean of its two R@1."""
        inputs = self.validation_inputs
        assert inputs is not None
        rows, fused = embed_all(self.model, inputs)
        found = retrieval_metrics((self.text_embeds[id(inputs)][rows] @ fused.T).numpy())
        return {self.metric: (found["text_to_video_R@1"] + found["video_to_text_R@1"]) / 2, **found}


@torch.no_grad()
def embed_all(model: SENModel, inputs: ClipInputs) -> tuple[Tensor, Tensor]:
    """Rows of a data set that can be read, and their fused embeddings (n, embedding) float32, on the CPU.

    Each process embeds its share; all get everything.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object, send_to_device

    state = PartialState()
    rows = inputs.rows[state.process_index :: state.num_processes]
    parts: list[tuple[Any, Any]] = []
    for start in range(0, len(rows), EVALUATED_AT_ONCE):
        batch = send_to_device(inputs.batch(rows[start : start + EVALUATED_AT_ONCE]), model.device)
        fused = inputs.look(model, batch).fused_embeds
        assert fused is not None
        parts.append((batch["rows"].cpu(), fused.float().cpu()))
    parts = gather_object(parts)
    found, embeds = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    first = {row: place for place, row in reversed(list(enumerate(found.tolist())))}  # who stood in for another, once
    places = [first[row] for row in sorted(first)]
    return found[places], embeds[places]


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


def _embed_texts(model: SENModel, processor: SENProcessor, texts: Sequence[str]) -> Tensor:
    """(texts, embedding) float32 on the CPU; a text that occurs again is embedded once."""
    number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    embeds = SENEncoder(model, processor).embed_labels(list(number_of), ("{}",)).float().cpu()
    return embeds[[number_of[text] for text in texts]]
