"""`pipeline("video-chat")`: conversations in, answers out. Pieces of an answer: test_generate_answer.py."""

import json

import datasets
import numpy as np
import pytest
from tiny_chat import VISUAL_TOKENS, make_tiny_sen, save_chat_model
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_sen import ChatSession, VideoChatPipeline

LENGTH = 8  # of answers
QUESTIONS = ("What is it?", "Which way does the smallest of all shapes move?", "Why?")


@pytest.fixture(scope="module")
def chat_folder(towers, tmp_path_factory) -> str:
    return save_chat_model(make_tiny_sen(towers), tmp_path_factory.mktemp("chat") / "tiny")


@pytest.fixture(scope="module")
def chat(chat_folder) -> VideoChatPipeline:
    return pipeline("video-chat", model=chat_folder, device="cpu", max_new_tokens=LENGTH)


def message(question: str, *videos) -> dict:
    return {
        "role": "user",
        "content": [*({"type": "video", "path": str(v)} for v in videos), {"type": "text", "text": question}],
    }


def plain(chat, messages, **options) -> str:
    """The model's own answer, from pixels."""
    arguments = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "max_new_tokens": LENGTH}
    inputs = chat.processor.apply_chat_template(messages, **arguments, **options)
    found = chat.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return chat.processor.tokenizer.decode(found, skip_special_tokens=True)


# --- forms of input --------------------------------------------------------------------------------------------------


def test_a_question_about_a_video(chat, clips):
    result = chat(video=str(clips[0]), question=QUESTIONS[0])
    assert result == {
        "answer": plain(chat, [message(QUESTIONS[0], clips[0])]),
        "frame_times": [[0.5, 1.5]],
        "visual_tokens": VISUAL_TOKENS,
        "finish_reason": "length",
    }
    assert json.loads(json.dumps(result)) == result
    assert result == chat([message(QUESTIONS[0], clips[0])])
    assert result == chat({"video": clips[0], "question": QUESTIONS[0]})
    assert result == chat({"messages": [message(QUESTIONS[0], clips[0])]})
    assert result == chat(video=str(clips[0]), question=QUESTIONS[0])


def test_a_conversation_with_several_videos(chat, clips):
    messages = [
        {"role": "system", "content": "Be brief."},
        message(QUESTIONS[0], clips[0], clips[1]),
        {"role": "assistant", "content": "A circle."},
        message(QUESTIONS[1], clips[2]),
    ]
    result = chat(messages)
    assert result["answer"] == plain(chat, messages)
    assert [len(times) for times in result["frame_times"]] == [2, 2, 2]
    assert result["visual_tokens"] == 3 * VISUAL_TOKENS


def test_a_conversation_without_video(chat):
    messages = [{"role": "user", "content": "What is it?"}]
    assert chat(messages) == {
        "answer": plain(chat, messages),
        "frame_times": [],
        "visual_tokens": 0,
        "finish_reason": "length",
    }


def test_a_continued_conversation_equals_a_session(chat, clips):
    session = ChatSession(chat.model, chat.processor, max_new_tokens=LENGTH)
    for question in QUESTIONS:
        result = session.ask(question, video=str(clips[0]) if question == QUESTIONS[0] else None)
        assert chat(session.messages[:-1]) == result


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_of_different_lengths(chat, clips, batch_size):
    conversations = [
        [message(QUESTIONS[1], clips[0])],
        [{"role": "user", "content": QUESTIONS[0]}],
        [message(QUESTIONS[0], clips[1], clips[2]), {"role": "assistant", "content": "No."}, message(QUESTIONS[2])],
    ]
    single = [chat(messages) for messages in conversations]
    assert len({result["answer"] for result in single}) == 3
    assert chat(conversations, batch_size=batch_size) == single
    assert chat(tuple(conversations), batch_size=batch_size) == single
    assert list(chat((each for each in conversations), batch_size=batch_size)) == single
    rows = [{"messages": each} for each in conversations]
    assert chat(rows, batch_size=batch_size) == single


