"""Several questions about videos: answers equal those of a full recomputation, and nothing is read or encoded twice."""

import json

import pytest
import torch
from chat_checks import LENGTH, as_tokens, counted, recomputed
from chat_words import tiny_language_model
from tiny_chat import TEMPLATE, VISUAL_TOKENS, make_chat_model
from transformers import MistralConfig, MistralForCausalLM

from modeling_sen import ChatSession, VideoChatPipeline
from modeling_sen.chat_prompt import VIDEO


@pytest.fixture
def session(tiny_chat) -> ChatSession:
    return ChatSession(*tiny_chat, max_new_tokens=LENGTH)


# --- turns -----------------------------------------------------------------------------------------------------------


def test_answers_equal_full_recomputation(session, clips):
    turns = [("What is it?", clips[0]), ("And then?", None), ("Is this one longer?", clips[1]), ("Why?", None)]
    for question, video in turns:
        video = None if video is None else str(video)
        expected = recomputed(session, question, video)
        result = session.ask(question, video=video)
        assert result["answer"] == expected
        assert len(expected) == LENGTH
    assert len({turn["content"][0]["text"] for turn in session.messages[1::2]}) == 4
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 4
    assert session.messages[4]["content"][0] == {"type": "video", "video": str(clips[1])}


def test_the_result_is_plain_data(session, clips):
    first = session.ask("What is it?", video=clips[0])
    assert list(first) == ["answer", "frame_times", "visual_tokens", "finish_reason"]
    assert first["frame_times"] == [[0.5, 1.5]]
    assert first["visual_tokens"] == VISUAL_TOKENS
    assert first["finish_reason"] == "length"
    second = session.ask("And this?", video=clips[1], num_frames=4, start=1.0, end=2.0)
    assert second["frame_times"][0] == [0.5, 1.5]
    assert second["frame_times"][1] == pytest.approx([1.125, 1.375, 1.625, 1.875], abs=0.07)
    assert second["visual_tokens"] == 3 * VISUAL_TOKENS
    assert json.loads(json.dumps(second)) == second


def test_nothing_is_encoded_or_processed_twice(session, clips):
    with counted(session) as found:
        session.ask("What is it?", video=clips[0])
    prompt = as_tokens(session, session.messages[:1])
    assert found["windows"] == 1
    assert found["read"] == [len(prompt), *[1] * (LENGTH - 1)]
    before = prompt
    for question in ("And then?", "Why?"):
        with counted(session) as found:
            session.ask(question)
        prompt = as_tokens(session, session.messages[:-1])
        assert prompt[: len(before) + LENGTH - 1] == [*before, *prompt[len(before) : len(before) + LENGTH - 1]]
        assert found["windows"] == 0
        # The last token of the answer before was generated and not read.
        assert found["read"] == [len(prompt) - len(before) - LENGTH + 1, *[1] * (LENGTH - 1)]
        before = prompt


def test_streamed_answers_are_the_same(tiny_chat, session, clips):
    streamed = ChatSession(*tiny_chat, max_new_tokens=LENGTH)
    for question, video in (("What is it?", clips[0]), ("And then?", None)):
        *pieces, result = streamed.ask(question, video=video, stream=True)
        assert result == session.ask(question, video=video)
        assert "".join(pieces) == result["answer"]
        assert len(pieces) > 1
    assert streamed.messages == session.messages


def test_videos_are_added_before_a_question(session, clips):
    read = session.add_video(clips[0], num_frames=4)
    assert read.frame_times.shape == (2, 2)
    assert read.has_sound
    session.add_video(clips[1])
    with counted(session) as found:
        result = session.ask("Which is longer?")
    assert found["windows"] == 0
    assert [len(times) for times in result["frame_times"]] == [4, 2]
    content = session.messages[0]["content"]
    assert [part.get("video") for part in content] == [clips[0], clips[1], None]


def test_arguments_of_generate_pass_through(session, clips):
    assert len(session.ask("What?", video=clips[0], max_new_tokens=3)["answer"]) == 3
    greedy = ChatSession(session.model, session.processor, max_new_tokens=LENGTH, no_repeat_ngram_size=1)
    answer = greedy.ask("What?", video=clips[0])["answer"]
    assert len(set(answer)) == LENGTH
    torch.manual_seed(0)
    first = session.ask("And?", do_sample=True, temperature=3.0)["answer"]
    assert first != session.ask("And?")["answer"]


def test_beams_run_over_the_whole_conversation_and_the_next_turn_goes_on(session, clips):
    session.ask("What is it?", video=clips[0])
    session.ask("And then?", num_beams=2)
    expected = recomputed(session, "Why?")
    with counted(session) as found:
        assert session.ask("Why?")["answer"] == expected
    assert found["windows"] == 0


