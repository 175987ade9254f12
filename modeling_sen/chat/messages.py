# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks conversations in Transformers' chat layout and converts content to lists of text and video parts."""

from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
VIDEO_KEYS = ("video", "path", "url")  # keys of a video part; `path` and `url` as in Transformers' chat templates

Message = dict[str, Any]  # {"role": str, "content": [{"type": "text", "text": str} | {"type": "video", "video": ...}]}


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of messages, as opposed to a list of conversations."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(message, Mapping) and "role" in message for message in value)
    )


def question_message(question: Any, videos: Sequence[Any]) -> Message:
    """A user message: the videos in order, followed by the question.

    Raises:
        ValueError: the question is empty or not a string.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question: expected text, found {question!r}")
    content: list[dict[str, Any]] = [{"type": "video", "video": video} for video in videos]
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}


def checked_messages(messages: Any) -> list[Message]:
    """Checks messages and returns a copy with content as lists of parts, videos under the key `video`.

    Args:
        messages: `[{"role": "system" | "user" | "assistant", "content": ...}]`; content is text or a list of
            `{"type": "text", "text": ...}` and, in user messages, `{"type": "video", "video" | "path" | "url": ...}`. The
            last message must be a user message with a question.

    Raises:
        ValueError: malformed messages, an unknown role or part, a video part without a video, a video outside a user message,
            or a last message without a question.
    """
    if not is_conversation(messages):
        raise ValueError(
            f"messages: expected a list of {{'role': ..., 'content': ...}}, found {_shortened(messages)}; "
            "pass a single video and question as video=... and question=..."
        )
    checked = [_checked_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    last = checked[-1]
    if last["role"] != "user":
        raise ValueError(f"messages: expected a question of role 'user' as the last one, found role {last['role']!r}")
    if not any(part["type"] == "text" and part["text"].strip() for part in last["content"]):
        raise ValueError("messages: expected a question in the last message, found no text")
    return checked


def videos_of(messages: Sequence[Message]) -> list[Any]:
    """All videos of checked messages, in order."""
    return [part["video"] for message in messages for part in message["content"] if part["type"] == "video"]


def with_videos(messages: Sequence[Message], videos: Sequence[Any]) -> list[Message]:
    """A copy of checked messages in which `videos` replace the videos, in order."""
    left = iter(videos)
    return [
        {
            **message,
            "content": [
                {"type": "video", "video": next(left)} if part["type"] == "video" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def _checked_message(message: Mapping[str, Any], place: str) -> Message:
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ValueError(f"{place}: expected a role of {', '.join(ROLES)}, found {role!r}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple) or not content:
        raise ValueError(f"{place}: expected text or a list of parts as content, found {_shortened(content)}")
    return {
        "role": role,
        "content": [_checked_part(part, role, f"{place}, part {n}") for n, part in enumerate(content)],
    }


def _checked_part(part: Any, role: str, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{place}: expected 'text' of a text part, found {_shortened(part.get('text'))}")
        return {"type": "text", "text": part["text"]}
    if kind != "video":
        raise ValueError(f"{place}: expected a part of type 'text' or 'video', found {_shortened(part)}")
    if role != "user":
        raise ValueError(f"{place}: expected videos in messages of role 'user', found one of role {role!r}")
    found = [part[key] for key in VIDEO_KEYS if part.get(key) is not None]
    if len(found) != 1:
        keys = ", ".join(map(repr, VIDEO_KEYS))
        raise ValueError(f"{place}: expected a video under one of {keys}, found {len(found)} of them")
    return {"type": "video", "video": found[0]}


def _shortened(value: Any) -> str:
    shown = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


__all__ = [
    "Message",
    "checked_messages",
    "is_conversation",
    "question_message",
    "videos_of",
    "with_videos",
]
