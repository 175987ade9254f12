"""The configuration of a chat model: the number of visual tokens, the neurons that are read, wrong settings."""

import pytest
from random_chat import make_chat, make_language_model
from random_sen import random_inputs

from modeling_sen import SENChatConfig


@pytest.fixture
def asking(make_sen, towers):
    neurons = [
        {"hub_id": towers["clip"], "num_frames": 2},
        towers["videomae"],
        {"hub_id": towers["bert"], "name": "words"},
    ]
    return make_chat(make_sen(neurons=neurons), make_language_model(), question_neuron="words")


def test_the_number_of_visual_tokens_does_not_depend_on_the_neurons(make_sen, towers):
    three = make_chat(make_sen(), make_language_model())
    one = make_chat(make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 3}]), make_language_model())
    bare = make_chat(make_sen(num_rounds=0), make_language_model(), window_frames=3, tokens_per_frame=9)
    assert (three.config.visual_tokens, three.config.num_answer_tokens) == (2 * 4 + 2, 2)
    assert one.config.visual_tokens == 10
    assert (bare.config.visual_tokens, bare.config.num_answer_tokens) == (27, 0)
    for model, inputs in ((three, random_inputs()), (bare, random_inputs())):
        shape = model.get_video_features(**inputs).pooler_output.shape
        assert shape == (2, model.config.visual_tokens, 32)
    pixels = random_inputs(frames=3)["image_pixel_values"]
    assert one.get_video_features(image_pixel_values=pixels).pooler_output.shape == (2, 10, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens_per_frame": 8}, "tokens_per_frame is 8, expected a square number"),
        ({"tokens_per_frame": 0}, "tokens_per_frame is 0, expected a square number"),
        ({"window_frames": 0}, "window_frames is 0, expected at least 1"),
        ({"fusion": "sum"}, "fusion is 'sum', expected one of weights, mean, cross_attention"),
        ({"read_neurons": ["depth"]}, r"no neurons \['depth'\], expected some of image, video, words"),
        ({"read_neurons": ["words"]}, r"read_neurons: \['words'\] read text"),
        ({"question_neuron": "image"}, "question_neuron: 'image' reads image, expected a neuron of text"),
        ({"question_neuron": "question"}, r"no neurons \['question'\]"),
    ],
)
def test_wrong_settings_raise(asking, settings, message):
    given = asking.config.to_dict()
    with pytest.raises(ValueError, match=message):
        SENChatConfig(**{**given, **settings})


def test_text_neurons_are_not_read_by_default(asking):
    assert asking.config.read_neurons == ["image", "video"]
    assert set(asking.projector.tokens.enter) == {"image", "video"}
    assert list(asking.sen.modulation) == ["image", "video"]
