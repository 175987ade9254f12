"""peft's adapters on a SEN: their gradients, their training, saving without the towers, and loading."""

import warnings

import pytest
import torch
from random_sen import SMALL, assert_gradient_is_that_of_finite_differences, random_inputs, random_weights
from safetensors.torch import load_file
from transformers import AutoModel, TrainingArguments
from transformers.integrations import peft as transformers_peft

from modeling_sen import SENModel
from modeling_sen.training.feature_cache import FeatureCache
from modeling_sen.training.trainer import SENTrainer

peft = pytest.importorskip("peft")

TEXTS = {"text_input_ids": torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513], [512, 8, 8, 513]])}
LABELS = {"labels": torch.tensor([0, 2])}
TOWERS = ["q_proj", "v_proj"]  # maps of the frame, sound and class text towers
ASSOCIATION = ["down", "linear"]


@pytest.fixture(scope="module")
def saved(towers, tmp_path_factory):
    torch.manual_seed(1)
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"]]
    model = random_weights(SENModel.from_neurons(neurons, text_tower=towers["clip"], **SMALL))
    folder = tmp_path_factory.mktemp("adapters") / "sen"
    model.save_pretrained(folder)
    return folder


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**random_inputs(), **TEXTS).logits_per_video


def trained(model, steps: int = 3):
    """Trains a few steps; returns the trained parameters and their values before."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.5)
    model.train()
    for _ in range(steps):
        model(**random_inputs(), **TEXTS, **LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return parameters, before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"target_modules": TOWERS}, 2 * 2 * 3 * 4),  # A and B of two maps in the 4 layers of each of 3 towers
        pytest.param({"target_modules": ASSOCIATION}, None, marks=pytest.mark.slow),
        pytest.param({"target_modules": [*TOWERS, *ASSOCIATION], "use_dora": True}, None, marks=pytest.mark.slow),
        (
            {"target_modules": TOWERS, "modules_to_save": ["fusion", "visual_projection", "image.tower.embeddings"]},
            None,
        ),
    ],
    ids=["towers", "association", "both", "whole modules"],
)
def test_adapters_are_trained_saved_and_loaded(settings, expected, saved, tmp_path):
    model = peft.get_peft_model(
        SENModel.from_pretrained(saved), peft.LoraConfig(r=2, init_lora_weights=False, **settings)
    )
    parameters, before = trained(model)
    still = [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])]
    assert still == []
    model.save_pretrained(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == len(parameters)
    assert expected in (None, len(tensors))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        back = peft.PeftModel.from_pretrained(SENModel.from_pretrained(saved), tmp_path / "adapter")
    assert torch.equal(outputs(back), outputs(model))
    assert not torch.allclose(outputs(back), outputs(SENModel.from_pretrained(saved)))
    frozen = [name for name, _ in model.named_parameters() if "lora_" not in name and "modules_to_save" not in name]
    assert not {key for key in model.state_dict() if ".neurons." in key}.intersection(frozen)


def test_merged_adapters_are_saved_with_their_towers(saved, tmp_path):
    model = peft.get_peft_model(
        SENModel.from_pretrained(saved),
        peft.LoraConfig(
            r=2, target_modules=["q_proj"], modules_to_save=["visual_projection"], init_lora_weights=False
        ),
    )
    expected = outputs(model)
    merged = model.merge_and_unload()
    assert {name.split(".")[0] for name in merged.state_dict()} == {"blocks", "fusion", "gate", "logit_scale"}
    merged.save_pretrained(tmp_path / "merged")
    folders = [path.name for path in (tmp_path / "merged").glob("neuron_*")]
    assert sorted(folders) == ["neuron_audio", "neuron_class_text", "neuron_image"]
    loaded = SENModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(outputs(loaded), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(outputs(loaded), outputs(merged))


@pytest.mark.slow
def test_save_pretrained_of_the_sen_leaves_its_adapters_out(saved, tmp_path, caplog):
    """The SEN's own `save_pretrained` saves the towers without adapters and warns for each neuron that had some."""
    plain = outputs(SENModel.from_pretrained(saved))
    model = SENModel.from_pretrained(saved)
    peft.get_peft_model(model, peft.LoraConfig(target_modules=TOWERS, init_lora_weights=False))
    for include_neurons in (False, True):
        caplog.clear()
        model.save_pretrained(tmp_path / "again", include_neurons=include_neurons)
        warnings = [message for message in caplog.messages if "weights that are not in its checkpoint" in message]
        assert [message.split(":")[0] for message in warnings] == [
            "neuron 'image'",
            "neuron 'audio'",
            "neuron 'class_text'",
        ]
        assert len(list((tmp_path / "again").glob("neuron_*"))) == (4 if include_neurons else 0)
        assert torch.equal(outputs(SENModel.from_pretrained(tmp_path / "again")), plain)


def test_gradients_of_adapters_equal_finite_differences(saved):
    """Also in layers below the prompts, where frozen towers run without gradients, and in the tower of class texts."""
    model = SENModel.from_pretrained(saved, dtype=torch.float64)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TOWERS, init_lora_weights=False))
    inputs = {name: value.double() for name, value in random_inputs().items()}

    def loss() -> torch.Tensor:
        return model(**inputs, **TEXTS, **LABELS).loss

    loss().backward()
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.any()) for _, p in parameters)
    for name, parameter in parameters[::5]:
        assert_gradient_is_that_of_finite_differences(parameter, loss, name)


