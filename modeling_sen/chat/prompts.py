# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Prompts of conversations as token ids, and the results of their answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from modeling_sen.chat.generate_answer import MAX_NEW_TOKENS, Answer
from modeling_sen.chat.messages import Message, videos_of, with_videos
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.video_windows import ChatVideo


def default_new_tokens(processor: SENChatProcessor) -> int:
    """Length of an answer where none is asked for: at most a quarter of the context."""
    context = processor.context_length
    return MAX_NEW_TOKENS if context is None else min(MAX_NEW_TOKENS, max(1, context // 4))


def prompt_ids(processor: SENChatProcessor, messages: Sequence[Message], max_new_tokens: int) -> list[int]:
    """Token ids of a prompt, for checked messages whose videos are read.

    Raises:
        ValueError: the prompt and `max_new_tokens` are longer than the context, or a text has a placeholder.
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
            f"expected at most {context} together, the language model's context. Ask for fewer frames or a shorter answer, "
            "or start a new conversation"
        )
    return ids


def without_inputs(video: ChatVideo) -> ChatVideo:
    """The same windows without frames and sound, enough for a prompt."""
    return replace(video, inputs=[])


def one_window(processor: SENChatProcessor) -> ChatVideo:
    """A video of one window without inputs, whose times are as long in a prompt as those of the longest video."""
    times = torch.full((1, processor.config.window_frames), LONGEST_VIDEO, dtype=torch.float64)
    return ChatVideo([], times, has_sound=False)


def answer_result(answer: Answer, videos: Sequence[ChatVideo], visual_tokens: int) -> dict[str, Any]:
    """What a pipeline or session returns for a question, all of it JSON-able."""
    return {
        "answer": answer.text,
        "frame_times": [video.frame_times.flatten().tolist() for video in videos],
        "visual_tokens": visual_tokens,
        "finish_reason": answer.finish_reason,
    }


LONGEST_VIDEO = 99999.9  # seconds, of which the text has one decimal
_NO_BOUND = 1 << 60  # the length is checked here

__all__ = ["answer_result", "default_new_tokens", "one_window", "prompt_ids", "without_inputs"]
