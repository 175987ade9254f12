"""Dense features: equal to the frozen tokens without training, and changed by the trained modulation."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from random_sen import SMALL, random_inputs, random_weights
from safetensors.torch import load_file, save_file
from torch import nn

from modeling_sen import DenseFeatures, SENConfig, SENModel
from modeling_sen.recursive_association import PROMPT

NEURONS = ("image", "video", "audio")


@pytest.fixture
def modulated(make_sen):
    """A SEN with weights as after training, and modulation of two neurons."""
    model = make_sen()
    model.add_dense_modulation("image", "video")
    return random_weights(model)


def same_features(first: DenseFeatures, second: DenseFeatures) -> bool:
    return torch.equal(first.tokens, second.tokens) and torch.equal(first.answers, second.answers)


# --- without training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPT)
def test_untrained_features_are_the_tokens_and_answers_of_the_state(make_sen, prompt):
    model = make_sen(prompt=prompt)
    model.add_dense_modulation(*NEURONS)
    with torch.no_grad():
        output = model(**random_inputs())
        for name in NEURONS:
            features, state = model.dense_features(name, output), output.neuron_states[name]
            assert torch.equal(features.tokens, state.last_hidden_state)
            assert torch.equal(features.answers, state.answers)
            assert features.answers.shape == (2, SMALL["num_prompt_tokens"], features.tokens.shape[-1])
            assert features.grid == state.grid
            assert features.tokens.shape[1] == features.grid[0] * features.grid[1] * features.grid[2]


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_sen_without_prompts_returns_the_frozen_tokens(make_sen, name, dtype):
    """Features have the tower's dtype, even if the association has another."""
    model = make_sen(prompt="none")
    model.neurons.to(dtype)
    model.add_dense_modulation(name)
    with torch.no_grad():
        features = model.dense_features(name, model(**random_inputs()))
        key = next(key for key in random_inputs() if key.startswith(name))
        frozen = model.neurons[name].first_look({key.removeprefix(f"{name}_"): random_inputs()[key]}).state
    assert torch.equal(features.tokens, frozen.last_hidden_state)
    assert features.tokens.dtype == features.answers.dtype == dtype
    assert model.gate.dtype == torch.float32


def test_without_modulation_training_does_not_change_tokens(make_sen):
    model = random_weights(make_sen())
    with torch.no_grad():
        output = model(**random_inputs())
        features = model.dense_features("image", output)
    assert torch.equal(features.tokens, output.neuron_states["image"].last_hidden_state)
    assert torch.equal(features.answers, output.neuron_states["image"].answers)
    assert "modulation" not in " ".join(model.state_dict())


@pytest.mark.parametrize("overrides", [{"num_rounds": 0}, {"prompt": "tokens", "read_answers": False}])
def test_there_are_no_answers_without_rounds_or_answer_readers(make_sen, overrides):
    model = make_sen(**overrides)
    model.add_dense_modulation("image")
    with torch.no_grad():
        output = model(**random_inputs())
        features = model.dense_features("image", output)
    assert features.answers is None
    assert torch.equal(features.tokens, output.neuron_states["image"].last_hidden_state)


def test_features_of_text_include_the_padding_mask(make_sen, towers):
    model = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 2}, towers["bert"]])
    words = {"words_input_ids": torch.tensor([[2, 5, 6, 3], [2, 8, 3, 0]])}
    words["words_attention_mask"] = words["words_input_ids"] > 0
    with torch.no_grad():
        features = model.dense_features("words", model(**words))
    assert torch.equal(features.token_mask, words["words_attention_mask"])


