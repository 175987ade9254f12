"""SENModel's outputs: losses, features, tuples, hidden states and attentions."""

import pytest
import torch
from random_sen import SMALL, random_inputs, random_weights
from tower_table import CHECKPOINTS
from transformers import CLIPModel, VideoMAEModel

from modeling_sen import SENModel, SENProcessor

CLASS_TEXTS = torch.tensor([[512, 5, 9, 513, 513, 513], [512, 40, 7, 8, 90, 513], [512, 3, 3, 3, 513, 513]])
CLASS_MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])


def normalised(tensor):
    return torch.nn.functional.normalize(tensor, dim=-1)


def test_losses_equal_the_cross_entropies_of_the_logits(make_sen):
    model, inputs = random_weights(make_sen(association_loss=0)), random_inputs()
    texts = normalised(torch.randn(3, 12))
    with torch.no_grad():
        assert model(**inputs, text_embeds=texts).loss is None
        labelled = model(**inputs, text_embeds=texts, labels=torch.tensor([2, 0]))
        scores = labelled.logits_per_video.log_softmax(-1)
        torch.testing.assert_close(labelled.loss, -(scores[0, 2] + scores[1, 0]) / 2)
        pairs = model(**inputs, text_embeds=texts[:2], return_loss=True)
        rows, columns = pairs.logits_per_video.log_softmax(-1), pairs.logits_per_video.log_softmax(0)
        torch.testing.assert_close(pairs.loss, -(rows.diag().mean() + columns.diag().mean()) / 2)
        expected = model.logit_scale.exp() * labelled.fused_embeds @ texts.t()
        torch.testing.assert_close(labelled.logits_per_video, expected)


@pytest.mark.parametrize("num_rounds", [0, 1, 3])
def test_the_association_loss_averages_over_rounds_and_excludes_the_frozen_mean(make_sen, num_rounds):
    model, inputs = random_weights(make_sen(num_rounds=num_rounds, association_loss=0.5)), random_inputs()
    texts, labels = normalised(torch.randn(3, 12)), torch.tensor([2, 0])
    with torch.no_grad():
        output = model(**inputs, text_embeds=texts, labels=labels)
        per_round = output.association_embeds
        assert per_round.shape == (2, max(1, num_rounds), 12)
        losses = [
            torch.nn.functional.cross_entropy(7.389056 * each @ texts.t(), labels) for each in per_round.unbind(1)
        ]
        of_fused = torch.nn.functional.cross_entropy(output.logits_per_video, labels)
    torch.testing.assert_close(output.loss, of_fused + 0.5 * torch.stack(losses).mean(), atol=1e-4, rtol=0)


def test_the_untrained_association_gets_gradients_with_a_closed_gate(make_sen):
    model = make_sen()
    texts = normalised(torch.randn(3, 12))
    model(**random_inputs(), text_embeds=texts, labels=torch.tensor([2, 0])).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # With `queries` the prompts affect the answers only through gates that start at zero.
    behind_gates = [name for name, _ in model.named_parameters() if name.endswith(("up.weight", ".tokens"))]
    assert silent == [name for name in behind_gates if ".prompting." in name]


def test_inputs_that_do_not_fit_a_loss_raise(make_sen):
    model, inputs = make_sen(), random_inputs()
    texts = normalised(torch.randn(3, 12))
    with pytest.raises(ValueError, match="needs texts"):
        model(**inputs, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="needs texts"):
        model(**inputs, return_loss=True)
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), expected \(2,\)"):
        model(**inputs, text_embeds=texts, labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"labels have shape \(2, 1\)"):
        model(**inputs, text_embeds=texts, labels=torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="2 videos and 3 texts"):
        model(**inputs, text_embeds=texts, return_loss=True)
    with pytest.raises(ValueError, match=r"text_embeds have shape \(3, 5\), expected \(texts, 12\)"):
        model(**inputs, text_embeds=texts[:, :5])


def test_features_equal_those_of_the_forward(make_sen, towers):
    model, inputs = random_weights(make_sen()), random_inputs()
    with torch.no_grad():
        output = model(**inputs, text_input_ids=CLASS_TEXTS, text_attention_mask=CLASS_MASK)
        video = model.get_video_features(**inputs)
        text = model.get_text_features(CLASS_TEXTS, CLASS_MASK)
    assert torch.equal(video.pooler_output, output.fused_embeds)
    assert torch.equal(video.last_hidden_state, output.knowledge)
    assert torch.equal(text.pooler_output, output.text_embeds)
    with pytest.raises(ValueError, match="no text tower"):
        SENModel.from_neurons([towers["ast"]], **SMALL).get_text_features(CLASS_TEXTS)


