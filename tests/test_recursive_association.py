"""One RA block: masked integration, and distribution through a bottleneck."""

import pytest
import torch

from modeling_sen import SENConfig
from modeling_sen.first_look import FirstLook, NeuronState
from modeling_sen.prompting import NoPrompts
from modeling_sen.recursive_association import (
    DISTRIBUTE,
    INTEGRATE,
    FusionHead,
    RABlock,
    StateReader,
    masked_mean,
)

WIDTHS = {"image": 8, "video": 6, "sound": 4}


def make_config(**settings) -> SENConfig:
    neurons = [
        {"name": name, "modality": "video", "hub_id": name, "hidden_size": width, "class_name": "VideoMAEModel"}
        for name, width in WIDTHS.items()
    ]
    return SENConfig(
        neurons=neurons, hidden_size=12, bottleneck_size=4, num_prompt_tokens=3, projection_dim=5, **settings
    )


def make_block(seed: int = 0, first: bool = False, **settings) -> RABlock:
    torch.manual_seed(seed)
    block = RABlock(make_config(**settings), first)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def make_states(answers: bool = True, seed: int = 0) -> dict[str, NeuronState]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: NeuronState(
            torch.randn(2, 7, width, generator=generator),
            torch.randn(2, width, generator=generator),
            (1, 1, 7),
            answers=torch.randn(2, 3, width, generator=generator) if answers else None,
        )
        for name, width in WIDTHS.items()
    }


def present(*rows: str) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([name in row.split() for row in rows]) for name in WIDTHS}


EVERYONE = present("image video sound", "image video sound")


def test_the_masked_mean_includes_only_present_neurons():
    vectors = {name: torch.full((3, 2), float(number)) for number, name in enumerate(WIDTHS, start=1)}
    mean = masked_mean(vectors, present("image video sound", "image sound", ""))
    assert mean.tolist() == [[2.0, 2.0], [2.0, 2.0], [0.0, 0.0]]


def test_an_absent_neuron_leaves_the_masked_mean_bit_identical():
    vectors = {name: torch.randn(4, 6) for name in WIDTHS}
    absent = {**{name: torch.ones(4, dtype=torch.bool) for name in WIDTHS}, "sound": torch.zeros(4, dtype=torch.bool)}
    without = {name: vector for name, vector in vectors.items() if name != "sound"}
    vectors["sound"].fill_(float("nan"))  # must have no effect
    assert torch.equal(masked_mean(vectors, absent), masked_mean(without, absent))


def test_mean_integration_equals_the_mean_of_normalised_linear_maps():
    block, states = make_block(), make_states()
    expected = torch.zeros(2, 12)
    for name, state in states.items():
        reader = block.integration.readers[name]
        slices = [state.answers[:, number] @ reader.answer_weight[number] for number in range(3)]  # each of width four
        mapped = state.pooler_output @ reader.linear.weight.t() + reader.linear.bias + torch.cat(slices, dim=-1)
        centred = mapped - mapped.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        expected += (scaled * reader.norm.weight + reader.norm.bias) / len(states)
    torch.testing.assert_close(block.integrate(states, EVERYONE), expected)


@pytest.mark.parametrize("variant", INTEGRATE)
def test_integration_ignores_absent_neurons_row_by_row(variant):
    block, states = make_block(integrate=variant), make_states()
    here = present("image video sound", "video")
    both = block.integrate(states, here)
    single = {
        name: NeuronState(s.last_hidden_state[1:], s.pooler_output[1:], s.grid, answers=s.answers[1:])
        for name, s in states.items()
    }
    only_video = block.integrate({"video": single["video"]}, {"video": torch.tensor([True])})
    torch.testing.assert_close(both[1:], only_video)
    states["sound"].pooler_output[1] += 100.0
    states["image"].answers[1] -= 100.0
    assert torch.equal(block.integrate(states, here), both)
    states["sound"].pooler_output[0] += 100.0
    assert not torch.allclose(block.integrate(states, here)[0], both[0])


