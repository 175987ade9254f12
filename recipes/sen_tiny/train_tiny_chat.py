"""Trains sen-tiny-chat: `python -m recipes.sen_tiny.train_tiny_chat OUT`.

A small language model learns from nothing, with projector and association, to answer questions about the world's clips; the
towers are sen-tiny's and stay frozen. A second call resumes, or exports what is finished.
"""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from modeling_sen.modeling_sen_chat import SENChatConfig, SENForConditionalGeneration
from modeling_sen.presets import SEN_TINY
from modeling_sen.training.trainer import SENTrainingArguments
from modeling_sen.world.chat_questions import KINDS
from recipes.sen_tiny.chat_batches import IGNORED, ChatBatches, cached_tokenizer
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers

SEED = 20250607
VALIDATION_SEED = 0
BATCH_SIZE = 32  # clips
WINDOW_FRAMES, TOKENS_PER_FRAME = 2, 16
CONTEXT = 512  # tokens


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
        turns, is_conversation = batch["turns"], batch["is_conversation"]
        own = {"kinds", "turns", "is_conversation"}
        mask = attention_mask(turns, is_conversation)
        inputs = {name: value for name, value in batch.items() if name not in own}
        return self.model(**inputs, attention_mask=mask, use_cache=False)


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
            # On a CPU the fused attention is the slower one backwards.
            attn_implementation="eager",
        )
    )
    return SENForConditionalGeneration.from_llm(
        language_model, SEN_TINY, window_frames=WINDOW_FRAMES, tokens_per_frame=TOKENS_PER_FRAME
    )


def chat_accuracy(
    training: ChatTraining,
    clips: int,
    num_objects: int | tuple[int, int] = (1, 4),
    split: str = "validation",
    seed: int = VALIDATION_SEED,
    batch_size: int = 32,
) -> dict[str, float]:
    """Share of greedy answers that equal the right answer, for each kind of question, and `mean`, over the kinds.

    A greedy answer equals the right one if and only if each of its tokens, the end token included, scores highest after the
    right ones before it: one pass over the right answers measures it.

    Args:
        clips: how many, rounded up to whole batches, with 16 questions each where so many can be asked.
    """
    config: SENChatConfig = training.model.config
    batches = ChatBatches(config, seed, batch_size, num_questions=16, split=split, num_objects=num_objects)
    right: dict[str, list[bool]] = defaultdict(list)
    for number in range(-(-clips // batch_size)):
        batch = batches(number)
        batch["is_conversation"] = torch.tensor(False)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = training.answer(batch).logits[:, :-1]
        labels, turns = batch["labels"][:, 1:], batch["turns"][:, 1:]
        wrong = (logits.argmax(-1) != labels) & (labels != IGNORED)
        for row, kinds in enumerate(batch["kinds"].tolist()):
            for turn, kind in enumerate(kinds, start=1):
                if kind >= 0:
                    right[KINDS[kind]].append(not bool(wrong[row][turns[row] == turn].any()))
    shares = {kind: sum(right[kind]) / len(right[kind]) for kind in KINDS if kind in right}
    return {**shares, "mean": sum(shares.values()) / len(shares)}
