"""Tiny random language models, a chat model that uses one, and prompts for it."""

import torch
import transformers

import modeling_sen

VOCABULARY = 64
PLACES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
LANGUAGE_MODELS = {
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 8, "tie_word_embeddings": False}),
    "tied": ("Qwen3ForCausalLM", {"head_dim": 8, "tie_word_embeddings": True}),
    "llama": ("LlamaForCausalLM", {"tie_word_embeddings": False}),
}


def make_language_model(kind="qwen3"):
    """The weights are large, so that answers depend on the prompt."""
    class_name, settings = LANGUAGE_MODELS[kind]
    model_class = getattr(transformers, class_name)
    torch.manual_seed(11)
    model = model_class(model_class.config_class(**PLACES, **HEADS, **SPECIAL, **settings))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.repetition_penalty = 1.1
    return model.eval()


def make_chat(sen, llm, **settings):
    """Two steps of 2 x 2 cells per window; the projector's weights are larger than at the start of training."""
    settings = {"window_frames": 2, "tokens_per_frame": 4, **settings}
    model = modeling_sen.SENForConditionalGeneration.from_llm(llm, sen, **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (*model.projector.parameters(), *model.sen.modulation.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def prompt(model, windows=1, question=(5, 6, 7), seed=0):
    """(1, tokens): a first token, the placeholders of the windows, and a question."""
    return torch.tensor(
        [[2, 9 + seed, *[model.config.video_token_id] * model.config.visual_tokens * windows, *question]]
    )
