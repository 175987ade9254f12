"""A SEN whose prompts run alone through the crown: rounds, training, caches, saving, and all that is done to towers."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import SMALL, random_inputs, random_weights
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch._dynamo.utils import counters
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_sen import SENConfig, SENModel
from modeling_sen.first_look import CROWN_INPUT, CROWN_KEYS
from modeling_sen.prompt_queries import RecordedLayer
from modeling_sen.training.feature_cache import FeatureCache

TEXTS = {"text_input_ids": torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513], [512, 8, 8, 513]])}
LABELS = {"labels": torch.tensor([0, 2])}
CLIPS = [f"clip-{number}" for number in range(4)]


def sen(make_sen, **overrides) -> SENModel:
    return random_weights(make_sen(**{"prompt": "queries", **overrides}))


def with_words(towers) -> list:
    return [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["bert"]]


def words_and_frames(batch_size: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    inputs = random_inputs(batch_size, seed)
    del inputs["audio_input_features"]
    ids = torch.randint(1, 40, (batch_size, 9), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < torch.tensor([6, 9, 3, 8])[:batch_size, None]).long()
    return {**inputs, "words_input_ids": ids, "words_attention_mask": mask}


def gradients(model, inputs, **given) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs, **TEXTS, **LABELS, **given).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected, atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=atol, rtol=1e-4, msg=name)


# --- rounds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, "all"])
def test_tokens_stay_those_of_the_first_look_and_answers_do_not(depth, make_sen):
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


def test_an_untrained_model_is_the_one_without_a_second_look_and_its_gate_learns(make_sen):
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


def test_the_gate_is_zero_at_first(make_sen):
    model = make_sen(prompt="queries")
    gates = [prompting.gate for block in model.blocks for prompting in block.prompting.values()]
    assert len(gates) == 9
    assert not any(bool(gate.any()) for gate in gates)
    assert all(bool(prompting.tokens.any()) for block in model.blocks for prompting in block.prompting.values())


def test_queries_without_answers_are_refused():
    expected = r"prompt is 'queries' and read_answers False: association would read nothing new; expected read_answers True"
    with pytest.raises(StrictDataclassError, match=expected):
        SENConfig(prompt="queries", read_answers=False)


def test_rows_do_not_depend_on_absent_neurons_of_others(make_sen, towers):
    model, inputs = sen(make_sen, neurons=with_words(towers)), words_and_frames()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    given = {**inputs, "words_attention_mask": inputs["words_attention_mask"].clone(), "neuron_mask": mask}
    given["words_attention_mask"][0] = 0  # as batches are filled up
    both = model(**given)
    assert bool(both.neuron_states["words"].answers.isfinite().all())
    without = {name: value[:1] for name, value in inputs.items() if not name.startswith("words")}
    torch.testing.assert_close(both.fused_embeds[:1], model(**without).fused_embeds, atol=1e-5, rtol=0)
    found = gradients(model, given)
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


def test_a_saved_model_comes_back_the_same(make_sen, tmp_path):
    model, inputs = sen(make_sen, prompt_depth="all"), random_inputs()
    model.save_pretrained(tmp_path / "sen")
    back = SENModel.from_pretrained(tmp_path / "sen")
    assert back.config.prompt == "queries"
    assert torch.equal(back(**inputs).fused_embeds, model(**inputs).fused_embeds)
    with safe_open(tmp_path / "sen" / "model.safetensors", "pt") as weights:
        assert sum(name.endswith(".gate") for name in weights.keys()) == 9  # noqa: SIM118 (not a dict)


# --- memory --------------------------------------------------------------------------------------------------------------


def recorded_layers() -> int:
    return sum(type(each) is RecordedLayer for each in gc.get_objects())


def test_no_keys_stay_after_a_forward(make_sen):
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
    """A cache, and the rows that were looked at for it."""
    asked: list[int] = []

    def inputs_of(rows):
        asked.extend(rows)
        return {name: value[list(rows)] for name, value in inputs.items()}

    cache = FeatureCache(model, folder, CLIPS, dtype=torch.float32)
    cache.build(inputs_of, batch_size=2)
    return cache, asked


@pytest.mark.parametrize("depth", [1, "all"])
def test_stored_first_looks_give_the_same(depth, make_sen, towers, tmp_path):
    model, inputs = sen(make_sen, neurons=with_words(towers), prompt_depth=depth), words_and_frames(4)
    expected, cache = model(**inputs), build(model, tmp_path, inputs)[0]
    look = cache.trunks(range(4))["words"]
    assert look.trunk.layers is None
    shards = [safe_open(path, "pt") for path in tmp_path.rglob("*.safetensors")]
    assert not [name for shard in shards for name in shard.keys() if "key" in name or "layers" in name]  # noqa: SIM118
    # Of each neuron tokens and the trunk's output alone, and vectors: no keys.
    assert all(len([name for name in shard.keys() if shard.get_slice(name).get_dtype() == "F32"]) == 3 for shard in shards)  # noqa: SIM118
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
    other = FeatureCache(sen(make_sen, neurons=with_words(towers), prompt_depth=1), tmp_path, CLIPS, dtype=torch.float32)
    assert not set(other.folders.values()) & set(caches[0][0].folders.values())


# --- dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, "all"])
def test_bfloat16_towers_train_a_float32_association(depth, make_sen, towers):
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
def test_training_under_autocast(attention, make_sen, towers):
    model, inputs = sen(make_sen, neurons=with_words(towers), prompt_depth="all"), words_and_frames()
    for neuron in model.neurons.values():
        neuron.tower.set_attn_implementation(attention)
    expected = gradients(model, inputs)
    records = {name: (CROWN_INPUT, CROWN_KEYS) for name in model.specs}
    outside, _ = model.neurons.first_looks(inputs, None, torch.device("cpu"), records)  # its keys are float32
    for given in (inputs, {"trunks": outside}):
        with torch.autocast("cpu", torch.bfloat16):
            model.zero_grad()
            loss = model(**given, **TEXTS, **LABELS).loss
        loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        assert bool(loss.isfinite())
        for name, gradient in expected.items():
            assert bool(found[name].isfinite().all()), name
        flat, whole = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
        assert torch.nn.functional.cosine_similarity(flat, whole, dim=0) > 0.98


# --- what is done to towers ----------------------------------------------------------------------------------------------


def test_two_neurons_on_one_tower(make_sen, towers):
    neurons = [{"hub_id": towers["videomae"], "name": "near"}, {"hub_id": towers["videomae"], "name": "far"}]
    model, apart = sen(make_sen, neurons=neurons), sen(make_sen, neurons=neurons)
    assert model.neurons["near"].tower is model.neurons["far"].tower
    apart.neurons["far"] = copy.deepcopy(apart.neurons["far"])
    clips = [random_inputs(seed=seed)["video_pixel_values"] for seed in (0, 1)]
    inputs = {"near_pixel_values": clips[0], "far_pixel_values": clips[1]}
    assert torch.equal(model(**inputs).fused_embeds, apart(**inputs).fused_embeds)


def test_threads_give_what_one_gives(make_sen, towers):
    neurons = [{"hub_id": towers["videomae"], "name": "near"}, {"hub_id": towers["videomae"], "name": "far"}]
    model = sen(make_sen, neurons=neurons)

    def run(seed: int) -> torch.Tensor:
        clips = random_inputs(seed=seed)["video_pixel_values"]
        return model(near_pixel_values=clips, far_pixel_values=clips.flip(0)).fused_embeds

    expected = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(2) as threads:
        for found, alone in zip(threads.map(run, range(8)), expected, strict=True):
            assert torch.equal(found, alone)


@pytest.mark.parametrize("depth", [1, "all"])
def test_activation_checkpointing_changes_no_gradient(depth, make_sen, towers):
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
    """Says how many graphs were compiled since the test began."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("depth", [1, pytest.param("all", marks=pytest.mark.slow)])
