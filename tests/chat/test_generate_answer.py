"""One answer of a model: streamed or not, why it ended, and what reaches the caller. Any causal language model will do."""

import threading

import pytest
import torch
from chat_words import byte_tokenizer, tiny_language_model
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from modeling_sen.chat.generate_answer import generate_answers, generation_options, stream_answer

END = 256


class Scripted(StoppingCriteria):
    """Runs a function at each token."""

    def __init__(self, act):
        self.act, self.calls = act, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        return torch.full((len(input_ids),), bool(self.act(self.calls)))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_language_model()


@pytest.fixture
def prompt(tokenizer) -> dict:
    return dict(tokenizer("what is it?", return_tensors="pt"))


@pytest.fixture
def says(model, monkeypatch):
    """Makes the model say given bytes, whatever it is asked, and then its end token."""

    def script(words: bytes):
        tokens = [*words, END]

        def forced(input_ids, scores):
            scores = torch.full_like(scores, -10.0)
            scores[:, tokens[min(forced.step, len(tokens) - 1)]] = 10.0
            forced.step += 1
            return scores

        forced.step = 0
        return {"logits_processor": [forced]}

    return script


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "sen-chat-answer"]


def consume(stream):
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as stop:
            return pieces, stop.value


def test_the_answer_is_that_of_plain_greedy_generate(model, tokenizer, prompt):
    options = generation_options(model, tokenizer, 12)
    [answer] = generate_answers(model, tokenizer, prompt, options)
    expected = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    assert answer.token_ids == expected
    assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_decoding_is_greedy_even_if_the_checkpoint_samples(model, tokenizer, prompt, monkeypatch):
    plain = generate_answers(model, tokenizer, prompt, generation_options(model, tokenizer, 12))
    settings = model.generation_config.to_dict() | {"do_sample": True, "temperature": 5.0}
    sampling = GenerationConfig(**settings)
    monkeypatch.setattr(model, "generation_config", sampling)
    assert generate_answers(model, tokenizer, prompt, generation_options(model, tokenizer, 12)) == plain
    found = set()
    for seed in range(3):
        torch.manual_seed(seed)
        options = generation_options(model, tokenizer, 12, do_sample=True)
        found.add(generate_answers(model, tokenizer, prompt, options)[0].text)
    assert len(found) == 3


def test_joined_pieces_equal_the_answer(model, tokenizer, prompt, says):
    words = "Two cats, 3 dögs\n\n  and a 猫🐈!\n".encode()
    options = generation_options(model, tokenizer, 100)
    pieces, answer = consume(stream_answer(model, tokenizer, prompt, {**options, **says(words)}))
    assert "".join(pieces) == answer.text == words.decode()
    assert "�" not in "".join(pieces)
    assert len(pieces) == len(words.decode())  # a byte is a token, and a character comes as soon as it is complete
    assert answer.token_ids == [*words, END]
    assert answer.finish_reason == "stop"
    assert [answer] == generate_answers(model, tokenizer, prompt, {**options, **says(words)})


def test_incomplete_characters_at_the_end_are_streamed_too(model, tokenizer, prompt, says):
    options = {**generation_options(model, tokenizer, 3), **says("ab猫".encode())}
    pieces, answer = consume(stream_answer(model, tokenizer, prompt, options))
    assert "".join(pieces) == answer.text == "ab�"
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (3, "length"), (4, "stop"), (5, "stop")])
def test_finish_reason(model, tokenizer, prompt, says, limit, reason):
    options = generation_options(model, tokenizer, limit)
    [answer] = generate_answers(model, tokenizer, prompt, {**options, **says(b"yes")})
    assert answer.finish_reason == reason
    assert consume(stream_answer(model, tokenizer, prompt, {**options, **says(b"yes")}))[1] == answer


