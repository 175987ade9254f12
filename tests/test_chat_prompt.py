"""Chats become prompts: every kind of chat template, and errors for wrong messages and arguments."""

import re

import pytest
import torch
from chat_tokenizers import (
    PARTS_TEMPLATE,
    SILENT_TEMPLATE,
    STRING_TEMPLATE,
    TEXT_PARTS_TEMPLATE,
    asked,
    byte_tokenizer,
    make_processor,
    video,
    words,
)
from frame_stamps import CLIP_KINDS, write_clip

from modeling_sen import SENChatProcessor
from modeling_sen.chat_prompt import DEFAULT_TEMPLATE, VIDEO, VIDEO_PAD, rendered


@pytest.fixture
def processor(worded_config, tmp_path) -> SENChatProcessor:
    return make_processor(worded_config, tmp_path)


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """Three seconds without sound."""
    return write_clip(tmp_path_factory.mktemp("silent") / "silent.mp4", CLIP_KINDS["mp4"], range(90))


# --- chat templates --------------------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "Be brief."},
    asked(video("a.mp4", "path"), words("What?")),
    asked(words("A cat."), role="assistant"),
    asked(words("And"), video("b.mp4", "url"), words("here?")),
]
IM = "<|im_start|>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            STRING_TEMPLATE,
            f"{IM}system\nBe brief.<|im_end|>\n{IM}user\n{VIDEO}\nWhat?<|im_end|>\n{IM}assistant\nA cat.<|im_end|>\n"
            f"{IM}user\nAnd\n{VIDEO}\nhere?<|im_end|>\n{IM}assistant\n",
        ),
        (
            PARTS_TEMPLATE,
            f"{IM}system\nBe brief.<|im_end|>\n{IM}user\n<|vision_start|>{VIDEO}<|vision_end|>What?<|im_end|>\n"
            f"{IM}assistant\nA cat.<|im_end|>\n{IM}user\nAnd<|vision_start|>{VIDEO}<|vision_end|>here?<|im_end|>\n"
            f"{IM}assistant\n",
        ),
        (TEXT_PARTS_TEMPLATE, f"[user]{VIDEO}What?[assistant]A cat.[user]And{VIDEO}here?"),
        (SILENT_TEMPLATE, f"[system]Be brief.[user]{VIDEO}\nWhat?[assistant]A cat.[user]And\n{VIDEO}\nhere?"),
        (
            None,
            f"{IM}System: Be brief.\nUser: {VIDEO}\nWhat?\nAssistant: A cat.<|im_end|>\nUser: And\n{VIDEO}\nhere?\n"
            "Assistant:",
        ),
    ],
)
def test_every_kind_of_chat_template_includes_the_videos(worded_config, tmp_path, template, expected):
    processor = make_processor(worded_config, tmp_path, template)
    assert processor.chat_template == (template or DEFAULT_TEMPLATE)
    chat = CHAT[1:] if template == TEXT_PARTS_TEMPLATE else CHAT  # it takes no strings as content
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == expected
    assert processor.apply_chat_template([chat, chat[-1:]], add_generation_prompt=True)[0] == expected


def test_a_template_that_prints_a_list_as_python_code_gets_strings():
    assert rendered(lambda messages: str(messages[0]["content"]), [asked(video("a"), words("b"))]) == f"{VIDEO}\nb"


def test_a_chat_is_tokenized_with_its_videos_and_the_arguments_are_not_modified(processor, clips):
    messages = [asked(video(clips[0], "path"), words("What moves?"))]
    arguments = {"num_frames": 4}
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs=arguments
    )
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(prompt, clips[0], num_frames=4)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    assert arguments == {"num_frames": 4}
    assert messages == [asked(video(clips[0], "path"), words("What moves?"))]
    ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, num_frames=4)
    assert torch.equal(ids, expected["input_ids"])
    batch = processor.apply_chat_template(
        [messages, [asked(words("Hi"))]], add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=4
    )
    assert (batch["input_ids"] == processor.video_token_id).sum(dim=1).tolist() == [20, 0]


def test_the_last_message_can_be_continued(processor):
    chat = [asked(words("Count.")), asked(words("One, two"), role="assistant")]
    assert processor.apply_chat_template(chat, continue_final_message=True).endswith("assistant\nOne, two")


