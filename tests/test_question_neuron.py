"""A neuron that reads the question: the question that each video of a prompt gets. chat/test_session.py tests answers."""

import pytest
import torch
from chat_tokenizers import WINDOW, asked, make_processor, video, words

from modeling_sen import SENChatProcessor, SENProcessor
from modeling_sen.chat_prompt import VIDEO


@pytest.fixture
def processor(worded_config, tmp_path) -> SENChatProcessor:
    return make_processor(worded_config, tmp_path, question_neuron="words")


@pytest.fixture
def reader(processor):
    """The neuron's text reader: texts -> token ids and mask."""
    return processor.sen_processor._text_reader(processor.config.sen_config.neuron_specs[3])


def test_the_question_neuron_gets_the_question(processor, reader, clips):
    messages = [
        asked(words("a man speaks")),
        asked(words("yes"), role="assistant"),
        asked(video(clips[0]), words("a dog")),
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, num_frames=3)
    assert torch.equal(inputs["words_input_ids"], reader(["a dog", "a dog"])[0])
    read = processor.read_video(clips[0], text="a man")
    again = processor.sen_processor.collate(processor.ask(read, "a dog").inputs)
    assert torch.equal(again["words_input_ids"], reader(["a dog"])[0])
    assert torch.equal(processor.sen_processor.collate(read.inputs)["words_input_ids"], reader(["a man"])[0])
    by_hand = processor([f"{VIDEO} a dog", f"{VIDEO}"], [read, clips[1]], questions=["a man", "a dog barks"])
    assert torch.equal(by_hand["words_input_ids"], reader(["a man", "a dog barks"])[0])
    assert torch.equal(processor(f"{VIDEO} a dog", read)["words_input_ids"], reader(["a dog"])[0])
    each = processor(f"{VIDEO}{VIDEO}", [read, clips[1]], questions=[["a man", "a dog"]])
    assert torch.equal(each["words_input_ids"], reader(["a man", "a dog"])[0])
    with pytest.raises(ValueError, match=r"questions: expected \[2\] for the prompts, one for each .*found \[1\]"):
        processor(f"{VIDEO}{VIDEO}", [read, clips[1]], questions=[["a man"]])


def test_each_question_is_paired_with_all_videos_before_it(processor, reader, clips, monkeypatch):
    first, second = str(clips[0]), str(clips[1])
    messages = [asked(video(first), words("a man")), asked(words("yes"), role="assistant"), asked(video(second)),
                asked(words("no"), role="assistant"), {"role": "user", "content": "a dog"}]  # fmt: skip
    expected = [(first, "a man"), (first, ""), (second, ""), (first, "a dog"), (second, "a dog")]
    assert processor.videos_in_prompt(messages) == expected
    opened, open_clip = [], SENProcessor.open_clip
    monkeypatch.setattr(SENProcessor, "open_clip", lambda self, clip: opened.append(clip) or open_clip(self, clip))
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert opened == [first, second]
    assert torch.equal(inputs["words_input_ids"], reader([question for _, question in expected])[0])
    assert (inputs["input_ids"] == processor.video_token_id).sum() == 50
    pixels = inputs["image_pixel_values"]
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[2], pixels[4])
    assert not torch.equal(pixels[0], pixels[2])
    read = processor.read_videos(messages, num_frames=4)
    assert [one.num_windows for one in read] == [2, 2]
    assert all("words_input_ids" not in row for one in read for row in one.inputs)
    shown = [pair[0] for pair in processor.videos_in_prompt([asked(video(read[0])), asked(video(read[1]))])]
    assert [id(one) for one in shown] == [id(read[0]), id(read[0]), id(read[1])]


def test_repeated_videos_are_reduced_to_the_budget(processor, clips, caplog):
    messages = [asked(video(clips[0]), words("a man")), asked(words("yes"), role="assistant"), asked(words("a dog"))]
    [read] = processor.read_videos(messages, max_new_tokens=100, num_frames=50)
    ids = processor.apply_chat_template(
        [asked(video(read), words("a man")), *messages[1:]], add_generation_prompt=True, tokenize=True
    )
    assert 412 - 2 * WINDOW < ids.shape[1] <= 412
    assert f"50 frames of video are reduced to {2 * read.num_windows}" in caplog.text
