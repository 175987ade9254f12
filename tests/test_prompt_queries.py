"""Running only the prompts through the crown equals a pass over all tokens in which no token attends to a prompt."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
import transformers
from joint_pass import joint_pass
from neuron_families import FAMILIES, make_inputs, make_neuron
from test_neuron_by_rule import ALIKE, SMALL, TYPES, inputs_of, saved
from tower_table import VISION

from modeling_sen import SENConfig, SENModel, list_neurons
from modeling_sen.first_look import CROWN_INPUT, CROWN_KEYS
from modeling_sen.neuron import Neuron
from modeling_sen.neuron_bank import NeuronBank
from modeling_sen.neuron_loading import load_neuron, resolve_spec
from modeling_sen.neuron_registry import NEURON_ADAPTERS
from modeling_sen.prompt_queries import RecordedLayer

RECORD = (CROWN_INPUT, CROWN_KEYS)
PROMPTS = 3
PROMPTABLE = [name for name, family in FAMILIES.items() if family.written_out]
REFUSED = ["xclip_vision_model", "wavlm"]
QUERIED = [name for name in PROMPTABLE if name not in REFUSED]
TEXT = [name for name in QUERIED if NEURON_ADAPTERS[name].modality == "text"]
FOLDED = [name for name in QUERIED if NEURON_ADAPTERS[name].folds_frames and not NEURON_ADAPTERS[name].fixed_frames]
MASKED = [*TEXT, "wav2vec2"]


def make_prompts(neuron, batch_size: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, PROMPTS, neuron.spec.hidden_size, generator=generator)


def queried(neuron, inputs, prompts) -> torch.Tensor:
    return neuron.query(neuron.first_look(inputs, RECORD), prompts)


def assert_equals_joint_pass(neuron, inputs) -> None:
    prompts = make_prompts(neuron)
    found = queried(neuron, inputs, prompts)
    _, expected = joint_pass(neuron, inputs, prompts)
    assert found.shape == prompts.shape
    torch.testing.assert_close(found, expected.unflatten(0, (2, -1)).mean(1), atol=1e-5, rtol=0)
    # With small weights and the norm at the end of a layer, inputs affect outputs only slightly.
    assert (found - queried(neuron, inputs, make_prompts(neuron, seed=2))).abs().max() > 1e-4


@pytest.mark.parametrize("depth", [1, "all"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("model_type", "masked"), [(name, True) for name in QUERIED] + [(name, False) for name in TEXT]
)
def test_running_prompts_alone_equals_a_pass_over_all_tokens(model_type, masked, attention, depth, towers):
    inputs = make_inputs(model_type)
    if not masked:
        del inputs["attention_mask"]
    assert_equals_joint_pass(make_neuron(model_type, towers, depth, attention), inputs)


@pytest.mark.parametrize("model_type", ["clip_vision_model", "bert"])
def test_running_prompts_alone_with_an_output_layer_equals_a_pass_over_all_tokens(model_type, towers):
    whole = make_neuron(model_type, towers)
    neuron = Neuron(replace(whole.spec, output_layer=-2), whole.tower, None, 2)
    assert neuron.prompted_tower.crown == list(neuron.prompted_tower.all_layers)[1:3]
    assert_equals_joint_pass(neuron, make_inputs(model_type))


@pytest.mark.parametrize("model_type", QUERIED)
def test_recording_keys_does_not_change_the_first_look(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, 2), make_inputs(model_type)
    plain, recorded = neuron.first_look(inputs), neuron.first_look(inputs, RECORD)
    assert torch.equal(recorded.state.last_hidden_state, plain.state.last_hidden_state)
    assert torch.equal(recorded.state.pooler_output, plain.state.pooler_output)
    neuron.query(recorded, make_prompts(neuron))
    again = neuron.first_look(inputs)
    assert torch.equal(again.state.last_hidden_state, plain.state.last_hidden_state)
    assert all(isinstance(part.config, transformers.PreTrainedConfig) for part in parts_with_a_config(neuron))


def parts_with_a_config(neuron) -> list:
    return [part for part in neuron.tower.modules() if hasattr(part, "config")]


def test_a_recording_first_look_also_returns_hidden_states_and_attentions(towers):
    neuron, inputs = make_neuron("bert", towers, 2, "eager"), make_inputs("bert")
    asked = ("hidden_states", "attentions")
    plain, recorded = neuron.first_look(inputs, (), asked), neuron.first_look(inputs, RECORD, asked)
    for name in asked:
        assert len(recorded.outputs[name]) == len(plain.outputs[name]) >= 4
        assert all(map(torch.equal, recorded.outputs[name], plain.outputs[name]))


@pytest.mark.parametrize("model_type", QUERIED)
def test_keys_recorded_after_the_first_look_give_the_same(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, 2), make_inputs(model_type)
    prompts, look = make_prompts(neuron), neuron.first_look(inputs)
    assert look.trunk.layers is None
    torch.testing.assert_close(neuron.query(look, prompts), queried(neuron, inputs, prompts), atol=1e-6, rtol=0)


@pytest.mark.parametrize("model_type", QUERIED)
def test_only_the_crown_records_keys_and_the_trunk_runs_once(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, 2), make_inputs(model_type)
    calls = []
    for index, layer in enumerate(neuron.prompted_tower.all_layers):
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: calls.append(
                (index, (args[0] if args else kwargs["hidden_states"]).shape[1])
            ),
            with_kwargs=True,
        )
    look = neuron.first_look(inputs, RECORD)
    tokens = look.trunk.hidden_states.shape[1]
    assert [len(layer.calls) for layer in look.trunk.layers] == [1, 1]
    assert {layer.calls[0].keys.shape[2] for layer in look.trunk.layers} == {tokens}
    for _ in range(2):
        neuron.query(look, make_prompts(neuron))
    assert calls == [(index, tokens) for index in range(4)] + [(2, PROMPTS), (3, PROMPTS)] * 2


# --- gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", QUERIED)
def test_gradients_reach_the_prompts_but_neither_tower_nor_first_look(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, "all"), make_inputs(model_type)
    look = neuron.first_look(inputs, RECORD)
    calls = [layer.calls[0] for layer in look.trunk.layers]
    assert not any(tensor.requires_grad for call in calls for tensor in (call.keys, call.values))
    assert not look.state.last_hidden_state.requires_grad
    prompts = make_prompts(neuron).requires_grad_()
    neuron.query(look, prompts).square().sum().backward()
    assert bool((prompts.grad.abs().amax(dim=-1) > 0).all())
    assert all(parameter.grad is None for parameter in neuron.parameters())


@pytest.mark.parametrize("model_type", ["bert", "vjepa2"])
def test_gradients_equal_finite_differences(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, 2).double(), make_inputs(model_type)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    look = neuron.first_look(inputs, RECORD)
    prompts = make_prompts(neuron).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: neuron.query(look, given), (prompts,))


# --- padding and frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", MASKED)
def test_padding_has_no_effect(model_type, attention, towers):
    neuron, inputs = make_neuron(model_type, towers, "all", attention), make_inputs(model_type)
    length = int(inputs["attention_mask"][0].sum())
    assert length < inputs["attention_mask"].shape[1]
    prompts = make_prompts(neuron)
    padded = queried(neuron, inputs, prompts)[:1]
    unpadded = queried(neuron, {key: value[:1, :length] for key, value in inputs.items()}, prompts[:1])
    torch.testing.assert_close(padded, unpadded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [1, "all"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", MASKED)
def test_a_sample_with_only_padding_stays_finite(model_type, attention, depth, towers):
    neuron, inputs = make_neuron(model_type, towers, depth, attention), make_inputs(model_type)
    inputs["attention_mask"][0] = 0
    prompts = make_prompts(neuron).requires_grad_()
    found = queried(neuron, inputs, prompts)
    found.square().sum().backward()
    assert bool(found.isfinite().all())
    assert bool(prompts.grad.isfinite().all())
    single = queried(neuron, {key: value[1:] for key, value in inputs.items()}, prompts[1:])
    torch.testing.assert_close(found[1:], single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", FOLDED)
def test_folded_frames_give_the_mean_over_single_frames(model_type, towers):
    neuron, generator = make_neuron(model_type, towers, "all"), torch.Generator().manual_seed(0)
    pixels, prompts = torch.randn(2, 3, 3, 16, 16, generator=generator), make_prompts(neuron)
    frames = [queried(neuron, {"pixel_values": pixels[:, [time]]}, prompts) for time in range(3)]
    found = queried(neuron, {"pixel_values": pixels}, prompts)
    torch.testing.assert_close(found, torch.stack(frames).mean(0), atol=1e-5, rtol=0)
    assert (frames[0] - frames[1]).abs().max() > 1e-3


# --- which towers take queries -------------------------------------------------------------------------------------------


def test_the_takes_queries_flags_agree_with_the_tested_families():
    assert {name for name in PROMPTABLE if NEURON_ADAPTERS[name].takes_queries} == set(QUERIED)
    assert {name for name in list_neurons() if not NEURON_ADAPTERS[name].takes_queries} == set(REFUSED)


@pytest.mark.parametrize("model_type", REFUSED)
def test_towers_that_take_no_queries_are_refused(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, 2), make_inputs(model_type)
    expected = (
        rf"{type(neuron.prompted_tower.crown[0]).__name__} takes no prompt 'queries': found attention over .*, exp"
    )
    with pytest.raises(ValueError, match=f"{expected}.*; give the neuron prompt 'tokens'"):
        neuron.first_look(inputs, RECORD)
    look = neuron.first_look(inputs)  # the tower is unchanged after the error
    with pytest.raises(ValueError, match=expected):
        neuron.query(look, make_prompts(neuron))
    assert all(isinstance(part.config, transformers.PreTrainedConfig) for part in parts_with_a_config(neuron))


@pytest.mark.parametrize("family", ["xclip", "wavlm"])
def test_a_new_model_uses_tokens_for_towers_that_take_no_queries(family, towers, tmp_path):
    neurons = [towers["videomae"] if family == "wavlm" else towers["ast"], towers[family]]
    model = SENModel.from_neurons(neurons, prompt="queries", **SMALL)
    first, second = model.config.neuron_specs
    assert (first.prompt, second.prompt) == (None, "tokens")
    assert [model.config.prompt_of(spec) for spec in (first, second)] == ["queries", "tokens"]
    shapes = {"xclip": (2, 4, 3, 16, 16), "wavlm": (2, 1600), "videomae": (2, 4, 3, 16, 16), "ast": (2, 64, 16)}
    others = {"wavlm": "videomae", "xclip": "ast"}
    generator = torch.Generator().manual_seed(0)
    given = zip((first, second), (others[family], family), strict=True)
    inputs = {f"{spec.name}_{spec.input_name}": torch.randn(shapes[kind], generator=generator) for spec, kind in given}
    expected = model(**inputs).fused_embeds
    model.save_pretrained(tmp_path / "sen")
    saved_config = SENConfig.from_pretrained(tmp_path / "sen")
    assert [neuron.get("prompt") for neuron in saved_config.to_dict()["neurons"]] == [None, "tokens"]
    back = SENModel.from_pretrained(tmp_path / "sen")
    assert [back.config.prompt_of(spec) for spec in back.config.neuron_specs] == ["queries", "tokens"]
    assert torch.equal(back(**inputs).fused_embeds, expected)


@pytest.mark.parametrize("family", ["xclip", "wavlm"])
def test_a_neuron_bank_refuses_queries_for_a_tower_that_takes_none(family, towers):
    spec = resolve_spec(towers[family], "tower")
    neuron = load_neuron(spec)
    config = SENConfig(neurons=[spec.to_dict()], prompt="queries", **SMALL)
    expected = f"neuron '{spec.name}': {type(neuron.tower).__name__} takes no prompt 'queries', "
    expected += 'expected "prompt": "tokens"'
    with pytest.raises(ValueError, match=expected):
        NeuronBank(config).add(neuron, torch.device("cpu"))
    with pytest.raises(ValueError, match=expected):
        SENModel(config).load_neurons()
    own = SENConfig(neurons=[{**spec.to_dict(), "prompt": "tokens"}], prompt="queries", **SMALL)
    assert spec.name in SENModel(own).load_neurons().neurons


@pytest.mark.parametrize(
    "class_name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in TYPES]
)
def test_types_by_rule_equal_the_joint_pass_or_get_another_variant(class_name, tmp_path):
    """Types that take queries equal a pass over all tokens; the others get another variant."""
    settings, shape, _, takes_prompts = TYPES[class_name]
    folder = saved(class_name, tmp_path / "tower", settings)
    spec = resolve_spec({"hub_id": folder, "class_name": class_name}, "tower", (), "queries")
    neuron, inputs = load_neuron(spec, "all"), inputs_of(spec, shape)
    config = SENConfig(neurons=[spec.to_dict()], prompt="queries", **SMALL)
    # Wav2Vec2Bert's convolutions mix prompts with tokens; MegatronBert has its own attention function.
    takes_queries = takes_prompts and class_name not in ("Wav2Vec2BertModel", "MegatronBertModel")
    assert neuron.adapter.takes_queries == takes_queries
    assert config.prompt_of(spec) == ("queries" if takes_queries else "tokens" if takes_prompts else "after")
    if takes_queries:
        for depth in (1, "all"):
            neuron = load_neuron(spec, depth)
            assert_equals_joint_pass(neuron, inputs)
            if spec.modality == "text":
                mask = (torch.arange(shape[1]) < torch.tensor([[6], [shape[1]]])).long()
                assert_equals_joint_pass(neuron, {**inputs, "attention_mask": mask})
        return
    asked = SENConfig(neurons=[{**spec.to_dict(), "prompt": "queries"}], **SMALL)
    instead = "tokens" if takes_prompts else "after"
    with pytest.raises(ValueError, match=f'{class_name} takes no prompt \'queries\', expected "prompt": "{instead}"'):
        SENModel(asked).load_neurons()
    if not takes_prompts:
        with pytest.raises(ValueError, match="takes no prompts, expected prompt_side 'after' or prompt 'none' for it"):
            neuron.query(neuron.first_look(inputs, RECORD), make_prompts(neuron))


def test_towers_with_a_bias_of_the_image_size_take_no_queries(tmp_path):
    """The trial run finds that such a tower takes no prompts at all."""
    folder = saved("BeitModel", tmp_path / "tower", {**VISION, "use_relative_position_bias": True})
    model = SENModel.from_neurons([folder], prompt="queries", **SMALL)
    assert model.config.prompt_of(model.config.neuron_specs[0]) == "after"


# --- memory --------------------------------------------------------------------------------------------------------------


def test_recorded_keys_are_freed_with_the_first_look(towers):
    neuron, inputs = make_neuron("videomae", towers, "all"), make_inputs("videomae")
    look = neuron.first_look(inputs, RECORD)
    gc.collect()
    gc.disable()  # without the collector only reference counts free memory
    try:
        neuron.query(look, make_prompts(neuron))
        found = [weakref.ref(layer) for layer in look.trunk.layers]
        assert len(found) == 4
        del look
        assert not any(layer() is not None for layer in found)
        assert not [each for each in gc.get_objects() if type(each) is RecordedLayer]
    finally:
        gc.enable()


def test_keys_have_the_towers_dtype_and_the_size_of_the_crown(towers):
    neuron, inputs = make_neuron("videomae", towers, 2).to(torch.bfloat16), make_inputs("videomae")
    look = neuron.first_look(inputs, RECORD)
    calls = [call for layer in look.trunk.layers for call in layer.calls]
    assert {call.keys.dtype for call in calls} == {call.values.dtype for call in calls} == {torch.bfloat16}
    # 2 layers, keys and values, 2 samples, 8 tokens, 16 channels, 2 bytes
    assert sum(call.keys.nbytes + call.values.nbytes for call in calls) == 2 * 2 * 2 * 8 * 16 * 2
    found = neuron.query(look, make_prompts(neuron))
    exact = queried(make_neuron("videomae", towers, 2), inputs, make_prompts(neuron))
    torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("model_type", QUERIED)
def test_only_keys_and_values_are_stored(model_type, towers):
    """ModernBERT computes queries, keys and values in one product, which must not be kept."""
    look = make_neuron(model_type, towers, "all").first_look(make_inputs(model_type), RECORD)
    calls = [call for layer in look.trunk.layers for call in layer.calls]
    held = {tensor.untyped_storage().data_ptr(): tensor for call in calls for tensor in (call.keys, call.values)}
    assert sum(tensor.untyped_storage().nbytes() for tensor in held.values()) == sum(
        call.keys.nbytes + call.values.nbytes for call in calls
    )
