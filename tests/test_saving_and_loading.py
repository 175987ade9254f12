"""SEN checkpoints: only association weights, complete, with or without the towers, and clear errors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from random_sen import SMALL, random_inputs, random_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from modeling_sen import SENConfig, SENModel

TEXTS = {"text_input_ids": torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513]])}


def outputs(model):
    with torch.no_grad():
        return model(**random_inputs(), **TEXTS)


def assert_same(first, second):
    assert torch.equal(first.fused_embeds, second.fused_embeds)
    assert torch.equal(first.logits_per_video, second.logits_per_video)
    assert torch.equal(first.knowledge, second.knowledge)


@pytest.fixture
def saved(make_sen, tmp_path):
    model = random_weights(make_sen())
    model.save_pretrained(tmp_path / "sen")
    return model, tmp_path / "sen"


def test_a_checkpoint_contains_only_the_association(saved):
    model, folder = saved
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        keys = set(file.keys())
    assert keys == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(key.startswith("neurons.") for key in keys)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_reloaded_model_gives_identical_outputs(saved):
    model, folder = saved
    expected = outputs(model)
    for loaded in (
        AutoModel.from_pretrained(folder),
        SENModel.from_pretrained(str(folder)),
        AutoModel.from_pretrained(folder, device_map="cpu"),
        AutoModel.from_pretrained(folder, dtype="auto"),
    ):
        assert type(loaded) is SENModel
        assert not loaded.training
        assert_same(expected, outputs(loaded))


def test_a_checkpoint_can_be_loaded_with_device_map_auto(saved):
    pytest.importorskip("accelerate")
    model, folder = saved
    assert_same(outputs(model), outputs(AutoModel.from_pretrained(folder, device_map="auto")))


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    _, folder = saved
    SENModel.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_model_can_be_saved_to_the_folder_it_was_loaded_from(saved):
    model, folder = saved
    expected = outputs(model)
    loaded = SENModel.from_pretrained(folder)
    (folder / "README.md").write_text("kept")
    loaded.save_pretrained(folder)
    assert_same(expected, outputs(loaded))  # weights mapped from the replaced file are still valid
    assert_same(expected, outputs(SENModel.from_pretrained(folder)))
    assert (folder / "README.md").read_text() == "kept"


def test_missing_association_weights_raise(saved):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    del weights["gate"], weights["fusion.up.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"sen: 2 weights of SENModel are missing \(e.g. fusion.up.weight\)"):
        AutoModel.from_pretrained(folder)


def test_weights_of_another_shape_raise(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 20}))
    with pytest.raises(
        RuntimeError, match=r"blocks.0.distribution.audio.down.weight has shape \(8, 24\), expected \(8, 20\)"
    ):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_file_is_named_in_the_error(saved, damage):
    _, folder = saved
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\xff" * 4096, "empty": b""}[damage])
    with pytest.raises(OSError, match=r"sen.*damaged safetensors"):
        AutoModel.from_pretrained(folder)


def test_a_folder_without_config_or_weights_raises(saved):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="sen"):
        AutoModel.from_pretrained(folder)
    with pytest.raises(OSError, match="no-such-folder"):
        SENModel.from_pretrained(str(folder / "no-such-folder"))


def test_unknown_fields_in_config_json_raise(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hops": 2}))
    with pytest.raises(ValueError, match="num_hops"):
        AutoModel.from_pretrained(folder)


# --- with towers in the checkpoint folder ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def self_contained_once(towers, tmp_path_factory):
    """A self-contained checkpoint that was moved and whose original towers were deleted; and its expected outputs."""
    folder = tmp_path_factory.mktemp("alone")
    copies = {name: shutil.copytree(towers[name], folder / "towers" / name) for name in ("clip", "videomae", "ast")}
    neurons = [{"hub_id": str(copies["clip"]), "num_frames": 2}, str(copies["videomae"]), str(copies["ast"])]
    model = SENModel.from_neurons(neurons, text_tower=str(copies["clip"]), **SMALL)
    random_weights(model).save_pretrained(folder / "first", include_neurons=True)
    shutil.rmtree(folder / "towers")
    shutil.move(folder / "first", folder / "moved")
    return folder / "moved", outputs(model)


@pytest.fixture
def self_contained(self_contained_once, tmp_path):
    folder, expected = self_contained_once
    return shutil.copytree(folder, tmp_path / "moved"), expected


def test_a_checkpoint_with_neurons_needs_no_other_files(self_contained):
    folder, expected = self_contained
    subfolders = ["neuron_audio", "neuron_class_text", "neuron_image", "neuron_video"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", *subfolders]
    loaded = AutoModel.from_pretrained(folder)
    assert_same(expected, outputs(loaded))
    assert_same(expected, outputs(AutoModel.from_pretrained(folder.parent, subfolder=folder.name)))
    assert loaded.config.neurons[0]["hub_id"] == "./neuron_image"
    assert loaded.logit_scale.item() == pytest.approx(2.0)
    for name, file in (("image", "preprocessor_config.json"), ("class_text", "tokenizer.json")):
        assert (folder / f"neuron_{name}" / file).is_file()


@pytest.mark.parametrize("include_neurons", [True, False])
@pytest.mark.parametrize("over", [True, False])
def test_a_self_contained_checkpoint_stays_self_contained_when_saved_again(
    self_contained, include_neurons, over, tmp_path
):
    folder, expected = self_contained
    target = folder if over else tmp_path / "second"
    AutoModel.from_pretrained(folder).save_pretrained(target, include_neurons=include_neurons)
    if not over:
        shutil.rmtree(folder)
    assert_same(expected, outputs(AutoModel.from_pretrained(target)))


def test_a_damaged_tower_is_named_with_its_neuron(self_contained):
    folder, _ = self_contained
    (folder / "neuron_video" / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(OSError, match=r"neuron 'video'.*damaged safetensors"):
        AutoModel.from_pretrained(folder)


def test_a_changed_neuron_specification_is_saved(self_contained, tmp_path):
    folder, _ = self_contained
    model = AutoModel.from_pretrained(folder)
    model.config.neurons[1]["preprocessing"] = {"gray": True}
    model.save_pretrained(tmp_path / "second", include_neurons=True)
    assert SENConfig.from_pretrained(tmp_path / "second").neurons[1]["preprocessing"] == {"gray": True}


# --- dtypes ----------------------------------------------------------------------------------------------------------


def test_a_bfloat16_model_gives_close_outputs_and_keeps_its_dtype(saved, tmp_path):
    model, folder = saved
    half = AutoModel.from_pretrained(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(outputs(half).fused_embeds.float(), outputs(model).fused_embeds, atol=0.08, rtol=0)
    half.save_pretrained(tmp_path / "half")
    again = AutoModel.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert_same(outputs(half), outputs(again))


def test_towers_and_association_can_have_different_dtypes(saved, tmp_path):
    _, folder = saved
    mixed = SENModel.from_pretrained(folder, neuron_kwargs={"image": {"dtype": "bfloat16"}})
    assert mixed.dtype == torch.float32
    mixed.save_pretrained(tmp_path / "mixed")
    again = AutoModel.from_pretrained(tmp_path / "mixed")
    assert again.neurons["image"].dtype == torch.bfloat16
    assert again.neurons["video"].dtype == again.dtype == torch.float32
    assert_same(outputs(mixed), outputs(again))


# --- state dicts and lazy loading ------------------------------------------------------------------------------------


def test_state_dicts_exclude_the_towers_and_are_loaded_strictly(saved, make_sen):
    model, _ = saved
    other = make_sen()
    assert not torch.equal(outputs(model).fused_embeds, outputs(other).fused_embeds)
    result = other.load_state_dict(model.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert_same(outputs(model), outputs(other))
    weights = model.state_dict()
    del weights["gate"]
    with pytest.raises(RuntimeError, match="gate"):
        other.load_state_dict(weights)


def test_neurons_are_loaded_on_first_use_and_keep_loaded_weights(saved):
    model, folder = saved
    lazy = AutoModel.from_config(AutoConfig.from_pretrained(folder)).eval()
    assert not lazy.neurons
    lazy.load_state_dict(model.state_dict())
    assert_same(outputs(model), outputs(lazy))
    assert list(lazy.neurons) == ["image", "video", "audio", "class_text"]


def test_the_logit_scale_is_taken_from_the_text_tower_unless_it_was_trained(saved, make_sen):
    model, folder = saved
    assert make_sen().logit_scale.item() == pytest.approx(2.0)
    config = SENConfig.from_pretrained(folder)
    config.logit_scale_init_value = None
    trained = SENModel(config)
    trained.load_state_dict({**model.state_dict(), "logit_scale": torch.tensor(3.5)})
    assert trained.load_neurons().logit_scale.item() == 3.5
    assert SENModel(config).load_neurons().logit_scale.item() == pytest.approx(2.0)


def test_the_trainer_saves_checkpoints_and_resumes(make_sen, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    rows = [
        {**{key: value[0] for key, value in random_inputs(1, seed).items()}, "labels": torch.tensor(seed % 3)}
        for seed in range(6)
    ]

    class TextedTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            output = model(**inputs, text_embeds=torch.eye(12)[:3])
            return (output.loss, output) if return_outputs else output.loss

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=2,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        remove_unused_columns=False,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = make_sen()
    trainer = TextedTrainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint or tmp_path / "run" / "checkpoint-4")
    assert_same(outputs(trainer.model.eval()), outputs(AutoModel.from_pretrained(best)))
    resumed = TextedTrainer(make_sen(), arguments, train_dataset=rows, eval_dataset=rows)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 4


# --- sources of neurons ----------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_loaded_commit_is_pinned(towers, tmp_path):
    repository = tmp_path / "cache" / "models--org--sound"
    shutil.copytree(towers["ast"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    sound = {"name": "audio", "hub_id": "org/sound"}
    kwargs = {"audio": {"cache_dir": str(tmp_path / "cache")}}
    model = SENModel.from_neurons([sound], neuron_kwargs=kwargs, projection_dim=12, **SMALL)
    (repository / "refs" / "main").write_text(COMMIT[::-1])  # a newer commit on the branch
    model.save_pretrained(tmp_path / "sen")
    assert SENConfig.from_pretrained(tmp_path / "sen").neurons[0]["revision"] == COMMIT
    assert SENModel.from_pretrained(tmp_path / "sen", neuron_kwargs=kwargs).neurons["audio"].commit == COMMIT


def test_a_missing_repository_is_named_with_its_neuron(towers):
    missing = {"name": "sound", "modality": "audio", "hub_id": "no-such-org/no-such-model", "class_name": "ASTModel"}
    config = SENConfig(neurons=[{**missing, "hidden_size": 16}], **SMALL)
    with pytest.raises(OSError, match=r"neuron 'sound'.*no-such-org/no-such-model"):
        SENModel(config).load_neurons()


def test_relative_neurons_without_a_checkpoint_raise():
    spec = {"name": "sound", "modality": "audio", "hub_id": "./neuron_sound", "class_name": "ASTModel"}
    with pytest.raises(OSError, match=r"neuron 'sound'.*relative to a checkpoint, but none was loaded"):
        SENModel(SENConfig(neurons=[{**spec, "hidden_size": 16}], **SMALL)).load_neurons()


def test_trust_in_the_code_of_a_sen_does_not_extend_to_its_neurons(saved, towers, tmp_path):
    """The SEN's own `trust_remote_code` is not passed to neurons; `neuron_kwargs` is."""
    _, folder = saved
    tower = tmp_path / "tower"
    code = (
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).write_text('x')\n"
        "from transformers import ASTConfig, ASTModel\n"
        "class EvilConfig(ASTConfig):\n    model_type = 'evil'\n"
        "class EvilModel(ASTModel):\n    config_class = EvilConfig\n"
    )
    classes: dict = {}
    exec(code, classes)
    settings = AutoConfig.from_pretrained(towers["ast"]).to_dict()
    settings |= {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}
    classes["EvilModel"](classes["EvilConfig"].from_dict(settings)).save_pretrained(tower)
    (tower / "evil.py").write_text(code)
    (tmp_path / "ran").unlink()
    sen = json.loads((folder / "config.json").read_text())
    sen["neurons"][2] |= {"hub_id": str(tower), "class_name": "EvilModel", "prompt": "tokens"}
    (folder / "config.json").write_text(json.dumps(sen))
    with pytest.raises(ValueError, match=r"'audio'.*trust_remote_code"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert not (tmp_path / "ran").exists()
    trusted = {"audio": {"trust_remote_code": True}}
    model = SENModel.from_pretrained(folder, neuron_kwargs=trusted)
    assert type(model.neurons["audio"].tower).__name__ == "EvilModel"
    assert (tmp_path / "ran").exists()


def test_neuron_kwargs_apply_only_to_their_neuron(saved):
    _, folder = saved
    model = SENModel.from_pretrained(folder, neuron_kwargs={"video": {"attn_implementation": "eager"}})
    chosen = {name: model.neurons[name].tower.config._attn_implementation for name in model.specs}
    assert chosen == {"image": "sdpa", "video": "eager", "audio": "sdpa"}
    with pytest.raises(ValueError, match=r"no neurons \['vidoe'\].*'video'"):
        SENModel.from_pretrained(folder, neuron_kwargs={"vidoe": {}})
