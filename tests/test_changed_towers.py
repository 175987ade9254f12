"""Towers whose weights differ from their checkpoint are saved beside the association; the others are not."""

import copy
import os
import shutil

import pytest
import torch
from random_sen import SMALL, random_inputs, random_weights
from transformers import TrainingArguments

from modeling_sen import SENModel
from modeling_sen.training.trainer import SENTrainer

TEXTS = {"text_input_ids": torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513], [512, 8, 8, 513]])}
LABELS = {"labels": torch.tensor([0, 2])}


@pytest.fixture
def model(make_sen):
    return random_weights(make_sen())


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**random_inputs(), **TEXTS).logits_per_video


def in_place(model):
    with torch.no_grad():
        model.neurons["image"].tower.get_parameter("encoder.layers.1.mlp.fc1.bias")[3] += 0.5


def through_data(model):
    """The tensor's version counter does not register this change; peft merges adapters in this way."""
    model.neurons["image"].tower.get_parameter("encoder.layers.0.self_attn.q_proj.weight").data += 0.1


def by_an_optimizer(model):
    model.neurons["image"].tower.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.neurons["image"].tower.parameters(), lr=0.01)
    model(**random_inputs(), **TEXTS, **LABELS).loss.backward()
    optimizer.step()


def by_a_state_dict(model):
    tower = model.neurons["image"].tower
    tower.load_state_dict({name: weight.flip(0) for name, weight in tower.state_dict().items()})


def by_a_swap_of_rows(model):
    """The tensor keeps the same values, in other rows."""
    weight = model.neurons["image"].tower.get_parameter("encoder.layers.2.self_attn.v_proj.weight")
    weight.data[[0, 1]] = weight.data[[1, 0]]


def in_its_projection(model):
    model.neurons["image"].projection.weight.data[:4] += 0.5


CHANGES = [in_place, through_data, in_its_projection]
CHANGES += [
    pytest.param(each, marks=pytest.mark.slow) for each in (by_an_optimizer, by_a_state_dict, by_a_swap_of_rows)
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_tower_is_saved(change, model, tmp_path, caplog):
    plain = outputs(model)
    change(model)
    model.save_pretrained(tmp_path / "sen")
    assert [path.name for path in (tmp_path / "sen").glob("neuron_*")] == ["neuron_image"]
    (warning,) = [message for message in caplog.messages if "differ from those of" in message]
    assert warning.startswith("neuron 'image': its weights (e.g. ")
    assert warning.endswith("clip; its tower is saved to neuron_image/")
    loaded = SENModel.from_pretrained(tmp_path / "sen")
    assert not torch.allclose(outputs(model), plain)
    torch.testing.assert_close(outputs(loaded), outputs(model), atol=1e-6, rtol=1e-5)
    kinds = {spec.name: spec.is_relative for spec in loaded.config.neuron_specs}
    assert kinds == {"image": True, "video": False, "audio": False}
    assert (tmp_path / "sen" / "neuron_image" / "preprocessor_config.json").is_file()


def test_towers_equal_to_their_checkpoint_are_not_saved(model, tmp_path):
    model.neurons["image"].tower.requires_grad_(True)  # not trained yet
    with torch.no_grad():
        weight = next(model.neurons["video"].tower.parameters())
        before = weight.clone()
        weight += 1.0
        weight.copy_(before)
    for number, one in enumerate((model, copy.deepcopy(model), copy.deepcopy(model).to("cpu", torch.bfloat16))):
        one.save_pretrained(tmp_path / f"{number}")
        assert list((tmp_path / f"{number}").glob("neuron_*")) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_a_cast_does_not_count_as_a_change_and_its_dtype_is_kept(dtype, model, tmp_path):
    model.neurons["image"].to(dtype)
    model.neurons["video"].tower.to(dtype)
    model.save_pretrained(tmp_path / "cast")
    assert list((tmp_path / "cast").glob("neuron_*")) == []
    loaded = SENModel.from_pretrained(tmp_path / "cast")
    assert {name: loaded.neurons[name].dtype for name in loaded.specs} == {
        "image": dtype,
        "video": dtype,
        "audio": torch.float32,
    }
    through_data(loaded)
    loaded.save_pretrained(tmp_path / "changed")
    again = SENModel.from_pretrained(tmp_path / "changed")
    assert again.neurons["image"].dtype == dtype
    assert again.config.neuron_specs[0].hub_id == "./neuron_image"
    weights, others = loaded.neurons["image"].tower.state_dict(), again.neurons["image"].tower.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_changed_tower_that_several_neurons_share_is_compared_and_saved_once(towers, tmp_path, caplog):
    depth = {"hub_id": towers["clip"], "name": "depth", "modality": "depth", "num_frames": 2}
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, depth]
    model = SENModel.from_neurons(neurons, projection_dim=12, **SMALL)
    assert model.load_state_dict(model.state_dict()).missing_keys == []
    through_data(model)
    model.save_pretrained(tmp_path / "sen")
    assert [path.name for path in (tmp_path / "sen").glob("neuron_*")] == ["neuron_image"]
    assert len([message for message in caplog.messages if "differ from those of" in message]) == 1
    loaded = SENModel.from_pretrained(tmp_path / "sen")
    assert loaded.neurons["image"].tower is loaded.neurons["depth"].tower
    weight = "encoder.layers.0.self_attn.q_proj.weight"
    assert torch.equal(*(each.neurons["depth"].tower.get_parameter(weight) for each in (model, loaded)))


