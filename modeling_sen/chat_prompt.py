# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The text of a prompt with videos: placeholders, times, and messages as a tokenizer's chat template takes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .clip_inputs import is_clip_batch

# Stands for a whole video in a text.
VIDEO = "<|video|>"
# Stands for one visual token in the text that is tokenized.
VIDEO_PAD = "<|video_pad|>"
# For tokenizers without a chat template of their own.
DEFAULT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_SOURCES = ("video", "path", "url")
_PROBE = "words of a probe"


def expanded_video(frame_times: Tensor, tokens_per_frame: int, num_answer_tokens: int) -> str:
    """What a video's placeholder becomes: in each window, for each step `<1.5s>` and its visual tokens, then the answers'.

    Args:
        frame_times: (windows, window_frames) seconds.
    """
    steps = VIDEO_PAD * tokens_per_frame
    windows = ["".join(f"<{seconds:.1f}s>{steps}" for seconds in window) for window in frame_times.tolist()]
    return "".join(window + VIDEO_PAD * num_answer_tokens for window in windows)


def expanded_prompt(text: str, frame_times: Sequence[Tensor], tokens_per_frame: int, num_answer_tokens: int) -> str:
    """A text whose videos' placeholders are expanded, each with its own (windows, window_frames) seconds."""
    first, *others = text.split(VIDEO)
    expanded = [expanded_video(times, tokens_per_frame, num_answer_tokens) for times in frame_times]
    return first + "".join(video + other for video, other in zip(expanded, others, strict=True))


def add_placeholders(tokenizer: Any, video_token_id: int) -> None:
    """Makes the placeholders special tokens of a tokenizer, `<|video_pad|>` with this id where that is free."""
    vocabulary = tokenizer.get_vocab()
    if VIDEO_PAD not in vocabulary:  # ids are given one after the other
        unused = range(max(vocabulary.values()) + 1, video_token_id)
        tokenizer.add_tokens([f"<|unused_{number}|>" for number in unused], special_tokens=True)
    extra = [token for token in (VIDEO_PAD, VIDEO) if token not in tokenizer.all_special_tokens]
    tokenizer.add_special_tokens({"extra_special_tokens": extra}, replace_extra_special_tokens=False)


def prompts_and_questions(
    text: Any, questions: str | Sequence[str | Sequence[str]] | None
) -> tuple[list[str], list[list[str]]]:
    """Prompts, and for each prompt a question for each of its videos: those given, or the prompt without its videos.

    Raises:
        ValueError: no prompts, one with `<|video_pad|>`, or another number of questions.
    """
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else []
    if not texts or not all(isinstance(line, str) for line in texts):
        raise ValueError(f"text: expected a string or a list of at least one string, found {text!r}")
    for line in texts:
        check_no_placeholder(line, "text", [VIDEO_PAD])
    if questions is None:
        questions = [line.replace(VIDEO, "").strip() for line in texts]
    asked = [questions] if isinstance(questions, str) else list(questions)
    if len(asked) != len(texts):
        raise ValueError(f"questions: expected {len(texts)}, one for each text, found {len(asked)}")
    counts = [line.count(VIDEO) for line in texts]
    shared = [
        [each] * count if isinstance(each, str) else list(each) for each, count in zip(asked, counts, strict=True)
    ]
    if [len(each) for each in shared] != counts:
        found = [len(each) for each in shared]
        raise ValueError(f"questions: expected {counts} for the prompts, one for each {VIDEO!r}, found {found}")
    return texts, shared


def videos_of_prompts(texts: Sequence[str], videos: Any) -> list[list[Any]]:
    """The videos of each prompt, of a list of them all or a list for each prompt.

    Raises:
        ValueError: not one for each `<|video|>`.
    """
    wanted = [text.count(VIDEO) for text in texts]
    given = [] if videos is None else list(videos) if is_clip_batch(videos) else [videos]
    nested = [isinstance(video, list | tuple) and is_clip_batch(video) for video in given]
    if any(nested):
        if not all(nested) or [len(part) for part in given] != wanted:
            found = [len(part) if inner else 1 for part, inner in zip(given, nested, strict=True)]
            raise ValueError(f"videos: expected {wanted} for the prompts, one for each {VIDEO!r}, found {found}")
        return [list(part) for part in given]
    if len(given) != sum(wanted):
        raise ValueError(f"videos: expected {sum(wanted)}, one for each {VIDEO!r} in the text, found {len(given)}")
    rest = iter(given)
    return [[next(rest) for _ in range(count)] for count in wanted]


