"""Messages in Transformers' chat layout: one form for all that may be given, and an error for the rest."""

import numpy as np
import pytest

from modeling_sen.chat.messages import (
    checked_messages,
    is_conversation,
    question_message,
    videos_of,
    with_videos,
)

QUESTION = {"role": "user", "content": "What is it?"}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def test_all_layouts_are_converted_to_one():
    array = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    given = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "video", "path": "a.mp4"}, {"type": "video", "url": "http://b"}, text("?")],
        },
        {"role": "assistant", "content": [text("A cat.")]},
        {"role": "user", "content": ({"type": "video", "video": array, "path": None}, text("And here?"))},
    ]
    checked = checked_messages(given)
    assert [message["role"] for message in checked] == ["system", "user", "assistant", "user"]
    assert checked[0]["content"] == [text("Be brief.")]
    assert checked[1]["content"] == [
        {"type": "video", "video": "a.mp4"},
        {"type": "video", "video": "http://b"},
        text("?"),
    ]
    assert checked[3]["content"][0]["video"] is array
    assert given[0]["content"] == "Be brief."
    videos = videos_of(checked)
    assert videos[:2] == ["a.mp4", "http://b"]
    assert videos[2] is array
    assert videos_of(with_videos(checked, [1, 2, 3])) == [1, 2, 3]
    assert [part["type"] for part in with_videos(checked, [1, 2, 3])[1]["content"]] == ["video", "video", "text"]


def test_a_question_follows_its_videos():
    content = [{"type": "video", "video": "a.mp4"}, {"type": "video", "video": "b.mp4"}, text("Which is longer?")]
    assert question_message("Which is longer?", ["a.mp4", "b.mp4"]) == {"role": "user", "content": content}


@pytest.mark.parametrize("question", [None, "", " \n", 3, ["What?"]])
def test_no_question(question):
    with pytest.raises(ValueError, match="question: expected text, found"):
        question_message(question, [])


def test_a_conversation_is_distinguished_from_a_batch():
    assert is_conversation([QUESTION])
    assert not is_conversation([[QUESTION]])
    assert not is_conversation([])
    assert not is_conversation("What is it?")


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ("What is it?", r"messages: expected a list of .*, found 'What is it\?'; pass a single video and question"),
        ([], "messages: expected a list of .*, found list"),
        ([{"content": "no role"}], "messages: expected a list of"),
        (
            [{"role": "robot", "content": "hi"}],
            r"messages\[0\]: expected a role of system, user, assistant, found 'robot'",
        ),
        ([{"role": "user"}], r"messages\[0\]: expected text or a list of parts as content, found None"),
        ([{"role": "user", "content": []}], r"messages\[0\]: expected text or a list of parts as content, found list"),
        (
            [{"role": "user", "content": ["hi"]}],
            "part 0: expected a part of type 'text' or 'video', found 'hi'",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            "part 0: expected a part of type 'text' or 'video', found dict",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "part 0: expected 'text' of a text part, found None"),
        (
            [{"role": "user", "content": [{"type": "video"}, text("?")]}],
            "part 0: expected a video under one of 'video', 'path', 'url', found 0 of them",
        ),
        ([{"role": "user", "content": [{"type": "video", "path": "a", "url": "b"}, text("?")]}], "found 2 of them"),
        (
            [{"role": "system", "content": [{"type": "video", "video": "a.mp4"}]}, QUESTION],
            "expected videos in messages of role 'user', found one of role 'system'",
        ),
        ([QUESTION, {"role": "assistant", "content": "A cat."}], "as the last one, found role 'assistant'"),
        ([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], "expected a question .* found no text"),
        ([{"role": "user", "content": " "}], "expected a question in the last message, found no text"),
    ],
)
def test_errors_name_what_is_wrong(messages, error):
    with pytest.raises(ValueError, match=error):
        checked_messages(messages)