@pytest.mark.parametrize("variant", INTEGRATE)
def test_answers_are_read_only_after_the_first_round(variant):
    states, other = make_states(), make_states()
    for state in other.values():
        state.answers = state.answers + 1.0
    later, first = make_block(integrate=variant), make_block(integrate=variant, first=True)
    without = make_block(integrate=variant, read_answers=False, prompt="tokens")
    assert not torch.allclose(later.integrate(states, EVERYONE), later.integrate(other, EVERYONE))
    for block in (first, without):
        assert torch.equal(block.integrate(states, EVERYONE), block.integrate(other, EVERYONE))
    # A shared block also reads the round without prompts, where missing answers count as zero.
    silent = make_states(answers=False)
    zero = make_states(answers=False)
    for state in zero.values():
        state.answers = torch.zeros(2, 3, state.pooler_output.shape[-1])
    torch.testing.assert_close(later.integrate(silent, EVERYONE), later.integrate(zero, EVERYONE))


@pytest.mark.parametrize("variant", DISTRIBUTE)
def test_distribution_gives_each_neuron_prompt_tokens_of_its_width(variant):
    block = make_block(distribute=variant)
    knowledge = torch.randn(2, 12, requires_grad=True)
    summary = torch.randn(2, 12, requires_grad=True)
    context = block.distribute(knowledge, summary, ["image", "sound"])
    assert {name: tuple(given.shape) for name, given in context.items()} == {"image": (2, 3, 4), "sound": (2, 3, 4)}
    prompts = {name: block.prompting[name].prompt_tokens(given) for name, given in context.items()}
    assert {name: tuple(tokens.shape) for name, tokens in prompts.items()} == {"image": (2, 3, 8), "sound": (2, 3, 4)}
    prompts["image"].sum().backward()
    assert knowledge.grad.abs().sum() > 0
    assert summary.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.distribution["image"].parameters())


def test_sparse_mlp_keeps_only_the_most_active_units():
    hidden = torch.tensor([[3.0, -0.1, 0.5, 2.0, -4.0, 1.0]])
    active = torch.nn.functional.gelu(hidden)
    part = make_block(distribute="sparse_mlp").distribution["image"]
    part.num_active = 3
    sparse = part.activation(hidden)
    assert torch.equal(sparse != 0, torch.tensor([[True, False, False, True, False, True]]))
    assert torch.equal(sparse[sparse != 0], active[sparse != 0])
    block = make_block(distribute="sparse_mlp", active_fraction=1.0)
    dense = make_block(distribute="mlp")
    knowledge, summary = torch.randn(2, 12), torch.randn(2, 12)
    assert torch.equal(
        block.distribute(knowledge, summary, ["image"])["image"],
        dense.distribute(knowledge, summary, ["image"])["image"],
    )


def test_the_context_is_a_map_of_knowledge_and_the_normalised_summary():
    block = make_block(distribute="linear")
    part = block.distribution["image"]
    knowledge, summary = torch.randn(2, 12), torch.randn(2, 12)
    centred = summary - summary.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    units = knowledge @ part.down.weight.t() + part.down.bias + scaled @ part.summary.weight.t()
    expected = units.view(2, 3, 4)  # three tokens of width four
    context = block.distribute(knowledge, summary, ["image"])
    torch.testing.assert_close(context["image"], expected)
    prompting = block.prompting["image"]
    prompts = prompting.prompt_tokens(context["image"])
    torch.testing.assert_close(prompts, expected @ prompting.up.weight.t() + prompting.tokens)
    for without in (make_block(first=True), make_block(read_answers=False, prompt="tokens")):
        scaled_by_1, scaled_by_0 = (
            without.distribute(knowledge, summary * factor, ["image"])["image"] for factor in (1.0, 0.0)
        )
        assert without.distribution["image"].summary is None
        assert torch.equal(scaled_by_1, scaled_by_0)


def first_looks(answers=False):
    return {name: FirstLook(state, {}) for name, state in make_states(answers=answers).items()}


