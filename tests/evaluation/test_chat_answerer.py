"""A chat model as it is measured: the same answers as by hand, each clip read and encoded once."""

import numpy as np
import pytest
import torch
from chat_parts import make_chat_parts

from modeling_sen.evaluation.chat_answerer import ChatAnswerer, load_answerer
from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.evaluation.question_sets import AskedClip


@pytest.fixture(params=[None, "words"])
def chat_parts(request, make_sen, towers, tmp_path):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["bert"]]
    return make_chat_parts(make_sen(neurons=neurons), tmp_path / "llm", question_neuron=request.param)


def make_clip(seed):
    frames = np.random.default_rng(seed).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    return AskedClip({"video": frames, "times": np.arange(8) / 8})


def by_hand(model, processor, clip, question, new=12, **reading):
    """From the raw video, in one call."""
    parts = [{"type": "video", "video": clip.video}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True, **reading
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=new)
    return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_answers_equal_those_from_the_raw_video(chat_parts, monkeypatch):
    model, processor = chat_parts
    answerer = ChatAnswerer(model, processor, max_new_tokens=12)
    reads = []
    read_video = processor.read_video
    monkeypatch.setattr(
        processor, "read_video", lambda *args, **kwargs: reads.append(1) or read_video(*args, **kwargs)
    )
    clips = [make_clip(0), make_clip(1)]
    questions = ["what moves?", "which colour?", "who?"]
    found = {(number, one): answerer(clips[number], one) for number in range(2) for one in questions}
    assert len(reads) == 2
    assert found == {(number, one): by_hand(model, processor, clips[number], one) for number, one in found}
    assert len(set(found.values())) > 3, "answers depend on clip and question"


def test_towers_run_once_for_each_clip(chat_parts, monkeypatch):
    model, processor = chat_parts
    calls = []
    looks = type(model.sen.neurons).first_looks
    monkeypatch.setattr(
        type(model.sen.neurons),
        "first_looks",
        lambda self, inputs, *rest: calls.append(sorted(inputs)) or looks(self, inputs, *rest),
    )
    answerer, clip = ChatAnswerer(model, processor, max_new_tokens=2), make_clip(0)
    for question in ("what?", "who?", "where?"):
        answerer(clip, question)
    of_frames = [one for one in calls if any("pixel" in name for name in one)]
    assert len(of_frames) == 1


def test_start_end_and_number_of_frames_are_passed_on(chat_parts):
    model, processor = chat_parts
    clip = make_clip(0)
    part = AskedClip(clip.video, 0.25, 0.75)
    four = ChatAnswerer(model, processor, num_frames=4, max_new_tokens=12)
    assert four(clip, "who?") == by_hand(model, processor, clip, "who?", num_frames=4)
    assert four(part, "who?") == by_hand(model, processor, part, "who?", num_frames=4, start=0.25, end=0.75)
    with pytest.raises(ValueError, match=r"the conversation has \d+ tokens, .* expected at most 400 together"):
        ChatAnswerer(model, processor, num_frames=200)(clip, "who?")


def test_a_clip_that_cannot_be_read_leaves_nothing_behind(chat_parts, tmp_path):
    answerer, clip = ChatAnswerer(*chat_parts, max_new_tokens=4), make_clip(0)
    expected = answerer(clip, "who?")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        answerer(AskedClip(str(tmp_path / "broken.mp4")), "who?")
    assert answerer(clip, "who?") == expected


def test_a_saved_model_is_loaded(chat_parts, tmp_path):
    model, processor = chat_parts
    model.save_pretrained(tmp_path / "chat", include_neurons=True)
    processor.save_pretrained(tmp_path / "chat")
    loaded, clip = load_answerer(str(tmp_path / "chat"), device="cpu"), make_clip(0)
    loaded.max_new_tokens = 12
    assert loaded(clip, "who?") == by_hand(model, processor, clip, "who?")


def test_the_language_model_is_part_of_the_checksum(chat_parts):
    model, _ = chat_parts
    before = model_sha1(model)
    with torch.no_grad():
        next(model.language_model.parameters())[0, 0] += 1
    assert model_sha1(model) != before


def test_other_models_are_refused(sen_folder):
    with pytest.raises(
        ValueError, match="sen: expected a model that answers questions about videos, found one of type 'sen'"
    ):
        load_answerer(str(sen_folder), device="cpu")
