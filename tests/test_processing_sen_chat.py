"""Chats with videos: expanded prompts, windows of the SEN's inputs, budgets, chat templates, files, and wrong inputs."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from chat_tokenizers import (
    PARTS_TEMPLATE,
    SILENT_TEMPLATE,
    STRING_TEMPLATE,
    VOCABULARY,
    WINDOW,
    asked,
    byte_tokenizer,
    make_config,
    make_processor,
    video,
    words,
)
from frame_stamps import CLIP_KINDS, write_clip
from random_sen import SMALL
from transformers import AutoProcessor, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from modeling_sen import SENChatProcessor, SENForConditionalGeneration, SENModel, SENProcessor
from modeling_sen.chat_prompt import VIDEO, VIDEO_PAD, expanded_video
from modeling_sen.upload_files import add_code


@pytest.fixture
def processor(worded_config, tmp_path) -> SENChatProcessor:
    return make_processor(worded_config, tmp_path)


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """Three seconds without sound."""
    return write_clip(tmp_path_factory.mktemp("silent") / "silent.mp4", CLIP_KINDS["mp4"], range(90))


def frames_of(seconds: float) -> np.ndarray:
    """Frames at 24 per second, (T, 8, 8, 3) uint8."""
    return np.random.default_rng(1).integers(0, 256, (round(24 * seconds), 8, 8, 3), dtype=np.uint8)


def pads(processor, inputs):
    return (inputs["input_ids"] == processor.config.video_token_id).sum(dim=1).tolist()


def warnings_of(caplog):
    return [
        record.message
        for record in caplog.records
        if record.levelno == logging.WARNING and "frames of" in record.message
    ]


# --- tokens and times ------------------------------------------------------------------------------------------------


def test_a_placeholder_is_expanded_to_times_visual_tokens_and_answers():
    times = torch.tensor([[0.04, 1.26], [12.0, 3599.96]], dtype=torch.float64)
    p = VIDEO_PAD
    assert expanded_video(times, 2, 1) == f"<0.0s>{p}{p}<1.3s>{p}{p}{p}<12.0s>{p}{p}<3600.0s>{p}{p}{p}"
    assert expanded_video(times[:1], 1, 0) == f"<0.0s>{p}<1.3s>{p}"


def test_token_ids_equal_those_of_the_expanded_text(processor, clips):
    inputs = processor(f"one {VIDEO} two", clips[0], num_frames=4)
    # The motion tower takes four frames per window of one second; a step's time is the mean of two frame times.
    expected = "one " + "".join(
        f"<{first}s>{VIDEO_PAD * 4}<{second}s>{VIDEO_PAD * 4}{VIDEO_PAD * 2}"
        for first, second in (("0.2", "0.8"), ("1.2", "1.8"))
    )
    times = torch.stack([torch.tensor([0.125, 0.375, 0.625, 0.875]) + window for window in (0, 1)]).double()
    assert torch.equal(inputs["frame_times"], times)
    assert inputs["input_ids"].tolist() == [processor.tokenizer(expected + " two")["input_ids"]]
    assert processor.decode(inputs["input_ids"][0]) == expected + " two"
    assert pads(processor, inputs) == [2 * processor.config.visual_tokens]
    assert inputs["attention_mask"].all()
    assert inputs["image_pixel_values"].shape == (2, 2, 3, 16, 16)
    assert inputs["video_pixel_values"].shape == (2, 4, 3, 16, 16)
    assert inputs["audio_input_features"].shape == (2, 64, 16)
    assert set(inputs) <= set(processor.model_input_names)


def test_rows_are_the_windows_of_all_videos_in_prompt_order(processor, clips, silent):
    texts = [f"{VIDEO} and {VIDEO}?", "no video", f"{VIDEO}"]
    inputs = processor(texts, [clips[0], silent, clips[1]], num_frames=3)
    assert pads(processor, inputs) == [4 * 10, 0, 2 * 10]
    single = [processor.read_video(path, num_frames=3) for path in (clips[0], silent, clips[1])]
    rows = processor.sen_processor.collate([row for one in single for row in one.inputs])
    assert set(inputs) == {"input_ids", "attention_mask", *rows}
    for name, expected in rows.items():
        assert torch.equal(inputs[name], expected)
    assert [one.has_sound for one in single] == [True, False, True]
    sound = [spec.name for spec in processor.config.sen_config.neuron_specs].index("audio")
    assert inputs["neuron_mask"][:, sound].tolist() == [True, True, False, False, True, True]
    nested = processor(texts, [[clips[0], silent], [], [clips[1]]], num_frames=3)
    assert all(torch.equal(nested[name], inputs[name]) for name in inputs)


def test_prompts_are_padded_on_the_left_and_equal_single_ones(processor, clips):
    texts, videos = [f"{VIDEO} short", f"{VIDEO} a longer question"], [clips[0], clips[1]]
    inputs = processor(texts, videos)
    for row, (text, path) in enumerate(zip(texts, videos, strict=True)):
        single = processor(text, path)["input_ids"][0]
        mask = inputs["attention_mask"][row].bool()
        assert torch.equal(inputs["input_ids"][row][mask], single)
        assert mask.tolist() == sorted(mask.tolist())  # padding only before the prompt
    assert inputs["input_ids"][0, 0] == processor.tokenizer.eos_token_id  # this tokenizer has no padding token


def test_prompts_without_videos_give_only_token_ids(processor):
    inputs = processor(["hello", "you there"])
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].shape == (2, 9)


def test_times_refer_to_the_original_video(processor, silent):
    read = processor.read_video(silent, num_frames=4, start=1.0, end=2.0)
    assert read.num_windows == 2
    # 15 frames in each half second; frames 1, 5, 9 and 13 are sampled.
    times = 1 + torch.tensor([[1 + 5, 9 + 13], [31 + 35, 39 + 43]], dtype=torch.float64) / 2 / 30
    times[1] -= 0.5
    assert read.frame_times.dtype == torch.float64
    torch.testing.assert_close(read.frame_times, times)
    assert not read.has_sound


def test_arrays_are_accepted_as_videos(processor):
    read = processor.read_video({"video": frames_of(1), "times": np.arange(24) / 2}, fps=0.5)
    assert read.num_windows == 3  # 12 s, six steps
    assert read.frame_times[:, 0].tolist() == sorted(read.frame_times[:, 0].tolist())
    assert read.frame_times.max() > 10
    assert pads(processor, processor(VIDEO, frames_of(1))) == [10]
    images = list(frames_of(1))
    assert pads(processor, processor(VIDEO, images)) == [10]
    assert pads(processor, processor([VIDEO, VIDEO], [images, frames_of(2)])) == [10, 10]


def test_reading_a_video_twice_gives_the_same_inputs(processor, clips):
    first, second = (processor(f"{VIDEO}?", clips[2], fps=4) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_a_neuron_of_frames_the_time_of_a_step_is_its_middle(towers, tmp_path, clips):
    audio_config = SENModel.from_neurons([towers["ast"]], text_tower=towers["clip"], **SMALL).config
    read = make_processor(audio_config, tmp_path).read_video(clips[0], num_frames=4)
    assert read.frame_times.tolist() == [[0.25, 0.75], [1.25, 1.75]]
    assert read.has_sound
    assert [set(row) for row in read.inputs] == [{"audio_input_features"}] * 2


def test_videos_of_a_chat_can_be_read_before_the_prompt_is_made(processor, clips, silent, caplog):
    chat = [asked(video(clips[0]), words("What?")), asked(words("A cat."), role="assistant"), asked(video(silent))]
    read = processor.read_videos(chat, max_new_tokens=200, num_frames=50)
    assert [one.has_sound for one in read] == [True, False]
    assert len(warnings_of(caplog)) == 1
    filled = [asked(video(read[0]), words("What?")), chat[1], asked(video(read[1]))]
    ids = processor.apply_chat_template(filled, add_generation_prompt=True, tokenize=True, max_new_tokens=200)
    assert 512 - 200 - WINDOW < ids.shape[1] <= 512 - 200
    bare = [asked(video(replace(one, inputs=[]))) for one in read]  # a prompt needs only the times
    inputs = processor.apply_chat_template(bare, tokenize=True, return_dict=True)
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert pads(processor, inputs) == [10 * sum(one.num_windows for one in read)]


def test_an_already_read_video_is_used_unchanged(processor, clips, monkeypatch):
    expected = processor(f"{VIDEO}?", clips[0], num_frames=3)
    read = processor.read_video(clips[0], num_frames=3)
    monkeypatch.setattr(SENProcessor, "open_clip", None)
    inputs = processor(f"{VIDEO}?", [read])
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_frames_are_reduced_to_the_budget_with_one_warning(processor, clips, caplog):
    text = f"{VIDEO}" + "x" * 20
    budget = 20 + 3 * WINDOW
    inputs = processor(text, clips[0], num_frames=12, max_length=budget + 5, max_new_tokens=5)
    assert inputs["input_ids"].shape == (1, budget)
    assert pads(processor, inputs) == [30]
    assert warnings_of(caplog) == [f"12 frames of video are reduced to 6: a prompt has room for {budget} tokens"]
    caplog.clear()
    assert pads(processor, processor(text, clips[0], num_frames=6, max_length=budget, max_new_tokens=0)) == [30]
    assert pads(processor, processor(text, clips[0], num_frames=6, max_length=budget - 1, max_new_tokens=0)) == [20]
    assert warnings_of(caplog) == [f"6 frames of video are reduced to 4: a prompt has room for {budget - 1} tokens"]


def test_the_default_budget_is_the_context_of_the_language_model(processor, clips, caplog):
    inputs = processor(VIDEO, clips[0], num_frames=200)
    assert inputs["input_ids"].shape[1] <= 512 - 64
    assert inputs["input_ids"].shape[1] > 512 - 64 - WINDOW
    assert len(warnings_of(caplog)) == 1


def test_the_longest_video_is_reduced_but_not_an_already_read_one(processor, clips, silent):
    read = processor.read_video(clips[0], num_frames=4)
    text = f"{VIDEO}{VIDEO}{VIDEO}"
    inputs = processor(text, [read, silent, clips[1]], fps=4, max_length=7 * WINDOW, max_new_tokens=0)
    # The read video keeps 2 windows; the other two want 6 and 4 windows and get five in total.
    assert pads(processor, inputs)[0] <= 70
    assert inputs["input_ids"].shape[1] <= 7 * WINDOW
    assert inputs["frame_times"].shape[0] == 2 + 2 + 2


def test_times_with_more_digits_than_estimated_still_fit(processor):
    """The estimate uses the window's middle; the last step is at 9.99 s, which rounds to one digit more."""
    times = np.linspace(0, 9.994, 24)
    clip = {"video": frames_of(1), "times": times}
    for budget in range(2 * WINDOW, 4 * WINDOW):
        assert (
            processor(VIDEO, clip, num_frames=8, max_length=budget, max_new_tokens=0)["input_ids"].shape[1] <= budget
        )


