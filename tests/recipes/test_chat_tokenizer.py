"""The tokenizer of sen-tiny-chat: short on the world's questions and times, and any text comes back as it was."""

import re

import pytest
from transformers import AutoTokenizer

from modeling_sen.world import make_scene
from modeling_sen.world.chat_questions import chat_questions
from recipes.sen_tiny.chat_texts import as_typed
from recipes.sen_tiny.chat_tokenizer import VOCABULARY_SIZE, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "what colour is the star?",
        "Zebras, naïve 12345 and <tags>",
        "  two spaces, a tab\tand\nlines \n",
        "日本語 🎬",
        "<12.5s>",
        "",
    ],
)
def test_any_text_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_each_word_of_a_question_and_of_an_answer_is_one_token(tokenizer):
    assert len(tokenizer) <= VOCABULARY_SIZE
    for index in range(600, 640):  # scenes it was not built from
        for question in chat_questions(make_scene("test", 7, index)):
            for capital in (False, True):
                text = as_typed(question.question, capital, american=capital, mark=not capital)
                assert len(tokenizer(text)["input_ids"]) == len(re.findall(r"\w+|[^\w\s]", text)), text
            assert len(tokenizer(question.answer)["input_ids"]) == len(question.answer.split())


def test_a_word_has_the_same_token_at_the_start_of_a_text(tokenizer):
    (start,) = tokenizer("star")["input_ids"]
    assert tokenizer("the star")["input_ids"][-1] == start


@pytest.mark.parametrize(("text", "count"), [("<0.5s>", 3), ("<1.9s>", 3), ("<59.0s>", 4)])
def test_times_are_short(tokenizer, text, count):
    assert len(tokenizer(text)["input_ids"]) == count


def test_a_chat_as_it_was_trained_on(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    chat = [
        {"role": "user", "content": [{"type": "video", "path": "a.mp4"}, {"type": "text", "text": "what moves?"}]},
        {"role": "assistant", "content": "star"},
        {"role": "user", "content": "how?"},
    ]
    written = loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert written == "<|user|><|video|>what moves?<|end|><|assistant|>star<|end|><|user|>how?<|end|><|assistant|>"
    assert loaded.eos_token == "<|end|>"
    assert loaded("star<|end|>")["input_ids"] == [*tokenizer("star")["input_ids"], loaded.eos_token_id]
    assert loaded.decode(loaded("<|user|>star<|end|>")["input_ids"], skip_special_tokens=True) == "star"


def test_it_is_the_same_each_time(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_a_question_as_people_type_it():
    question = "what is the colour of the star?"
    assert as_typed(question, capital=True, american=True, mark=False) == "What is the color of the star"
    assert as_typed(question, capital=False, american=False, mark=True) == question
