"""The files of the language model: omitted weights, pinned commits, adapters, and trained language models."""

import json
import logging

import pytest
import torch
from random_chat import make_chat, make_language_model, prompt
from random_sen import random_inputs, random_weights
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from modeling_sen import SENChatConfig, SENForConditionalGeneration, SENModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_models")
    for kind in ("qwen3", "tied"):
        make_language_model(kind).save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in ("qwen3", "tied")}


@pytest.fixture
def chat(make_sen, folders):
    return make_chat(random_weights(make_sen()), folders["qwen3"])


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=prompt(model), **random_inputs(1)).logits


def assert_same(one, other):
    """Weights are bitwise equal; logits are close, since the order of sums depends on memory alignment."""
    weights = dict(other.named_parameters())
    assert {name for name, _ in one.named_parameters()} == set(weights)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, weights[name]), name
    torch.testing.assert_close(logits_of(one), logits_of(other), rtol=1e-5, atol=1e-5)


def step(model):
    """One training step, in which every trained weight changes; returns the names of the changed weights."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    before = {name: each.detach().clone() for name, each in trained.items()}
    for _ in range(2):  # in the first one a zero map of the adapter blocks the gradient of the other
        model(input_ids=prompt(model), labels=prompt(model).clamp(max=63), **random_inputs(1)).loss.backward()
        with torch.no_grad():
            for each in trained.values():
                if each.grad is not None:
                    each -= 0.1 * each.grad
        model.zero_grad()
    return {name for name, each in trained.items() if not torch.equal(each, before[name])}


# --- without the language model's weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "tied"])
def test_a_checkpoint_contains_only_association_and_projector(make_sen, folders, kind, tmp_path):
    model = make_chat(random_weights(make_sen()), folders[kind])
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert {name.partition(".")[0] for name in names} == {"sen", "projector"}
    assert not any(name.startswith("sen.neurons") for name in names)
    assert not (tmp_path / "language_model").exists()
    loaded, info = SENForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert_same(loaded, model)
    assert not any(parameter.requires_grad for parameter in loaded.language_model.parameters())
    assert not loaded.training
    head, embeddings = loaded.language_model.lm_head.weight, loaded.get_input_embeddings().weight
    assert (head is embeddings) == (kind == "tied")


def test_all_auto_classes_load_a_chat_model(chat, tmp_path):
    chat.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText):
        assert type(auto_class.from_pretrained(tmp_path)) is SENForConditionalGeneration
    assert type(SENModel.from_pretrained(tmp_path)) is SENModel  # only the SEN


def test_the_configuration_is_unchanged_after_saving_and_loading(chat, tmp_path):
    chat.config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SENChatConfig
    assert type(loaded.text_config) is type(chat.language_model.config)
    found, expected = json.loads(loaded.to_json_string()), json.loads(chat.config.to_json_string())
    assert found == expected


def test_the_generation_configuration_is_the_language_models_until_another_is_saved(chat, tmp_path):
    assert chat.generation_config.repetition_penalty == 1.1
    assert (chat.generation_config.eos_token_id, chat.generation_config.pad_token_id) == (1, 0)
    chat.generation_config.repetition_penalty = 1.3
    assert chat.language_model.generation_config.repetition_penalty == 1.1
    chat.save_pretrained(tmp_path)
    assert SENForConditionalGeneration.from_pretrained(tmp_path).generation_config.repetition_penalty == 1.3


@pytest.mark.parametrize(
    "missing", ["projector.tokens.leave.weight", "projector.answers.enter.video.bias", "sen.gate"]
)
def test_missing_weights_raise(chat, tmp_path, missing):
    chat.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=f"1 weights of SENForConditionalGeneration are missing.*{missing}"):
        SENForConditionalGeneration.from_pretrained(tmp_path)


def test_a_language_model_weight_of_another_shape_is_named_in_the_error(chat, tmp_path):
    chat.save_pretrained(tmp_path, include_neurons=True)
    file = tmp_path / "language_model" / "model.safetensors"
    weights = load_file(file)
    rows, width = weights["model.embed_tokens.weight"].shape
    weights["model.embed_tokens.weight"] = torch.zeros(rows + 1, width)
    save_file(weights, file, metadata={"format": "pt"})
    message = rf"language model .*embed_tokens.weight has shape \({rows + 1}, {width}\), expected \({rows}, {width}\)"
    with pytest.raises(RuntimeError, match=message):
        SENForConditionalGeneration.from_pretrained(tmp_path)


def test_state_dicts_must_be_complete_except_for_the_language_model(chat):
    weights = chat.state_dict()
    chat.load_state_dict(weights)
    del weights["projector.tokens.leave.bias"]
    with pytest.raises(RuntimeError, match=r"projector\.tokens\.leave\.bias"):
        chat.load_state_dict(weights)


def test_the_dtype_is_kept_and_can_be_chosen(make_sen, folders, tmp_path):
    model = make_chat(make_sen(), folders["qwen3"], language_model_kwargs={"dtype": torch.bfloat16})
    model.save_pretrained(tmp_path)
    load = SENForConditionalGeneration.from_pretrained
    assert load(tmp_path).language_model.dtype == torch.bfloat16
    assert load(tmp_path).projector.tokens.leave.weight.dtype == torch.float32
    chosen = load(tmp_path, language_model_kwargs={"dtype": torch.float32})
    assert chosen.language_model.dtype == torch.float32
    assert load(tmp_path, dtype=torch.float16).language_model.dtype == torch.float16


def test_a_model_built_from_a_configuration_loads_the_language_model_at_its_first_use(chat):
    bare = SENForConditionalGeneration(chat.config)
    bare.load_state_dict(chat.state_dict())
    assert bare.language_model is None
    assert not any(name.startswith("language_model") for name in bare.state_dict())
    expected = logits_of(chat)
    torch.testing.assert_close(logits_of(bare), expected, rtol=1e-5, atol=1e-5)
    assert_same(bare, chat)
    chat.config.language_model = None
    with pytest.raises(ValueError, match=r"config.language_model is None, expected the hub id"):
        SENForConditionalGeneration(chat.config).load_language_model()


def test_language_model_kwargs_are_passed_to_the_language_model(chat, tmp_path):
    chat.save_pretrained(tmp_path)
    loaded = SENForConditionalGeneration.from_pretrained(
        tmp_path, language_model_kwargs={"attn_implementation": "eager"}
    )
    assert loaded.language_model.config._attn_implementation == "eager"
    assert chat.language_model.config._attn_implementation == "sdpa"


# --- in the checkpoint folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "tied"])
def test_a_trained_language_model_is_saved_in_the_checkpoint_folder(make_sen, folders, kind, tmp_path):
    model = make_chat(random_weights(make_sen()), folders[kind])
    model.language_model.requires_grad_(True)
    assert any(name.startswith("language_model") for name in step(model))
    model.save_pretrained(tmp_path / "first")  # include_language_model is not needed for a trained model
    (tmp_path / "first").rename(tmp_path / "moved")
    moved = SENForConditionalGeneration.from_pretrained(tmp_path / "moved")
    assert moved.config.language_model["hub_id"] == "./language_model"
    assert_same(moved, model)
    moved.save_pretrained(tmp_path / "second")  # frozen now, but this folder is its only source
    assert_same(SENForConditionalGeneration.from_pretrained(tmp_path / "second"), model)


def test_a_checkpoint_with_towers_and_language_model_needs_no_other_files(chat, tmp_path):
    chat.save_pretrained(tmp_path, include_neurons=True)
    chat.save_pretrained(tmp_path / "towers", include_neurons=True, include_language_model=False)
    assert not (tmp_path / "towers" / "language_model").exists()
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["language_model"] == {"hub_id": "./language_model", "revision": None, "dtype": "float32"}
    assert settings["sen_config"]["neurons"][0]["hub_id"] == "./neuron_image"
    assert (tmp_path / "language_model" / "model.safetensors").is_file()
    assert chat.config.language_model["hub_id"].endswith("qwen3")  # the model's own configuration is unchanged
    assert_same(SENForConditionalGeneration.from_pretrained(tmp_path), chat)


def test_a_language_model_given_as_a_model_is_saved(make_sen, tmp_path):
    model = make_chat(random_weights(make_sen()), make_language_model())
    model.save_pretrained(tmp_path)
    assert_same(SENForConditionalGeneration.from_pretrained(tmp_path), model)


def test_a_local_folder_as_language_model_causes_a_warning(chat, tmp_path, caplog):
    logger = logging.getLogger("modeling_sen.language_model")
    logger.addHandler(caplog.handler)
    chat.save_pretrained(tmp_path)
    logger.removeHandler(caplog.handler)
    assert "is a local folder; elsewhere the checkpoint needs include_neurons=True" in caplog.text


# --- adapters --------------------------------------------------------------------------------------------------------


def lora(**settings):
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **settings)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "tied"])
def test_adapters_are_trained_saved_and_loaded(make_sen, folders, kind, include, tmp_path):
    model = make_chat(random_weights(make_sen()), folders[kind])
    model.add_language_model_adapter(lora())
    before = logits_of(model)
    changed = step(model)
    adapters = {name for name, each in model.language_model.named_parameters() if each.requires_grad}
    assert len(adapters) == 2 * 2 * 2  # A and B of two maps in each of two layers
    assert adapters <= {name.removeprefix("language_model.") for name in changed}
    assert any(name.startswith("projector") for name in changed)
    assert not torch.allclose(logits_of(model), before)
    model.save_pretrained(tmp_path, include_language_model=include)
    assert {name.partition(".")[0] for name in load_file(tmp_path / "model.safetensors")} == {"sen", "projector"}
    assert len(load_file(tmp_path / "language_model_adapter" / "adapter_model.safetensors")) == len(adapters)
    assert (tmp_path / "language_model").is_dir() == include
    loaded = SENForConditionalGeneration.from_pretrained(tmp_path)
    assert_same(loaded, model)
    assert not any(each.requires_grad for each in loaded.language_model.parameters())
    loaded.save_pretrained(tmp_path / "again")
    assert_same(SENForConditionalGeneration.from_pretrained(tmp_path / "again"), model)


@pytest.mark.parametrize("what", ["adapter", "whole"])
def test_restore_language_model_loads_what_the_state_dict_lacks(chat, what, tmp_path):
    """As when training is resumed from a checkpoint."""
    if what == "adapter":
        chat.add_language_model_adapter(lora())
    else:
        chat.language_model.requires_grad_(True)
    step(chat)
    chat.save_pretrained(tmp_path)
    weights, expected = {name: each.clone() for name, each in chat.state_dict().items()}, logits_of(chat)
    step(chat)
    assert not torch.allclose(logits_of(chat), expected)
    chat.load_state_dict(weights)
    chat.restore_language_model(tmp_path)
    torch.testing.assert_close(logits_of(chat), expected)


def test_adapters_of_peft_on_the_whole_model_are_saved_with_it(chat, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=r"language_model.*q_proj", init_lora_weights=False)
    adapted = peft.get_peft_model(chat, config)
    expected = logits_of(chat)
    adapted.save_pretrained(tmp_path / "adapter")
    assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == 4
    for name, each in chat.named_parameters():
        if "lora_" in name:
            each.data.zero_()
    assert not torch.allclose(logits_of(chat), expected)
    adapted.load_adapter(str(tmp_path / "adapter"), "default")
    torch.testing.assert_close(logits_of(chat), expected)


def test_an_adapter_that_does_not_fit_raises(chat, tmp_path):
    chat.add_language_model_adapter(lora())
    with pytest.raises(ValueError, match="the language model has an adapter already"):
        chat.add_language_model_adapter(lora())
    chat.save_pretrained(tmp_path)
    file = tmp_path / "language_model_adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    save_file(weights, file)
    with pytest.raises(
        RuntimeError, match=r"1 weights \(e.g. model.layers.1.self_attn.v_proj.lora_B.weight\) are missing"
    ):
        SENForConditionalGeneration.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(OSError, match=r"has no file .*adapter_model.safetensors"):
        SENForConditionalGeneration.from_pretrained(tmp_path)


def test_adapters_of_a_bfloat16_language_model_are_trained_in_float32(make_sen, folders, tmp_path):
    model = make_chat(random_weights(make_sen()), folders["qwen3"], language_model_kwargs={"dtype": torch.bfloat16})
    model.add_language_model_adapter(lora())
    assert {each.dtype for each in model.language_model.parameters() if each.requires_grad} == {torch.float32}
    step(model)
    model.save_pretrained(tmp_path)
    assert_same(SENForConditionalGeneration.from_pretrained(tmp_path), model)


def test_adapters_not_named_in_the_configuration_are_not_restored(chat, tmp_path):
    """Files of an earlier save may remain in the folder."""
    chat.add_language_model_adapter(lora())
    chat.save_pretrained(tmp_path)
    step(chat)
    expected = logits_of(chat)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["language_model"]["adapter"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    chat.restore_language_model(tmp_path)
    assert torch.equal(logits_of(chat), expected)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_missing_language_model_is_named_in_the_error(make_sen, chat, tmp_path):
    with pytest.raises(OSError, match=r"language model a/b: .*offline mode"):
        SENForConditionalGeneration.from_llm("a/b", make_sen())
    with pytest.raises(OSError, match="/nowhere: no such folder"):
        SENForConditionalGeneration.from_llm("/nowhere", make_sen())
    chat.save_pretrained(tmp_path, include_language_model=True)
    (tmp_path / "language_model").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="has no folder 'language_model'"):
        SENForConditionalGeneration.from_pretrained(tmp_path)


def test_a_language_model_with_missing_weights_raises(make_sen, folders, tmp_path):
    make_language_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"1 weights are missing .*model.layers.1.mlp.up_proj.weight"):
        SENForConditionalGeneration.from_llm(str(tmp_path), make_sen())


def test_an_encoder_is_refused_as_language_model(make_sen, towers):
    with pytest.raises(ValueError, match=r"language model .*clip"):
        SENForConditionalGeneration.from_llm(towers["clip"], make_sen())


def test_a_language_model_of_another_width_raises(chat, folders):
    other = make_language_model()
    other.set_input_embeddings(torch.nn.Embedding(64, 16))
    with pytest.raises(ValueError, match="found embeddings of width 16, expected 32"):
        chat.attach_language_model(other)
