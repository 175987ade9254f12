"""Several questions about videos: answers equal those of a full recomputation, and nothing is read or encoded twice."""

import json
from contextlib import contextmanager

import pytest
import torch
from chat_words import tiny_language_model
from tiny_chat import TEMPLATE, VISUAL_TOKENS, make_chat_model
from transformers import MistralConfig, MistralForCausalLM, StoppingCriteria

from modeling_sen import ChatSession

LENGTH = 10  # of answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chat")


@pytest.fixture
def chat(make_sen, folder):
    return make_chat_model(make_sen(), folder)


@pytest.fixture
def session(chat) -> ChatSession:
    return ChatSession(*chat, max_new_tokens=LENGTH)


def recomputed(session: ChatSession, question: str, video=None, **options) -> dict:
    """The answer of the model alone, from pixels and all tokens."""
    content = [*([] if video is None else [{"type": "video", "video": video}]), {"type": "text", "text": question}]
    messages = [*session.messages, {"role": "user", "content": content}]
    processor = session.processor
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, max_new_tokens=LENGTH, **options
    )
    length = inputs["input_ids"].shape[1]
    found = session.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, length:]
    return processor.tokenizer.decode(found, skip_special_tokens=True)


@contextmanager
def counted(session: ChatSession):
    """Counts windows that are encoded and tokens that the language model reads."""
    found = {"windows": 0, "read": []}

    def on_sen(module, arguments, keywords, output):
        found["windows"] += len(output.fused_embeds)

    def on_language_model(module, arguments, keywords):
        found["read"].append(keywords["inputs_embeds"].shape[1])

    hooks = [
        session.model.sen.register_forward_hook(on_sen, with_kwargs=True),
        session.model.language_model.register_forward_pre_hook(on_language_model, with_kwargs=True),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def as_tokens(session: ChatSession, messages) -> list[int]:
    inputs = session.processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    return inputs[0].tolist()


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


def test_nothing_is_encoded_or_read_twice(session, clips):
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


def test_streamed_answers_are_the_same(chat, session, clips):
    streamed = ChatSession(*chat, max_new_tokens=LENGTH)
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
def test_a_template_may_write_the_past_differently(make_sen, folder, clips, name, template, reads_again):
    chat = make_chat_model(make_sen(), folder, template)
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    session.ask("What is it?", video=str(clips[0]))
    for question in ("And then?", "Why?"):
        expected = recomputed(session, question)
        with counted(session) as found:
            assert session.ask(question)["answer"] == expected
        assert found["windows"] == 0
        assert (found["read"][0] >= VISUAL_TOKENS + 40) == reads_again


def test_a_language_model_that_forgets_reads_again(make_sen, folder, clips):
    """Sliding windows keep no more than the last tokens, which cannot be cut."""
    settings = tiny_language_model().config.to_dict() | {"sliding_window": 16}
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**{**settings, "model_type": "mistral", "architectures": None}))
    chat = make_chat_model(make_sen(), folder, language_model=model.eval())
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    for question, video in (("What is it?", str(clips[0])), ("And then?", None), ("Why?", None)):
        expected = recomputed(session, question, video)
        session.ask("Something else?", video=video, stream=True).close()
        stream = session.ask("Something else?", video=video, stream=True)
        next(stream)
        stream.close()
        assert session.ask(question, video=video)["answer"] == expected


# --- interruptions and errors ----------------------------------------------------------------------------------------


class Failing(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        raise RuntimeError("no memory, says the test")


def test_an_interrupted_stream_leaves_no_trace(session, clips):
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


def test_videos_of_an_interrupted_turn_are_not_taken_for_others(session, clips):
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
def test_a_refused_question_leaves_no_trace(session, clips, tmp_path, arguments, error):
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


def test_many_frames_leave_room_for_several_questions(make_sen, folder, clips, caplog):
    chat = make_chat_model(make_sen(), folder, language_model=tiny_language_model(max_position_embeddings=320))
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    read = session.add_video(clips[0], num_frames=100)
    assert "100 frames of video are reduced to" in caplog.text
    assert 3 <= read.num_windows < 50
    assert session.ask("What is it?")["visual_tokens"] == read.num_windows * VISUAL_TOKENS
    session.ask("And then?")
    with pytest.raises(ValueError, match="expected at most 320 together, the language model's context"):
        for _ in range(5):
            session.ask("And then?")


def test_one_window_may_take_what_is_left(make_sen, folder, clips):
    """Without the share that videos leave to later questions."""
    chat = make_chat_model(make_sen(), folder, language_model=tiny_language_model(max_position_embeddings=80))
    session = ChatSession(*chat, max_new_tokens=LENGTH)
    assert session.ask("What?", video=clips[0])["visual_tokens"] == VISUAL_TOKENS


def test_the_default_length_is_a_quarter_of_a_short_context(make_sen, folder):
    for context, length in ((320, 80), (2048, 256), (1, 1)):
        language_model = tiny_language_model(max_position_embeddings=context)
        chat = make_chat_model(make_sen(), folder, language_model=language_model)
        assert ChatSession(*chat).generate_kwargs["max_new_tokens"] == length


# --- association that reads the question -----------------------------------------------------------------------------


@pytest.fixture
def asking(make_sen, towers, folder) -> ChatSession:
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["bert"]]
    chat = make_chat_model(make_sen(neurons=neurons), folder, question_neuron="words")
    return ChatSession(*chat, max_new_tokens=LENGTH)


def count_looks(neuron, looks: list[str], monkeypatch) -> None:
    def first_look(*arguments):
        looks.append(neuron.spec.name)
        return type(neuron).first_look(neuron, *arguments)

    monkeypatch.setattr(neuron, "first_look", first_look)


def test_visual_tokens_follow_each_question(asking, clips, monkeypatch):
    model, processor = asking.model, asking.processor
    questions = ["What is it?", "And then?"]
    video = processor.read_video(str(clips[0]), num_frames=4)
    features = []
    for question in questions:
        inputs = processor.sen_processor.collate(processor.ask(video, question).inputs)
        features.append(model.get_video_features(**inputs))
    assert not torch.equal(features[0].pooler_output, features[1].pooler_output)
    asking.add_video(clips[0], num_frames=4)
    for turn, question in enumerate(questions):
        content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
        ids = processor.apply_chat_template(
            [*asking.messages, {"role": "user", "content": content}], tokenize=True, add_generation_prompt=True,
            num_frames=4,
        )  # fmt: skip
        seen = features[0].__class__(pooler_output=torch.cat([each.pooler_output for each in features[: turn + 1]]))
        length = ids.shape[1]
        expected = model.generate(
            input_ids=ids, mm_encoder_outputs={"video": seen}, max_new_tokens=LENGTH, do_sample=False
        )[0, length:]
        looks: list[str] = []
        for name in ("image", "words"):
            count_looks(model.sen.neurons[name], looks, monkeypatch)
        with counted(asking) as found:
            result = asking.ask(question)
        assert looks == ["words"]  # of the question alone
        assert result["answer"] == processor.tokenizer.decode(expected)
        assert result["visual_tokens"] == 2 * VISUAL_TOKENS * (turn + 1)
        assert len(result["frame_times"]) == 1
        assert found["read"][0] < length or turn == 0
