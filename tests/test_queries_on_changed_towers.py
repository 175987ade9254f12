"""Running prompts alone on towers that are shared, checkpointed, compiled, offloaded, adapted, or use flex attention."""

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from queried_sen import assert_same_gradients, gradients, sen, with_words, words_and_frames
from random_sen import assert_gradient_is_that_of_finite_differences, random_inputs
from torch._dynamo.utils import counters
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_sen import SENModel
from modeling_sen.first_look import CROWN_INPUT, CROWN_KEYS


def test_two_neurons_on_one_tower_do_not_affect_each_other(make_sen, towers):
    neurons = [{"hub_id": towers["videomae"], "name": "near"}, {"hub_id": towers["videomae"], "name": "far"}]
    model, apart = sen(make_sen, neurons=neurons), sen(make_sen, neurons=neurons)
    assert model.neurons["near"].tower is model.neurons["far"].tower
    apart.neurons["far"] = copy.deepcopy(apart.neurons["far"])
    clips = [random_inputs(seed=seed)["video_pixel_values"] for seed in (0, 1)]
    inputs = {"near_pixel_values": clips[0], "far_pixel_values": clips[1]}
    assert torch.equal(model(**inputs).fused_embeds, apart(**inputs).fused_embeds)


def test_threads_give_the_same_as_sequential_calls(make_sen, towers):
    neurons = [{"hub_id": towers["videomae"], "name": "near"}, {"hub_id": towers["videomae"], "name": "far"}]
    model = sen(make_sen, neurons=neurons)

    def run(seed: int) -> torch.Tensor:
        clips = random_inputs(seed=seed)["video_pixel_values"]
        return model(near_pixel_values=clips, far_pixel_values=clips.flip(0)).fused_embeds

    expected = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(2) as threads:
        for found, sequential in zip(threads.map(run, range(8)), expected, strict=True):
            assert torch.equal(found, sequential)


@pytest.mark.parametrize("depth", [1, "all"])
def test_activation_checkpointing_does_not_change_gradients(depth, make_sen, towers):
    model, inputs = sen(make_sen, neurons=with_words(towers), prompt_depth=depth).train(), words_and_frames()
    expected = gradients(model, inputs)
    model.activation_checkpointing_enable()
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    assert len(layers) == 4 * 4
    assert all(layer.gradient_checkpointing and layer.training for layer in layers)
    assert_same_gradients(gradients(model, inputs), expected)
    assert all(layer.gradient_checkpointing and layer.training for layer in layers)