def test_gradients_are_the_same_with_activation_checkpointing(saved):
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = SENModel.from_pretrained(saved)
        if checkpointed:
            model.activation_checkpointing_enable()
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TOWERS, lora_dropout=0.5)).train()
        assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.Dropout))
        model(**random_inputs(), **TEXTS, **LABELS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_frozen_towers_still_run_without_gradients(saved):
    model = SENModel.from_pretrained(saved)
    for name in model.specs:
        model.neurons[name].tower.requires_grad_(name == "image")
    inputs = model.neurons.split_inputs(random_inputs())
    with torch.enable_grad():
        grads = {
            name: model.neurons[name].first_look(given).state.pooler_output.requires_grad
            for name, given in inputs.items()
        }
    assert grads == {"image": True, "video": False, "audio": False}
    with torch.no_grad():
        assert not model.neurons["image"].first_look(inputs["image"]).state.pooler_output.requires_grad


def test_add_adapter_and_load_adapter_of_transformers_work(saved, tmp_path, monkeypatch):
    """`add_adapter`, `save_pretrained`, `load_adapter`; they require a version of peft that may not be released yet."""
    monkeypatch.setattr(transformers_peft, "MIN_PEFT_VERSION", "0.18.0")
    model = SENModel.from_pretrained(saved)
    model.add_adapter(peft.LoraConfig(target_modules=[*TOWERS, *ASSOCIATION], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    back = SENModel.from_pretrained(saved)
    found = back.load_adapter(str(tmp_path / "adapter"))
    assert not found.missing_keys | found.unexpected_keys
    assert torch.equal(outputs(back), outputs(model))
    assert not torch.allclose(outputs(back), outputs(SENModel.from_pretrained(saved)))
    for auto_class in (SENModel, AutoModel):
        with pytest.raises(ValueError, match=r"adapter: found an adapter .*PeftModel.from_pretrained\(model, "):
            auto_class.from_pretrained(tmp_path / "adapter")


@pytest.mark.slow
def test_an_adapter_of_transformers_on_one_tower_is_left_out_when_the_sen_is_saved(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers_peft, "MIN_PEFT_VERSION", "0.18.0")
    model = SENModel.from_pretrained(saved)
    model.neurons["image"].tower.add_adapter(peft.LoraConfig(target_modules=TOWERS, init_lora_weights=False))
    model.save_pretrained(tmp_path / "whole", include_neurons=True)
    assert (tmp_path / "whole" / "neuron_image" / "config.json").is_file()
    assert torch.equal(outputs(SENModel.from_pretrained(tmp_path / "whole")), outputs(SENModel.from_pretrained(saved)))


def test_strict_loading_requires_the_adapters_but_not_the_towers(saved):
    model = SENModel.from_pretrained(saved)
    association = model.state_dict()
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(association)
    assert "lora_A" in str(error.value)
    assert "base_layer" not in str(error.value)
    assert model.load_state_dict(model.state_dict()).missing_keys == []


def test_first_looks_of_a_trained_tower_are_not_stored(saved, tmp_path):
    model = SENModel.from_pretrained(saved)
    digests = set(FeatureCache(model, tmp_path, ["a"]).folders.values())
    model.neurons["video"].tower.requires_grad_(True)
    with pytest.raises(ValueError, match="neuron 'video': its tower is trained, and its first looks cannot be stored"):
        FeatureCache(model, tmp_path, ["a"])
    model.neurons["video"].tower.requires_grad_(False)
    next(model.neurons["video"].tower.parameters()).data.mul_(1.5)
    changed = set(FeatureCache(model, tmp_path, ["a"]).folders.values())
    assert len(changed - digests) == 1  # only the changed tower gets another cache folder
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], inference_mode=True))
    with pytest.raises(ValueError, match=r"neuron 'image': its tower has adapters \(e.g. tower.*lora_A"):
        FeatureCache(model, tmp_path, ["a"])


@pytest.mark.slow
def test_checkpoints_of_the_trainer_contain_the_adapters(saved, tmp_path):
    rows = [
        {**{name: value[0] for name, value in random_inputs(1, seed).items()}, "labels": seed % 3} for seed in range(4)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )

    def task(model, batch):
        output = model(**batch, text_embeds=torch.eye(12)[:3])
        return {"loss": output.loss}

    def trainer():
        torch.manual_seed(0)
        model = peft.get_peft_model(SENModel.from_pretrained(saved), peft.LoraConfig(target_modules=TOWERS))
        return SENTrainer(model, arguments, train_dataset=rows, task=task)

    whole = trainer()
    whole.train()
    last = tmp_path / "run" / "checkpoint-2"
    back = peft.PeftModel.from_pretrained(SENModel.from_pretrained(saved), last)
    assert torch.equal(outputs(back), outputs(whole.model))
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    torch.testing.assert_close(outputs(resumed.model), outputs(whole.model))
