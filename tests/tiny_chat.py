"""Tiny chat models: random towers, a random language model, and a byte-level tokenizer."""

import torch
from chat_words import byte_tokenizer, tiny_language_model
from random_sen import SMALL, random_weights

from modeling_sen import SENForConditionalGeneration, SENModel
from modeling_sen.processing_sen_chat import SENChatProcessor

# Special tokens enclose each message, as in most chat models; content is a string.
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SETTINGS = {"window_frames": 2, "tokens_per_frame": 4}
VISUAL_TOKENS = 2 * 4 + 2


def make_tiny_sen(towers) -> SENModel:
    """A SEN of frames, motion and sound."""
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"]]
    return SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL)


def make_chat_model(sen, folder, template=TEMPLATE, language_model=None, **settings):
    """A chat model that uses a SEN, with random weights everywhere, and its processor."""
    language_model = tiny_language_model() if language_model is None else language_model
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model = SENForConditionalGeneration.from_llm(language_model, sen, **{**SETTINGS, **settings})
    for parameter in model.projector.parameters():
        parameter.data.normal_(0, 0.4)
    random_weights(model.sen)
    torch.set_rng_state(state)
    return model.eval(), SENChatProcessor.from_llm(str(folder), model.config)


def save_chat_model(sen, folder, **arguments) -> str:
    """Saves a checkpoint that needs no other folder."""
    model, processor = make_chat_model(sen, folder, **arguments)
    model.save_pretrained(folder, include_neurons=True)
    processor.save_pretrained(folder)
    return str(folder)