def test_end_tokens_of_the_call_are_used(model, tokenizer, prompt, says):
    for options in ({"eos_token_id": ord("s")}, {"eos_token_id": [END, ord("s")]}):
        given = generation_options(model, tokenizer, 9, **options)
        [answer] = generate_answers(model, tokenizer, prompt, {**given, **says(b"yes no")})
        assert (answer.text, answer.finish_reason) == ("yes", "stop")
    config = GenerationConfig(eos_token_id=ord("e"), pad_token_id=END)
    given = generation_options(model, tokenizer, 9, generation_config=config)
    [answer] = generate_answers(model, tokenizer, prompt, {**given, **says(b"yes no")})
    assert (answer.text, answer.finish_reason) == ("ye", "stop")


def test_rows_of_a_batch_end_independently(model, tokenizer, monkeypatch):
    tokenizer.padding_side = "left"
    batch = dict(tokenizer(["a", "a longer one"], padding=True, return_tensors="pt"))

    def forced(input_ids, scores):
        scores = torch.full_like(scores, -10.0)
        step = input_ids.shape[1] - batch["input_ids"].shape[1]
        scores[0, [ord("n"), ord("o"), END, END, END][step]] = 10.0
        scores[1, b"maybe"[step]] = 10.0
        return scores

    options = {**generation_options(model, tokenizer, 5), "logits_processor": [forced]}
    first, second = generate_answers(model, tokenizer, batch, options)
    assert (first.text, first.token_ids, first.finish_reason) == ("no", [*b"no", END], "stop")
    assert (second.text, second.finish_reason) == ("maybe", "length")


def test_a_row_that_a_criterion_ended_has_no_padding(model, tokenizer, says):
    tokenizer.padding_side = "left"
    batch = dict(tokenizer(["a", "b"], padding=True, return_tensors="pt"))

    class FirstRow(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([input_ids.shape[1] >= 3, False])

    criteria = StoppingCriteriaList([FirstRow()])
    options = generation_options(model, tokenizer, 5, stopping_criteria=criteria, pad_token_id=0)
    first, second = generate_answers(model, tokenizer, batch, {**options, **says(b"maybe")})
    assert (first.text, first.token_ids, first.finish_reason) == ("ma", [*b"ma"], "stop")
    assert (second.text, second.finish_reason) == ("maybe", "length")


def test_errors_of_the_thread_reach_the_caller(model, tokenizer, prompt, monkeypatch):
    def fail(call):
        if call == 3:
            raise RuntimeError("out of memory, says the test")

    options = generation_options(model, tokenizer, 9, stopping_criteria=StoppingCriteriaList([Scripted(fail)]))
    stream = stream_answer(model, tokenizer, prompt, options)
    with pytest.raises(RuntimeError, match="out of memory, says the test"):
        consume(stream)
    assert threads() == []
    stream = stream_answer(model, tokenizer, prompt, generation_options(model, tokenizer, 9, no_such_option=1))
    with pytest.raises(ValueError, match="no_such_option"):
        next(stream)
    assert threads() == []


def test_a_closed_stream_ends_its_thread_soon(model, tokenizer, prompt, says):
    seen = Scripted(lambda call: False)
    options = {**generation_options(model, tokenizer, 200, stopping_criteria=[seen]), **says(b"x" * 200)}
    stream = stream_answer(model, tokenizer, prompt, options)
    assert next(stream) == "x"
    assert threads()
    stream.close()
    assert threads() == []
    assert seen.calls < 200


def test_an_interruption_is_raised_after_the_thread_has_ended(model, tokenizer, prompt, says):
    stream = stream_answer(model, tokenizer, prompt, {**generation_options(model, tokenizer, 200), **says(b"x" * 200)})
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    assert threads() == []


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "many"])
def test_a_wrong_length_is_refused(model, tokenizer, value):
    with pytest.raises(ValueError, match=f"max_new_tokens: expected a whole number of at least 1, found {value!r}"):
        generation_options(model, tokenizer, value)


def test_several_answers_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match=r"num_return_sequences: expected 1 .*, found 2"):
        generation_options(model, tokenizer, num_return_sequences=2)
