"""Compiled towers: every type gives the same outputs as uncompiled, and further rounds and calls compile nothing again."""

import copy
import shutil

import pytest
import torch
from neuron_families import FAMILIES, look_again, make_inputs, make_neuron
from random_sen import random_inputs, random_weights
from torch._dynamo.utils import counters


@pytest.fixture(autouse=True)
def graphs():
    """Returns the number of graphs compiled since the test began."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def looks(neuron, seed: int, prompt: str = "tokens") -> list[torch.Tensor]:
    """Tokens and pooled outputs of a first look and three rounds."""
    trunk = neuron.first_look(make_inputs(neuron.tower.config.model_type, seed=seed))
    state = trunk.state
    found, generator = [state.last_hidden_state, state.pooler_output], torch.Generator().manual_seed(seed)
    for _ in range(3):
        context = torch.randn(2, 3 if neuron.prompted_tower else 1, 16, generator=generator)
        state = look_again(neuron, trunk, context, prompt)
        found += [state.last_hidden_state, state.pooler_output]
    return found


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# Over all types: prompts in front or at the end, masks, relative positions, rotary positions, prompts after the tower.
KINDS = ("clip_vision_model", "timesformer")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in KINDS]  # seconds each


@pytest.mark.parametrize("model_type", [*KINDS, *OTHERS])
def test_compiled_towers_give_the_uncompiled_outputs_and_compile_once(model_type, towers, graphs):
    plain, compiled = make_neuron(model_type, towers, 2), make_neuron(model_type, towers, 2)
    compiled.compile(backend="eager")
    assert_close(looks(compiled, 0), looks(plain, 0))
    first = graphs()
    assert 0 < first <= 8
    assert_close(looks(compiled, 1), looks(plain, 1))
    assert graphs() == first


def small(make_sen, towers, *others: str):
    """An image neuron and others; the compilation of each type of tower is tested above."""
    return random_weights(make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, *map(towers.get, others)]))


def outputs(model, seed: int = 0, batch_size: int = 2) -> torch.Tensor:
    names = {f"{spec.name}_{spec.input_name}" for spec in model.config.neuron_specs}
    inputs = random_inputs(batch_size, seed)
    return model(**{name: inputs[name] for name in names}).fused_embeds


@pytest.mark.parametrize(
    "wrapped",
    [pytest.param(False, id="model.compile()"), pytest.param(True, id="torch.compile(model)", marks=pytest.mark.slow)],
)
def test_a_compiled_sen_gives_the_same_outputs_and_gradients(wrapped, make_sen, towers, graphs):
    plain, model = small(make_sen, towers, "ast"), small(make_sen, towers, "ast")
    compiled = torch.compile(model, backend="eager") if wrapped else model
    if not wrapped:
        model.compile(backend="eager")
    counts = []
    for seed, batch_size in enumerate([2, 2, 3, 4, 3, 4]):
        expected, found = outputs(plain, seed, batch_size), outputs(compiled, seed, batch_size)
        assert_close([found], [expected])
        expected.sum().backward()
        found.sum().backward()
        counts.append(graphs())
    assert_close([x.grad for x in model.blocks.parameters()], [x.grad for x in plain.blocks.parameters()])
    assert counts[0] == counts[1]
    assert counts[3] == counts[5]


@pytest.mark.slow
def test_activation_checkpointing_works_in_a_compiled_sen(make_sen, towers):
    plain, model = small(make_sen, towers, "videomae", "ast"), small(make_sen, towers, "videomae", "ast")
    model.compile(backend="eager")
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    for each in (plain, model):
        outputs(each).sum().backward()
    assert_close([x.grad for x in model.blocks.parameters()], [x.grad for x in plain.blocks.parameters()])


def test_a_compiled_sen_can_be_copied_and_saved(make_sen, towers, tmp_path):
    plain, model = small(make_sen, towers), small(make_sen, towers)
    model.compile(backend="eager")
    expected = outputs(plain)
    outputs(model)
    assert_close([outputs(copy.deepcopy(model))], [expected])
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    assert_close([outputs(type(model).from_pretrained(tmp_path / "sen"))], [expected])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("model_type", ["clip_vision_model", "videomae", "audio-spectrogram-transformer", "bert"])
def test_inductor_gives_the_uncompiled_outputs(model_type, towers):
    plain, compiled = make_neuron(model_type, towers, 2), make_neuron(model_type, towers, 2)
    compiled.compile()
    assert_close(looks(compiled, 0), looks(plain, 0))
