# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Generates answers to tokenised prompts: for a batch, or streamed for one prompt."""

import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

MAX_NEW_TOKENS = 256


@dataclass
class Answer:
    """One answer.

    Attributes:
        text: decoded text without special tokens.
        token_ids: generated tokens without padding, with the end token if one was generated.
        finish_reason: `"stop"` after an end token or another criterion, `"length"` after `max_new_tokens`.
    """

    text: str
    token_ids: list[int]
    finish_reason: str


def generation_options(
    model: Any, tokenizer: Any, max_new_tokens: int | None = None, **generate_kwargs: Any
) -> dict[str, Any]:
    """Checked arguments of `generate`; decoding is greedy by default, regardless of the checkpoint's setting.

    Args:
        model, tokenizer: of a chat checkpoint.
        max_new_tokens: tokens of an answer at most, by default `MAX_NEW_TOKENS`.
        generate_kwargs: other arguments of `generate`, which replace the defaults.

    Raises:
        ValueError: `max_new_tokens` below 1, or more than one answer for each prompt.
    """
    max_new_tokens = MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected a whole number of at least 1, found {max_new_tokens!r}")
    if generate_kwargs.get("num_return_sequences", 1) != 1:
        raise ValueError(
            f"num_return_sequences: expected 1 (one answer per question), found {generate_kwargs['num_return_sequences']}"
        )
    options = dict(generate_kwargs)
    if "generation_config" not in options:
        options.setdefault("do_sample", False)
    if model.generation_config.pad_token_id is None:  # Transformers would warn and use the end token
        options.setdefault("pad_token_id", tokenizer.pad_token_id)
    return {**options, "max_new_tokens": max_new_tokens, "return_dict_in_generate": True}


@torch.inference_mode()
def generate_answers(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Answer]:
    """Answers a batch of prompts.

    Args:
        model, tokenizer: of a chat checkpoint.
        inputs: inputs of `generate`, with `input_ids` (batch, tokens) padded on the left.
        options: output of [`generation_options`].
    """
    output = model.generate(**inputs, **options)
    length = inputs["input_ids"].shape[1]
    return [_answer(row, model, tokenizer, options) for row in output.sequences[:, length:].tolist()]


def stream_answer(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> Generator[str, None, Answer]:
    """Yields pieces of the answer to one prompt as they are generated, and returns the answer.

    The concatenated pieces are the answer's text. `generate` runs in a separate thread. If the iterator is closed or receives
    an exception such as KeyboardInterrupt, the thread ends after the current token, before the exception is re-raised.

    Raises:
        Exception: any error of `generate`.
    """
    stopped, pieces = threading.Event(), SimpleQueue()  # type: ignore[var-annotated]
    streamer = _QueueStreamer(tokenizer, pieces)
    criteria = StoppingCriteriaList([*options.get("stopping_criteria", ()), _Stopped(stopped)])
    arguments = {**inputs, **options, "stopping_criteria": criteria, "streamer": streamer}

    def run() -> None:
        try:
            with torch.inference_mode():  # the mode is per thread
                model.generate(**arguments)
            pieces.put(None)
        except BaseException as error:
            pieces.put(error)

    thread = threading.Thread(target=run, name="sen-chat-answer", daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stopped.set()
        thread.join()
    return _answer(streamer.token_ids, model, tokenizer, options)


def _answer(token_ids: list[int], model: Any, tokenizer: Any, options: Mapping[str, Any]) -> Answer:
    """The answer in one row of the batch, which ends in padding if another row is longer."""
    ends = _setting("eos_token_id", model, options)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    last = next((number for number, token in enumerate(token_ids) if token in ends), None)
    if last is not None:
        token_ids = token_ids[: last + 1]
    full = last is None and len(token_ids) >= options["max_new_tokens"]
    padding = _setting("pad_token_id", model, options)
    if last is None and padding is not None and token_ids[-1] == padding:  # a stopping criterion ended it
        full = False
        while token_ids and token_ids[-1] == padding:
            token_ids = token_ids[:-1]
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    return Answer(text, token_ids, "length" if full else "stop")


def _setting(name: str, model: Any, options: Mapping[str, Any]) -> Any:
    """Looks a setting up as `generate` does: arguments, then the passed generation configuration, then the model's."""
    own = getattr(options.get("generation_config"), name, None)
    return options.get(name, getattr(model.generation_config, name) if own is None else own)


class _QueueStreamer(BaseStreamer):
    """Decodes all tokens at each step and puts the new text, so that the joined pieces equal the text decoded at once."""

    def __init__(self, tokenizer: Any, pieces: SimpleQueue):
        self.tokenizer, self.pieces = tokenizer, pieces
        self.token_ids: list[int] = []
        self.sent = ""  # text put into the queue so far
        self.is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.is_prompt:  # `generate` puts the prompt first
            self.is_prompt = False
            return
        self.token_ids += value.flatten().tolist()
        text = self._text()
        if not text.endswith("\ufffd"):  # which marks an incomplete character
            self._send(text)

    def end(self) -> None:
        self._send(self._text())

    def _text(self) -> str:
        return self.tokenizer.decode(self.token_ids, skip_special_tokens=True)

    def _send(self, text: str) -> None:
        if len(text) > len(self.sent):
            self.pieces.put(text[len(self.sent) :])
            self.sent = text


class _Stopped(StoppingCriteria):
    """Ends generation once the event is set."""

    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


__all__ = [
    "MAX_NEW_TOKENS",
    "Answer",
    "generate_answers",
    "generation_options",
    "stream_answer",
]