# --- the modulation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rounds", [0, 3])
def test_modulation_scales_and_shifts_by_the_summary_of_the_last_round(make_sen, num_rounds):
    model = make_sen(num_rounds=num_rounds)
    model.add_dense_modulation("image")
    random_weights(model)
    summaries = []
    model.fusion.down.register_forward_hook(lambda _, inputs, found: summaries.append(torch.nn.functional.gelu(found)))
    with torch.no_grad():
        output = model(**random_inputs())
        features = model.dense_features("image", output)
    assert len(summaries) == num_rounds + 1
    assert torch.equal(output.summary, summaries[-1])
    part, summary = model.modulation["image"], summaries[-1]
    normalised = (summary - summary.mean(-1, keepdim=True)) / (
        summary.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    scale_and_shift = (normalised @ part.down.weight.t() + part.down.bias) @ part.weight.t()
    tokens = output.neuron_states["image"].last_hidden_state
    width = tokens.shape[-1]
    for row in range(2):
        expected = tokens[row] * (1 + scale_and_shift[row, :width]) + scale_and_shift[row, width:]
        torch.testing.assert_close(features.tokens[row], expected, atol=1e-5, rtol=1e-5)
    assert (features.tokens - tokens).abs().max() > 0.1


def test_small_scales_are_not_rounded_away_in_bfloat16(make_sen):
    """In bfloat16, 1 + 1/512 would round to 1, also after adding a shift of 1/256."""
    model = make_sen()
    model.add_dense_modulation("image")
    part, width = model.modulation["image"], 16
    with torch.no_grad():
        part.down.weight.zero_()
        part.down.bias[0] = 1
        part.weight[:width, 0], part.weight[width:, 0] = 1 / 512, 1 / 256
        tokens = torch.ones(2, 4, width, dtype=torch.bfloat16)
        found = part(tokens, torch.randn(2, SMALL["hidden_size"]))
    assert torch.equal(found, torch.full_like(tokens, 1 + 1 / 512 + 1 / 256))


def test_gradients_reach_modulation_answers_and_every_round(make_sen):
    model = make_sen(prompt="none")
    model.add_dense_modulation("image")
    inputs = random_inputs()
    features = model.dense_features("image", model(**inputs))
    (features.tokens.square().sum() + features.answers.square().sum()).backward()
    # At the start the tokens depend on no other parameter.
    assert model.modulation["image"].weight.grad.abs().sum() > 0
    readers = [block.answer_readers["image"] for block in model.blocks]
    assert readers[-1].key.weight.grad.abs().sum() > 0
    random_weights(model).zero_grad()
    model.dense_features("image", model(**inputs)).tokens.square().sum().backward()
    for name, parameter in [*model.modulation.named_parameters(), *model.blocks.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in model.neurons.parameters())


def test_a_sample_without_the_neuron_does_not_change_the_other_samples(modulated):
    inputs, mask = random_inputs(), torch.tensor([[True, True, True], [False, True, True]])
    inputs["image_pixel_values"][1] = 0
    with torch.no_grad():
        features = modulated.dense_features("image", modulated(**inputs, neuron_mask=mask))
        single = modulated(**{name: values[:1] for name, values in inputs.items()})
    torch.testing.assert_close(features.tokens[:1], modulated.dense_features("image", single).tokens)
    assert bool(features.tokens.isfinite().all())


@pytest.mark.parametrize("prompt", ["tokens", "queries"])
def test_modulation_of_three_base_size_towers_takes_at_most_20_megabytes(prompt):
    with torch.device("meta"):
        model = SENModel(SENConfig.from_preset("clip-videomae-ast", prompt=prompt))
        model.add_dense_modulation(*model.specs)
    assert 4 * sum(parameter.numel() for parameter in model.parameters()) <= 20e6


# --- selection of neurons --------------------------------------------------------------------------------------------


def test_existing_modulation_is_kept_when_more_is_added(modulated):
    before = {name: weight.clone() for name, weight in modulated.modulation.state_dict().items()}
    modulated.add_dense_modulation("audio", "image")
    assert modulated.config.dense_neurons == ["image", "video", "audio"]
    after = modulated.modulation.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert not after["audio.weight"].any()


def test_added_modulation_has_the_associations_dtype_device_and_initialisation(make_sen):
    model = make_sen(hidden_size=512).to(torch.bfloat16)
    model.add_dense_modulation("image")
    part = model.modulation["image"]
    assert {parameter.dtype for parameter in part.parameters()} == {torch.bfloat16}
    assert part.down.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.1)
    assert not part.down.bias.any()
    elsewhere = SENModel(model.config).to("meta")
    elsewhere.add_dense_modulation("video")
    assert all(parameter.is_meta for parameter in elsewhere.modulation["video"].parameters())


