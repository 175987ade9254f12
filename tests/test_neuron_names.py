"""Neuron names that are prefixes of each other or of other inputs: a SEN computes the same with any names."""

import inspect

import pytest
import torch
from random_sen import SMALL, random_weights

from modeling_sen import SENConfig, SENModel, SENProcessor

# Plain name -> a name that is a prefix of another neuron's name or of an input without a neuron.
NAMES = {"picture": "image", "motion": "image_2", "sound": "neuron_mask", "words": "text_encoder", "still": "frame_a"}


def renamed(key: str) -> str:
    """The key of a weight or an input with the neuron's other name."""
    for plain, other in NAMES.items():
        key = key.replace(plain, other)
    return key


@pytest.fixture(scope="module")
def models(towers) -> tuple[SENModel, SENModel]:
    """Two SENs with the same weights, one of them with plain names."""
    found = []
    for names in (list(NAMES), list(NAMES.values())):
        families = ("clip", "videomae", "ast", "bert", "clip")
        neurons = [{"hub_id": towers[family], "name": name} for family, name in zip(families, names, strict=True)]
        neurons[4] |= {"num_frames": 1, "aligned": False, "output_layer": 1}
        found.append(random_weights(SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL)))
    found[1].load_state_dict({renamed(key): value for key, value in found[0].state_dict().items()})
    return found[0], found[1]


@pytest.fixture(scope="module")
def inputs(models, clips) -> tuple[dict, dict]:
    batch = [{"video": clips[0], "text": "a dog barks"}, clips[1]]
    first, second = (SENProcessor(model.config)(videos=batch, text=["a dog", "a man"]) for model in models)
    return dict(first), dict(second)


def test_the_processor_assigns_inputs_to_the_right_neuron(models, inputs):
    plain, other = inputs
    own = {key: value for key, value in plain.items() if key.split("_")[0] in NAMES}
    assert set(other) == {renamed(key) if key in own else key for key in plain}
    assert len(own) == 6
    for key, value in plain.items():
        torch.testing.assert_close(other[renamed(key) if key in own else key], value, rtol=0, atol=0, equal_nan=True)
    assert set(other) == set(SENProcessor(models[1].config).model_input_names)


@torch.no_grad()
def test_the_model_computes_the_same_with_other_names(models, inputs):
    plain, other = (model(**given) for model, given in zip(models, inputs, strict=True))
    assert torch.equal(plain.logits_per_video, other.logits_per_video)
    for name, state in plain.neuron_states.items():
        assert torch.equal(state.last_hidden_state, other.neuron_states[NAMES[name]].last_hidden_state)
    part = {key: value for key, value in inputs[1].items() if key.startswith(("image_pixel", "image_2"))}
    assert set(models[1](**part).neuron_states) == {"image", "image_2"}
    with pytest.raises(TypeError, match="unexpected input 'image_3_pixel_values'"):
        models[1](image_3_pixel_values=part["image_pixel_values"])


def test_the_trainer_keeps_the_columns_of_all_neurons(models, inputs):
    assert set(inputs[1]) <= set(inspect.signature(models[1].forward).parameters)


@torch.no_grad()
def test_a_saved_model_is_loaded_with_these_names(models, inputs, tmp_path):
    models[1].save_pretrained(tmp_path, include_neurons=True)
    SENProcessor(models[1].config).save_pretrained(tmp_path)
    folders = {"image", "image_2", "neuron_mask", "text_encoder", "class_text"}  # frame_a shares the tower of image
    assert {path.name for path in tmp_path.glob("neuron_*")} == {f"neuron_{name}" for name in folders}
    again = SENModel.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs[1]).logits_per_video, models[1](**inputs[1]).logits_per_video)
    texts = SENProcessor.from_pretrained(tmp_path)(videos=[{"text": "a dog barks"}])
    assert torch.equal(texts["text_encoder_input_ids"], inputs[1]["text_encoder_input_ids"][:1])


@pytest.mark.parametrize("modality", ["text", "audio", "image"])
def test_only_the_name_text_is_refused_as_ambiguous(modality):
    neuron = {"name": "text", "modality": modality, "hub_id": "org/tower", "hidden_size": 8, "class_name": "BertModel"}
    with pytest.raises(
        ValueError, match="neuron name: found 'text', expected another: `text_input_ids` are the class"
    ):
        SENConfig(neurons=[neuron])
