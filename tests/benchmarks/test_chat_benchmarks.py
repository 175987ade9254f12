"""The benchmarks of video chat, with tiny language models."""

import sys

import av
import chat_clips
import chat_language_models
import chat_latency
import full_size_language_models
import pytest
import torch
from full_size_language_models import LANGUAGE_MODELS, make_chat, make_tokenizer, save_language_model
from tiny_chat import make_chat_model, make_tiny_sen

from modeling_sen.audio_io import read_audio
from modeling_sen.video_io import FrameRequest, read_video, read_video_requests

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def tiny(monkeypatch):
    """A language model with Qwen3's vocabulary and nothing else of its size."""
    settings = {**LANGUAGE_MODELS["Qwen3-0.6B"], **TINY, "head_dim": 8, "vocab_size": 700}
    monkeypatch.setitem(full_size_language_models.LANGUAGE_MODELS, "tiny", settings)
    return "tiny"


def test_words_and_times_have_few_tokens_and_any_text_some():
    tokenizer = make_tokenizer()
    assert len(tokenizer(chat_latency.FIRST)["input_ids"]) <= 8
    assert len(tokenizer("<1.5s>")["input_ids"]) == 6
    assert tokenizer.decode(tokenizer("Größe?")["input_ids"]) == "Größe?"


@pytest.mark.parametrize(
    ("name", "millions"), [("Qwen3-0.6B", 596), ("Llama-3.2-1B", 1236), ("SmolLM3-3B, 4 of 36 layers", 575)]
)
def test_language_models_have_the_size_of_the_hubs(name, millions):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(LANGUAGE_MODELS[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, abs=1)


def test_a_language_model_is_trained_saved_and_loaded(tiny, tmp_path):
    pytest.importorskip("peft")
    save_language_model(tiny, tmp_path / "llm", torch.bfloat16)
    row = dict(zip(chat_language_models.HEADS, chat_language_models.measure(tiny, tmp_path), strict=True))
    before, after = map(float, row["loss before, after"].split(", "))
    assert after < before
    assert row["difference"] == "0e+00"
    assert row["answers"] == "equal"


@pytest.mark.parametrize(("question", "windows"), [(None, 2), ("words", 4)])
def test_a_second_question_is_compared_and_timed(make_sen, towers, tiny, tmp_path, question, windows):
    llm = save_language_model(tiny, tmp_path / "llm", torch.float32)
    sen = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["bert"]])
    sen.gate.data.fill_(0.8)
    model, processor = make_chat(llm, sen, window_frames=2, tokens_per_frame=4, question_neuron=question)
    clip = {"video": chat_latency.make_clip()["video"]}
    found = chat_latency.compare(model, processor, clip, 4)
    assert found.startswith(f"{windows * model.config.visual_tokens} visual tokens")
    assert "answers equal: True" in found
    assert float(found.split("scores ")[1].split(" ")[0]) < 1e-5
    assert all(seconds > 0 for seconds in chat_latency.turn(model, processor, clip, 4).values())


# --- clips -----------------------------------------------------------------------------------------------------------


def test_a_segment_is_repeated_with_its_sound(tmp_path):
    segment = chat_clips.write_segment(tmp_path / "segment.mkv")
    path = chat_clips.repeat_segment(segment, tmp_path / "long.mkv", 3)
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(30e6, abs=1e5)
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 900
    [later] = read_video_requests(path, [FrameRequest(4, stretch=(20.0, 30.0))])
    assert (later.frames == read_video(segment, 4).frames).all()
    assert len(read_audio(path, 16_000).samples) == pytest.approx(30 * 16_000, abs=100)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_each_clip_has_a_row(towers, clips, tmp_path):
    model, processor = make_chat_model(make_tiny_sen(towers), tmp_path)
    row = chat_clips.row(model, processor, clips[0], "a clip", 4)
    cells = dict(zip(chat_clips.HEADS, row.strip("| ").split(" | "), strict=True))
    assert cells["clip"] == "a clip"
    assert cells["sound"] == "yes"
    assert len(cells["steps in time"].split()) == 4
    assert int(cells["visual tokens"]) == 2 * model.config.visual_tokens