def test_a_compiled_sen_gives_the_same_and_compiles_once(depth, make_sen, towers, graphs):
    settings = {"neurons": with_words(towers)[:1], "prompt_depth": depth}
    plain, model = sen(make_sen, **settings), sen(make_sen, **settings)
    model.compile(backend="eager")
    counts = []
    for seed in range(3):
        inputs = {"image_pixel_values": random_inputs(seed=seed)["image_pixel_values"]}
        expected, found = plain(**inputs).fused_embeds, model(**inputs).fused_embeds
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        expected.sum().backward()
        found.sum().backward()
        counts.append(graphs())
    assert_same_gradients(*({n: p.grad for n, p in each.blocks.named_parameters()} for each in (model, plain)))
    # Of its layers one graph below the prompts, one that records and one for prompts alone, whatever the number of rounds.
    assert counts == [3 if depth == 1 else 2] * 3


@pytest.mark.parametrize("place", ["disk", "cpu"])
def test_offloaded_towers_give_the_same(place, make_sen, tmp_path):
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


def test_a_device_map_that_leaves_layers_on_the_disk(make_sen, tmp_path):
    pytest.importorskip("accelerate")
    plain, inputs = sen(make_sen, prompt_depth=2), random_inputs()
    plain.save_pretrained(tmp_path / "sen")
    places = {f"encoder.layer.{index}": "disk" if index % 2 else "cpu" for index in range(4)}
    kwargs = {"device_map": {"embeddings": "cpu", **places, "layernorm": "disk"}, "offload_folder": str(tmp_path / "off")}
    model = SENModel.from_pretrained(tmp_path / "sen", neuron_kwargs={"video": kwargs})
    assert any(parameter.is_meta for parameter in model.neurons["video"].parameters())
    assert torch.equal(model(**inputs).fused_embeds, plain(**inputs).fused_embeds)


