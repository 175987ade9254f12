"""The editing adapter on a UNet: what an untrained one changes, what each part adds, and bad inputs."""

import copy
import math

import pytest
import torch
from random_editing import make_unet, per_frame, random_step, randomize

pytest.importorskip("diffusers")

from diffusers.models.attention_processor import AttnProcessor

from modeling_sen.editing.conditioning import FeatureReader, ResidualConditioning, frame_tokens, mean_at
from modeling_sen.editing.edit_adapter import SENEditAdapter, residual_sizes, unet_shape

WIDTHS = {"image": 10, "video": 6}
KINDS = [("sd1", 12), ("sd2", 20)]


def features(videos=1, frames=3, seed=4):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"image": (5, 5, 10), "video": (2, 3, 6)}
    return {name: torch.randn(videos, frames, *shape, generator=generator) for name, shape in shapes.items()}


def attached(unet, conditioning="residual+cross", **settings):
    return SENEditAdapter.from_unet(unet, conditioning, WIDTHS, **settings).attach(unet)


def run(adapter, *step, **kwargs):
    with torch.no_grad():
        return adapter(*step, **kwargs)


# --- an untrained adapter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "text_width"), KINDS)
def test_one_frame_equals_the_output_of_the_base_unet_bit_for_bit(kind, text_width, dtype):
    unet = make_unet(kind).to(dtype)
    step = [each.to(dtype) if each.is_floating_point() else each for each in random_step(2, 1, (8, 6), text_width)]
    expected = per_frame(unet, *step)
    adapter = attached(unet)
    assert torch.equal(run(adapter, *step), expected)
    assert torch.equal(run(adapter, *step, features=features(frames=1)), expected)


def sparse_causal_by_hand(attn, hidden_states, frames):
    """Every frame, head and query in a loop."""
    outputs = []
    for index, own in enumerate(hidden_states):
        start = index - index % frames
        seen = torch.cat([hidden_states[start], hidden_states[max(start, index - 1)]])
        query, key, value = own @ attn.to_q.weight.T, seen @ attn.to_k.weight.T, seen @ attn.to_v.weight.T
        width = query.shape[-1] // attn.heads
        heads = [slice(head * width, (head + 1) * width) for head in range(attn.heads)]
        weights = [(query[:, head] @ key[:, head].T / math.sqrt(width)).softmax(dim=-1) for head in heads]
        outputs.append(torch.cat([each @ value[:, head] for each, head in zip(weights, heads, strict=True)], dim=-1))
    return attn.to_out[0](torch.stack(outputs))


class ByHand(AttnProcessor):
    def __init__(self, frames):
        super().__init__()
        self.frames = frames

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if encoder_hidden_states is not None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        return sparse_causal_by_hand(attn, hidden_states, self.frames)


@pytest.mark.parametrize(("kind", "text_width"), KINDS)
def test_frames_attend_to_the_first_and_the_previous_one(kind, text_width):
    unet, step = make_unet(kind), random_step(2, 3, text_width=text_width)
    reference = make_unet(kind)
    reference.set_attn_processor(ByHand(3))
    expected = per_frame(reference, *step)
    torch.testing.assert_close(run(attached(unet), *step, features=features()), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, per_frame(make_unet(kind), *step), atol=1e-3)


def test_detaching_restores_the_unet():
    unet, step = make_unet(), random_step()
    names, processors, expected = list(unet.state_dict()), list(unet.attn_processors.values()), per_frame(unet, *step)
    adapter = randomize(attached(unet))
    assert list(unet.state_dict()) == names
    changed = run(adapter, *step, features=features())
    adapter.detach()
    assert adapter.unet is None
    assert list(unet.attn_processors.values()) == processors
    assert torch.equal(per_frame(unet, *step), expected)
    assert not torch.allclose(changed, expected, atol=1e-3)
    assert torch.equal(run(adapter.attach(unet), *step, features=features()), changed)


def test_a_copy_has_its_own_unet():
    adapter = randomize(attached(make_unet()))
    other, step = copy.deepcopy(adapter), random_step()
    expected = run(adapter, *step)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert other.unet is not adapter.unet
    assert torch.equal(run(adapter, *step), expected)
    assert not torch.allclose(run(other, *step), expected, atol=1e-3)


# --- trained weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [("attn1",), ("attn1", "attn2"), ()])
def test_query_deltas_are_those_of_the_base_weights(queries):
    unet, step = make_unet(), random_step()
    adapter = attached(unet, trained_queries=queries)
    changed = make_unet()
    for path, (width, _) in unet_shape(unet)[0].items():
        for name in queries:
            delta = torch.randn(width, width) * 0.3
            adapter.get_submodule(f"{path}.{name}").to_q_delta.weight.data.copy_(delta)
            changed.get_submodule(f"{path}.{name}").to_q.weight.data.add_(delta)
    expected = run(attached(changed), *step)
    torch.testing.assert_close(run(adapter, *step), expected, rtol=1e-4, atol=1e-5)
    if queries:
        assert not torch.allclose(expected, run(attached(make_unet()), *step), atol=1e-3)


