"""Interruptions, errors and full contexts leave a session as it was before the question."""

import pytest
import torch
from chat_checks import LENGTH, counted, recomputed
from chat_words import tiny_language_model
from tiny_chat import VISUAL_TOKENS, make_chat_model
from transformers import StoppingCriteria

from modeling_sen import ChatSession


@pytest.fixture
def session(tiny_chat) -> ChatSession:
    return ChatSession(*tiny_chat, max_new_tokens=LENGTH)


# --- interruptions and errors ----------------------------------------------------------------------------------------


class Failing(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        raise RuntimeError("no memory, says the test")


def test_an_interrupted_stream_does_not_change_the_session(session, clips):
    session.ask("What is it?", video=clips[0])
    expected, messages = recomputed(session, "And then?"), session.messages

    def closed():
        stream = session.ask("Another question?", stream=True, max_new_tokens=200)
        next(stream)
        stream.close()

    def interrupted():
        stream = session.ask("Another question?", stream=True, max_new_tokens=200)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)

    def never_begun():
        session.ask("Another question?", stream=True)

    def left_open():
        next(session.ask("Another question?", stream=True, max_new_tokens=200))

    def failed():
        with pytest.raises(RuntimeError, match="no memory, says the test"):
            session.ask("Another question?", stopping_criteria=[Failing()])

    def failed_in_the_stream():
        with pytest.raises(RuntimeError, match="no memory, says the test"):
            list(session.ask("Another question?", stream=True, stopping_criteria=[Failing()]))

    for happen in (closed, interrupted, never_begun, left_open, failed, failed_in_the_stream):
        happen()
        assert session.messages == messages
        with counted(session) as found:
            stream = session.ask("And then?", stream=True)
            assert next(stream) == expected[0]
            stream.close()
        assert found["windows"] == 0
        assert found["read"][0] < 70  # the first turn is not read again
    assert session.ask("And then?")["answer"] == expected


def test_videos_of_an_interrupted_turn_are_not_confused_with_others(session, clips):
    """All visual tokens have the same id."""
    expected = [recomputed(session, "What is it?", str(clip)) for clip in clips]
    assert len(set(expected)) == len(clips)
    for clip, answer in zip(clips, expected, strict=True):
        stream = session.ask("What is it?", video=clip, stream=True)
        assert next(stream) == answer[0]
        stream.close()
        session.reset()
        assert session.ask("What is it?", video=str(clip))["answer"] == answer
        session.reset()


def test_added_videos_stay_for_the_next_question_after_an_interruption(session, clips):
    session.add_video(clips[0])
    expected = recomputed(session, "What is it?", str(clips[0]))
    stream = session.ask("Something else?", stream=True)
    next(stream)
    stream.close()
    assert session.ask("What is it?")["answer"] == expected


def test_reset_starts_anew(session, clips):
    expected = recomputed(session, "What is it?", str(clips[1]))
    session.ask("What is it?", video=clips[0])
    session.reset()
    assert session.messages == []
    assert session.ask("What is it?", video=clips[1])["answer"] == expected
    with counted(session) as found:
        session.reset(keep_videos=True)
        assert session.messages == []
        result = session.ask("What is it?")
    assert found["windows"] == 0
    assert result["answer"] == expected
    assert len(result["frame_times"]) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"question": " "}, "question: expected text, found ' '"),
        ({"question": None}, "question: expected text, found None"),
        ({"question": "What?", "max_new_tokens": 0}, "max_new_tokens: expected a whole number of at least 1, found 0"),
        ({"question": "What?", "num_return_sequences": 2}, "num_return_sequences"),
        ({"question": "What is <|video|>?"}, r"<\|video\|>"),
        ({"question": "What is <|video_pad|>?"}, r"<\|video_pad\|>"),
        ({"question": "What?", "video": "gone.mp4"}, "gone.mp4: no such file"),
        ({"question": "What?", "video": "{bad}"}, "bad.mp4: expected a video"),
        ({"question": "What?", "video": "{clip}", "num_frames": 2, "fps": 1}, "num_frames, fps"),
        ({"question": "What?", "video": "{clip}", "start": 3.0}, "start"),
        ({"question": "What? " * 400}, "the conversation has .* tokens, 10 of them visual, .* expected at most 2048"),
    ],
)
def test_an_invalid_question_does_not_change_the_session(session, clips, tmp_path, arguments, error):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    files = {"{bad}": str(tmp_path / "bad.mp4"), "{clip}": str(clips[0])}
    arguments = {
        name: files.get(value, value) if isinstance(value, str) else value for name, value in arguments.items()
    }
    session.ask("What is it?", video=clips[0])
    expected, messages = recomputed(session, "And then?"), session.messages
    for stream in (False, True):
        with pytest.raises((ValueError, FileNotFoundError), match=error):
            session.ask(**arguments, stream=stream)
    assert session.messages == messages
    assert session.ask("And then?")["answer"] == expected


def test_a_silent_clip_has_no_sound(session):
    frames = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8).numpy()
    assert not session.add_video(frames).has_sound
    assert len(session.ask("What is it?")["answer"]) == LENGTH


# --- the context -----------------------------------------------------------------------------------------------------


def test_many_frames_leave_room_for_several_questions(tiny_sen, tmp_path, clips, caplog):
    chat = make_chat_model(tiny_sen, tmp_path, language_model=tiny_language_model(max_position_embeddings=320))
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    read = session.add_video(clips[0], num_frames=100)
    assert "100 frames of video are reduced to" in caplog.text
    assert 3 <= read.num_windows < 50
    assert session.ask("What is it?")["visual_tokens"] == read.num_windows * VISUAL_TOKENS
    session.ask("And then?")
    questions = iter(lambda: session.ask("And then?"), None)
    with pytest.raises(ValueError, match="expected at most 320 together, the language model's context"):
        list(questions)


def test_one_window_may_use_the_rest_of_the_context(tiny_sen, tmp_path, clips):
    """Without the share that videos leave to later questions."""
    chat = make_chat_model(tiny_sen, tmp_path, language_model=tiny_language_model(max_position_embeddings=80))
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    assert session.ask("What?", video=clips[0])["visual_tokens"] == VISUAL_TOKENS


def test_the_default_length_is_a_quarter_of_a_short_context(tiny_sen, tmp_path):
    for context, length in ((320, 80), (2048, 256), (1, 1)):
        language_model = tiny_language_model(max_position_embeddings=context)
        chat = make_chat_model(tiny_sen, tmp_path, language_model=language_model)
        assert ChatSession(*chat).generate_kwargs["max_new_tokens"] == length