def test_outputs_are_returned_as_a_tuple(make_sen):
    model, inputs = make_sen(association_loss=0), random_inputs()
    with torch.no_grad():
        output = model(**inputs)
        assert torch.equal(model(**inputs, return_dict=False)[0], output.fused_embeds)
        assert torch.equal(output[0], output.fused_embeds)
        texts = {"text_embeds": torch.eye(12)[:3], "labels": torch.tensor([0, 1])}
        loss, logits, transposed, fused, *_ = model(**inputs, **texts, return_dict=False)
    assert torch.equal(loss, torch.nn.functional.cross_entropy(logits, texts["labels"]))
    assert torch.equal(logits, transposed.t())
    assert torch.equal(fused, output.fused_embeds)


@pytest.mark.parametrize("asked", ["argument", "configuration"])
def test_features_are_returned_as_a_tuple(make_sen, asked):
    model, inputs = make_sen(), random_inputs()
    kwargs = {"return_dict": False} if asked == "argument" else {}
    with torch.no_grad():
        expected = model(**inputs, text_input_ids=CLASS_TEXTS)
        model.config.return_dict = asked == "argument"
        knowledge, fused = model.get_video_features(**inputs, **kwargs)
        _, embeds = model.get_text_features(CLASS_TEXTS, **kwargs)
        whole = model(**inputs, text_input_ids=CLASS_TEXTS, **kwargs)  # it calls both methods itself
    assert torch.equal(knowledge, expected.knowledge)
    assert torch.equal(fused, expected.fused_embeds)
    assert torch.equal(embeds, expected.text_embeds)
    assert torch.equal(whole[0], expected.logits_per_video)


def test_hidden_states_and_attentions_are_those_of_the_towers_first_look(make_sen, towers):
    model, inputs = random_weights(make_sen()), random_inputs()
    video = VideoMAEModel.from_pretrained(towers["videomae"], attn_implementation="eager").eval()
    clip = CLIPModel.from_pretrained(towers["clip"], attn_implementation="eager").eval()
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        plain = model(**inputs)
        assert plain.hidden_states is None
        assert plain.attentions is None
        model.set_attn_implementation("eager")
        output, features = model(**inputs, **asked), model.get_video_features(**inputs, **asked)
        text = model.get_text_features(CLASS_TEXTS, CLASS_MASK, **asked)
        expected = {
            "video": video(inputs["video_pixel_values"], **asked),
            "image": clip.vision_model(inputs["image_pixel_values"].flatten(0, 1), **asked),  # each frame separately
        }
        expected_text = clip.text_model(CLASS_TEXTS, CLASS_MASK, **asked)
    torch.testing.assert_close(output.fused_embeds, plain.fused_embeds)
    for what in ("hidden_states", "attentions"):
        assert list(output[what]) == list(features[what]) == ["image", "video", "audio"]
        assert len(output[what]["audio"]) == (5 if what == "hidden_states" else 4)
        for name, tower in expected.items():
            for found in (output, features):
                torch.testing.assert_close(found[what][name], tower[what])
        torch.testing.assert_close(text[what], expected_text[what])


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_tower_returns_its_hidden_states_and_attentions(checkpoint, towers, clips):
    neuron = {"hub_id": towers[checkpoint]}
    if checkpoint == "siglip2":  # its default size is larger than the tiny tower needs
        neuron["preprocessing"] = {"size": [16, 16]}
    model = SENModel.from_neurons([neuron], projection_dim=7, **SMALL)
    inputs = SENProcessor(model.config)(
        videos=dict.fromkeys(("video", "depth", "thermal"), clips[0]) | {"text": "a dog barks"}
    )
    with torch.no_grad():
        expected = model(**inputs).fused_embeds
        model.set_attn_implementation("eager")
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.fused_embeds, expected)
    [hidden_states], [attentions] = output.hidden_states.values(), output.attentions.values()
    assert len(hidden_states) == len(attentions) + 1 > 2
    assert all(weights.shape[-1] == weights.shape[-2] for weights in attentions)


def test_the_configuration_can_request_hidden_states(make_sen):
    model, inputs = make_sen(), random_inputs()
    model.config.output_hidden_states = True
    with torch.no_grad():
        assert len(model(**inputs).hidden_states["image"]) == 5
        assert len(model.get_text_features(CLASS_TEXTS).hidden_states) == 5
        assert model(**inputs, output_hidden_states=False).hidden_states is None
