"""A chat model with a random language model over bytes, and its processor."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from modeling_sen import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import SENChatProcessor


def make_tokenizer():
    """A byte-level tokenizer: one token for each byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: number for number, name in enumerate(["<pad>", "<end>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def make_chat_parts(sen, folder, **settings):
    """A chat model and its processor; the random language model's answers depend on its whole input."""
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    llm = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=400,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
    ).eval()
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = SENForConditionalGeneration.from_llm(str(folder), sen, window_frames=2, tokens_per_frame=4, **settings)
    for parameter in model.projector.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.sen.gate.data.fill_(0.8)
    return model, SENChatProcessor.from_llm(str(folder), model.config)