def test_temporal_attention_follows_the_feed_forward():
    unet, step = make_unet(), random_step()
    adapter = attached(unet)
    path = "mid_block.attentions.0.transformer_blocks.0"
    before, found = unet.get_submodule(path), []
    randomize(adapter.get_submodule(path))
    reference = copy.deepcopy(before)
    reference._forward_hooks.clear()
    before.register_forward_hook(
        lambda block, args, kwargs, output: found.append((args, kwargs, output)), with_kwargs=True
    )
    run(adapter, *step)
    (args, kwargs, output) = found[0]
    with torch.no_grad():
        states = reference(*args, **kwargs)
        own = adapter.get_submodule(path)
        expected = states + own.attn_temp(own.norm_temp(states), 3)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("conditioning", ["residual", "cross"])
def test_features_of_each_frame_change_the_output(conditioning):
    adapter, step = randomize(attached(make_unet(), conditioning)), random_step(1, 3)
    given = features()
    expected = run(adapter, *step, features=given)
    assert not torch.allclose(run(adapter, *step), expected, atol=1e-3)
    for frame in range(3):
        other = {name: values.clone() for name, values in given.items()}
        other["image"][:, frame].neg_()
        assert not torch.allclose(run(adapter, *step, features=other), expected, atol=1e-4)
    assert not torch.allclose(run(adapter, *step, features={"video": given["video"]}), expected, atol=1e-4)


def test_without_neurons_the_adapter_equals_that_of_tune_a_video():
    unet, step = make_unet(), random_step()
    adapter = randomize(SENEditAdapter.from_unet(unet).attach(unet))
    assert all(name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for name, _ in adapter.named_parameters())
    assert not torch.allclose(run(adapter, *step), per_frame(make_unet(), *step), atol=1e-3)


@pytest.mark.parametrize("conditioning", ["residual", "cross", "residual+cross"])
def test_both_halves_of_guidance_read_the_same_features(conditioning):
    """A batch of [without text | with text], two videos each, is the four of them one by one."""
    adapter = randomize(attached(make_unet(), conditioning), 0.2)
    latents, times, texts = random_step(2, 3)
    other_texts = random_step(2, 3, seed=1)[2]
    given = features(videos=2)
    step = torch.cat([latents, latents]), torch.cat([times, times]), torch.cat([texts, other_texts])
    found = run(adapter, *step, features=given)
    for row in range(4):
        own = {name: values[row % 2 : row % 2 + 1] for name, values in given.items()}
        single = run(adapter, *(each[row : row + 1] for each in step), features=own)
        torch.testing.assert_close(found[row : row + 1], single, rtol=1e-4, atol=1e-4)


def test_a_mask_of_the_text_is_kept():
    unet = make_unet()
    latents, times, texts = random_step(2, 1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = unet(latents[:, :, 0], times, texts, encoder_attention_mask=mask).sample
    attached(unet)
    assert torch.equal(unet(latents[:, :, 0], times, texts, encoder_attention_mask=mask).sample, expected)


# --- conditioning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_residuals_have_the_sizes_that_the_down_blocks_take(size):
    types = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    ups = ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")
    unet = make_unet(block_out_channels=(4, 8, 8, 8), down_block_types=types, up_block_types=ups)
    adapter, step = randomize(attached(unet, "residual")), random_step(1, 3, size)
    assert len(residual_sizes(unet, size)) == 4
    assert run(adapter, *step, features=features()).shape == step[0].shape


def test_residuals_are_maps_of_the_mean_neuron_at_the_size_of_the_block():
    reader, residual = randomize(FeatureReader(WIDTHS, 8)), randomize(ResidualConditioning(8, [4, 6]))
    maps = reader(features(), torch.float32)
    found = residual(maps, [(8, 8), (3, 2)])
    assert [each.shape for each in found] == [(3, 4, 8, 8), (3, 6, 3, 2)]
    image = features()["image"][0, 1]  # (rows, columns, width) of the second frame
    norm, enter = reader.norms["image"], reader.enter["image"]
    image = enter(torch.nn.functional.layer_norm(image, (10,), norm.weight, norm.bias))
    torch.testing.assert_close(maps[0][1], image.permute(2, 0, 1))
    hidden = torch.nn.functional.gelu(mean_at(maps, (8, 8)))
    weight, bias = residual.leave[0].weight[..., None, None], residual.leave[0].bias
    torch.testing.assert_close(found[0], torch.nn.functional.conv2d(hidden, weight, bias))


def test_maps_keep_their_spatial_layout():
    """A corner of a neuron's grid is that corner of the block's, whatever the two sizes are."""
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        spot = torch.zeros(1, 1, 6, 6)
        spot[..., corner[0], corner[1]] = 1.0
        for size in ((8, 12), (3, 4)):
            found = mean_at([spot], size)[0, 0]
            assert found.argmax() == found[corner] * 0 + torch.arange(size[0] * size[1]).view(size)[corner]


def test_tokens_have_positions_of_their_frame():
    constant = [torch.ones(6, 18, 5, 5)]  # two videos of three frames
    tokens = frame_tokens(constant, 3)
    assert tokens.shape == (6, 64, 18)
    assert torch.equal(tokens[:3], tokens[3:])
    assert len(tokens[:3].flatten(0, 1).unique(dim=0)) == 3 * 64


# --- gradients -------------------------------------------------------------------------------------------------------


def gradients(adapter, step, given, frozen=True):
    adapter.unet.requires_grad_(not frozen)
    adapter.zero_grad()
    loss = adapter(*step, features=given).square().mean()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}