def test_a_budget_below_one_window_raises(processor, clips):
    text = f"{VIDEO}" + "x" * 20
    with pytest.raises(ValueError, match=f"max_length: a prompt has {20 + WINDOW} tokens, .* expected at most 41"):
        processor(text, clips[0], num_frames=12, max_length=41, max_new_tokens=0)
    read = processor.read_video(clips[0], num_frames=4)
    with pytest.raises(ValueError, match=f"max_length: a prompt has {2 * WINDOW} tokens"):
        processor(VIDEO, read, max_length=WINDOW, max_new_tokens=0)
    with pytest.raises(ValueError, match="max_length: a prompt has 600 tokens"):
        processor("x" * 600)


def test_truncation_removes_text_but_no_placeholders(processor, clips):
    assert processor("x" * 600, truncation=True)["input_ids"].shape == (1, 512 - 64)
    inputs = processor(
        ["x" * 90, VIDEO + "y" * 20], clips[0], truncation=True, max_length=60, max_new_tokens=0, num_frames=8
    )
    assert pads(processor, inputs) == [0, 10]
    assert processor.decode(inputs["input_ids"][1], skip_special_tokens=True).endswith("y" * 20)
    assert inputs["input_ids"].shape[1] == 60
    with pytest.raises(ValueError, match="max_length"):
        processor(VIDEO + "y" * 90, clips[0], truncation=True, max_length=60, max_new_tokens=0)


