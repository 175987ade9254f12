"""Training a SENModel through its frozen towers."""

import copy

import pytest
import torch
from conftest import random_inputs, random_weights


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs, text_embeds=torch.eye(12)[:3], labels=torch.tensor([0, 2])).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_towers_stay_in_evaluation_mode(make_sen, towers):
    model = make_sen()
    for neuron in [*model.neurons.by_name.values(), model.neurons.text_tower]:
        for module in neuron.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.9
    random_weights(model)
    with torch.no_grad():
        expected = model.eval()(**random_inputs()).fused_embeds
        assert torch.equal(model.train()(**random_inputs()).fused_embeds, expected)
    assert model.training
    assert model.fusion.training
    assert not model.neurons.by_name["image"].tower.training


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")
def test_activation_checkpointing_recomputes_and_gives_the_same_gradients(make_sen):
    model, inputs = random_weights(make_sen(prompt_depth=2)).train(), random_inputs()
    loss, gradients = loss_and_gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = {name: [] for name in model.neurons.by_name}
    for name, neuron in model.neurons.by_name.items():
        # What runs inside the layer, and so once more when it is recomputed.
        layer = neuron.prompted_tower.layers[-1]
        inner = next(module for module in layer.modules() if isinstance(module, torch.nn.LayerNorm))
        inner.register_forward_hook(lambda *_, name=name: calls[name].append(1))
    again, same = loss_and_gradients(model, inputs)
    # First look, three rounds, and each round once more in the backward pass.
    assert {name: len(made) for name, made in calls.items()} == dict.fromkeys(calls, 1 + 3 + 3)
    assert torch.equal(loss, again)
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient)
    model.gradient_checkpointing_disable()
    calls["image"].clear()
    loss_and_gradients(model, inputs)
    assert len(calls["image"]) == 1 + 3


def test_bfloat16_autocast_trains(make_sen):
    model, inputs = random_weights(make_sen()).train(), random_inputs()
    loss, _ = loss_and_gradients(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        lower, gradients = loss_and_gradients(model, inputs)
    torch.testing.assert_close(lower.float(), loss, atol=0.1, rtol=0.1)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


def test_a_step_of_training_lowers_the_loss(make_sen):
    model, inputs = make_sen().train(), random_inputs()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        losses.append(loss_and_gradients(model, inputs)[0].item())
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])


def test_deepcopy_is_independent(make_sen):
    model, inputs = random_weights(make_sen()), random_inputs()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(**inputs).fused_embeds
        assert torch.equal(twin(**inputs).fused_embeds, expected)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model(**inputs).fused_embeds, expected)
