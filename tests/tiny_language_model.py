"""A tiny random language model with a byte-level tokenizer and a chat template, and conversations about clips."""

import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Questions and answers about each clip: the turns of one conversation.
TURNS = [
    [("what colour?", "red"), ("what shape?", "a circle")],
    [("what shape?", "star")],
    [("what shape?", "two"), ("and colour?", "blue")],
]


def byte_tokenizer(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token for each byte, and the special tokens of the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"]})
    fast.chat_template = template
    return fast


def write_language_model(folder: Path, seed: int = 0) -> str:
    """Saves a causal language model and its tokenizer to a folder."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_conversations(path: Path, clips: list[Path]) -> str:
    """Writes a JSON file in LLaVA's layout: `TURNS` for each clip, and one conversation without a clip."""
    rows = []
    for clip, turns in zip(clips, TURNS, strict=True):
        texts = [each for pair in turns for each in pair]
        values = [f"<video>\n{texts[0]}", *texts[1:]]
        rows.append(
            {
                "video": os.path.relpath(clip, path.parent),
                "conversations": [
                    {"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)
                ],
            }
        )
    rows.append({"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good day"}]})
    path.write_text(json.dumps(rows))
    return str(path)
