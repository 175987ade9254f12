"""Tiny sentence-transformers models, saved by that library, and their towers as neurons."""

import json
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn
from transformers import BertModel, BertTokenizer, LlamaModel, ModernBertModel, MPNetModel, PreTrainedTokenizerFast

from modeling_sen import SENConfig, SENProcessor
from modeling_sen.first_look import FirstLook
from modeling_sen.neuron import Neuron
from modeling_sen.neuron_loading import load_neuron, resolve_spec

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *SPECIAL,
    *["a", "b", "c", "d", "e", "f", "dog", "barks", "man", "speaks", "about", "query", "the", "cat", ":"],
]
# Texts of different lengths; the last has more than the tiny towers' 32 tokens.
TEXTS = ["a dog barks", "man", "the cat speaks about a dog", "c d e f a b c d", " ".join(["dog man"] * 30)]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def make_backbones(folder: Path) -> dict[str, str]:
    """Towers with a tokenizer of these words, before sentence-transformers is applied: name -> folder."""
    paths = {}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    windows = {"global_attn_every_n_layers": 2, "local_attention": 4}
    for name, model_class, settings in (
        ("bert", BertModel, {}),
        ("modernbert", ModernBertModel, {**ends, **windows}),
        ("mpnet", MPNetModel, {"pad_token_id": 1, "max_position_embeddings": 34}),
        ("causal", LlamaModel, {}),
    ):
        torch.manual_seed(0)
        config = {**SIZES, "pad_token_id": 0, "max_position_embeddings": 32, **settings}
        model = model_class(model_class.config_class(**config))
        for parameter in model.parameters():
            if parameter.ndim == 2:  # large, so that embeddings of texts differ clearly
                nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder / name)
        paths[name] = folder / name
    for name, path in paths.items():
        # MPNet's positions count from the padding id, 1.
        words = ["[UNK]", "[PAD]", *WORDS[2:]] if name == "mpnet" else WORDS
        longest = {} if name == "bert" else {"model_max_length": 32}
        tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, **longest)
        if name == "causal":
            backend, marks = tokenizer.backend_tokenizer, {"pad_token": "[PAD]", "sep_token": "[SEP]"}
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **longest, **marks)
        tokenizer.save_pretrained(path)
    return {name: str(path) for name, path in paths.items()}


def saved(folder: Path, backbone: str, *modules: nn.Module, prompt: str = "") -> tuple[SentenceTransformer, str]:
    """Builds a model of a tower and modules with random weights; returns it and the folder where the library saved it."""
    torch.manual_seed(3)
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
    model = SentenceTransformer(modules=[Transformer(backbone), *modules], device="cpu")
    if prompt:
        model.prompts, model.default_prompt_name = {"own": prompt, "other": "cat "}, "own"
    model.save_pretrained(str(folder), create_model_card=False)
    return model.eval(), str(folder)


def load(folder: str, **arguments) -> Neuron:
    return load_neuron(resolve_spec({"hub_id": folder, "name": "class_text"}, "text_tower"), **arguments)


def look_at(neuron: Neuron, texts=TEXTS) -> FirstLook:
    """The first look at all texts in one batch."""
    tokens = SENProcessor(SENConfig(text_tower=neuron.spec.to_dict())).tokenize(texts)
    return neuron.first_look({name.removeprefix("text_"): value for name, value in tokens.items()})


@torch.no_grad()
def encoded(folder: str, texts=TEXTS) -> np.ndarray:
    """Embeddings without the normalisation that a SEN adds at the end."""
    neuron = load(folder)
    return neuron.project(look_at(neuron, texts).state.pooler_output).numpy()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def change(path: Path, **settings) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **settings}))