def check_no_placeholder(text: str, argument: str, placeholders: Sequence[str] = (VIDEO, VIDEO_PAD)) -> None:
    """
    Raises:
        ValueError: a text has a placeholder, which would be taken for a video.
    """
    for placeholder in placeholders:
        if placeholder in text:
            raise ValueError(
                f"{argument}: found {placeholder!r} in a text, expected none: it stands for a video's tokens in prompts"
            )


def check_length(length: int, budget: int) -> None:
    """
    Raises:
        ValueError: a prompt has more tokens than there is room for.
    """
    if length > budget:
        raise ValueError(
            f"max_length: a prompt has {length} tokens, which fewer frames cannot reduce, expected at most {budget}, which "
            "the context has beside max_new_tokens"
        )


def message_videos(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The videos of a chat, in order.

    Raises:
        ValueError: a text with a placeholder, a part that is neither text nor video, or a video part without a video.
    """
    videos = []
    for message in messages:
        for part in _parts(message):
            if part["type"] == "text":
                check_no_placeholder(part["text"], "messages")
            elif part["type"] != "video":
                raise ValueError(f"messages: found a part of type {part['type']!r}, expected 'text' or 'video'")
            else:
                given = [part[name] for name in _SOURCES if part.get(name) is not None]
                if len(given) != 1:
                    raise ValueError(
                        f"messages: found {len(given)} videos in a part of type 'video' with the entries {sorted(part)}, "
                        f"expected one, as {' or '.join(_SOURCES)}"
                    )
                videos += given
    return videos


def video_questions(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each video of a chat the text of the message that it stands in, which may be empty."""
    questions = []
    for message in messages:
        parts = _parts(message)
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        questions += [text for part in parts if part["type"] == "video"]
    return questions


def with_all_videos(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A chat in which each message of the user begins with the videos of all messages before it.

    Where association reads the question, each question needs visual tokens of its own for every video.
    """
    before: list[Mapping[str, Any]] = []
    repeated = []
    for message in messages:
        parts = _parts(message)
        if before and message["role"] == "user":
            message = {**message, "content": [*before, *parts]}
        before += [part for part in parts if part["type"] == "video"]
        repeated.append(message)
    return repeated


def rendered(render: Callable[..., str], messages: Sequence[Mapping[str, Any]], **ending: bool) -> str:
    """A chat as a prompt with one `<|video|>` for each video, whatever form of content the chat template takes.

    Templates of text models take a string as content; there, parts are joined by line breaks. Those that take lists of
    parts may have a markup of their own for videos, which is kept around the placeholder.

    Args:
        render: (messages, **ending) -> the text that the chat template makes of them.
        ending: how the prompt ends, `add_generation_prompt` or `continue_final_message`.
    """
    form = _content_form(render)
    text = render([{**message, "content": _content(message, form)} for message in messages], **ending)
    return text.replace(VIDEO_PAD, VIDEO)  # no other is in it: `message_videos` refuses texts with one


def _content_form(render: Callable[..., str]) -> str:
    """What a chat template takes as content: a "string", parts of "text" alone, or of "video" too."""
    try:
        parts = [{"type": "video"}, {"type": "text", "text": _PROBE}]
        text = render([{"role": "user", "content": parts}])
    except Exception:  # a template may fail in any way
        return "string"
    if text.count(_PROBE) != 1 or "'type'" in text or '"type"' in text:  # the list itself, printed
        return "string"
    return "video" if text.count(VIDEO) + text.count(VIDEO_PAD) == 1 else "text"


def _content(message: Mapping[str, Any], form: str) -> Any:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content
    parts = [
        {"type": "text", "text": VIDEO} if part["type"] == "video" and form != "video" else _bare(part)
        for part in content
    ]
    return "\n".join(part["text"] for part in parts) if form == "string" else parts


def _bare(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part without its video, which a template has no use for."""
    return {name: value for name, value in part.items() if name not in _SOURCES}


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise ValueError(
                f"messages: expected parts like {{'type': 'text', 'text': ...}} as content, found {part!r}"
            )
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"messages: expected a string in a part of type 'text', found {part.get('text')!r}")
    return list(content)


__all__ = [
    "DEFAULT_TEMPLATE",
    "VIDEO",
    "VIDEO_PAD",
    "add_placeholders",
    "check_length",
    "check_no_placeholder",
    "expanded_prompt",
    "expanded_video",
    "message_videos",
    "prompts_and_questions",
    "rendered",
    "video_questions",
    "videos_of_prompts",
    "with_all_videos",
]