def lora(model, seed: int = 0):
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, settings)


def test_gradients_reach_adapters_through_the_prompts_alone(make_sen):
    """Of finite differences, for a loss that reads the prompts' outputs and nothing else of the tower."""
    model = lora(sen(make_sen, prompt_depth=2).double())
    neuron = model.base_model.model.neurons["image"]
    inputs = {"pixel_values": random_inputs()["image_pixel_values"].double()}
    prompts = torch.randn(2, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        return neuron.query(neuron.first_look(inputs, (CROWN_INPUT, CROWN_KEYS)), prompts).square().sum()

    loss().backward()
    adapters = [p for name, p in neuron.named_parameters() if "lora_" in name]
    assert len(adapters) == 2 * 2 * 4
    assert all(bool(parameter.grad.any()) for parameter in adapters)  # below the prompts, too: through keys and values
    for parameter in adapters[::3]:
        index, step, values = tuple(size // 2 for size in parameter.shape), 1e-5, []
        with torch.no_grad():
            for sign in (1, -2):
                parameter[index] += sign * step
                values.append(loss())
            parameter[index] += step
        expected = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(parameter.grad[index], expected, rtol=1e-4, atol=1e-8)


def test_adapters_get_the_same_gradients_with_activation_checkpointing(make_sen):
    model, inputs = lora(sen(make_sen, prompt_depth=2)).train(), random_inputs()
    expected = gradients(model, inputs)
    assert sum("lora_" in name for name in expected) > 16
    model.activation_checkpointing_enable()
    assert_same_gradients(gradients(model, inputs), expected)


def test_checkpointing_that_would_lose_gradients_of_adapters_is_refused(make_sen):
    """A reentrant checkpoint runs without gradients: keys that are recorded in it would be constants."""
    frozen, inputs = sen(make_sen).train(), random_inputs()
    expected = gradients(frozen, inputs)
    frozen.activation_checkpointing_enable({"use_reentrant": True})
    assert_same_gradients(gradients(frozen, inputs), expected)  # of a frozen tower there are none to lose
    model = lora(frozen)
    with pytest.raises(ValueError, match="found activation checkpointing with use_reentrant True, .* expected use_reentrant"):
        gradients(model, inputs)
    model.activation_checkpointing_enable({"use_reentrant": False})
    gradients(model, inputs)


def test_adapters_come_back_the_same(make_sen, tmp_path):
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
def test_flex_attention_agrees(depth, make_sen, towers):
    """Of a tower with padding, whose mask is then a BlockMask."""
    model = sen(make_sen, neurons=[towers["bert"]], prompt_depth=depth)
    flex, inputs = copy.deepcopy(model), {n: v for n, v in words_and_frames().items() if n.startswith("words")}
    flex.neurons["words"].tower.set_attn_implementation("flex_attention")
    with torch.no_grad():  # on a CPU it has no backward pass
        found, expected = flex(**inputs), model(**inputs)
    torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-4, rtol=0)
