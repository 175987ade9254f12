"""SENModel: missing modalities, rounds and variants, size."""

from itertools import pairwise

import pytest
import torch
from random_sen import SMALL, random_inputs, random_weights
from transformers import ASTModel, AutoConfig, AutoModel, VideoMAEModel

from modeling_sen import SENConfig, SENModel
from modeling_sen.neuron import Neuron
from modeling_sen.recursive_association import DISTRIBUTE, INTEGRATE

CLASS_TEXTS = torch.tensor([[512, 5, 9, 513, 513, 513], [512, 40, 7, 8, 90, 513], [512, 3, 3, 3, 513, 513]])
CLASS_MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])


def normalised(tensor):
    return torch.nn.functional.normalize(tensor, dim=-1)


# --- missing modalities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrate", INTEGRATE)
def test_masked_rows_equal_runs_without_the_modality(make_sen, integrate):
    model, inputs = random_weights(make_sen(integrate=integrate)), random_inputs(3)
    mask = torch.tensor([[True, True, True], [True, False, True], [True, False, False]])
    with torch.no_grad():
        together = model(**inputs, neuron_mask=mask)
        for row, present in enumerate(mask.tolist()):
            single = {
                key: value[row : row + 1] for (key, value), here in zip(inputs.items(), present, strict=True) if here
            }
            output = model(**single)
            torch.testing.assert_close(together.fused_embeds[row : row + 1], output.fused_embeds)
            torch.testing.assert_close(together.knowledge[row : row + 1], output.knowledge)


def test_inputs_of_a_masked_neuron_have_no_effect(make_sen):
    model, inputs = random_weights(make_sen()), random_inputs()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    with torch.no_grad():
        first = model(**inputs, neuron_mask=mask).fused_embeds
        inputs["audio_input_features"][0] = 1e4
        assert torch.equal(model(**inputs, neuron_mask=mask).fused_embeds, first)


def test_a_sample_without_any_neuron_raises_and_lists_the_neurons(make_sen):
    model, inputs = make_sen(), random_inputs()
    with pytest.raises(ValueError, match=r"\[1\] have no neuron.*image \(image\), video \(video\), audio \(audio\)"):
        model(**inputs, neuron_mask=torch.tensor([[True, False, False], [False, False, False]]))
    with pytest.raises(ValueError, match=r"no neuron has inputs.*audio"):
        model()
    with pytest.raises(ValueError, match="have no neuron"):  # the mask is true for neurons without inputs
        model(audio_input_features=inputs["audio_input_features"], neuron_mask=torch.tensor([[True, True, False]] * 2))


def test_wrong_inputs_raise(make_sen):
    model, inputs = make_sen(), random_inputs()
    with pytest.raises(TypeError, match=r"depth_pixel_values.*image_pixel_values"):
        model(**inputs, depth_pixel_values=torch.zeros(2, 1, 3, 16, 16))
    with pytest.raises(TypeError, match="image_input_features"):
        model(**inputs, image_input_features=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="batch sizes"):
        model(**{**inputs, "audio_input_features": inputs["audio_input_features"][:1]})
    with pytest.raises(ValueError, match="neuron_mask has shape"):
        model(**inputs, neuron_mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"image_pixel_values.*\(2, 3, 16, 16\)"):
        model(image_pixel_values=inputs["image_pixel_values"][:, 0])


# --- rounds and variants ---------------------------------------------------------------------------------------------

