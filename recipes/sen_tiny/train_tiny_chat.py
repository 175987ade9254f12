"""Trains sen-tiny-chat: `python -m recipes.sen_tiny.train_tiny_chat OUT`.

A small language model learns from nothing, with projector and association, to answer questions about the world's clips; the
towers are sen-tiny's and stay frozen. A second call resumes, or exports what is finished.
"""

import copy
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from modeling_sen.configuration_sen_chat import SENChatConfig
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.presets import SEN_TINY
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.training.trainer import SENTrainingArguments
from recipes.sen_tiny.chat_batches import IGNORED, ChatBatches, cached_tokenizer
from recipes.sen_tiny.chat_texts import TRAINED_KINDS
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers

SEED = 20250607
VALIDATION_SEED = 0
BATCH_SIZE, NUM_QUESTIONS = 20, 10  # clips, and questions about each
WINDOW_FRAMES, TOKENS_PER_FRAME = 2, 16
CONTEXT = 512  # tokens
# With the usual 0.02 attention of this width stays almost uniform for long: on clips of two objects 600 steps of 16 then gave
# 47 % of right answers, with 0.06 83 %, with 0.1 86 %; 4 steps of 4 tokens gave 58 %.
INITIALIZER_RANGE = 0.1


class ChatTraining(nn.Module):
    """The model, whose language model is trained too; called on a batch of `ChatBatches` it returns the loss."""

    accepts_loss_kwargs = False  # a mean over tokens, whatever the Trainer counts

    def __init__(self, model: SENForConditionalGeneration):
        super().__init__()
        self.model = model
        # the state of the model leaves the language model out
        self.language_model = model.language_model.requires_grad_(True)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        return {"loss": self.answer(batch).loss}

    def answer(self, batch: Mapping[str, Tensor]) -> Any:
        """Output of the language model, with the loss."""
        own = ("input_ids", "labels", "position_ids", "turns", "kinds", "is_conversation")
        clips = {name: value for name, value in batch.items() if name not in own}
        with torch.autocast(batch["turns"].device.type, enabled=False):  # towers and association in float32
            features = self.model.get_video_features(**clips)
        return self.model(
            input_ids=batch["input_ids"],
            attention_mask=attention_mask(batch["turns"], batch["is_conversation"]),
            position_ids=batch["position_ids"],
            labels=batch["labels"],
            mm_encoder_outputs={"video": features},
            use_cache=False,
        )


def attention_mask(turns: Tensor, is_conversation: Tensor) -> Tensor:
    """(batch, 1, L, L) float32 to be added: a token sees the prefix, and those before it of its own turn, or of all turns."""
    length = turns.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=turns.device).tril()
    theirs, own = turns[:, None, None, :], turns[:, None, :, None]
    seen = before & ((theirs == 0) | (theirs == own) | is_conversation)
    return torch.zeros(seen.shape, device=turns.device).masked_fill(~seen, torch.finfo(torch.float32).min)


def untrained_model() -> SENForConditionalGeneration:
    """Sen-tiny with an untrained projector and language model."""
    tokenizer = cached_tokenizer()
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=6,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=INITIALIZER_RANGE,
            # On a CPU the fused attention is the slower one backwards.
            attn_implementation="eager",
        )
    )
    return SENForConditionalGeneration.from_llm(
        language_model, SEN_TINY, window_frames=WINDOW_FRAMES, tokens_per_frame=TOKENS_PER_FRAME
    )


@torch.no_grad()
def right_answers(training: ChatTraining, batch: Mapping[str, Tensor]) -> list[list[bool]]:
    """For each clip and each question about it, whether the greedy answer equals the right one.

    It does if and only if each token of the right answer, the end token included, scores highest after the right ones before
    it: one pass over the right answers measures it.
    """
    logits = training.answer(batch).logits[:, :-1]
    labels, turns = batch["labels"][:, 1:], batch["turns"][:, 1:]
    wrong = (logits.argmax(-1) != labels) & (labels != IGNORED)
    return [
        [not bool(row[own == turn].any()) for turn in range(1, int(own.max()) + 1)]
        for row, own in zip(wrong, turns, strict=True)
    ]


