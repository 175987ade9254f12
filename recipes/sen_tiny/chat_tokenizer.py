"""The tokenizer of sen-tiny-chat: byte-level BPE whose merges make one token of each word of the world's questions.

A time such as `<1.5s>` has three tokens, ` <`, `1`, `.5s>`; other numbers have one for each digit. Any other text is spelled
in bytes, so that it comes back as it was.
"""

from collections.abc import Iterator

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from modeling_sen.world.chat_questions import chat_questions
from modeling_sen.world.scene import make_scene
from recipes.sen_tiny.chat_texts import as_typed, description

VOCABULARY_SIZE = 768  # at most
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
# The end of a time, a digit, a word, signs, white space.
PIECES = r"\.\d+s>|\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s+"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- '<|video|>' if part['type'] == 'video' else part.get('text', '') -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learns the merges from questions and answers of the training split; the same in every call."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")  # a word has the same token at the start of a text
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=4,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, USER, ASSISTANT, END, "<|system|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, "<|system|>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _texts() -> Iterator[str]:
    for tenth in range(10):
        yield from (f"<{tenth}.{tenth}s>" for _ in range(1000))
    random = np.random.default_rng(0)
    for index in range(500):
        scene = make_scene("train", 0, index, num_objects=(1, 8))
        for question in [*chat_questions(scene), description(random, scene)]:
            for capital in (False, True):
                yield as_typed(question.question, capital, american=capital, mark=not capital)
            yield question.answer
