"""Baselines: the frozen mean is the untrained SEN; late fusions read what they say, and leave absent neurons out."""

import pytest
import torch
from random_sen import random_inputs

from modeling_sen.evaluation.baselines import SOURCES, FrozenMean, LateFusion, Resampler, neuron_tokens


@pytest.fixture
def model(make_sen):
    return make_sen()


@pytest.fixture
def trunks(model):
    return {
        name: model.neurons[name].first_look(given)
        for name, given in model.neurons.split_inputs(random_inputs(3)).items()
    }


def all_here(trunks, but=None):
    return {name: torch.full((3,), name != but) for name in trunks}


def test_the_frozen_mean_is_the_untrained_sen(model, trunks):
    baseline = FrozenMean(model)
    assert not list(baseline.parameters())
    with torch.no_grad():
        expected = model(**random_inputs(3)).fused_embeds
        torch.testing.assert_close(baseline(trunks, all_here(trunks)), expected)


@pytest.mark.parametrize(
    ("source", "num_resampled"),
    [*((source, None) for source in SOURCES), ("round0", 2), ("trunk", 2)],  # a query over one token has no choice
)
def test_late_fusion_embeds_and_every_weight_learns(model, trunks, source, num_resampled):
    torch.manual_seed(0)
    fusion = LateFusion(model.config.neuron_specs, 16, source, num_resampled, hidden_size=16, num_layers=1)
    fused = fusion(trunks, all_here(trunks))
    assert fused.shape == (3, 16)
    torch.testing.assert_close(fused.norm(dim=-1), torch.ones(3))
    (fused @ torch.randn(16)).sum().backward()
    unused = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == ["logit_scale"]


@pytest.mark.parametrize("num_resampled", [None, 2])
def test_an_absent_neuron_changes_nothing(model, trunks, num_resampled):
    fusion = LateFusion(model.config.neuron_specs, 16, "round0", num_resampled, hidden_size=16, num_layers=1).eval()
    audio = trunks["audio"]
    other = {**trunks, "audio": type(audio)(**{**vars(audio)})}
    state = audio.state
    other["audio"].state = type(state)(state.last_hidden_state + 1, state.pooler_output + 1, None, state.grid)
    with torch.no_grad():
        masked = fusion(trunks, all_here(trunks, but="audio"))
        torch.testing.assert_close(fusion(other, all_here(trunks, but="audio")), masked)
        assert not torch.allclose(fusion(other, all_here(trunks)), fusion(trunks, all_here(trunks)), atol=1e-3)
        absent = {name: trunk for name, trunk in trunks.items() if name != "audio"}
        torch.testing.assert_close(fusion(absent, all_here(absent)), masked)


def test_the_query_equals_the_output_of_the_whole_transformer(model):
    fusion = LateFusion(model.config.neuron_specs, 16, hidden_size=16).eval()
    tokens, padding = torch.randn(3, 7, 16), torch.rand(3, 7) > 0.6
    padding[:, 0] = False
    with torch.no_grad():
        expected = fusion.layers(tokens, src_key_padding_mask=padding)[:, 0]
        torch.testing.assert_close(fusion._fuse(tokens, padding), expected)


def test_the_question_changes_the_answer(model, trunks):
    fusion = LateFusion(model.config.neuron_specs, 16, hidden_size=16, num_layers=1)
    with torch.no_grad():
        asked = fusion(trunks, all_here(trunks), torch.randn(3, 16))
        assert not torch.allclose(asked, fusion(trunks, all_here(trunks)), atol=1e-3)


def test_sources_select_the_named_tokens(model, trunks):
    image = trunks["image"]  # two frames of 3 x 3 patches and a class token each, width 32
    state = image.state
    assert torch.equal(neuron_tokens(image, "round0")[0], state.last_hidden_state)
    assert torch.equal(neuron_tokens(image, "pooled")[0][:, 0], state.pooler_output)
    seen, padding = neuron_tokens(image, "trunk")
    assert padding is None
    torch.testing.assert_close(seen.flatten(0, 1).flatten(), image.trunk.hidden_states.flatten())
    assert seen.shape[0] == 3


def test_padded_words_are_not_read(make_sen, towers):
    model = make_sen(neurons=[{"hub_id": towers["clip"], "num_frames": 1}, towers["bert"]])
    name = model.config.neuron_specs[-1].name
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids = torch.randint(5, 10, (2, 5))
    trunk = model.neurons[name].first_look({"input_ids": ids, "attention_mask": mask})
    tokens, padding = neuron_tokens(trunk, "trunk")
    assert torch.equal(padding, mask == 0)
    resampler = Resampler(tokens.shape[-1], 16, 3, 4).eval()
    changed = tokens.masked_fill(padding.unsqueeze(-1), 9.0)
    with torch.no_grad():
        torch.testing.assert_close(resampler(changed, padding), resampler(tokens, padding))


def test_a_resampler_reads_tokens_of_any_size_and_writes_its_own():
    torch.manual_seed(0)
    resampler = Resampler(12, 16, num_tokens=3, num_heads=4).eval()
    tokens = torch.randn(2, 5, 12)
    with torch.no_grad():
        written, of_large = resampler(50 * tokens, None), resampler(5000 * tokens, None)
    torch.testing.assert_close(written, of_large, atol=0.05, rtol=0)
    torch.testing.assert_close(written.var(-1, unbiased=False), torch.ones(2, 3), atol=1e-3, rtol=0)
    likeness = torch.nn.functional.cosine_similarity(written[:, 0], written[:, 1], dim=-1)
    assert (likeness < 0.9).all()


def test_an_unknown_source_is_named(model):
    with pytest.raises(ValueError, match=r"'everything'.*round0, trunk, pooled"):
        LateFusion(model.config.neuron_specs, 16, "everything")