VARIANTS = [
    *({"integrate": name} for name in INTEGRATE),
    *({"distribute": name} for name in DISTRIBUTE),
    *({"prompt": name} for name in ("tokens", "queries", "add", "none")),
    {"share_blocks": True},
    {"prompt": "tokens", "read_answers": False},
    {"prompt": "tokens", "read_answers": False, "share_blocks": True, "integrate": "attention"},
    {"prompt_depth": "all"},
    {"prompt": "tokens", "prompt_depth": "all"},
    {"num_rounds": 1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_changes_the_output_and_gets_gradients(make_sen, variant):
    model, inputs = make_sen(**variant), random_inputs()
    with torch.no_grad():
        untrained = model(**inputs)
    random_weights(model)
    output = model(**inputs, text_embeds=normalised(torch.randn(3, 12)), labels=torch.tensor([0, 2]))
    rounds = model.config.num_rounds
    assert output.knowledge.shape == (2, rounds, SMALL["hidden_size"])
    assert output.fused_embeds.shape == (2, 12)
    torch.testing.assert_close(output.fused_embeds.norm(dim=-1), torch.ones(2))
    assert (output.fused_embeds - untrained.fused_embeds).abs().max() > 1e-2
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_without_prompts_neurons_run_once_and_answers_are_read_each_round(make_sen, monkeypatch):
    model, inputs = random_weights(make_sen(prompt="none")), random_inputs()
    monkeypatch.delattr(Neuron, "look_again")
    with torch.no_grad():
        output = model(**inputs)
        first = model.neurons["video"].first_look({"pixel_values": inputs["video_pixel_values"]}).state
        state = output.neuron_states["video"]
        assert torch.equal(state.last_hidden_state, first.last_hidden_state)
        inputs["audio_input_features"] = inputs["audio_input_features"].roll(1, dims=1) * 2
        perturbed = model(**inputs).neuron_states["video"]
    assert (perturbed.answers - state.answers).abs().max() > 1e-4


def test_each_round_gets_the_summary_of_the_round_before(make_sen, monkeypatch):
    model = random_weights(make_sen(num_rounds=3))
    made, passed = [], []
    fuse = model.fusion.forward

    def recorded_fusion(states, present):
        summary, embeds = fuse(states, present)
        made.append(summary)
        return summary, embeds

    monkeypatch.setattr(model.fusion, "forward", recorded_fusion)
    for block in model.blocks:
        monkeypatch.setattr(
            block,
            "distribute",
            lambda knowledge, summary, names, distribute=block.distribute: (
                passed.append(summary) or distribute(knowledge, summary, names)
            ),
        )
    with torch.no_grad():
        model(**random_inputs())
    assert len(made) == 4  # for the first look and for each round
    assert [summary is before for summary, before in zip(passed, made[:3], strict=True)] == [True] * 3


def test_states_have_the_documented_shapes(make_sen):
    with torch.no_grad():
        states = make_sen()(**random_inputs()).neuron_states
    assert {name: state.grid for name, state in states.items()} == {
        "image": (2, 2, 2),
        "video": (2, 2, 2),
        "audio": (1, 2, 8),
    }
    for state in states.values():
        t, h, w = state.grid
        assert state.last_hidden_state.shape == (2, t * h * w, 16)
        assert state.pooler_output.shape == (2, 16)
        assert state.answers.shape == (2, SMALL["num_prompt_tokens"], 16)


def test_all_rounds_contain_round_zero_to_the_last(make_sen):
    model = random_weights(make_sen())
    with torch.no_grad():
        output = model(**random_inputs(), output_all_rounds=True)
        assert len(output.all_rounds) == model.config.num_rounds + 1
        assert torch.equal(output.all_rounds[-1].fused_embeds, output.fused_embeds)
        assert set(output.all_rounds[0].neuron_embeds) == {"image"}
        fused = [round_.fused_embeds for round_ in output.all_rounds]
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(fused))


def test_without_rounds_the_towers_run_once(make_sen):
    model = random_weights(make_sen(num_rounds=0))
    with torch.no_grad():
        output = model(**random_inputs(), output_all_rounds=True)
    assert output.knowledge is None
    assert len(output.all_rounds) == 1
    assert all(state.answers is None for state in output.neuron_states.values())


@pytest.mark.parametrize(
    ("prompt", "what"), [("tokens", "pooler_output"), ("queries", "answers"), ("none", "answers")]
)
def test_association_passes_information_between_neurons(make_sen, prompt, what):
    model, inputs = random_weights(make_sen(prompt=prompt)), random_inputs()
    with torch.no_grad():
        first = getattr(model(**inputs).neuron_states["image"], what)
        inputs["audio_input_features"] = inputs["audio_input_features"].roll(1, dims=1) * 2
        assert (getattr(model(**inputs).neuron_states["image"], what) - first).abs().max() > 1e-4
        model.config.num_rounds = 0
        single = model(**inputs).neuron_states["image"].pooler_output
        inputs["audio_input_features"] = -inputs["audio_input_features"]
        assert torch.equal(model(**inputs).neuron_states["image"].pooler_output, single)


def test_a_prompt_depth_beyond_the_tower_raises(make_sen):
    with pytest.raises(ValueError, match=r"neuron 'image': prompt_depth is 5, expected 1 to 4, the tower's layers"):
        make_sen(prompt_depth=5)


def test_a_neuron_with_prompts_after_its_tower_is_unchanged_at_the_start_and_learns(make_sen, towers):
    model = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["timesformer"]])
    assert model.config.neuron_specs[1].prompt_side == "after"
    inputs = random_inputs()
    del inputs["audio_input_features"]
    with torch.no_grad():
        output = model(**inputs)
        first = model.neurons["video"].first_look({"pixel_values": inputs["video_pixel_values"]}).state
    assert torch.equal(output.neuron_states["video"].last_hidden_state, first.last_hidden_state)
    assert output.neuron_states["video"].answers.shape == (2, SMALL["num_prompt_tokens"], 16)
    random_weights(model)
    output = model(**inputs)
    assert (output.neuron_states["video"].last_hidden_state - first.last_hidden_state).abs().max() > 1e-2
    output.fused_embeds[:, 0].sum().backward()
    assert all(block.prompting["video"].weight.grad.abs().sum() > 0 for block in model.blocks)