def test_modulation_is_saved_and_loaded_with_the_checkpoint(modulated, tmp_path):
    modulated.save_pretrained(tmp_path)
    loaded = SENModel.from_pretrained(tmp_path)
    assert loaded.config.dense_neurons == ["image", "video"]
    with torch.no_grad():
        first, second = modulated(**random_inputs()), loaded(**random_inputs())
        for name in NEURONS:
            assert same_features(modulated.dense_features(name, first), loaded.dense_features(name, second))
    new = SENModel(loaded.config)
    assert not any(part.weight.any() for part in new.modulation.values())


def test_modulation_that_a_checkpoint_lacks_is_an_error(modulated, tmp_path):
    modulated.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["modulation.video.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"1 weights of SENModel are missing \(e.g. modulation.video.weight\)"):
        SENModel.from_pretrained(tmp_path)


def test_names_of_absent_neurons_raise(make_sen):
    model = make_sen()
    inputs = random_inputs()
    del inputs["audio_input_features"]
    with torch.no_grad():
        output = model(**inputs)
    with pytest.raises(ValueError, match="no neuron 'sound', expected one of image, video, audio"):
        model.dense_features("sound", output)
    with pytest.raises(ValueError, match="'audio' had no inputs in this output, which has states of image, video"):
        model.dense_features("audio", output)
    with pytest.raises(ValueError, match="no neuron 'sound', expected one of image, video, audio"):
        model.add_dense_modulation("image", "sound")
    assert len(model.modulation) == 0
    settings = {key: value for key, value in model.config.to_dict().items() if key in ("neurons", "text_tower")}
    with pytest.raises(StrictDataclassError, match=r"dense_neurons: no neurons \['sound'\], expected some of image"):
        SENConfig(**settings, dense_neurons=["image", "sound"])


# --- training --------------------------------------------------------------------------------------------------------


def patches_and_clip(count: int, seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Frames of four grey patches, clips of one grey, and (count, 4): whether patch and clip are both light or dark."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(count, 2, 2, generator=generator) * 2 - 1
    clip = torch.rand(count, generator=generator) * 2 - 1
    frames = patches.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)  # (count, 16, 16)
    inputs = {
        "image_pixel_values": frames[:, None, None].expand(count, 1, 3, 16, 16),
        "video_pixel_values": clip[:, None, None, None, None].expand(count, 4, 3, 16, 16),
    }
    return inputs, (patches.flatten(1) > 0) == (clip[:, None] > 0)


def test_a_head_on_dense_features_uses_what_another_neuron_has_encoded(towers):
    """A frozen token encodes its patch only, not the clip: a head on frozen tokens stays at chance level."""
    torch.manual_seed(1)
    neurons = [{"hub_id": towers["clip"], "num_frames": 1}, towers["videomae"]]
    model = SENModel.from_neurons(neurons, prompt="none", **SMALL)
    model.add_dense_modulation("image")
    heads = {"dense": nn.Linear(16, 1), "frozen": nn.Linear(16, 1)}
    trained = [p for each in (model, *heads.values()) for p in each.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)

    def looks(seed):
        inputs, same = patches_and_clip(256, seed)
        with torch.no_grad():
            records = dict.fromkeys(model.specs, ())
            return model.neurons.first_looks(inputs, None, model.gate.device, records)[0], same

    def logits(trunks):
        dense = model.dense_features("image", model(trunks=trunks)).tokens
        frozen = trunks["image"].state.last_hidden_state
        return {"dense": heads["dense"](dense).squeeze(-1), "frozen": heads["frozen"](frozen).squeeze(-1)}

    trunks, same = looks(seed=0)
    for _ in range(200):
        found = logits(trunks)
        loss = sum(nn.functional.binary_cross_entropy_with_logits(each, same.float()) for each in found.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trunks, same = looks(seed=1)
    with torch.no_grad():
        right = {name: ((each > 0) == same).float().mean().item() for name, each in logits(trunks).items()}
        features = model.dense_features("image", model(trunks=trunks))
    assert right["dense"] > 0.85
    assert right["frozen"] < 0.6
    assert (features.tokens - trunks["image"].state.last_hidden_state).abs().max() > 0.1
