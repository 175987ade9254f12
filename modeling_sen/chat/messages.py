# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Messages of a conversation in Transformers' chat layout: checked, and with content as a list of text and video parts."""

from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
VIDEO_KEYS = ("video", "path", "url")  # of a video part; `path` and `url` as Transformers' chat templates have them

Message = dict[str, Any]  # {"role": str, "content": [{"type": "text", "text": str} | {"type": "video", "video": ...}]}


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of messages, in contrast to a list of conversations."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(message, Mapping) and "role" in message for message in value)
    )


def question_message(question: Any, videos: Sequence[Any]) -> Message:
    """A user's message: the videos in their order, then the question.

    Raises:
        ValueError: no question, or one that is no text.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question: expected text, found {question!r}")
    content: list[dict[str, Any]] = [{"type": "video", "video": video} for video in videos]
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}


def checked_messages(messages: Any) -> list[Message]:
    """A copy of the messages with content as parts, videos under the key `video`.

    Args:
        messages: `[{"role": "system" | "user" | "assistant", "content": ...}]`; content is text or a list of
            `{"type": "text", "text": ...}` and, of users, `{"type": "video", "video" | "path" | "url": ...}`. The last
            message is a user's question.

    Raises:
        ValueError: messages of another form, an unknown role or part, a video part without a video, a video of another role
            than `user`, or a last message that asks nothing.
    """
    if not is_conversation(messages):
        raise ValueError(
            f"messages: expected a list of {{'role': ..., 'content': ...}}, found {_shortened(messages)}; "
            "a video and a question are given as video=... and question=..."
        )
    checked = [_checked_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    last = checked[-1]
    if last["role"] != "user":
        raise ValueError(f"messages: expected a question of role 'user' as the last one, found role {last['role']!r}")
    if not any(part["type"] == "text" and part["text"].strip() for part in last["content"]):
        raise ValueError("messages: expected a question in the last message, found no text")
    return checked


def videos_of(messages: Sequence[Message]) -> list[Any]:
    """All videos of checked messages in their order."""
    return [part["video"] for message in messages for part in message["content"] if part["type"] == "video"]


def with_videos(messages: Sequence[Message], videos: Sequence[Any]) -> list[Message]:
    """Checked messages with other objects as their videos."""
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
    given = [part[key] for key in VIDEO_KEYS if part.get(key) is not None]
    if len(given) != 1:
        keys = ", ".join(map(repr, VIDEO_KEYS))
        raise ValueError(f"{place}: expected a video under one of {keys}, found {len(given)} of them")
    return {"type": "video", "video": given[0]}


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
