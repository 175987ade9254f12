"""A SEN whose prompts run alone through the crown: rounds, memory, stored first looks, dtypes, saving."""

import copy
import gc

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from queried_sen import LABELS, TEXTS, assert_same_gradients, gradients, sen, with_words, words_and_frames
from random_sen import SMALL, random_inputs, random_weights
from safetensors.torch import load_file

from modeling_sen import SENConfig, SENModel
from modeling_sen.first_look import CROWN_INPUT, CROWN_KEYS
from modeling_sen.prompt_queries import RecordedLayer
from modeling_sen.training.feature_cache import FeatureCache

CLIPS = [f"clip-{number}" for number in range(4)]


# --- rounds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, "all"])
def test_tokens_equal_those_of_the_first_look_and_answers_depend_on_the_prompts(depth, make_sen):
    model, inputs = sen(make_sen, prompt_depth=depth), random_inputs()
    output = model(**inputs)
    for name, given in model.neurons.split_inputs(inputs).items():
        first, state = model.neurons[name].first_look(given, ()).state, output.neuron_states[name]
        assert torch.equal(state.last_hidden_state, first.last_hidden_state)
        assert torch.equal(state.pooler_output, first.pooler_output)
        assert state.answers.shape == (2, SMALL["num_prompt_tokens"], 16)
    read_only = copy.deepcopy(model)
    for block in read_only.blocks:
        for prompting in block.prompting.values():
            prompting.gate.data.zero_()
    without = read_only(**inputs)
    assert (output.fused_embeds - without.fused_embeds).abs().max() > 1e-3


def test_an_untrained_model_equals_one_without_a_second_look_and_its_gate_gets_gradients(make_sen):
    model, none = sen(make_sen), random_weights(make_sen(prompt="none"))
    for block in model.blocks:
        for prompting in block.prompting.values():
            prompting.gate.data.zero_()
    shared = none.state_dict()
    left = model.load_state_dict(shared, strict=False)
    assert not left.unexpected_keys
    assert all(".prompting." in key for key in left.missing_keys)
    inputs = random_inputs()
    for name in ("fused_embeds", "association_embeds", "knowledge"):
        assert torch.equal(model(**inputs)[name], none(**inputs)[name])
    found = gradients(model, inputs)
    for number, block in enumerate(model.blocks):
        for name in block.prompting:
            assert bool((found[f"blocks.{number}.prompting.{name}.gate"].abs() > 0).all())


def test_the_gate_starts_at_zero(make_sen):
    model = make_sen(prompt="queries")
    gates = [prompting.gate for block in model.blocks for prompting in block.prompting.values()]
    assert len(gates) == 9
    assert not any(bool(gate.any()) for gate in gates)
    assert all(bool(prompting.tokens.any()) for block in model.blocks for prompting in block.prompting.values())


def test_queries_without_read_answers_are_refused():
    expected = (
        r"prompt is 'queries' and read_answers False: rounds would read no new features; expected read_answers True"
    )
    with pytest.raises(StrictDataclassError, match=expected):
        SENConfig(prompt="queries", read_answers=False)


def test_a_row_does_not_depend_on_neurons_that_are_absent_in_it(make_sen, towers):
    model, inputs = sen(make_sen, neurons=with_words(towers)), words_and_frames()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    given = {**inputs, "words_attention_mask": inputs["words_attention_mask"].clone(), "neuron_mask": mask}
    given["words_attention_mask"][0] = 0  # absent inputs of a batch are padded like this
    both = model(**given)
    assert bool(both.neuron_states["words"].answers.isfinite().all())
    without = {name: value[:1] for name, value in inputs.items() if not name.startswith("words")}
    torch.testing.assert_close(both.fused_embeds[:1], model(**without).fused_embeds, atol=1e-5, rtol=0)
    found = gradients(model, given)
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


def test_a_saved_model_is_loaded_unchanged(make_sen, tmp_path):
    model, inputs = sen(make_sen, prompt_depth="all"), random_inputs()
    model.save_pretrained(tmp_path / "sen")
    back = SENModel.from_pretrained(tmp_path / "sen")
    assert back.config.prompt == "queries"
    assert torch.equal(back(**inputs).fused_embeds, model(**inputs).fused_embeds)
    weights = load_file(tmp_path / "sen" / "model.safetensors")
    assert sum(name.endswith(".gate") for name in weights) == 9


# --- memory --------------------------------------------------------------------------------------------------------------


def recorded_layers() -> int:
    return sum(type(each) is RecordedLayer for each in gc.get_objects())


def test_keys_are_freed_after_a_forward(make_sen):
    model, inputs = sen(make_sen, prompt_depth=2), random_inputs()
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            output = model(**inputs, **TEXTS, **LABELS)
            assert recorded_layers() == 0
        output.loss.backward()
        assert recorded_layers() == 0
    finally:
        gc.enable()


