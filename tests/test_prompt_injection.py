"""Prompt injection: running a trunk once and a prompted crown equals running the whole tower again with the same prompts."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from joint_pass import record_outputs
from neuron_families import FAMILIES, look_again, make_inputs, make_neuron, prompted_from_raw_inputs
from torch import nn

from modeling_sen import NeuronSpec
from modeling_sen.neuron import Neuron, crown_layers
from modeling_sen.neuron_registry import NEURON_ADAPTERS
from modeling_sen.prompt_injection import PromptedTower

PROMPTABLE = [model_type for model_type, family in FAMILIES.items() if family.written_out]
TEXT = [model_type for model_type in PROMPTABLE if NEURON_ADAPTERS[model_type].modality == "text"]
LAYERS = 4
PROMPTS = 3


def make_prompts(neuron, batch_size: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, PROMPTS, neuron.spec.hidden_size, generator=generator)


def looked_again(neuron, inputs, prompts, prompt="tokens"):
    trunk = neuron.first_look(inputs)
    return look_again(neuron, trunk, prompts, prompt)


def count_calls(module: nn.Module) -> list:
    """Counts executions of the module's forward, not calls of the module."""
    calls: list = []
    forward = type(module).forward

    def counted(*args, **kwargs):
        calls.append(module)
        return forward(module, *args, **kwargs)

    module.forward = counted
    return calls