def test_text_inputs_are_read_by_a_text_neuron(make_sen, towers):
    model = random_weights(make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["bert"]]))
    assert set(model.neurons) == {"image", "words", "class_text"}
    inputs = {"image_pixel_values": random_inputs()["image_pixel_values"]}
    words = {"words_input_ids": torch.tensor([[2, 5, 6, 3], [2, 8, 3, 0]])}
    words["words_attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        first = model(**inputs, **words).fused_embeds
        words["words_input_ids"][1, 3] = 9  # padding
        torch.testing.assert_close(model(**inputs, **words).fused_embeds, first)
        words["words_input_ids"][1, 1] = 9
        assert (model(**inputs, **words).fused_embeds - first).abs().amax(-1)[1] > 1e-4


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["clip-videomae-ast", "clip-xclip-ast"])
def test_the_association_of_three_base_size_towers_takes_at_most_20_megabytes(preset):
    config = SENConfig.from_preset(preset)
    assert (config.hidden_size, config.num_rounds, config.num_prompt_tokens) == (256, 3, 4)
    with torch.device("meta"):
        model = SENModel(config)
    assert 4 * sum(parameter.numel() for parameter in model.parameters()) <= 20e6


def test_only_the_associations_parameters_are_trainable(make_sen, capsys):
    model = make_sen()
    trainable, total = model.trainable_parameters()
    assert trainable == sum(tensor.numel() for tensor in model.state_dict().values())
    assert total > trainable
    model.print_trainable_parameters()
    assert f"trainable params: {trainable:,}" in capsys.readouterr().out


def test_set_attn_implementation_applies_to_the_towers(make_sen):
    model, inputs = random_weights(make_sen()), random_inputs()
    with torch.no_grad():
        expected = model(**inputs).fused_embeds
        model.set_attn_implementation("eager")
        assert {neuron.tower.config._attn_implementation for neuron in model.neurons.values()} == {"eager"}
        torch.testing.assert_close(model(**inputs).fused_embeds, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attn_implementation_applies_to_towers_when_a_model_is_loaded(make_sen, tmp_path, dtype):
    random_weights(make_sen()).save_pretrained(tmp_path / "sen")
    inputs, config = random_inputs(), AutoConfig.from_pretrained(tmp_path / "sen")
    by_default = SENModel.from_pretrained(tmp_path / "sen", dtype=dtype)
    loaded = AutoModel.from_pretrained(tmp_path / "sen", dtype=dtype, attn_implementation="eager")
    built = AutoModel.from_config(config, attn_implementation="eager").load_neurons()  # as on first use
    for model, expected in ((by_default, "sdpa"), (loaded, "eager"), (built, "eager")):
        assert {neuron.tower.config._attn_implementation for neuron in model.neurons.values()} == {expected}
    exact = {"atol": 1e-5, "rtol": 1e-4} if dtype is torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).fused_embeds, by_default(**inputs).fused_embeds, **exact)
    one = {"image": {"attn_implementation": "sdpa"}}
    mixed = SENModel.from_pretrained(tmp_path / "sen", attn_implementation="eager", neuron_kwargs=one)
    found = {name: neuron.tower.config._attn_implementation for name, neuron in mixed.neurons.items()}
    assert found == {"image": "sdpa", "video": "eager", "audio": "eager", "class_text": "eager"}


def test_compiled_blocks_give_the_same_outputs(make_sen):
    model, inputs = random_weights(make_sen()), random_inputs()
    with torch.no_grad():
        expected = model(**inputs)
        for block in model.blocks:
            block.integrate = torch.compile(block.integrate, backend="eager", fullgraph=True)
            block.distribute = torch.compile(block.distribute, backend="eager", fullgraph=True)
        output = model(**inputs)
    torch.testing.assert_close(output.fused_embeds, expected.fused_embeds)
    torch.testing.assert_close(output.knowledge, expected.knowledge)


def test_first_looks_equal_the_outputs_of_the_stock_towers(make_sen, towers):
    """The state of round 0 is the output of the class in Transformers."""
    model, inputs = make_sen(num_rounds=0), random_inputs()
    with torch.no_grad():
        states = model(**inputs).neuron_states
        video = VideoMAEModel.from_pretrained(towers["videomae"]).eval()(inputs["video_pixel_values"])
        sound = ASTModel.from_pretrained(towers["ast"]).eval()(inputs["audio_input_features"])
    assert torch.equal(states["video"].last_hidden_state, video.last_hidden_state)
    assert torch.equal(states["audio"].pooler_output, sound.pooler_output)
    assert torch.equal(states["audio"].last_hidden_state, sound.last_hidden_state[:, 2:])