# --- stored first looks --------------------------------------------------------------------------------------------------


def build(model, folder, inputs) -> tuple[FeatureCache, list[int]]:
    """Builds a cache; returns it with the rows whose first looks were computed."""
    asked: list[int] = []

    def inputs_of(rows):
        asked.extend(rows)
        return {name: value[list(rows)] for name, value in inputs.items()}

    cache = FeatureCache(model, folder, CLIPS, dtype=torch.float32)
    cache.build(inputs_of, batch_size=2)
    return cache, asked


@pytest.mark.parametrize("depth", [1, "all"])
def test_stored_first_looks_give_the_same_outputs(depth, make_sen, towers, tmp_path):
    model, inputs = sen(make_sen, neurons=with_words(towers), prompt_depth=depth), words_and_frames(4)
    expected, cache = model(**inputs), build(model, tmp_path, inputs)[0]
    look = cache.trunks(range(4))["words"]
    assert look.trunk.layers is None
    stored = [load_file(path) for path in tmp_path.rglob("*.safetensors")]
    assert len(stored) == 3
    for tensors in stored:  # keys are not stored; they would be as large as the tokens of each layer
        assert {name for name, value in tensors.items() if value.is_floating_point()} == {"tokens", "pooled", "trunk"}
    for dropped in (False, True):
        if dropped:
            freed = cache.drop_trunks()
            assert (freed > 0) == (depth == 1)
        found = model(trunks=cache.trunks(range(4)))
        torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-5, rtol=0)
        for name, state in expected.neuron_states.items():
            torch.testing.assert_close(found.neuron_states[name].answers, state.answers, atol=1e-5, rtol=0)
            assert torch.equal(found.neuron_states[name].last_hidden_state, state.last_hidden_state)


def test_training_on_stored_first_looks_gives_the_same_gradients(make_sen, towers, tmp_path):
    model, inputs = sen(make_sen, neurons=with_words(towers)), words_and_frames(4)
    cache, rows = build(model, tmp_path, inputs)[0], [3, 1]
    expected = gradients(model, {name: value[rows] for name, value in inputs.items()})
    assert_same_gradients(gradients(model, {"trunks": cache.trunks(rows)}), expected, atol=1e-5)


def test_queries_and_tokens_share_stored_first_looks(make_sen, towers, tmp_path):
    inputs = words_and_frames(4)
    caches = [
        build(sen(make_sen, neurons=with_words(towers), prompt=prompt, prompt_depth=2), tmp_path, inputs)
        for prompt in ("queries", "tokens")
    ]
    assert caches[0][0].folders == caches[1][0].folders
    assert [asked for _, asked in caches] == [[0, 1, 2, 3], []]
    other = FeatureCache(
        sen(make_sen, neurons=with_words(towers), prompt_depth=1), tmp_path, CLIPS, dtype=torch.float32
    )
    assert not set(other.folders.values()) & set(caches[0][0].folders.values())


# --- dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, "all"])
def test_a_float32_association_is_trained_on_bfloat16_towers(depth, make_sen, towers):
    model, inputs = sen(make_sen, neurons=with_words(towers), prompt_depth=depth), words_and_frames()
    exact = model(**inputs).fused_embeds
    for neuron in model.neurons.values():
        neuron.to(torch.bfloat16)
    records = model.neurons["words"].first_look(model.neurons.split_inputs(inputs)["words"], (CROWN_INPUT, CROWN_KEYS))
    assert {call.keys.dtype for layer in records.trunk.layers for call in layer.calls} == {torch.bfloat16}
    torch.testing.assert_close(model(**inputs).fused_embeds, exact, atol=0.1, rtol=0)
    found = gradients(model, inputs)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    assert all(bool(g.any()) for name, g in found.items() if ".gate" in name or "prompting" in name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_training_under_autocast_gives_close_gradients(attention, make_sen, towers):
    model, inputs = sen(make_sen, neurons=with_words(towers), prompt_depth="all"), words_and_frames()
    for neuron in model.neurons.values():
        neuron.tower.set_attn_implementation(attention)
    expected = gradients(model, inputs)
    records = dict.fromkeys(model.specs, (CROWN_INPUT, CROWN_KEYS))
    outside, _ = model.neurons.first_looks(inputs, None, torch.device("cpu"), records)  # its keys are float32
    for given in (inputs, {"trunks": outside}):
        with torch.autocast("cpu", torch.bfloat16):
            model.zero_grad()
            loss = model(**given, **TEXTS, **LABELS).loss
        loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        assert bool(loss.isfinite())
        assert all(bool(gradient.isfinite().all()) for gradient in found.values())
        flat, whole = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
        assert torch.nn.functional.cosine_similarity(flat, whole, dim=0) > 0.98