def test_max_windows_limits_the_windows_of_a_video(processor, clips, caplog):
    assert processor.read_video(clips[0], num_frames=12, max_windows=2).num_windows == 2
    assert warnings_of(caplog) == ["12 frames of video are reduced to 4: there is room for 2 windows"]
    with pytest.raises(ValueError, match="max_windows: expected at least 1, found 0"):
        processor.read_video(clips[0], max_windows=0)


@pytest.fixture
def chat_model(make_sen, tmp_path):
    torch.manual_seed(2)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **shape))
    llm.save_pretrained(tmp_path / "llm")
    byte_tokenizer().save_pretrained(tmp_path / "llm")
    return SENForConditionalGeneration.from_llm(str(tmp_path / "llm"), make_sen(), window_frames=2, tokens_per_frame=4)


# --- tokenizers and files --------------------------------------------------------------------------------------------


def test_the_placeholder_id_is_outside_of_the_language_models_vocabulary(processor):
    """The tokenizer has 259 tokens, the language model 272 embeddings."""
    tokenizer = processor.tokenizer
    assert tokenizer(VIDEO_PAD)["input_ids"] == [VOCABULARY]
    assert processor.video_token_id == processor.config.video_token_id == VOCABULARY
    assert {VIDEO, VIDEO_PAD} <= set(tokenizer.all_special_tokens)
    assert tokenizer.decode([67, VOCABULARY, 68], skip_special_tokens=True) == tokenizer.decode([67, 68])