@pytest.mark.slow
def test_modules_after_a_text_tower_are_saved_with_it(tmp_path):
    """A sentence-transformers checkpoint with a linear layer after the pooling."""
    pytest.importorskip("sentence_transformers")
    from sentence_models import make_backbones
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    backbone = make_backbones(tmp_path / "backbones")["bert"]
    modules = [Transformer(backbone), Pooling(16, "mean"), Normalize(), Dense(16, 8)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "text"))
    pictures = {"hub_id": str(tmp_path / "text"), "name": "words"}
    model = SENModel.from_neurons([pictures], text_tower=str(tmp_path / "text"), **SMALL)
    ids = torch.tensor([[2, 7, 9, 3], [2, 12, 8, 3]])
    plain = model.get_text_features(ids).pooler_output
    model.save_pretrained(tmp_path / "plain")
    assert list((tmp_path / "plain").glob("neuron_*")) == []
    model.neurons.text_tower.sentence.after[1].linear.weight.data.mul_(-1.5)
    expected = model.get_text_features(ids).pooler_output
    model.save_pretrained(tmp_path / "changed")
    loaded = SENModel.from_pretrained(tmp_path / "changed")
    torch.testing.assert_close(loaded.get_text_features(ids).pooler_output, expected)
    assert not torch.allclose(plain, expected)


def test_a_tower_whose_checkpoint_was_deleted_is_saved(towers, tmp_path, caplog):
    folder = shutil.copytree(towers["clip"], tmp_path / "clip")
    model = SENModel.from_neurons([{"hub_id": str(folder), "num_frames": 2}], projection_dim=12, **SMALL)
    shutil.rmtree(folder)
    model.save_pretrained(tmp_path / "sen")
    for reason in ("it cannot be loaded again (", "its processor's files are not saved with its tower ("):
        assert any(message.startswith(f"neuron 'image': {reason}") for message in caplog.messages)
    pictures = {"image_pixel_values": random_inputs()["image_pixel_values"]}
    with torch.no_grad():
        expected, found = model(**pictures), SENModel.from_pretrained(tmp_path / "sen")(**pictures)
    torch.testing.assert_close(found.fused_embeds, expected.fused_embeds)


def test_different_values_of_weights_used_only_in_training_do_not_count_as_a_change(towers, tmp_path):
    """If a checkpoint lacks them, each load draws them at random. The check leaves torch's generator as it was."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(towers["hubert"], tmp_path / "hubert")
    weights = load_file(folder / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = SENModel.from_neurons([str(folder)], projection_dim=12, **SMALL)
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path / "sen")
    assert torch.equal(torch.get_rng_state(), state)
    assert list((tmp_path / "sen").glob("neuron_*")) == []


def test_quantised_towers_do_not_count_as_changed(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        model.neurons["image"].tower.config, "quantization_config", {"quant_method": "x"}, raising=False
    )
    through_data(model)
    assert model.neurons._difference(model.neurons["image"]) is None


def test_towers_with_weights_on_disk_do_not_count_as_changed(model, tmp_path):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path / "sen")
    kwargs = {"video": {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "offload")}}
    loaded = SENModel.from_pretrained(tmp_path / "sen", neuron_kwargs=kwargs)
    assert all(parameter.is_meta for parameter in loaded.neurons["video"].parameters())
    loaded.save_pretrained(tmp_path / "again")
    assert list((tmp_path / "again").glob("neuron_*")) == []


def test_a_tower_without_its_lower_layers_is_not_saved(model, tmp_path):
    model.neurons["image"].prompted_tower.drop_trunk()
    model.save_pretrained(tmp_path / "sen")
    assert list((tmp_path / "sen").glob("neuron_*")) == []
    with pytest.raises(
        ValueError, match="neuron 'image': its tower cannot be written, as its layers below the prompts"
    ):
        model.save_pretrained(tmp_path / "whole", include_neurons=True)
    assert not os.path.exists(tmp_path / "whole")


@pytest.mark.slow
def test_a_trainer_resumes_with_trained_towers(make_sen, tmp_path):
    rows = [
        {**{name: value[0] for name, value in random_inputs(1, seed).items()}, "labels": seed % 3} for seed in range(4)
    ]
    settings = {"max_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.01}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "rank", "greater_is_better": False}
    settings |= {"per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True}

    def task(model, batch):
        return {"loss": model(**batch, text_embeds=torch.eye(12)[:3]).loss}

    def trainer():
        torch.manual_seed(0)
        model = random_weights(make_sen())
        model.neurons["image"].tower.requires_grad_(True)
        arguments = TrainingArguments(output_dir=str(tmp_path / "run"), **settings)
        ranks = iter((1.0, 2.0))  # the first checkpoint is the best
        measure = {"measure": lambda model: {"rank": next(ranks, 3.0)}}
        return SENTrainer(model, arguments, train_dataset=rows, task=task, **measure)

    first, last = (tmp_path / "run" / f"checkpoint-{step}" for step in (1, 2))
    whole = trainer()
    whole.train()
    assert (first / "neuron_image").is_dir()
    assert torch.equal(outputs(whole.model), outputs(SENModel.from_pretrained(first)))
    expected = outputs(SENModel.from_pretrained(last))
    resumed = trainer()
    resumed.args.load_best_model_at_end = False
    resumed.train(resume_from_checkpoint=str(first))
    torch.testing.assert_close(outputs(resumed.model), expected)
    assert not torch.allclose(outputs(whole.model), expected)