def test_lists_of_videos_and_questions(chat, clips):
    files = [str(clip) for clip in clips]
    single = [chat(video=video, question=question) for video, question in zip(files, QUESTIONS, strict=True)]
    assert chat(video=files, question=list(QUESTIONS), batch_size=2) == single
    assert chat(video=files, question="Why?") == [chat(video=video, question="Why?") for video in files]
    assert list(chat(video=(file for file in files), question="Why?")) == chat(video=files, question="Why?")
    assert chat([]) == chat(video=[], question="Why?") == chat(video=files[0], question=[]) == []


def test_one_video_for_several_questions_is_encoded_once(chat, clips, monkeypatch):
    single = [chat(video=str(clips[0]), question=question, num_frames=4) for question in QUESTIONS]
    windows = []
    hook = chat.model.sen.register_forward_hook(lambda *given: windows.append(len(given[-1].fused_embeds)))
    assert chat(video=str(clips[0]), question=list(QUESTIONS), num_frames=4) == single
    assert chat(video=str(clips[0]), question=list(QUESTIONS), num_frames=4, batch_size=2) == single
    hook.remove()
    assert windows == [2, 2]


def test_datasets_are_streams(chat, clips):
    files, questions = [str(clip) for clip in clips], list(QUESTIONS)
    expected = [chat(video=video, question=question) for video, question in zip(files, questions, strict=True)]
    table = datasets.Dataset.from_dict({"video": files, "question": questions})
    assert list(chat(table, batch_size=2)) == expected
    rows = [{"messages": [message(question, video)]} for video, question in zip(files, questions, strict=True)]
    assert list(chat(KeyDataset(rows, "messages"), batch_size=2)) == expected


def test_arrays_images_and_silent_clips(chat):
    frames = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    result = chat(video=frames, question="What?")
    assert result["visual_tokens"] == VISUAL_TOKENS
    assert chat(video=list(frames), question="What?") == result
    assert chat(video={"video": frames}, question="What?") == result


# --- options ---------------------------------------------------------------------------------------------------------


def test_frames_between_start_and_end(chat, clips):
    messages = [message(QUESTIONS[0], clips[0])]
    result = chat(messages, num_frames=4, start=1, end=2)
    assert result["answer"] == plain(chat, messages, num_frames=4, start=1, end=2)
    assert result["frame_times"][0] == pytest.approx([1.125, 1.375, 1.625, 1.875], abs=0.07)
    assert chat(messages, fps=4, start=1, end=2) == result


def test_options_of_a_call_replace_those_of_the_pipeline(chat_folder, clips):
    chat = pipeline("video-chat", model=chat_folder, device="cpu", num_frames=6, max_new_tokens=3, start=0.5)
    result = chat(video=clips[0], question="What?")
    assert (result["visual_tokens"], len(result["answer"])) == (3 * VISUAL_TOKENS, 3)
    result = chat(video=clips[0], question="What?", fps=1.3, max_new_tokens=5)
    assert (result["visual_tokens"], len(result["answer"])) == (VISUAL_TOKENS, 5)
    assert result["frame_times"][0][0] > 0.5


def test_arguments_of_generate_pass_through(chat, clips):
    answer = chat(video=clips[0], question="What?", no_repeat_ngram_size=1)["answer"]
    assert len(set(answer)) == LENGTH
    first = answer[3]
    result = chat(video=clips[0], question="What?", no_repeat_ngram_size=1, eos_token_id=ord(first))
    assert (result["answer"], result["finish_reason"]) == (answer[: answer.index(first) + 1], "stop")
    assert chat(video=clips[0], question="What?", num_beams=2)["answer"]
    assert chat(video=clips[0], question="What?", repetition_penalty=1.5)["answer"]


def test_pieces_are_streamed_before_the_result(chat, clips):
    expected = chat(video=str(clips[0]), question="What?")
    *pieces, result = chat(video=str(clips[0]), question="What?", stream=True)
    assert result == expected
    assert "".join(pieces) == result["answer"]
    assert len(pieces) > 1
    *pieces, result = chat([message("What?", clips[0])], stream=True, max_new_tokens=2)
    assert len(result["answer"]) == 2