@pytest.mark.parametrize("placeholder", [VIDEO, VIDEO_PAD])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_placeholders_in_a_users_text_are_refused(processor, placeholder, role):
    with pytest.raises(ValueError, match=re.escape(f"messages: found {placeholder!r} in a text")):
        processor.apply_chat_template([asked(words(f"what is {placeholder}?"), role=role)])
    with pytest.raises(ValueError, match=re.escape(f"messages: found {placeholder!r} in a text")):
        processor.apply_chat_template([{"role": role, "content": placeholder}])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "conversation: expected at least one message"),
        (
            [asked({"type": "image", "image": "a"})],
            "messages: found a part of type 'image', expected 'text' or 'video'",
        ),
        ([asked({"type": "video"})], "messages: found 0 videos in a part of type 'video'"),
        ([asked({"type": "video", "path": "a", "url": "b"})], "messages: found 2 videos in a part of type 'video'"),
        ([asked({"text": "a"})], "messages: expected parts like .* found {'text': 'a'}"),
        ([asked("a")], "messages: expected parts like .* found 'a'"),
        ([asked({"type": "text", "text": None})], "messages: expected a string in a part of type 'text', found None"),
    ],
)
def test_malformed_messages_are_refused(processor, messages, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(messages)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": []}, r"^text: expected a string or a list of at least one string, found \[\]"),
        ({"text": None}, r"^text: expected a string"),
        ({"text": ["a", 3]}, r"^text: expected a string"),
        ({"text": f"a {VIDEO_PAD}"}, r"^text: found '<\|video_pad\|>' in a text"),
        ({"text": "a", "images": "b.jpg"}, "expected text and videos, found images or audio"),
        ({"text": "a", "return_tensors": "np"}, "return_tensors is 'np', expected 'pt'"),
        ({"text": VIDEO}, r"^videos: expected 1, one for each '<\|video\|>' in the text, found 0"),
        ({"text": "a", "videos": ["b.mp4"]}, r"^videos: expected 0, .* found 1"),
        (
            {"text": [VIDEO, VIDEO], "videos": [["a.mp4", "b.mp4"], []]},
            r"^videos: expected \[1, 1\] .* found \[2, 0\]",
        ),
        ({"text": ["a", "b"], "questions": ["c"]}, r"^questions: expected 2, one for each text, found 1"),
        ({"text": VIDEO, "videos": "a.mp4", "num_frames": 0}, r"^num_frames: expected a whole number"),
        ({"text": VIDEO, "videos": "a.mp4", "num_frames": 2, "fps": 2}, r"^num_frames, fps: expected at most one"),
        ({"text": VIDEO, "videos": "a.mp4", "start": 2, "end": 1}, r"^start: expected less than end"),
    ],
)
def test_wrong_arguments_are_named_in_the_error(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_spans_outside_of_the_video_are_named_in_the_error(processor, silent):
    for sampling, message in (
        ({"start": 3.0}, r"^start: expected less than the video's duration of 3.000 s, found 3.0 s"),
        ({"start": 1.0, "end": 5.0}, r"^end: expected at most the video's duration of 3.000 s, found 5.0 s"),
        ({"start": -1.0}, r"^start: expected seconds .* found -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(VIDEO, silent, **sampling)
        with pytest.raises(ValueError, match=message):
            processor.read_video(silent, **sampling)


def test_unreadable_files_are_named_in_the_error(processor, tmp_path):
    corrupt = tmp_path / "corrupt.mp4"
    corrupt.write_bytes(b"\0" * 1000)
    with pytest.raises(ValueError, match=f"^{re.escape(str(corrupt))}: expected a video"):
        processor(VIDEO, corrupt)
    with pytest.raises(FileNotFoundError, match=r"^nowhere\.mp4: no such file"):
        processor.apply_chat_template([asked(video("nowhere.mp4"))], tokenize=True)


def test_a_tokenizer_without_the_placeholder_is_refused(processor):
    with pytest.raises(
        ValueError, match=r"tokenizer: expected '<\|video_pad\|>' as its token 272, .* found no such token"
    ):
        SENChatProcessor(processor.config, byte_tokenizer())
