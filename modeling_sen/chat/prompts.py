# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tokenises conversations, and assembles the result of an answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from modeling_sen.chat.generate_answer import MAX_NEW_TOKENS, Answer
from modeling_sen.chat.messages import Message, videos_of, with_videos
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.video_windows import ChatVideo


def default_new_tokens(processor: SENChatProcessor) -> int:
    """Default length of an answer: `MAX_NEW_TOKENS`, but at most a quarter of the context."""
    context = processor.context_length
    return MAX_NEW_TOKENS if context is None else min(MAX_NEW_TOKENS, max(1, context // 4))


def prompt_ids(processor: SENChatProcessor, messages: Sequence[Message], max_new_tokens: int) -> list[int]:
    """Token ids of a prompt, for checked messages whose videos have been read.

    Raises:
        ValueError: the prompt and `max_new_tokens` together exceed the context, or a text contains a placeholder.
    """
    videos = [without_inputs(video) for video in videos_of(messages)]
    ids = processor.apply_chat_template(
        with_videos(messages, videos), add_generation_prompt=True, tokenize=True, max_length=_NO_BOUND
    )[0].tolist()
    context = processor.context_length
    if context is not None and len(ids) + max_new_tokens > context:
        visual = ids.count(processor.video_token_id)
        raise ValueError(
            f"the conversation has {len(ids)} tokens, {visual} of them visual, and max_new_tokens is {max_new_tokens}: "
            f"expected at most {context} together, the language model's context. Request fewer frames or a shorter answer, "
            "or start a new conversation"
        )
    return ids


def without_inputs(video: ChatVideo) -> ChatVideo:
    """A copy of the video without frames and sound, which a prompt does not need."""
    return replace(video, inputs=[])


def one_window(processor: SENChatProcessor) -> ChatVideo:
    """A video of one window without inputs, whose times have the maximum length in a prompt."""
    times = torch.full((1, processor.config.window_frames), LONGEST_VIDEO, dtype=torch.float64)
    return ChatVideo([], times, has_sound=False)


def answer_result(answer: Answer, videos: Sequence[ChatVideo], visual_tokens: int) -> dict[str, Any]:
    """The JSON-serialisable result of a pipeline or session for a question."""
    return {
        "answer": answer.text,
        "frame_times": [video.frame_times.flatten().tolist() for video in videos],
        "visual_tokens": visual_tokens,
        "finish_reason": answer.finish_reason,
    }


LONGEST_VIDEO = 99999.9  # seconds, written with one decimal
_NO_BOUND = 1 << 60  # `prompt_ids` checks the length itself

__all__ = ["answer_result", "default_new_tokens", "one_window", "prompt_ids", "without_inputs"]
