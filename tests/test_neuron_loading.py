"""Neurons by hub id: missing fields are derived from the checkpoint, and wrong ones raise."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, PeAudioVideoConfig, PeVideoEncoder, PeVideoEncoderConfig

from modeling_sen import NeuronSpec, SENModel
from modeling_sen.hub_files import HubSource
from modeling_sen.neuron_loading import DEFAULT_LOGIT_SCALE, config_for, load_neuron, read_logit_scale, resolve_spec


def spec_of(towers, family="ast", **changes) -> NeuronSpec:
    return NeuronSpec.from_dict({**resolve_spec({"hub_id": towers[family], "name": "n"}).to_dict(), **changes})


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("clip", ("image", "image", "CLIPVisionModelWithProjection", 8, None)),
        ("siglip", ("image", "image", "SiglipVisionModel", 8, None)),
        ("xclip", ("video", "video", "XCLIPVisionModel", 4, None)),
        ("videomae", ("video", "video", "VideoMAEModel", 4, None)),
        ("timesformer", ("video", "video", "TimesformerModel", 4, "after")),
        ("ast", ("audio", "audio", "ASTModel", None, None)),
        ("bert", ("words", "text", "BertModel", None, None)),
        ("depth_anything", ("image", "image", "Dinov2Model", 8, None)),
    ],
)
def test_a_hub_id_is_sufficient(towers, family, expected):
    spec = resolve_spec(towers[family])
    assert (spec.name, spec.modality, spec.class_name, spec.num_frames, spec.prompt_side) == expected
    assert spec.hidden_size == 16


def test_default_names_are_unique(towers):
    model = SENModel.from_neurons([towers["clip"], towers["siglip"], towers["depth_anything"]], hidden_size=8)
    assert list(model.neurons) == ["image", "image2", "image3"]


def test_given_fields_take_precedence(towers):
    spec = resolve_spec({"hub_id": towers["clip"], "name": "thermal", "modality": "thermal", "num_frames": 3})
    assert (spec.name, spec.modality, spec.num_frames, spec.projection) == (
        "thermal",
        "thermal",
        3,
        "visual_projection",
    )


def test_neurons_from_the_text_towers_repository_are_aligned(towers):
    model = SENModel.from_neurons([towers["clip"], towers["ast"]], text_tower=towers["clip"], hidden_size=8)
    assert {spec.name: spec.aligned for spec in model.config.neuron_specs} == {"image": True, "audio": False}
    assert model.config.projection_dim == 12
    clip = CLIPModel.from_pretrained(towers["clip"])
    assert torch.equal(model.neurons["image"].projection.weight, clip.visual_projection.weight)


def test_missing_tower_weights_raise(towers, tmp_path):
    folder = Path(shutil.copytree(towers["ast"], tmp_path / "ast"))
    weights = load_file(folder / "model.safetensors")
    del weights[sorted(weights)[3]]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"neuron 'n'.*no weights for 1 parameters of ASTModel.*stay random"):
        load_neuron(spec_of(towers, hub_id=str(folder)))


def test_a_tower_whose_weights_would_stay_random_raises(towers):
    spec = spec_of(towers, "xclip")
    assert spec.key_mapping
    with pytest.raises(RuntimeError, match=r"neuron 'n'.*stay random.*key_mapping"):
        load_neuron(NeuronSpec.from_dict({key: x for key, x in spec.to_dict().items() if key != "key_mapping"}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden_size": 17}, ValueError, r"hidden_size is 17, but .* has 16"),
        ({"class_name": "NoSuchModel"}, ValueError, r"'NoSuchModel' is neither a model of transformers"),
        ({"class_name": "pipeline"}, ValueError, r"'pipeline' is neither a model of transformers"),
        ({"class_name": "AutoConfig"}, ValueError, r"'AutoConfig' is neither a model"),
        ({"class_name": "VideoMAEModel"}, ValueError, r"VideoMAEModel needs a VideoMAEConfig.* has a ASTConfig"),
        ({"class_name": "ASTForAudioClassification"}, RuntimeError, r"no weights for \d+ parameters of ASTForAudio"),
        ({"submodule": "no.such"}, ValueError, r"no\.such"),
        ({"projection": "no_such"}, ValueError, r"no_such"),
        ({"projection": "no_such.safetensors"}, OSError, r"no_such\.safetensors"),
        ({"dtype": "float33"}, ValueError, "dtype"),
    ],
)
def test_a_wrong_specification_is_named_in_the_error(towers, changes, error, message):
    with pytest.raises(error, match=f"(?s)neuron 'n'.*{message}"):
        load_neuron(spec_of(towers, **changes))


def test_aligned_neurons_must_have_the_width_of_the_text_space(towers):
    with pytest.raises(
        ValueError, match=r"'image' is aligned, but its embeddings have width 12 and projection_dim is 7"
    ):
        SENModel.from_neurons([{"hub_id": towers["clip"], "aligned": True}], projection_dim=7, hidden_size=8)
    with pytest.raises(ValueError, match=r"'class_text' embeds class texts, but its embeddings have width 12"):
        SENModel.from_neurons([towers["ast"]], text_tower=towers["clip"], projection_dim=7, hidden_size=8)


@pytest.mark.parametrize("name", ["train", "load"])
def test_names_of_module_attributes_are_refused(towers, name):
    with pytest.raises(ValueError, match=f"neurons: {name} is the name of an attribute of a module"):
        SENModel.from_neurons([{"hub_id": towers["clip"], "name": name}], projection_dim=12, hidden_size=8)


def test_missing_builtin_towers_raise():
    spec = NeuronSpec("n", "image", "builtin:no_such_tower", 8, "CLIPVisionModel")
    with pytest.raises(
        OSError, match=r"'builtin:no_such_tower' is not among the towers shipped.*include_neurons=True"
    ):
        HubSource.of_neuron(spec)


def test_relative_towers_are_found_in_the_checkpoint_folder(tmp_path):
    spec = NeuronSpec("n", "image", "./neuron_n", 8, "CLIPVisionModel")
    with pytest.raises(FileNotFoundError, match=r"neuron 'n': the checkpoint .* has no folder 'neuron_n'"):
        HubSource.of_neuron(spec, HubSource(str(tmp_path)))
    (tmp_path / "neuron_n").mkdir()
    beside = HubSource.of_neuron(spec, HubSource(str(tmp_path)))
    assert (beside.location, beside.files) == (str(tmp_path / "neuron_n"), {})
    base = HubSource("org/sen", "abc", fetch={"token": "t"}, trust_remote_code=True)
    inside = HubSource.of_neuron(spec, base, {"cache_dir": "c"})
    assert inside.location == "org/sen"
    assert inside.files == {"subfolder": "neuron_n", "revision": "abc", "token": "t", "cache_dir": "c"}
    assert not inside.trust_remote_code  # trust in the SEN's code does not extend to its neurons


# --- the similarity scale --------------------------------------------------------------------------------------------


def test_the_logit_scale_is_read_from_single_sharded_and_pytorch_files(towers, tmp_path):
    clip = CLIPModel.from_pretrained(towers["clip"])
    assert read_logit_scale(HubSource(str(towers["clip"]))) == 2.0
    clip.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert read_logit_scale(HubSource(str(tmp_path / "shards"))) == 2.0
    (tmp_path / "old").mkdir()
    torch.save(clip.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert read_logit_scale(HubSource(str(tmp_path / "old"))) == 2.0
    assert read_logit_scale(HubSource(str(towers["ast"]))) is None
    assert pytest.approx(2.6593, abs=1e-4) == DEFAULT_LOGIT_SCALE


# --- wrong hub ids ---------------------------------------------------------------------------------------------------


def test_unknown_checkpoints_raise(tmp_path):
    with pytest.raises(ValueError, match="hub_id"):
        resolve_spec({"name": "image"})
    with pytest.raises(OSError, match="no-such"):
        resolve_spec(str(tmp_path / "no-such"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ValueError, match="no-such-type"):
        resolve_spec(str(tmp_path / "odd"))


def test_the_width_of_a_timm_model_is_taken_from_its_wrappers_configuration():
    config = PeVideoEncoderConfig()  # PE-AV large: its frame features have 1,024 values
    assert config.vision_config.num_classes == 1024
    assert config_for(PeVideoEncoder, config).vision_config.num_labels == 1024
    whole = PeAudioVideoConfig()
    assert config_for(PeVideoEncoder, whole).vision_config.num_labels == 1024
