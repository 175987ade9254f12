"""SENConfig and NeuronSpec: strict, JSON-able, and the presets."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from modeling_sen import NeuronSpec, SENConfig, list_presets
from modeling_sen.configuration_sen import VARIANT_SETS
from modeling_sen.presets import PRESETS

IMAGE = {
    "name": "image",
    "modality": "image",
    "hub_id": "org/image",
    "hidden_size": 8,
    "class_name": "CLIPVisionModel",
}


def image(**changes) -> dict:
    return {**IMAGE, **changes}


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "256"},
        {"num_rounds": 2.5},
        {"num_rounds": -1},
        {"num_prompt_tokens": 0},
        {"num_prompt_tokens": 257},
        {"bottleneck_size": 0},
        {"hidden_size": 0},
        {"integrate": "sum"},
        {"distribute": "moe"},
        {"prompt": "deep"},
        {"read_answers": "yes"},
        {"prompt": "none", "read_answers": False},  # it neither takes prompts nor is read by answers
        {"active_fraction": 0.0},
        {"active_fraction": 1.5},
        {"prompt_depth": 0},
        {"prompt_depth": "half"},
        {"prompt_depth": True},
        {"text_tower": image()},  # an image tower cannot embed texts
    ],
)
def test_wrong_types_and_values_raise(wrong):
    with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
        SENConfig(neurons=[image()], **wrong)


def test_wrong_types_raise_on_assignment():
    config = SENConfig(neurons=[image()])
    with pytest.raises(StrictDataclassError, match="num_rounds"):
        config.num_rounds = "3"


def test_unknown_fields_are_named_in_the_error():
    with pytest.raises(ValueError, match=r"num_round'.*num_rounds"):
        SENConfig(neurons=[image()], num_round=3)


def test_fields_that_transformers_adds_to_config_json_are_accepted(tmp_path):
    SENConfig(neurons=[image()]).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    extra = {
        "auto_map": {"AutoModel": "modeling_sen.SENModel"},
        "torch_dtype": "float32",
        "architectures": ["SENModel"],
    }
    (tmp_path / "config.json").write_text(json.dumps({**saved, **extra}))
    assert SENConfig.from_pretrained(tmp_path).architectures == ["SENModel"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Image"}, r"\[a-z\]"),
        ({"name": "image-1"}, r"\[a-z\]"),
        ({"name": ""}, r"\[a-z\]"),
        ({"name": "text"}, "found 'text', expected another: `text_input_ids` are the class texts"),
        ({"name": 3}, "name"),
        ({"modality": "smell"}, "smell"),
        ({"hidden_size": "8"}, "hidden_size"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": "8"}, "num_frames"),
        ({"prompt_side": "left"}, "left"),
        ({"preprocessing": {"sizes": 224}}, "sizes"),
        ({"hub_id": ""}, "empty"),
        ({"hub_id": "../secret"}, r"\.\."),
        ({"hub_id": "org/../x"}, r"\.\."),
        ({"hub_id": "./a/b"}, "beside"),
        ({"hub_id": "./"}, "beside"),
        ({"hub_id": "./."}, "beside"),
        ({"hub_id": "./.."}, r"\.\."),
        ({"hub_id": "builtin:../x"}, "tower|'..'"),
        ({"hub_id": "builtin:/etc"}, "builtin"),
        ({"projection": "../x.safetensors"}, "projection"),
        ({"projection": "/x.safetensors"}, "projection"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_neuron_is_named_in_the_error(changes, message):
    with pytest.raises(ValueError, match=message):
        SENConfig(neurons=[image(**changes)])


def test_missing_neuron_fields_raise():
    with pytest.raises(ValueError, match=r"'image'.*class_name"):
        SENConfig(neurons=[{key: value for key, value in IMAGE.items() if key != "class_name"}])


def test_duplicate_and_reserved_names_raise():
    with pytest.raises(StrictDataclassError, match=r"duplicate names \['image'\]"):
        SENConfig(neurons=[image(), image()])
    with pytest.raises(StrictDataclassError, match="text tower"):
        SENConfig(neurons=[image(name="class_text")])


def test_the_text_tower_is_always_named_class_text():
    config = SENConfig(neurons=[image()], text_tower=image(name="image", modality="text"))
    assert config.text_tower_spec.name == "class_text"


def test_a_spec_saves_only_fields_that_differ_from_the_defaults():
    spec = NeuronSpec.from_dict(image(aligned=True))
    assert spec.to_dict() == image(aligned=True, num_frames=1)
    assert NeuronSpec.from_dict(spec.to_dict()) == spec


def test_only_modalities_with_frames_have_num_frames():
    counts = {"image": 1, "video": 8, "depth": 8, "thermal": 8, "audio": None, "imu": None, "text": None}
    assert {kind: NeuronSpec.from_dict(image(modality=kind)).num_frames for kind in counts} == counts


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_is_unchanged_after_saving_and_loading(preset, tmp_path):
    checkpoint = "converted" if PRESETS[preset].conversion else None
    config = SENConfig.from_preset(preset, checkpoint=checkpoint)
    assert any(spec.aligned for spec in config.neuron_specs)
    assert config.text_tower_spec is not None
    config.save_pretrained(tmp_path)
    for loaded in (SENConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is SENConfig
        assert loaded.to_json_string() == config.to_json_string()
    assert list_presets()[preset]


def test_variants_and_overrides_do_not_modify_the_preset():
    before = json.dumps(PRESETS["clip-videomae-ast"].neurons)
    config = SENConfig.from_preset("clip-videomae-ast", variants="paper_reading", num_rounds=2, hidden_size=64)
    assert (config.prompt_depth, config.read_answers, config.integrate) == ("all", False, "mean")
    assert (config.num_rounds, config.hidden_size) == (2, 64)  # overrides take precedence over the variants
    config.neurons[0]["name"] = "changed"
    assert json.dumps(PRESETS["clip-videomae-ast"].neurons) == before
    assert "paper_reading" in VARIANT_SETS


def test_unknown_preset_variants_and_overrides_raise():
    with pytest.raises(ValueError, match=r"no-such.*clip-videomae-ast"):
        SENConfig.from_preset("no-such")
    with pytest.raises(ValueError, match=r"no-such.*paper_reading"):
        SENConfig.from_preset("clip-videomae-ast", variants="no-such")
    with pytest.raises(ValueError, match="depth"):
        SENConfig.from_preset("clip-videomae-ast", depth=3)


def test_get_text_config_returns_the_config_itself():
    config = SENConfig.from_preset("clip-videomae-ast")
    assert config.get_text_config() is config
    assert config.get_text_config(decoder=True) is config