# --- chat templates and caches that do not go on ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "template", "reads_again"),
    [
        # Text before the video changes: its visual tokens are read again, from what was encoded.
        ("count", "{{ messages | length }} messages\n" + TEMPLATE, True),
        # Past answers are trimmed and shouted.
        ("shout", TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'].strip() if loop.last or message.role "
                                   "== 'user' else message['content'] | upper }}"), False),
    ],
)  # fmt: skip
def test_a_template_may_format_earlier_turns_differently(tiny_sen, tmp_path, clips, name, template, reads_again):
    chat = make_chat_model(tiny_sen, tmp_path, template)
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    session.ask("What is it?", video=str(clips[0]))
    for question in ("And then?", "Why?"):
        expected = recomputed(session, question)
        with counted(session) as found:
            assert session.ask(question)["answer"] == expected
        assert found["windows"] == 0
        assert (found["read"][0] >= VISUAL_TOKENS + 40) == reads_again


def test_a_language_model_with_sliding_windows_recomputes(tiny_sen, tmp_path, clips):
    """Sliding windows keep no more than the last tokens, which cannot be cut."""
    settings = tiny_language_model().config.to_dict() | {"sliding_window": 16}
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**{**settings, "model_type": "mistral", "architectures": None}))
    chat = make_chat_model(tiny_sen, tmp_path, language_model=model.eval())
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    for question, video in (("What is it?", str(clips[0])), ("And then?", None), ("Why?", None)):
        expected = recomputed(session, question, video)
        session.ask("Something else?", video=video, stream=True).close()
        stream = session.ask("Something else?", video=video, stream=True)
        next(stream)
        stream.close()
        assert session.ask(question, video=video)["answer"] == expected


# --- association that reads the question -----------------------------------------------------------------------------


@pytest.fixture
def asking(make_sen, towers, tmp_path) -> ChatSession:
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["bert"]]
    chat = make_chat_model(make_sen(neurons=neurons), tmp_path, question_neuron="words")
    return ChatSession(*chat, max_new_tokens=LENGTH)


def pipeline_of(session: ChatSession) -> VideoChatPipeline:
    parts = {"model": session.model, "processor": session.processor, "tokenizer": session.processor.tokenizer}
    return VideoChatPipeline(**parts, device="cpu", max_new_tokens=LENGTH)


def count_looks(neuron, looks: list[str], monkeypatch) -> None:
    def first_look(*arguments):
        looks.append(neuron.spec.name)
        return type(neuron).first_look(neuron, *arguments)

    monkeypatch.setattr(neuron, "first_look", first_look)


def test_visual_tokens_follow_each_question(asking, clips, monkeypatch):
    """The prompt is written by hand: every video stands before each question, and is read with it."""
    model, processor = asking.model, asking.processor
    turns = [("What is it?", clips[0]), ("And then?", None), ("Which is longer?", clips[1])]
    videos, asked, text = [], [], ""
    for question, clip in turns:
        videos += [] if clip is None else [processor.read_video(str(clip), num_frames=4)]
        asked += [(video, question) for video in videos]
        text += "<|turn|>user\n" + f"{VIDEO}\n" * len(videos) + f"{question}<|end|>\n<|turn|>assistant\n"
        inputs = processor(text, [video for video, _ in asked], questions=[[each for _, each in asked]])
        expected = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        looks: list[str] = []
        for name in ("image", "words"):
            count_looks(model.sen.neurons[name], looks, monkeypatch)
        with counted(asking) as found:
            result = asking.ask(question, video=clip and str(clip), num_frames=4)
        assert looks == ["image"] * (clip is not None) + ["words"] * len(videos)
        assert result["answer"] == processor.tokenizer.decode(expected)
        assert result["visual_tokens"] == 2 * VISUAL_TOKENS * len(asked)
        assert len(result["frame_times"]) == len(videos)
        assert found["read"][0] < inputs["input_ids"].shape[1] or len(asked) == 1
        text += f"{result['answer']}<|end|>\n"
    assert [len(message["content"]) for message in asking.messages[::2]] == [2, 1, 2]


def test_one_rule_for_session_pipeline_and_processor(asking, clips):
    chat = pipeline_of(asking)
    conversations, results = [], []
    for question, clip in (
        ("What is it?", clips[0]),
        ("And then?", None),
        ("Which is longer?", clips[1]),
        ("Why?", None),
    ):
        video = clip and str(clip)
        expected = recomputed(asking, question, video)
        results.append(asking.ask(question, video=video))
        assert results[-1]["answer"] == expected
        conversations.append(asking.messages[:-1])
    assert chat(conversations, batch_size=1) == results
    assert chat(conversations, batch_size=3) == results
    *pieces, last = chat(conversations[-1], stream=True)
    assert last == results[-1]
    assert "".join(pieces) == last["answer"]
    assert len({result["answer"] for result in results}) == 4


def test_questions_about_one_video_share_its_first_look(asking, clips, monkeypatch):
    chat = pipeline_of(asking)
    questions = ["What is it?", "Why?", "Where?"]
    single = [chat(video=str(clips[0]), question=question) for question in questions]
    assert len({result["answer"] for result in single}) == 3
    looks: list[str] = []
    for name in ("image", "words"):
        count_looks(asking.model.sen.neurons[name], looks, monkeypatch)
    assert chat(video=str(clips[0]), question=questions) == single
    assert looks == ["image", "words", "words", "words"]