def test_frames_are_reduced_to_the_context(chat, clips, caplog):
    result = chat(video=clips[0], question="What?", num_frames=1000)
    assert "1000 frames of video are reduced to" in caplog.text
    assert 50 * VISUAL_TOKENS < result["visual_tokens"] < 100 * VISUAL_TOKENS
    assert sum(map(len, result["frame_times"])) * VISUAL_TOKENS == 2 * result["visual_tokens"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "messages: expected messages, or a video and a question, found neither"),
        ({"question": "What?"}, "video: expected a video for the question, found None"),
        ({"video": "{clip}"}, "question: expected text, found None"),
        ({"video": "{clip}", "question": ""}, "question: expected text, found ''"),
        ({"video": "{clip}", "question": ["What?", 3]}, "question: expected text, found 3"),
        ({"video": ["{clip}"], "question": ["What?", "Why?"]}, "question: expected one for each of 1 videos, found 2"),
        ({"messages": "clip.mp4"}, "messages: expected a list of"),
        (
            {"messages": [message("What?")], "question": "What?"},
            "either messages or a video and a question, found both",
        ),
        (
            {"messages": [{"role": "robot", "content": "Hi"}]},
            "expected a role of system, user, assistant, found 'robot'",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "expected a video under one of"),
        ({"messages": [message("What?"), {"role": "assistant", "content": "Hi"}]}, "found role 'assistant'"),
        ({"messages": [["What?"]]}, "messages: expected a list of"),
        ({"messages": [{"clip": 1}]}, r"expected 'video' and 'question', or 'messages', in an item, found \['clip'\]"),
        ({"messages": [message("What is <|video|>?")]}, r"<\|video\|>"),
        ({"messages": [message("What? " * 400)]}, "the conversation has .* expected at most 2048 together"),
        ({"video": "gone.mp4", "question": "What?"}, "gone.mp4: no such file"),
        ({"video": "{bad}", "question": "What?"}, "bad.mp4: expected a video"),
        ({"video": "{clip}", "question": "What?", "fps": 0}, "fps"),
        ({"video": "{clip}", "question": "What?", "num_frames": 2, "fps": 1}, "num_frames, fps"),
        ({"video": "{clip}", "question": "What?", "start": 7}, "start"),
        ({"video": "{clip}", "question": "What?", "max_new_tokens": 0}, "max_new_tokens"),
        ({"video": "{clip}", "question": "What?", "max_new_tokens": 3000}, "max_length|context"),
        ({"video": "{clip}", "question": "What?", "no_such_option": 1}, "no_such_option"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_name_what_is_wrong(chat, clips, tmp_path, arguments, error, stream):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    files = {"{bad}": str(tmp_path / "bad.mp4"), "{clip}": str(clips[0])}

    def filled(value):
        if isinstance(value, list):
            return [filled(each) for each in value]
        return files.get(value, value) if isinstance(value, str) else value

    with pytest.raises(
        (ValueError, FileNotFoundError), match=f"{error}|stream: expected one conversation" if stream else error
    ):
        list(chat(**{name: filled(value) for name, value in arguments.items()}, stream=stream))


def test_another_model_is_refused(sen_folder):
    with pytest.raises(
        ValueError, match="expected a SEN with a language model, of model type 'sen_chat', found SENModel"
    ):
        pipeline("video-chat", model=str(sen_folder))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_saved_pipelines_answer_the_same(chat, clips, tmp_path):
    expected = chat(video=str(clips[0]), question="What?")
    chat.save_pretrained(tmp_path, include_neurons=True)
    again = pipeline("video-chat", model=str(tmp_path), device="cpu", max_new_tokens=LENGTH)
    assert again(video=str(clips[0]), question="What?") == expected
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()


def test_auto_classes_load_the_pipelines_model_and_processor(chat, chat_folder, clips):
    model, processor = AutoModel.from_pretrained(chat_folder), AutoProcessor.from_pretrained(chat_folder)
    session = ChatSession(model, processor, max_new_tokens=LENGTH)
    assert session.ask("What?", video=str(clips[0])) == chat(video=str(clips[0]), question="What?")


def test_any_to_any_answers_the_same(chat, chat_folder, clips):
    stock = pipeline("any-to-any", model=chat_folder, device="cpu")
    messages = [message("What?", clips[0])]
    [output] = stock(messages, max_new_tokens=LENGTH, do_sample=False, return_full_text=False)
    assert output["generated_text"] == chat(messages)["answer"]