@pytest.mark.parametrize("depth", [1, 2, 3, "all"])
@pytest.mark.parametrize(
    ("model_type", "masked"), [(name, True) for name in PROMPTABLE] + [(name, False) for name in TEXT]
)
def test_prefix_reuse_equals_full_recompute(model_type, masked, depth, towers):
    neuron, inputs = make_neuron(model_type, towers, depth), make_inputs(model_type)
    if not masked:
        del inputs["attention_mask"]
    prompts, site = make_prompts(neuron), LAYERS - crown_layers(depth, LAYERS)
    state = looked_again(neuron, inputs, prompts)
    with torch.no_grad():
        tokens, pooled = prompted_from_raw_inputs(model_type, neuron, inputs, prompts, site)
    batch, frames = 2, tokens.shape[0] // 2
    special = tokens.shape[1] - state.last_hidden_state.shape[1] // frames
    tokens_of_grid = tokens[:, special:].reshape(batch, -1, tokens.shape[-1])
    torch.testing.assert_close(state.last_hidden_state, tokens_of_grid, atol=1e-5, rtol=0)
    if pooled is None:
        pooled = tokens.mean(dim=1)
    torch.testing.assert_close(state.pooler_output, pooled.reshape(batch, frames, -1).mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", PROMPTABLE)
def test_the_first_look_equals_the_output_of_the_tower(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type)
    tower_inputs = neuron.tower_inputs(inputs)
    with torch.no_grad():
        outputs = neuron.tower(**tower_inputs)
    state = neuron.first_look(inputs).state
    tokens = outputs.last_hidden_state.reshape(2, -1, neuron.spec.hidden_size)
    assert torch.equal(state.last_hidden_state[:, -1], tokens[:, -1])
    if getattr(outputs, "pooler_output", None) is not None:
        assert torch.equal(state.pooler_output, outputs.pooler_output.unflatten(0, (2, -1)).mean(1))


@pytest.mark.parametrize("model_type", PROMPTABLE)
def test_the_tower_is_unchanged_after_passes(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers), make_inputs(model_type)
    before = neuron.first_look(inputs).state
    looked_again(neuron, inputs, make_prompts(neuron))
    looked_again(neuron, inputs, make_prompts(neuron), "add")
    for module in neuron.tower.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
    after = neuron.first_look(inputs).state
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert torch.equal(before.pooler_output, after.pooler_output)


@pytest.mark.parametrize("prompt", ["tokens", "add"])
def test_the_tower_is_unchanged_after_an_exception(prompt, towers):
    neuron, inputs = make_neuron("videomae", towers, 2), make_inputs("videomae")
    trunk = neuron.first_look(inputs)
    prompts = make_prompts(neuron)
    with pytest.raises(RuntimeError, match="size"):
        look_again(neuron, trunk, prompts[..., :-1], prompt)
    layer = neuron.prompted_tower.all_layers[-1]
    layer.forward = None  # makes the tower fail
    for look in (lambda: neuron.first_look(inputs), lambda: look_again(neuron, trunk, prompts, prompt)):
        with pytest.raises(TypeError):
            look()
    del layer.forward
    for module in neuron.tower.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__


def test_a_forward_set_on_a_layer_is_restored(towers):
    neuron, inputs = make_neuron("videomae", towers, 1), make_inputs("videomae")
    calls = count_calls(neuron.prompted_tower.all_layers[0])  # sets the instance's forward, as device placement does
    mine = neuron.prompted_tower.all_layers[0].forward
    looked_again(neuron, inputs, make_prompts(neuron))
    assert neuron.prompted_tower.all_layers[0].forward is mine
    assert len(calls) == 1


@pytest.mark.parametrize("prompt", ["tokens", "add"])
@pytest.mark.parametrize("model_type", PROMPTABLE)
def test_the_trunk_runs_once_and_the_crown_once_per_round(model_type, prompt, towers):
    neuron, inputs = make_neuron(model_type, towers, 1), make_inputs(model_type)
    layers = [count_calls(layer) for layer in neuron.prompted_tower.all_layers]
    below = [count_calls(module) for module in neuron.prompted_tower.below]
    trunk = neuron.first_look(inputs)
    for _ in range(3):
        look_again(neuron, trunk, make_prompts(neuron), prompt)
    assert [len(calls) for calls in layers] == [1, 1, 1, 4]
    assert [len(calls) for calls in below] == [1] * len(below) != []


@pytest.mark.parametrize("prompt", ["tokens", "add"])
@pytest.mark.parametrize("model_type", PROMPTABLE)
def test_gradients_reach_the_prompts_but_not_the_tower(model_type, prompt, towers):
    neuron, inputs = make_neuron(model_type, towers, 2), make_inputs(model_type)
    prompts = make_prompts(neuron).requires_grad_()
    state = looked_again(neuron, inputs, prompts, prompt)
    (state.last_hidden_state.square().sum() + state.pooler_output.sum()).backward()
    assert bool((prompts.grad.abs().amax(dim=-1) > 0).all())  # for each prompt token of each sample
    assert all(parameter.grad is None for parameter in neuron.parameters())


def test_gradients_of_prompts_equal_those_of_a_full_recompute(towers):
    neuron, inputs = make_neuron("clip_vision_model", towers, 2), make_inputs("clip_vision_model")
    prompts, again = make_prompts(neuron).requires_grad_(), make_prompts(neuron).requires_grad_()
    looked_again(neuron, inputs, prompts).pooler_output.square().sum().backward()
    _, pooled = prompted_from_raw_inputs("clip_vision_model", neuron, inputs, again, 2)
    pooled.unflatten(0, (2, -1)).mean(1).square().sum().backward()
    torch.testing.assert_close(prompts.grad, again.grad)


@pytest.mark.parametrize("model_type", PROMPTABLE)
def test_rows_of_a_batch_are_independent_of_each_other(model_type, towers):
    neuron, inputs = make_neuron(model_type, towers, 2), make_inputs(model_type)
    prompts = make_prompts(neuron)
    both = looked_again(neuron, inputs, prompts)
    one = looked_again(neuron, {key: value[1:] for key, value in inputs.items()}, prompts[1:])
    torch.testing.assert_close(both.last_hidden_state[1:], one.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.pooler_output[1:], one.pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", PROMPTABLE)
def test_attention_implementations_give_the_same(model_type, towers):
    inputs = make_inputs(model_type)
    sdpa = make_neuron(model_type, towers, 2, "sdpa")
    eager = make_neuron(model_type, towers, 2, "eager")
    assert eager.tower.config._attn_implementation == "eager"
    prompts = make_prompts(sdpa)
    first, second = looked_again(sdpa, inputs, prompts), looked_again(eager, inputs, prompts)
    # Outputs at padding without visible words (ModernBERT's windows) are arbitrary, and no token attends to them.
    words = inputs["attention_mask"].bool() if "input_ids" in inputs else ...
    torch.testing.assert_close(first.last_hidden_state[words], second.last_hidden_state[words], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", TEXT)
def test_padding_has_no_effect(model_type, attention, towers):
    neuron, inputs = make_neuron(model_type, towers, 2, attention), make_inputs(model_type)
    prompts, length = make_prompts(neuron), 6
    padded = looked_again(neuron, inputs, prompts)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, length:] = 7
    changed = looked_again(neuron, other, prompts)
    unpadded = looked_again(neuron, {key: value[:1, :length] for key, value in inputs.items()}, prompts[:1])
    for state in (changed, unpadded):
        torch.testing.assert_close(
            state.last_hidden_state[:1, :length], padded.last_hidden_state[:1, :length], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("model_type", TEXT)
def test_all_tokens_attend_to_the_prompts_and_prompts_to_all_tokens(model_type, masked, attention, towers):
    neuron = make_neuron(model_type, towers, 1, attention)
    inputs = make_inputs(model_type)
    if masked:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    else:
        del inputs["attention_mask"]
    prompts = make_prompts(neuron)
    outputs = record_outputs(neuron.prompted_tower.all_layers[-1])
    state = looked_again(neuron, inputs, prompts)
    changed = looked_again(neuron, inputs, make_prompts(neuron, seed=2))
    assert bool(((state.last_hidden_state - changed.last_hidden_state).abs().amax(-1) > 1e-6).all())
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, 7] = 11  # prompts attend to this late token also in causal towers
    looked_again(neuron, other, prompts)
    first, _, second = (output[:, :PROMPTS] for output in outputs if output.shape[1] == PROMPTS + 9)
    assert bool(((first - second).abs().amax(-1) > 1e-6).all())


@pytest.mark.parametrize("prompt", ["tokens", "add"])
def test_threads_on_one_tower_do_not_affect_each_other(prompt, towers):
    neuron = make_neuron("videomae", towers, 2)

    def look(seed: int) -> torch.Tensor:
        return looked_again(
            neuron, make_inputs("videomae", seed=seed), make_prompts(neuron, seed=seed), prompt
        ).pooler_output

    expected = [look(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as threads:
        for found, sequential in zip(threads.map(look, range(24)), expected, strict=True):
            assert torch.equal(found, sequential)


def test_threads_on_a_tower_of_two_neurons_do_not_affect_each_other(towers):
    prompted, inputs = make_neuron("videomae", towers, "all"), make_inputs("videomae")
    spec = NeuronSpec.from_dict({**prompted.spec.to_dict(), "prompt_side": "after"})
    plain = Neuron(spec, prompted.tower, None, None)
    prompts, expected = make_prompts(prompted), plain.first_look(inputs).state.pooler_output

    def look(number: int) -> bool:
        if number % 2:
            return torch.equal(plain.first_look(inputs).state.pooler_output, expected)
        return looked_again(prompted, inputs, prompts).pooler_output.isfinite().all().item()

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(look, range(64)))


def test_passes_of_different_towers_run_concurrently(towers):
    """A pass of one tower starts and ends during a pass of another."""
    first, second = make_neuron("videomae", towers, 2), make_neuron("videomae", towers, 2)
    inputs, entered, finished = make_inputs("videomae"), threading.Event(), threading.Event()

    def wait(*_) -> None:
        entered.set()
        assert finished.wait(30)

    first.tower.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(first.first_look, inputs)
        assert entered.wait(30)
        second.first_look(inputs)
        finished.set()
        waiting.result()


def test_a_tower_can_be_copied_and_pickled_after_a_pass(towers):
    """Its lock is not copied or pickled."""
    neuron, inputs = make_neuron("videomae", towers, 2), make_inputs("videomae")
    expected = neuron.first_look(inputs).state.pooler_output
    for copied in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(copied.first_look(inputs).state.pooler_output, expected)


def test_add_shifts_every_token_at_the_site(towers):
    neuron, inputs = make_neuron("videomae", towers, 2), make_inputs("videomae")
    prompts = make_prompts(neuron)
    state = looked_again(neuron, inputs, prompts, "add")
    with torch.no_grad():
        hidden = neuron.tower.embeddings(inputs["pixel_values"], None)
        for index, layer in enumerate(neuron.tower.encoder.layer):
            hidden = layer(hidden + prompts.mean(1, keepdim=True) if index == 2 else hidden)
    torch.testing.assert_close(state.last_hidden_state, neuron.tower.layernorm(hidden), atol=1e-5, rtol=0)


def test_rotary_positions_do_not_rotate_prompts():
    """Layers get `position_embeddings` extended by the prompts, for which the rotation is the identity."""

    class Layer(nn.Module):
        def forward(self, hidden_states, position_embeddings):
            cosine, sine = position_embeddings
            return (hidden_states * cosine + hidden_states.flip(-1) * sine,)

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Layer(), Layer()])

        def forward(self, hidden_states):
            angles = torch.arange(hidden_states.shape[1])[:, None].expand(-1, hidden_states.shape[2]) / 10
            for layer in self.layers:
                (hidden_states,) = layer(hidden_states, position_embeddings=(angles.cos(), angles.sin()))
            return hidden_states

    tower = Tower()
    prompted = PromptedTower(tower, tower.layers, len(tower.layers), [], "prefix")
    tokens, prompts = torch.randn(1, 5, 4), torch.randn(1, 2, 4)
    plain, trunk = prompted.first_pass({"hidden_states": tokens})
    found = record_outputs(tower.layers[-1])
    assert torch.equal(prompted.prompted_pass(trunk, prompts), plain)  # so the prompts have no effect here
    assert torch.equal(found[0][:, :2], prompts)


def test_layers_that_lose_prompt_tokens_raise():
    class Layer(nn.Module):
        def forward(self, hidden_states):
            return hidden_states[:, :5]

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Layer()])

        def forward(self, hidden_states):
            return self.layers[0](hidden_states)

    tower = Tower()
    prompted = PromptedTower(tower, tower.layers, len(tower.layers), [], "suffix")
    _, trunk = prompted.first_pass({"hidden_states": torch.randn(1, 5, 4)})
    with pytest.raises(RuntimeError, match="Tower: its layers do not keep prompt tokens"):
        prompted.prompted_pass(trunk, torch.randn(1, 2, 4))


@pytest.mark.parametrize("depth", [0, 5])
def test_a_prompt_depth_beyond_the_tower_raises(towers, depth):
    neuron = make_neuron("videomae", towers)
    with pytest.raises(ValueError, match=f"prompt_depth is {depth}, expected 1 to 4, the tower's layers"):
        PromptedTower(neuron.tower, neuron.prompted_tower.all_layers, depth, [], "prefix")


def test_prompt_depth_is_a_quarter_a_number_or_all():
    assert [crown_layers(None, layers) for layers in (1, 4, 7, 12, 24)] == [1, 1, 1, 3, 6]
    assert crown_layers("all", 12) == 12
    assert crown_layers(12, 12) == 12