def chat_accuracy(
    training: ChatTraining,
    clips: int,
    num_objects: int | tuple[int, int] = (1, 4),
    split: str = "validation",
    seed: int = VALIDATION_SEED,
    num_questions: int = 16,
    num_windows: int = 1,
) -> dict[str, float]:
    """Share of greedy answers that equal the right answer, for each kind of question, and `mean`, over the kinds.

    The language model runs in bfloat16.

    Args:
        clips: how many; above 32 rounded up to a multiple of it.
        num_questions: about each clip, where so many can be asked.
        num_windows: of each clip, of 2 seconds.
    """
    config: SENChatConfig = training.model.config
    device = next(training.parameters()).device
    batch_size = min(clips, 32)
    batches = ChatBatches(config, seed, batch_size, 0, num_questions, split, num_objects, num_windows)
    right: dict[str, list[bool]] = defaultdict(list)
    for number in range(-(-clips // batch_size)):
        batch = batches(number)
        batch["is_conversation"] = torch.tensor(False)
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            answers = right_answers(training, batch)
        for kinds, found in zip(batch["kinds"].tolist(), answers, strict=True):
            for kind, is_right in zip(kinds, found, strict=False):  # of padding there is no answer
                right[TRAINED_KINDS[kind]].append(is_right)
    shares = {kind: sum(right[kind]) / len(right[kind]) for kind in TRAINED_KINDS if kind in right}
    return {**shares, "mean": sum(shares.values()) / len(shares)}


def chat_arguments(output: Path, steps: int = 4000, **changes: Any) -> SENTrainingArguments:
    """Arguments of the training: about an hour on two cores."""
    own: dict[str, Any] = {
        "learning_rate": 1e-3,
        "warmup_steps": 200,
        "seed": SEED,
        "bf16": True,
        "dataloader_num_workers": 1,
        "dataloader_prefetch_factor": 4,
        "eval_strategy": "steps",
        "eval_steps": 500,
        "save_steps": 250,
        "logging_steps": 50,
    }
    return numbered_arguments(output / "training" / "chat", steps, **{**own, **changes})


def train_chat(
    output: Path, arguments: SENTrainingArguments, batch_size: int = BATCH_SIZE, validation_clips: int = 96
) -> ChatTraining:
    """Trains projector, association and language model; a second call resumes, or loads what is finished."""
    torch.manual_seed(arguments.seed)
    training = ChatTraining(untrained_model())
    batches = ChatBatches(training.model.config, arguments.seed, batch_size, arguments.max_steps, NUM_QUESTIONS)

    def measure(module: nn.Module) -> dict[str, float]:
        measured = {}
        for name, objects in (("one", 1), ("two", 2), ("three", 3)):
            accuracy = chat_accuracy(training, validation_clips, objects)
            measured |= {f"{name}_{kind}": share for kind, share in accuracy.items()}
        return measured

    keep_record(train_on_numbers(training, batches, arguments, measure), output, "chat")
    return training


def export(output: Path, training: ChatTraining, folder: Path) -> None:
    """Writes the checkpoint, in float16, to `folder`: processor and language model beside it, and settings and log."""
    model = copy.deepcopy(training.model).half()
    model.save_pretrained(folder)
    config = SENChatConfig.from_pretrained(folder)
    config.dtype = config.language_model["dtype"] = "float32"  # stored in float16, run in float32
    config.language_model["base_model"] = "builtin:language_model"
    config.save_pretrained(folder)
    cached_tokenizer().save_pretrained(folder / "language_model")
    SENChatProcessor.from_llm(folder / "language_model", config).save_pretrained(folder)
    for name in ("chat_settings.json", "chat_log.jsonl"):
        shutil.copy(output / name, folder / name)


def main(
    output: Annotated[Path, typer.Argument(help="folder of the run")],
    folder: Annotated[Path, typer.Option(help="what the checkpoint is written to")] = Path(SEN_TINY, "chat"),
) -> None:
    """Train sen-tiny-chat and export it. Run again after an interruption: it goes on where it was."""
    torch.set_num_threads(2)
    training = train_chat(output, chat_arguments(output))
    export(output, training, folder)
    for split in ("test", "unseen_pairs"):
        print(split, {kind: round(share, 3) for kind, share in chat_accuracy(training, 320, split=split).items()})


if __name__ == "__main__":
    typer.run(main)
