"""Causal language models as the Hub has them, at full size with random weights, without a network.

The tokenizer is a stand-in of a few hundred tokens, with one for each word of our questions and each sign of a time, as real
ones have; no other token of the vocabulary is ever generated. The chat template is ChatML.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from modeling_sen import SENChatProcessor, SENForConditionalGeneration, SENModel

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "user assistant What happens in the video? What do you hear? And then? Who is there? How many are there? A dog barks."

# Name -> configuration.
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": True,
    },
    "Llama-3.2-1B": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
    "SmolLM3-3B, 4 of 36 layers": {
        "model_type": "smollm3",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 65_536,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    },
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the words of a few questions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = TEMPLATE
    return fast


def save_language_model(name: str, folder: Path, dtype: torch.dtype) -> Path:
    """Writes a checkpoint with random weights, and its tokenizer, to `folder`; returns that."""
    tokenizer, settings = make_tokenizer(), dict(LANGUAGE_MODELS[name])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, **ends)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Answers are text that has the same tokens when it is read again.
    written = range(2 + 256, len(tokenizer))
    model.generation_config.suppress_tokens = [token for token in range(config.vocab_size) if token not in written]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_chat(llm: Path, sen: SENModel | str, **settings: Any) -> tuple[SENForConditionalGeneration, SENChatProcessor]:
    """A chat model with an untrained projector, and its processor."""
    placeholder = len(make_tokenizer())  # the first id that no text has
    model = SENForConditionalGeneration.from_llm(str(llm), sen, video_token_id=placeholder, **settings)
    return model, SENChatProcessor.from_llm(llm, model.config)
