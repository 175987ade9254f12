"""Training of a SENModel through its frozen towers."""

import copy

import pytest
import torch
from random_sen import random_inputs, random_weights
from safetensors import safe_open
from transformers import Trainer, TrainingArguments

from modeling_sen import SENModel


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs, text_embeds=torch.eye(12)[:3], labels=torch.tensor([0, 2])).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_towers_stay_in_evaluation_mode(make_sen, towers):
    model = make_sen()
    for neuron in model.neurons.values():
        for module in neuron.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.9
    random_weights(model)
    with torch.no_grad():
        expected = model.eval()(**random_inputs()).fused_embeds
        assert torch.equal(model.train()(**random_inputs()).fused_embeds, expected)
    assert model.training
    assert model.fusion.training
    assert not model.neurons["image"].tower.training


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")
# Queries are few and are not recomputed.
@pytest.mark.parametrize(("prompt", "recomputed"), [("tokens", 3), ("queries", 0)])
def test_activation_checkpointing_recomputes_and_gives_the_same_gradients(prompt, recomputed, make_sen):
    model, inputs = random_weights(make_sen(prompt=prompt, prompt_depth=2)).train(), random_inputs()
    loss, gradients = loss_and_gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = {name: [] for name in model.specs}
    for name in model.specs:
        neuron = model.neurons[name]
        # A module inside the layer, which is called again if the layer is recomputed.
        layer = neuron.prompted_tower.all_layers[-1]
        inner = next(module for module in layer.modules() if isinstance(module, torch.nn.LayerNorm))
        inner.register_forward_hook(lambda *_, name=name: calls[name].append(1))
    again, same = loss_and_gradients(model, inputs)
    # The first look, three rounds, and with `tokens` each round once more in the backward pass.
    assert {name: len(made) for name, made in calls.items()} == dict.fromkeys(calls, 1 + 3 + recomputed)
    assert torch.equal(loss, again)
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient)
    model.gradient_checkpointing_disable()
    calls["image"].clear()
    loss_and_gradients(model, inputs)
    assert len(calls["image"]) == 1 + 3


def test_activation_checkpointing_applies_to_towers_that_are_loaded_later(make_sen):
    model, inputs = SENModel(make_sen(prompt="tokens", prompt_depth=2).config), random_inputs()
    assert not model.is_activation_checkpointing
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    random_weights(model.load_neurons().train())
    calls = []
    layer = model.neurons["image"].prompted_tower.all_layers[-1]
    layer.layer_norm1.register_forward_hook(lambda *_: calls.append(1))
    _, gradients = loss_and_gradients(model, inputs)
    assert len(calls) == 1 + 3 + 3
    model.activation_checkpointing_disable()
    calls.clear()
    _, same = loss_and_gradients(model, inputs)
    assert len(calls) == 1 + 3
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient)


def test_weights_missing_in_a_checkpoint_are_initialised_as_in_a_new_model(make_sen):
    """Transformers initialises missing weights after creating them empty; a new model initialises its own."""
    config = make_sen(bottleneck_size=32).config  # enough values to compare standard deviations
    torch.manual_seed(3)
    new = SENModel(config)
    filled = SENModel.from_pretrained(None, config=config, state_dict={})
    assert new.state_dict().keys() == filled.state_dict().keys()
    for name, weight in filled.state_dict().items():
        assert bool(weight.isfinite().all()), name
        spread = new.state_dict()[name].std() if weight.ndim > 0 else torch.tensor(0.0)
        torch.testing.assert_close(weight.std() if weight.ndim > 0 else torch.tensor(0.0), spread, atol=5e-3, rtol=0.3)


def trainer_rows(count=6):
    """Rows of a data set: inputs, a label, and a column that no neuron reads."""
    return [
        {**{name: value[0] for name, value in random_inputs(1, row).items()}, "labels": row % 3, "path": f"{row}.mp4"}
        for row in range(count)
    ]


def collate_labelled(rows):
    assert all("path" not in row for row in rows)  # the Trainer removed this column only
    inputs = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}
    return {**inputs, "text_embeds": torch.eye(12)[:3], "labels": torch.tensor([row["labels"] for row in rows])}


def collate_pairs(rows):
    inputs = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}
    return {
        **inputs,
        "text_embeds": torch.eye(12)[: len(rows)],
        "labels": torch.arange(len(rows)),
        "return_loss": True,
    }


@pytest.mark.parametrize("collate", [collate_labelled, collate_pairs])
def test_the_stock_trainer_trains_evaluates_and_loads_the_best_checkpoint(make_sen, tmp_path, collate):
    pytest.importorskip("accelerate")
    model = make_sen()
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    arguments = TrainingArguments(
        tmp_path,
        max_steps=4,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=trainer_rows(), eval_dataset=trainer_rows(4)
    )
    assert 0 < trainer.train().training_loss < 20
    assert any(not torch.equal(start[name], weight) for name, weight in model.state_dict().items())
    losses = {line["step"]: line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line}
    assert set(losses) == {2, 4}
    best = min(losses, key=losses.get)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-5)
    with safe_open(tmp_path / f"checkpoint-{best}" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(start)


def test_labels_with_return_loss_assign_texts_to_videos(make_sen):
    model, inputs, texts = random_weights(make_sen()), random_inputs(3), torch.eye(12)[:3]
    with torch.no_grad():
        expected = model(**inputs, text_embeds=texts, return_loss=True).loss
        order = torch.tensor([2, 0, 1])
        shuffled = torch.empty_like(texts)
        shuffled[order] = texts
        found = model(**inputs, text_embeds=shuffled, labels=order, return_loss=True).loss
        one_way = model(**inputs, text_embeds=texts, labels=torch.arange(3)).loss
    torch.testing.assert_close(found, expected)
    assert (one_way - expected).abs() > 1e-3
    with pytest.raises(ValueError, match="one text per video, found 3 videos and 2 texts"):
        model(**inputs, text_embeds=texts[:2], labels=torch.tensor([0, 1, 1]), return_loss=True)


def test_a_logit_bias_is_trained_saved_and_loaded(make_sen, tmp_path):
    model, inputs, texts = random_weights(make_sen()), random_inputs(), torch.eye(12)[:3]
    with torch.no_grad():
        before = model(**inputs, text_embeds=texts).logits_per_video
    model.add_logit_bias(-10.0)
    assert model.logit_bias.requires_grad
    model.logit_bias.data.fill_(-3.0)
    model.save_pretrained(tmp_path)
    loaded = SENModel.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs, text_embeds=texts).logits_per_video, before - 3.0)
    assert SENModel(loaded.config).logit_bias.item() == -10.0


def test_training_works_under_bfloat16_autocast(make_sen):
    model, inputs = random_weights(make_sen()).train(), random_inputs()
    loss, _ = loss_and_gradients(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        lower, gradients = loss_and_gradients(model, inputs)
    torch.testing.assert_close(lower.float(), loss, atol=0.1, rtol=0.1)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


def test_a_training_step_lowers_the_loss(make_sen):
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


def test_a_deepcopy_is_independent(make_sen):
    model, inputs = random_weights(make_sen()), random_inputs()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(**inputs).fused_embeds
        assert torch.equal(twin(**inputs).fused_embeds, expected)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model(**inputs).fused_embeds, expected)