def test_an_existing_placeholder_token_is_used(worded_config, tmp_path):
    byte_tokenizer(PARTS_TEMPLATE, ("<|vision_start|>", VIDEO_PAD)).save_pretrained(tmp_path / "llm")
    config = make_config(worded_config)
    processor = SENChatProcessor.from_llm(tmp_path / "llm", config)
    assert processor.video_token_id == config.video_token_id == 260
    assert {"<|vision_start|>", VIDEO, VIDEO_PAD} <= set(processor.tokenizer.all_special_tokens)


def test_a_saved_processor_is_loaded_unchanged(processor, tmp_path, clips):
    processor.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"processor_config.json", "chat_template.jinja", "config.json", "tokenizer.json"} <= names
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == STRING_TEMPLATE
    messages = [asked(video(clips[0]), words("What?"))]
    arguments = {"tokenize": True, "return_dict": True, "num_frames": 4}
    expected = processor.apply_chat_template(messages, **arguments)
    for loaded in (
        SENChatProcessor.from_pretrained(tmp_path / "saved"),
        AutoProcessor.from_pretrained(tmp_path / "saved"),
    ):
        assert type(loaded) is SENChatProcessor
        assert loaded.chat_template == processor.chat_template
        assert loaded.config.to_dict() == processor.config.to_dict()
        assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        inputs = loaded.apply_chat_template(messages, **arguments)
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
        assert loaded.tokenizer.padding_side == "left"


def test_a_changed_chat_template_is_saved(processor, tmp_path):
    processor.chat_template = SILENT_TEMPLATE
    processor.save_pretrained(tmp_path / "saved")
    assert SENChatProcessor.from_pretrained(tmp_path / "saved").chat_template == SILENT_TEMPLATE


def test_neurons_in_the_sens_checkpoint_folder_are_found(sen_folder, tmp_path, clips):
    sen = SENProcessor.from_pretrained(sen_folder)
    byte_tokenizer().save_pretrained(tmp_path / "llm")
    processor = SENChatProcessor.from_llm(tmp_path / "llm", make_config(sen.config), source=sen.source)
    row, (expected,) = processor.read_video(clips[0]).inputs[0], sen.read_clip(clips[0])
    assert torch.equal(row["video_pixel_values"], expected["video_pixel_values"])


def test_its_code_is_saved_with_a_checkpoint(chat_model, tmp_path):
    """It runs without the package: the copied files import only each other and installed libraries."""
    processor = SENChatProcessor.from_llm(tmp_path / "llm", chat_model.config)
    chat_model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    add_code(chat_model, tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert settings["auto_map"] == {"AutoProcessor": "processing_sen_chat.SENChatProcessor"}
    kind = get_class_from_dynamic_module("processing_sen_chat.SENChatProcessor", str(tmp_path / "saved"))
    assert kind is not SENChatProcessor
    loaded = kind.from_pretrained(tmp_path / "saved")
    assert loaded.chat_template == processor.chat_template


def test_other_checkpoints_are_refused(sen_folder, tmp_path):
    with pytest.raises(ValueError, match="its model type is 'sen', expected 'sen_chat'"):
        SENChatProcessor.from_pretrained(sen_folder)
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        SENChatProcessor.from_pretrained(tmp_path / "nowhere")


# --- with the model --------------------------------------------------------------------------------------------------


def test_the_model_accepts_the_outputs_of_the_processor(chat_model, tmp_path, clips):
    processor = SENChatProcessor.from_llm(tmp_path / "llm", chat_model.config)
    chats = [
        [asked(video(clips[0]), words("What?"))],
        [asked(words("Hello"))],
        [asked(video(clips[1]), video(clips[2]), words("Which?"))],
    ]
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=4
    )
    answers = chat_model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answers.shape == (3, inputs["input_ids"].shape[1] + 3)
    assert AutoTokenizer.from_pretrained(tmp_path / "llm").get_vocab().keys() < processor.tokenizer.get_vocab().keys()


def test_the_processor_works_in_the_pipeline_of_transformers(chat_model, tmp_path, clips):
    from transformers import AnyToAnyPipeline

    processor = SENChatProcessor.from_llm(tmp_path / "llm", chat_model.config)
    pipe = AnyToAnyPipeline(model=chat_model, processor=processor)
    arguments = {"num_frames": 4}
    messages = [asked(video(str(clips[0])), words("What?"))]
    (answer,) = pipe(text=messages, max_new_tokens=3, return_full_text=False, processor_kwargs=arguments)
    assert isinstance(answer["generated_text"], str)
    assert arguments == {"num_frames": 4}
    (plain,) = pipe(text=f"{VIDEO} What?", videos=str(clips[0]), max_new_tokens=3, return_full_text=False)
    assert isinstance(plain["generated_text"], str)
