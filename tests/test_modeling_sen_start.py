"""SENModel before training: it equals its aligned neurons, and clips without an aligned neuron."""

import logging

import torch
from random_sen import SMALL, random_inputs, random_weights
from transformers import CLIPModel

from modeling_sen import SENModel

CLASS_TEXTS = torch.tensor([[512, 5, 9, 513, 513, 513], [512, 40, 7, 8, 90, 513], [512, 3, 3, 3, 513, 513]])
CLASS_MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])


def normalised(tensor):
    return torch.nn.functional.normalize(tensor, dim=-1)


def test_an_untrained_sen_equals_its_only_aligned_neuron(make_sen, towers):
    inputs = random_inputs(frames=1)
    model = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 1}, towers["videomae"], towers["ast"]])
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    with torch.no_grad():
        expected = clip.get_image_features(pixel_values=inputs["image_pixel_values"][:, 0]).pooler_output
        fused = model(**inputs).fused_embeds
    assert torch.equal(fused, normalised(normalised(expected)))


def test_an_untrained_sen_averages_the_frames_of_its_aligned_neuron(make_sen, towers):
    inputs = random_inputs(frames=3)
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    with torch.no_grad():
        frames = clip.get_image_features(pixel_values=inputs["image_pixel_values"].flatten(0, 1)).pooler_output
        fused = make_sen()(**inputs).fused_embeds
    torch.testing.assert_close(fused, normalised(frames.unflatten(0, (2, 3)).mean(1)))


def test_an_untrained_sen_equals_the_mean_of_its_aligned_neurons(make_sen, towers):
    second = {"hub_id": towers["clip"], "num_frames": 1, "name": "depth", "modality": "depth"}
    model = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 1}, second, towers["ast"]])
    assert [spec.aligned for spec in model.config.neuron_specs] == [True, True, False]
    inputs = random_inputs(frames=1)
    inputs["depth_pixel_values"] = inputs.pop("video_pixel_values")[:, :1]
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    with torch.no_grad():
        image, depth = (
            normalised(clip.get_image_features(pixel_values=inputs[f"{name}_pixel_values"][:, 0]).pooler_output)
            for name in ("image", "depth")
        )
        assert torch.equal(model(**inputs).fused_embeds, normalised((image + depth) / 2))


def test_untrained_zero_shot_logits_equal_those_of_the_dual_encoder(make_sen, towers):
    inputs = random_inputs(frames=1)
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    with torch.no_grad():
        expected = clip(
            pixel_values=inputs["image_pixel_values"][:, 0], input_ids=CLASS_TEXTS, attention_mask=CLASS_MASK
        )
        output = make_sen()(**inputs, text_input_ids=CLASS_TEXTS, text_attention_mask=CLASS_MASK)
    torch.testing.assert_close(output.logits_per_video, expected.logits_per_image)
    torch.testing.assert_close(output.text_embeds, expected.text_embeds)
    torch.testing.assert_close(output.logits_per_text, expected.logits_per_text)
    assert expected.logits_per_image.std() > 0.1


def test_an_added_neuron_leaves_outputs_without_its_inputs_bit_identical(make_sen, towers):
    before = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"]])
    after = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"]])
    inputs = random_inputs()
    sound = inputs.pop("audio_input_features")
    texts = {"text_input_ids": CLASS_TEXTS, "text_attention_mask": CLASS_MASK}
    with torch.no_grad():
        first, second = before(**inputs, **texts), after(**inputs, **texts)
        masked = after(
            **inputs, audio_input_features=sound, neuron_mask=torch.tensor([[True, True, False]] * 2), **texts
        )
    for output in (second, masked):
        assert torch.equal(first.fused_embeds, output.fused_embeds)
        assert torch.equal(first.logits_per_video, output.logits_per_video)


def test_without_aligned_neurons_the_embedding_is_the_fusion_heads(make_sen, towers):
    model = random_weights(SENModel.from_neurons([towers["videomae"], towers["ast"]], projection_dim=7, **SMALL))
    assert not model.is_untrained_without_start
    inputs = random_inputs()
    del inputs["image_pixel_values"]
    with torch.no_grad():
        output = model(**inputs)
        present = dict.fromkeys(output.neuron_states, torch.ones(2, dtype=torch.bool))
        assert torch.equal(output.fused_embeds, normalised(model.fusion(output.neuron_states, present)[1]))
        model.gate.fill_(-3.0)  # has no effect here
        assert torch.equal(model(**inputs).fused_embeds, output.fused_embeds)
    assert SENModel.from_neurons([towers["ast"]], projection_dim=7, **SMALL).is_untrained_without_start


def test_a_sample_without_an_aligned_neuron_gets_the_fusion_heads_embedding(make_sen):
    model = random_weights(make_sen())
    torch.nn.init.zeros_(model.gate)
    inputs = random_inputs()
    mask = torch.tensor([[True, True, True], [False, True, True]])
    texts = normalised(torch.randn(3, 12))
    output = model(**inputs, neuron_mask=mask, text_embeds=texts, labels=torch.tensor([0, 1]))
    present = {name: mask[:, index] for index, name in enumerate(model.specs)}
    association = model.fusion(output.neuron_states, present)[1]
    torch.testing.assert_close(output.fused_embeds[1], normalised(association)[1])
    torch.testing.assert_close(output.fused_embeds[0], model(**inputs).fused_embeds[0])
    assert output.logits_per_video[1].std() > 0
    output.loss.backward()
    assert 0 < model.gate.grad.abs() < 1e4
    del inputs["image_pixel_values"]  # no sample of the batch has an aligned neuron
    torch.testing.assert_close(model(**inputs).fused_embeds[1], output.fused_embeds[1])


def test_samples_without_an_aligned_neuron_cause_a_warning_until_the_model_is_trained(make_sen, caplog):
    logging.Logger.warning_once.cache_clear()  # other tests may have logged the same warning
    model = make_sen()
    inputs = random_inputs()
    model(**inputs)
    assert not caplog.messages
    mask = torch.tensor([[True, True, True], [False, True, True]])
    for _ in range(2):
        rows = model(**inputs, neuron_mask=mask).fused_embeds.norm(dim=-1)
        torch.testing.assert_close(rows, torch.ones(2))
    assert len(caplog.messages) == 1
    assert "no aligned neuron's input" in caplog.messages[0]
    logging.Logger.warning_once.cache_clear()
    torch.nn.init.normal_(model.fusion.up.bias)
    model(**inputs, neuron_mask=mask)
    assert len(caplog.messages) == 1