def test_gradients_reach_every_weight_of_the_adapter_and_none_of_the_unet():
    adapter, given = randomize(attached(make_unet())), features()
    given["image"].requires_grad_()
    found = gradients(adapter, random_step(), given)
    assert all(grad.abs().sum() > 0 for grad in found.values())
    assert given["image"].grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in adapter.unet.parameters())


def test_checkpointing_gives_the_same_gradients():
    """Also where another clip, of other frames, was run before the gradients are computed."""
    adapter, step, given = randomize(attached(make_unet())), random_step(), features()
    expected = gradients(adapter, step, given)
    adapter.unet.enable_gradient_checkpointing()
    adapter.unet.train()
    adapter.zero_grad()
    loss = adapter(*step, features=given).square().mean()
    run(adapter, *random_step(1, 2), features=features(frames=2))
    loss.backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_float32_weights_are_trained_on_a_base_in_bfloat16():
    adapter = randomize(attached(make_unet().bfloat16()), 0.1)
    latents, times, texts = random_step()
    step = latents.bfloat16(), times, texts.bfloat16()
    assert run(adapter, *step, features=features()).dtype == torch.bfloat16
    found = gradients(adapter, step, features())
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    assert all(grad.isfinite().all() and grad.any() for grad in found.values())


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"trained_queries": ("attn1", "attn2"), "conditioning": "residual"}])
def test_a_saved_adapter_gives_the_same_output(tmp_path, settings):
    adapter = randomize(attached(make_unet(), **settings))
    adapter.save_pretrained(tmp_path)
    found = SENEditAdapter.from_pretrained(tmp_path).attach(make_unet())
    step = random_step()
    assert torch.equal(run(found, *step, features=features()), run(adapter, *step, features=features()))


# --- bad inputs ------------------------------------------------------------------------------------------------------


def test_an_adapter_of_another_base_is_an_error():
    adapter = SENEditAdapter.from_unet(make_unet(), neuron_widths=WIDTHS)
    for other in (make_unet("sd2"), make_unet(block_out_channels=(8, 32)), make_unet(layers_per_block=2)):
        before = list(other.attn_processors.values())
        with pytest.raises(
            ValueError, match=r"adapter of another base model: it was made for a UNet with 4 transformer"
        ):
            adapter.attach(other)
        assert list(other.attn_processors.values()) == before
    adapter.attach(make_unet())


def test_a_second_attachment_is_an_error():
    unet = make_unet()
    adapter = SENEditAdapter.from_unet(unet)
    with pytest.raises(ValueError, match="attached to no UNet"):
        adapter.detach()
    with pytest.raises(ValueError, match="attached to no UNet"):
        adapter(*random_step())
    adapter.attach(unet)
    with pytest.raises(ValueError, match="attached to a UNet already"):
        adapter.attach(make_unet())
    with pytest.raises(ValueError, match="has an adapter already"):
        SENEditAdapter.from_unet(unet).attach(unet)


def test_other_models_are_errors():
    with pytest.raises(ValueError, match="found a Linear, expected a UNet2DConditionModel"):
        SENEditAdapter.from_unet(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="class_embed_type is 'timestep', expected a UNet2D"):
        SENEditAdapter.from_unet(make_unet(class_embed_type="timestep"))
    with pytest.raises(ValueError, match="lacks self-attention or attention to text"):
        SENEditAdapter.from_unet(make_unet(only_cross_attention=True))
    types = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": None}
    with pytest.raises(ValueError, match="it has no transformer blocks"):
        SENEditAdapter.from_unet(make_unet(**types))
    with pytest.raises(ValueError, match="conditioning is 'concat', expected one of residual, cross"):
        SENEditAdapter.from_unet(make_unet(), "concat")


def test_inconsistent_shapes_are_errors():
    adapter = attached(make_unet())
    latents, times, texts = random_step(3)
    with pytest.raises(
        ValueError, match=r"latents: expected \(batch, channels, frames, h, w\), found shape \(3, 4, 8, 8\)"
    ):
        adapter(latents[:, :, 0], times, texts)
    with pytest.raises(ValueError, match="text_states: expected 3 rows, one for each video of latents, found 2"):
        adapter(latents, times, texts[:2])
    with pytest.raises(
        ValueError, match=r"features of 'image': expected \(videos, 3, rows, columns, 10\).*found shape"
    ):
        adapter(latents, times, texts, features(frames=2))
    with pytest.raises(ValueError, match="number of videos that divides the batch of 3"):
        adapter(latents, times, texts, features(videos=2))
    with pytest.raises(ValueError, match="reads no neuron 'sound', expected image, video"):
        adapter(latents, times, texts, {"sound": features()["image"]})