def test_neurons_after_their_tower_start_unshifted_and_are_then_shifted_by_the_mean_prompt():
    config = make_config()
    config.neurons[0]["prompt_side"] = "after"
    block, looks = RABlock(config, first=True), first_looks()
    after = block.prompting["image"]
    assert {name: type(part).__name__ for name, part in block.prompting.items()} == {
        name: "AfterTower" if name == "image" else "QueryPrompts" for name in WIDTHS
    }
    context = block.distribute(torch.randn(2, 12), torch.randn(2, 12), ["image"])
    first = looks["image"].state
    unshifted = block.prompt({"image": None}, looks, context)["image"]
    assert torch.equal(unshifted.last_hidden_state, first.last_hidden_state)
    assert unshifted.answers.shape == (2, 3, 8)
    torch.nn.init.normal_(after.weight)
    shifted = block.prompt({"image": None}, looks, context)["image"]
    shift = after.prompt_tokens(context["image"]).mean(dim=1) @ after.weight.t()  # (batch, width)
    torch.testing.assert_close(shifted.last_hidden_state, first.last_hidden_state + shift[:, None])
    torch.testing.assert_close(shifted.pooler_output, first.pooler_output + shift)


def normalised(vectors: torch.Tensor) -> torch.Tensor:
    centred = vectors - vectors.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def test_an_answer_is_the_attention_weighted_mean_of_tokens():
    block, looks = make_block(prompt="none"), first_looks()
    context = {name: torch.randn(2, 3, 4) for name in WIDTHS}
    found = block.prompt(dict.fromkeys(WIDTHS), looks, context)
    for name, look in looks.items():
        state = look.state
        reader, tokens = block.answer_readers[name], normalised(state.last_hidden_state)
        asked = normalised(context[name] + reader.queries)
        keys = normalised(tokens @ reader.key.weight.t() + reader.key.bias)
        fit = torch.einsum("bpw,bnw->bpn", asked, keys) / 2.0  # the square root of the bottleneck's width
        expected = torch.einsum("bpn,bnw->bpw", fit.softmax(-1), tokens)
        torch.testing.assert_close(found[name].answers, expected)
        assert found[name].last_hidden_state is state.last_hidden_state
        assert state.answers is None


def test_answers_exclude_padding():
    reader = make_block().answer_readers["video"]
    context = torch.randn(2, 3, 4, requires_grad=True)
    state = make_states(answers=False)["video"]
    state.token_mask = torch.tensor([[True] * 5 + [False] * 2, [False] * 7])
    answers = reader(context, state)
    single = NeuronState(state.last_hidden_state[:1, :5], state.pooler_output[:1], (1, 1, 5))
    expected = reader(context[:1], single)
    torch.testing.assert_close(answers[:1], expected)
    answers.sum().backward()  # the second sample has only padding, so the neuron is absent
    assert all(p.grad.isfinite().all() for p in reader.parameters())


def test_without_read_answers_there_are_no_answers():
    block, looks = make_block(read_answers=False, prompt="tokens"), first_looks()
    assert not block.answer_readers
    block.prompting = torch.nn.ModuleDict({name: NoPrompts(None, None) for name in WIDTHS})
    context = {name: torch.randn(2, 3, 4) for name in WIDTHS}
    assert all(state.answers is None for state in block.prompt(dict.fromkeys(WIDTHS), looks, context).values())


def test_units_without_a_slice_of_an_answer_read_only_the_pooled_output():
    reader = StateReader(width=6, hidden_size=11, num_answers=3)
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter)
    reader.norm = torch.nn.Identity()
    state = make_states()["video"]
    before = reader(state)
    state.answers[:, 2] += 1.0
    changed = (reader(state) != before).any(dim=0)
    assert changed.tolist() == [False] * 6 + [True] * 3 + [False] * 2


@pytest.mark.slow
def test_blocks_compile_without_graph_breaks():
    block, states = make_block(prompt="none"), make_states()
    looks = first_looks()
    head = FusionHead(make_config())
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)

    def round_of(states, present):
        summary, embeds = head(states, present)
        context = block.distribute(block.integrate(states, present), summary, list(states))
        after = block.prompt(dict.fromkeys(WIDTHS), looks, context)
        return context, {name: state.answers for name, state in after.items()}, embeds

    expected = round_of(states, EVERYONE)
    compiled = torch.compile(round_of, fullgraph=True, backend="aot_eager")(states, EVERYONE)
    for found, wanted in zip(compiled, expected, strict=True):
        torch.testing.assert_close(found, wanted)
