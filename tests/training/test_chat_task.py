"""What conversations become: tokens, labels of answers and their ends, windows; from files or from the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_language_model import END, TURNS, write_conversations, write_language_model
from transformers import EvalPrediction

from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.training import chat_task
from modeling_sen.training.chat_task import (
    ConversationDataset,
    answer_accuracy,
    answer_labels,
    end_tokens_of,
    right_answers,
)
from modeling_sen.training.conversations import open_conversations


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def chat(make_sen, llm):
    model = SENForConditionalGeneration.from_llm(llm, make_sen(), window_frames=2, tokens_per_frame=4)
    return model, SENChatProcessor.from_llm(llm, model.config)


@pytest.fixture
def source(clips, tmp_path):
    return write_conversations(tmp_path / "chat.json", clips)


def dataset_of(chat, source, **settings):
    model, processor = chat
    return ConversationDataset(open_conversations(source), processor, end_tokens_of(model, processor), **settings)


def test_labels_equal_those_written_by_hand():
    # question 7 8, opening 1, answer 5 6, end 2, newline 9; then again with one token of answer
    tokens = [7, 8, 1, 5, 6, 2, 9, 7, 1, 5, 2, 9]
    prompts = [tokens[:3], tokens[:9]]
    expected = [-100, -100, -100, 5, 6, 2, -100, -100, -100, 5, 2, -100]
    assert answer_labels(tokens, prompts, {2}) == expected
    assert answer_labels(tokens, prompts, {6, 2})[3:6] == [5, 6, -100]


@pytest.mark.parametrize(
    ("tokens", "prompts", "message"),
    [
        ([7, 1, 5, 2], [[7, 3]], "answer 0: the conversation does not begin with the tokens of its prompt"),
        ([7, 1, 5, 9, 7, 1, 5, 2], [[7, 1], [7, 1, 5, 9, 7, 1]], r"answer 0: found none of the end tokens \[2\]"),
        ([7, 1, 5, 2, 7, 1, 5], [[7, 1], [7, 1, 5, 2, 7, 1]], r"answer 1: found none of the end tokens"),
    ],
)
def test_templates_without_end_tokens_or_stable_prefix_are_refused(tokens, prompts, message):
    with pytest.raises(ValueError, match=message):
        answer_labels(tokens, prompts, {2})


def test_an_answer_is_correct_if_every_token_is():
    labels = torch.full((3, 8), -100)
    labels[0, 1:3] = torch.tensor([4, 2])
    labels[0, 5:8] = torch.tensor([3, 3, 2])
    labels[1, 2:4] = torch.tensor([5, 2])
    chosen = torch.zeros(3, 8, dtype=torch.long)
    chosen[0, :2] = torch.tensor([4, 2])  # of the token behind
    chosen[0, 4:7] = torch.tensor([3, 4, 2])
    chosen[1, 1:3] = torch.tensor([5, 2])
    logits = torch.nn.functional.one_hot(chosen, 6).float()
    assert right_answers(logits, labels).tolist() == [[1, 0], [1, -100], [-100, -100]]
    found = answer_accuracy(EvalPrediction(np.array([[1, 0], [1, -100], [1, 0]]), np.array([4, 5, 4])))
    assert found == {"answer_accuracy": pytest.approx(2 / 3)}


def test_loss_covers_the_answers_and_their_end_tokens(chat, source):
    dataset, tokenizer = dataset_of(chat, source), chat[1].tokenizer
    for row, turns in enumerate([*TURNS, [("hello", "good day")]]):
        item = dataset[row]
        spans, places = [[]], [place for place, label in enumerate(item.labels) if label != -100]
        for before, place in zip([places[0] - 1, *places], places, strict=False):
            spans += [[]] if place > before + 1 else []
            spans[-1].append(item.labels[place])
            assert item.labels[place] == item.tokens[place]
        assert [tokenizer.decode(span) for span in spans] == [answer + END for _, answer in turns]
        assert len(item.windows) == (row < 3)
    assert [dataset_of(chat, source, first_row=10)[row].row for row in range(4)] == [10, 11, 12, 13]


def test_the_tokens_before_an_answer_equal_the_prompt_of_a_chat(chat, source, clips):
    item, processor = dataset_of(chat, source, num_frames=4)[0], chat[1]
    video = {"type": "video", "video": str(clips[0])}
    (first, answer), (second, _) = TURNS[0]
    asked = [{"role": "user", "content": [video, {"type": "text", "text": first}]}]
    reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    for messages in (asked, [*asked, reply, {"role": "user", "content": [{"type": "text", "text": second}]}]):
        prompt = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"num_frames": 4}
        )
        ids = prompt["input_ids"][0].tolist()
        assert item.tokens[: len(ids)] == ids
        assert item.labels[len(ids)] != -100
        assert item.labels[len(ids) - 1] == -100
    assert len(item.windows) == 2
    assert item.tokens.count(processor.video_token_id) == 2 * chat[0].config.visual_tokens


def test_a_batch_has_the_mean_loss_of_the_tokens_of_its_answers(chat, source):
    model, dataset = chat[0], dataset_of(chat, source)
    items = [dataset[row] for row in (0, 3, 1)]
    batch = dataset.collate(items)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist() == [len(item.tokens) for item in items]
    assert batch["neuron_mask"].shape[0] == 2
    with torch.no_grad():
        whole = model(**dataset.model_inputs(batch))
        total, count = 0.0, 0
        for item in items:
            logits = model(**dataset.model_inputs(dataset.collate([item]))).logits[0].log_softmax(-1)
            for place, label in enumerate(item.labels):
                if label != -100:
                    total, count = total - logits[place - 1, label], count + 1
    torch.testing.assert_close(whole.loss, total / count)


def test_cached_windows_equal_those_of_the_files(chat, source, tmp_path, monkeypatch, capsys):
    model, processor = chat
    raw, cached = (dataset_of(chat, source, num_frames=4, first_row=5) for _ in range(2))
    cached.use_cache(model, tmp_path / "cache", torch.float32)
    assert "6 of 6 windows to cache" in capsys.readouterr().out
    again = dataset_of(chat, source, num_frames=4)
    again.use_cache(model, tmp_path / "cache", torch.float32)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(processor, "read_video", lambda *_, **__: pytest.fail("a clip was read"))
    items = [cached[row] for row in (2, 3, 0)]
    monkeypatch.undo()
    expected = [raw[row] for row in (2, 3, 0)]
    assert [(item.tokens, item.labels, item.row) for item in items] == [
        (item.tokens, item.labels, item.row) for item in expected
    ]
    assert not any(item.windows for item in items)
    with torch.no_grad():
        found, wanted = (
            model(**each.model_inputs(each.collate(own))).logits for each, own in ((cached, items), (raw, expected))
        )
    torch.testing.assert_close(found, wanted)
    cached.cache.drop_trunks()
    with torch.no_grad():
        torch.testing.assert_close(model(**cached.model_inputs(cached.collate(items))).logits, wanted)


def test_an_interrupted_cache_resumes(chat, source, clips, tmp_path, monkeypatch):
    """In shards of three windows, so that the second clip is in two."""
    model, processor = chat
    monkeypatch.setattr(chat_task, "SHARD_WINDOWS", 3)
    read, read_video, stop = [], processor.read_video, 3

    def counted(video, **settings):
        read.append(clips.index(Path(video)))
        if len(read) == stop:
            raise ValueError("stopped")
        return read_video(video, **settings)

    monkeypatch.setattr(processor, "read_video", counted)
    (tmp_path / "qa.csv").write_text("\n".join(["video,question,answer", *(f"{clip},what?,red" for clip in clips)]))
    dataset = dataset_of(chat, str(tmp_path / "qa.csv"), num_frames=4)
    with pytest.raises(ValueError, match=r"row 2: stopped"):
        dataset.use_cache(model, tmp_path / "cache", torch.float32)
    stop = 0
    for expected, lost in (([0, 1, 2], "times-*-00001.json"), ([0, 1, 2], "none"), ([0], "none")):
        read.clear()
        dataset.use_cache(model, tmp_path / "cache", torch.float32)
        assert read == expected  # the first clip for the number of windows
        assert set(dataset.cache.videos) == set(dataset.conversations.keys)
        for file in (tmp_path / "cache").glob(lost):
            file.unlink()


def test_unreadable_files_are_named(chat, source, clips, tmp_path):
    with pytest.raises(ValueError, match=r"chat\.json, row 0: .*1024"):
        dataset_of(chat, source, num_frames=160)[0]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    (tmp_path / "qa.csv").write_text(f"video,question,answer\n{broken},what?,red\n")
    with pytest.raises((ValueError, OSError), match=r"qa\.csv, row 0: .*broken\.mp4"):
        dataset_of(chat, str(tmp_path / "qa.csv"))[0]
    (tmp_path / "qa.csv").write_text(f"video,question,answer\n{clips[0]},what is <|video|>?,red\n")
    with pytest.raises(ValueError, match=r"qa\.csv, row 0: .*<\|video\|>"):
        dataset_of(chat, str(tmp_path / "qa.csv"))[0]


def test_a_question_is_not_cached(make_sen, towers, llm, source, tmp_path):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["bert"]]
    model = SENForConditionalGeneration.from_llm(
        llm, make_sen(neurons=neurons), window_frames=2, tokens_per_frame=4, question_neuron="words"
    )
    dataset = dataset_of((model, SENChatProcessor.from_llm(llm, model.config)), source)
    item = dataset[0]
    questions = [question for question, _ in TURNS[0]]
    assert [window["words_input_ids"] for window in item.windows] == questions  # the clip again before each
    pads = item.tokens.count(model.config.video_token_id)
    assert pads == len(questions) * model.config.visual_tokens
    with pytest.raises(ValueError, match="cache: neuron 'words' reads the question"):
        dataset.use_cache(model, tmp_path / "cache", torch.float32)