@pytest.fixture
def graphs():
    """Returns the number of graphs compiled since the test began."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("wrapped", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("depth", [1, pytest.param("all", marks=pytest.mark.slow)])
def test_a_compiled_sen_gives_the_same_outputs_and_compiles_once(depth, wrapped, make_sen, towers, graphs):
    settings = {"neurons": with_words(towers)[:1], "prompt_depth": depth}
    plain, model = sen(make_sen, **settings), sen(make_sen, **settings)
    own = model.blocks
    if wrapped:
        model = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    counts = []
    for seed in range(3):
        inputs = {"image_pixel_values": random_inputs(seed=seed)["image_pixel_values"]}
        expected, found = plain(**inputs).fused_embeds, model(**inputs).fused_embeds
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        expected.sum().backward()
        found.sum().backward()
        counts.append(graphs())
    assert_same_gradients(*({n: p.grad for n, p in blocks.named_parameters()} for blocks in (own, plain.blocks)))
    assert counts[0] == counts[1] == counts[2] > 0
    # One graph for layers below the prompts, one for recording layers, one for prompts alone in all rounds.
    if not wrapped:
        assert counts[0] == (3 if depth == 1 else 2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_outputs(make_sen, towers, graphs):
    settings = {"neurons": with_words(towers), "prompt_depth": 2}
    plain, model, inputs = sen(make_sen, **settings), sen(make_sen, **settings), words_and_frames()
    model.compile()
    found, expected = gradients(model, inputs), gradients(plain, inputs)
    assert_same_gradients(found, expected, atol=1e-5)


@pytest.mark.parametrize("place", ["disk", "cpu"])
def test_offloaded_towers_give_the_same_outputs(place, make_sen, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, inputs = sen(make_sen, prompt_depth=2), random_inputs()
    expected, expected_gradients = model(**inputs).fused_embeds, gradients(model, inputs)
    tower, device = model.neurons["video"].tower, torch.device("cpu")
    if place == "disk":
        accelerate.disk_offload(tower, str(tmp_path / "offload"), execution_device=device)
    else:
        accelerate.cpu_offload(tower, execution_device=device)
    assert all(parameter.is_meta for parameter in tower.parameters())
    for _ in range(2):
        assert torch.equal(model(**inputs).fused_embeds, expected)
    assert_same_gradients(gradients(model, inputs), expected_gradients)
    assert all(parameter.is_meta for parameter in tower.parameters())


def test_a_device_map_with_layers_on_disk_gives_the_same_outputs(make_sen, tmp_path):
    pytest.importorskip("accelerate")
    plain, inputs = sen(make_sen, prompt_depth=2), random_inputs()
    plain.save_pretrained(tmp_path / "sen")
    places = {f"encoder.layer.{index}": "disk" if index % 2 else "cpu" for index in range(4)}
    kwargs = {
        "device_map": {"embeddings": "cpu", **places, "layernorm": "disk"},
        "offload_folder": str(tmp_path / "off"),
    }
    model = SENModel.from_pretrained(tmp_path / "sen", neuron_kwargs={"video": kwargs})
    assert any(parameter.is_meta for parameter in model.neurons["video"].parameters())
    assert torch.equal(model(**inputs).fused_embeds, plain(**inputs).fused_embeds)


def lora(model, seed: int = 0):
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, settings)


def test_gradients_reach_adapters_through_recorded_keys_and_values(make_sen):
    """They equal finite differences of a loss that depends on the tower only through the prompts' outputs."""
    model = lora(sen(make_sen, prompt_depth=2).double())
    neuron = model.base_model.model.neurons["image"]
    inputs = {"pixel_values": random_inputs()["image_pixel_values"].double()}
    prompts = torch.randn(2, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        return neuron.query(neuron.first_look(inputs, (CROWN_INPUT, CROWN_KEYS)), prompts).square().sum()

    loss().backward()
    adapters = [p for name, p in neuron.named_parameters() if "lora_" in name]
    assert len(adapters) == 2 * 2 * 4
    assert all(bool(parameter.grad.any()) for parameter in adapters)  # also below the prompts
    for parameter in adapters[::3]:
        assert_gradient_is_that_of_finite_differences(parameter, loss)


def test_adapters_get_the_same_gradients_with_activation_checkpointing(make_sen):
    model, inputs = lora(sen(make_sen, prompt_depth=2)).train(), random_inputs()
    expected = gradients(model, inputs)
    assert sum("lora_" in name for name in expected) > 16
    model.activation_checkpointing_enable()
    assert_same_gradients(gradients(model, inputs), expected)


def test_checkpointing_that_loses_gradients_of_adapters_is_refused(make_sen):
    """A reentrant checkpoint runs without gradients, so keys recorded in it would be constants."""
    frozen, inputs = sen(make_sen).train(), random_inputs()
    expected = gradients(frozen, inputs)
    frozen.activation_checkpointing_enable({"use_reentrant": True})
    assert_same_gradients(gradients(frozen, inputs), expected)  # a frozen tower has no gradients to lose
    model = lora(frozen)
    with pytest.raises(
        ValueError, match=r"found activation checkpointing with use_reentrant True, .* expected use_reentrant"
    ):
        gradients(model, inputs)
    model.activation_checkpointing_enable({"use_reentrant": False})
    gradients(model, inputs)


def test_adapters_are_saved_and_loaded_unchanged(make_sen, tmp_path):
    peft = pytest.importorskip("peft")
    plain, inputs = sen(make_sen), random_inputs()
    plain.save_pretrained(tmp_path / "sen")
    model = lora(SENModel.from_pretrained(tmp_path / "sen")).eval()
    assert not torch.allclose(model(**inputs).fused_embeds, plain(**inputs).fused_embeds)
    model.save_pretrained(tmp_path / "adapter")
    back = peft.PeftModel.from_pretrained(SENModel.from_pretrained(tmp_path / "sen"), tmp_path / "adapter")
    assert torch.equal(back.eval()(**inputs).fused_embeds, model(**inputs).fused_embeds)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, "all"])
def test_flex_attention_gives_the_same_outputs(depth, make_sen, towers):
    """The tower's inputs are padded, so its mask is a BlockMask."""
    model = sen(make_sen, neurons=[towers["bert"]], prompt_depth=depth)
    flex, inputs = copy.deepcopy(model), {n: v for n, v in words_and_frames().items() if n.startswith("words")}
    flex.neurons["words"].tower.set_attn_implementation("flex_attention")
    with torch.no_grad():  # flex attention has no backward pass on a CPU
        found, expected = flex(**inputs), model(**inputs)
    torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-4, rtol=0)
