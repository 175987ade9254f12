"""A byte-level tokenizer and a small random language model (a few thousand weights) for it."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

END = 256


def byte_tokenizer(**arguments) -> PreTrainedTokenizerFast:
    """Token n is the byte n; token 256 ends a text and is the padding, token 257 starts a message."""
    vocab = {letter: byte for byte, letter in bytes_to_unicode().items()} | {"<|end|>": END, "<|turn|>": 257}
    words = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|turn|>"],
        **arguments,
    )


def tiny_language_model(**settings) -> LlamaForCausalLM:
    """The weights are large, so that answers depend on the question."""
    config = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.4,
        "eos_token_id": END,
        "pad_token_id": END,
        "bos_token_id": None,
        **settings,
    }
    state = torch.get_rng_state()
    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    torch.set_rng_state(state)
    # Answers contain only printable ASCII characters; tokenizing such a text again gives the same tokens.
    model.generation_config.suppress_tokens = [*range(32), *range(127, 256), 257]
    return model
