"""The rows of the fusion study: how each feeds one language model, and how its answers are counted.

All rows have the same language model with the same initial weights, and the same number of visual tokens. What is trained
starts from random weights, but for one row, whose association is sen-tiny's; the towers are sen-tiny's and frozen.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from modeling_sen.configuration_sen_chat import SENChatConfig
from modeling_sen.dense_features import DenseFeatures
from modeling_sen.first_look import FirstLook
from modeling_sen.modeling_sen import SENModel
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.recursive_association import PROMPT
from modeling_sen.visual_tokens import VisualProjector, pool_to_lattice
from modeling_sen.world.chat_questions import ChatQuestion
from recipes.sen_tiny.chat_batches import IGNORED, ChatBatches
from recipes.sen_tiny.chat_texts import TRAINED_KINDS
from recipes.sen_tiny.train_tiny_association import NEURONS
from recipes.sen_tiny.train_tiny_chat import ChatTraining, untrained_model

# From which part of the run on clips have so many objects; measured on clips as at the end.
CURRICULUM = ((0.0, (1, 1)), (0.1, (2, 2)), (0.6, (1, 3)))
# Answers to the questions about one clip: kind -> modalities that are needed -> [right, asked].
Answers = dict[str, dict[str, list[int]]]


@dataclass(frozen=True)
class Row:
    """One way to feed the language model.

    Attributes:
        words: what the row is called in tables.
        neurons: whose features are read; the others have no influence.
        fusion: entry of `FUSION`.
        rounds: of association; 0 for none.
        prompt: entry of `PROMPT`.
        trained_before: whether association starts from sen-tiny's.
    """

    words: str
    neurons: tuple[str, ...] = tuple(NEURONS)
    fusion: str = "weights"
    rounds: int = 0
    prompt: str = "queries"
    trained_before: bool = False


SINGLE = {name: Row(f"`{name}` alone", (name,), "mean") for name in NEURONS}
FUSED = {
    "mean": Row("mean of all neurons", fusion="mean"),
    "cross_attention": Row("MERV's cross-attention", fusion="cross_attention"),
    "weights": Row("learned weights"),
}
SEN = {
    "sen_1": Row("SEN, K = 1", rounds=1),
    "sen_2": Row("SEN, K = 2", rounds=2),
    "sen_3": Row("SEN, K = 3", rounds=3),
    "sen_3_tokens": Row("SEN, K = 3, prompts as tokens", rounds=3, prompt="tokens"),
    "sen_3_trained": Row("SEN, K = 3, association of sen-tiny", rounds=3, trained_before=True),
}
ROWS = SINGLE | FUSED | SEN


class PooledProjector(VisualProjector):
    """Without association there are no answers: means of a quarter of each neuron's tokens take their places.

    The quarters are those of the picture over the whole clip, and for sound those of its time. They go through the maps that
    answers go through, so that rows differ neither in the number of visual tokens nor in the projector.
    """

    def forward(self, features: Mapping[str, DenseFeatures], present: Mapping[str, Tensor]) -> Tensor:
        quartered = {}
        for name, each in features.items():
            lattice = (4, 1, 1) if self.modalities[name] == "audio" else (1, 2, 2)
            every = torch.ones(each.tokens.shape[:2], dtype=torch.bool, device=each.tokens.device)
            means, _ = pool_to_lattice(each.tokens, every, self.modalities[name], each.grid, lattice)
            quartered[name] = replace(each, answers=means)
        return super().forward(quartered, present)


def build_row(row: Row, seed: int, towers: SENModel | None = None) -> ChatTraining:
    """The model of a row, with the initial weights of a seed.

    Args:
        towers: whose towers are shared; by default they are loaded.
    """
    torch.manual_seed(seed)
    base = untrained_model()  # its language model has the same weights in all rows
    settings = base.config.to_dict()
    settings |= {"fusion": row.fusion, "read_neurons": list(row.neurons)}
    # Modulation is part of association: without it tokens are the towers' own.
    dense = list(row.neurons) if row.rounds else None
    settings["sen_config"] |= {"num_rounds": row.rounds, "prompt": row.prompt, "dense_neurons": dense}
    config = SENChatConfig.from_dict(settings)
    model = SENForConditionalGeneration(config)
    model.sen.neurons.share((base.sen if towers is None else towers).neurons)
    if not row.rounds:
        width, lattice = config.text_config.hidden_size, (config.window_frames, config.grid_side, config.grid_side)  # type: ignore[union-attr]
        specs = [model.sen.specs[name] for name in row.neurons]
        projector = PooledProjector(specs, lattice, width, width, row.fusion, reads_answers=True)
        model.projector = projector.apply(model._init_weights)
    if row.trained_before:
        model.sen.load_state_dict(base.sen.state_dict())
    model.attach_language_model(base.language_model)
    return ChatTraining(model)


class PairedRows(nn.Module):
    """Rows that are trained side by side on the same batches; the towers are shared, nothing else."""

    def __init__(self, names: tuple[str, ...], seed: int):
        super().__init__()
        self.rows = nn.ModuleDict()
        for name in names:
            self.rows[name] = build_row(ROWS[name], seed, self.model_of(names[0]).sen if self.rows else None)

    def model_of(self, name: str) -> SENForConditionalGeneration:
        return self.rows[name].model  # type: ignore[return-value]

    def first_looks(self, batch: Mapping[str, Tensor]) -> dict[str, FirstLook]:
        """Of all neurons, once for all rows, with what any of them needs later."""
        records: dict[str, set[str]] = defaultdict(set)
        for name in self.rows:
            if ROWS[name].rounds:
                for neuron in NEURONS:
                    records[neuron].update(PROMPT[ROWS[name].prompt].records)
        sen = self.model_of(next(iter(self.rows))).sen
        inputs = {name: value for name, value in batch.items() if name.split("_")[0] in NEURONS}
        device = batch["input_ids"].device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            each = {neuron: tuple(sorted(records[neuron])) for neuron in NEURONS}
            return sen.neurons.first_looks(inputs, batch["neuron_mask"], device, each)[0]

    def inputs_of(self, name: str, batch: Mapping[str, Tensor], looks: Mapping[str, FirstLook]) -> dict:
        """What the model of a row is called with."""
        texts = ("input_ids", "labels", "position_ids", "turns", "is_conversation", "neuron_mask")
        return {
            **{each: batch[each] for each in texts},
            "trunks": {neuron: looks[neuron] for neuron in ROWS[name].neurons},
        }


class StudyBatches(ChatBatches):
    """Clips of one window with all modalities, and beside each question's kind what it needs.

    `needed` (B, K) int64 has the bit `1 << NEURONS.index(modality)` for each modality.
    """

    def __call__(self, step: int) -> dict[str, Tensor]:
        self._needed: list[list[int]] = []
        batch = super().__call__(step)
        needed = torch.zeros_like(batch["kinds"])
        for number, each in enumerate(self._needed):
            needed[number, : len(each)] = torch.tensor(each)
        # A single neuron needs an input in each clip. Which questions are asked still depends on the mask that was drawn.
        return batch | {"needed": needed, "neuron_mask": torch.ones_like(batch["neuron_mask"])}

    def objects_at(self, step: int) -> tuple[int, int]:
        done = step / self.steps if self.steps else 1.0
        return [objects for start, objects in CURRICULUM if done >= start][-1]

    def _row(
        self, random: np.random.Generator, questions: list[ChatQuestion], prefix: list[int], is_conversation: bool
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        self._needed.append([sum(1 << NEURONS.index(name) for name in each.modalities) for each in questions])
        return super()._row(random, questions, prefix, is_conversation)


def names_of(needed: int) -> str:
    """`5` -> `"image+audio"`."""
    return "+".join(name for place, name in enumerate(NEURONS) if needed >> place & 1)


@torch.no_grad()
def answers_of(paired: PairedRows, split: str, seed: int, clips: int, num_questions: int = 12) -> dict[str, Answers]:
    """Answers of each row about the same clips: right where each token of the right answer scores highest.

    Args:
        clips: above 32 rounded up to a multiple of it.
    """
    paired.eval()
    batch_size = min(clips, 32)
    config = reference_config(paired)
    batches = StudyBatches(config, seed, batch_size, 0, num_questions, split, num_windows=1)
    answers: dict[str, Answers] = {name: defaultdict(lambda: defaultdict(lambda: [0, 0])) for name in paired.rows}
    for number in range(-(-clips // batch_size)):
        batch = batches(number) | {"is_conversation": torch.tensor(False)}
        looks = paired.first_looks(batch)
        labels, turns = batch["labels"][:, 1:], batch["turns"][:, 1:]
        for name, row in paired.rows.items():
            with torch.autocast("cpu", torch.bfloat16):
                logits = row.answer(paired.inputs_of(name, batch, looks)).logits[:, :-1]
            wrong = (logits.argmax(-1) != labels) & (labels != IGNORED)
            for clip, turn in (batch["kinds"] >= 0).nonzero().tolist():
                kind = TRAINED_KINDS[batch["kinds"][clip, turn]]
                count = answers[name][kind][names_of(int(batch["needed"][clip, turn]))]
                count[0] += not bool(wrong[clip][turns[clip] == turn + 1].any())
                count[1] += 1
    return {name: {kind: dict(each) for kind, each in kinds.items()} for name, kinds in answers.items()}


def reference_config(paired: PairedRows) -> SENChatConfig:
    """A configuration whose prompts have the visual tokens of all rows, those of answers included."""
    settings = paired.model_of(next(iter(paired.rows))).config.to_dict()
    settings["sen_config"]["num_rounds"] = 1
    return SENChatConfig.from_dict(settings)


def parameter_counts(paired: PairedRows, batch: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Parameters that the loss reaches, of each row: those before the language model, and the language model's."""
    looks, counts = paired.first_looks(batch), {}
    for name, row in paired.rows.items():
        row.answer(paired.inputs_of(name, batch, looks)).loss.backward()
        parts = [dict.fromkeys(part.parameters()) for part in (row, row.language_model)]
        every, language = (sum(each.numel() for each in part if each.grad is not None) for part in parts)
        counts[name] = every - language, language
        row.zero_grad()
    return counts
