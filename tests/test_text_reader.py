"""Texts become tokens; the reader warns about truncated texts, and refuses labels that become equal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizer, RobertaConfig, RobertaModel

from modeling_sen import SENConfig, SENEncoder, SENModel, SENProcessor, ZeroShotVideoClassificationPipeline
from modeling_sen.explain import explain
from modeling_sen.text_reader import shortened
from modeling_sen.training.clip_dataset import ClipDataset
from modeling_sen.training.data import LabelledClips
from modeling_sen.training.tasks import Retrieval

LONG = "x" * 60  # more than the tiny CLIP's 32 tokens: one per letter, start and end
FRAMES = np.zeros((4, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def loaded(sen_folder) -> SENModel:
    return SENModel.from_pretrained(sen_folder)


@pytest.fixture
def processor(sen_folder) -> SENProcessor:
    """A new processor for each test, since it warns only once."""
    return SENProcessor.from_pretrained(sen_folder)


@pytest.fixture
def warnings(caplog):
    caplog.set_level("WARNING", logger="modeling_sen.text_reader")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "modeling_sen.text_reader"]


def label_functions(model, processor):
    """All functions that take labels."""
    return {
        "pipeline": lambda labels, template: ZeroShotVideoClassificationPipeline(model=model, processor=processor)(
            FRAMES, candidate_labels=labels, hypothesis_template=template
        ),
        "encoder": lambda labels, template: SENEncoder(model, processor).embed_labels(labels, [template]),
        "explain": lambda labels, template: explain(model, processor, FRAMES, labels, [template]),
    }


@pytest.mark.parametrize("name", ["pipeline", "encoder", "explain"])
def test_labels_that_differ_only_after_the_limit_are_refused(name, loaded, processor):
    with pytest.raises(
        ValueError, match=rf"labels '{LONG}a' and '{LONG}b' differ only after the first 32 tokens.* 63 and 63"
    ):
        label_functions(loaded, processor)[name]([f"{LONG}a", "a dog", f"{LONG}b"], "{}")
    with pytest.raises(ValueError, match=r"labels 'a' and 'b' differ only .*a shorter template"):
        label_functions(loaded, processor)[name](["a", "b"], LONG + " {}")
    with pytest.raises(ValueError, match=r"labels 'x+' and 'x+ y' differ only .* have 32 and 33"):
        label_functions(loaded, processor)[name](["x" * 30, "x" * 30 + " y"], "{}")


@pytest.mark.parametrize("name", ["pipeline", "encoder", "explain"])
def test_a_truncated_label_is_named_in_one_warning(name, loaded, processor, warnings):
    label_functions(loaded, processor)[name](["a dog", f"{LONG}a", f"b{LONG}"], "of {}")
    assert warnings() == [
        f"label '{LONG}a': its text has 65 tokens, of which the text tower takes 32; the rest is cut off, like the texts of "
        "1 more labels"
    ]


def test_labels_within_the_limit_cause_no_warning(loaded, processor, warnings):
    embeds = SENEncoder(loaded, processor).embed_labels(["x" * 30, "x" * 29, "a dog", "a dog"], ["{}", "{}"])
    assert warnings() == []
    assert torch.equal(embeds[2], embeds[3])  # equal labels are accepted


def test_labels_that_are_equal_in_one_of_two_templates_are_accepted(loaded, processor, warnings):
    embeds = SENEncoder(loaded, processor).embed_labels(["a", "b"], ["{}", LONG + "{}"])
    assert not torch.allclose(embeds[0], embeds[1])
    assert len(warnings()) == 1


def test_labels_with_the_same_tokens_cause_a_warning(loaded, processor, warnings):
    """The tokenizer ignores case, so a shorter text would not help."""
    SENEncoder(loaded, processor).embed_labels(["Dog", "dog", "cat", "CAT"], ["{}"])
    assert warnings() == ["labels 'Dog' and 'dog' have the same tokens for the text tower, like 1 more pairs"]


def test_labels_of_several_chunks_are_compared_with_each_other(loaded, processor, monkeypatch):
    monkeypatch.setattr("modeling_sen.encoding.TEXTS_AT_ONCE", 2)
    labels = [f"{LONG}a", *"bcdefg", f"{LONG}h"]
    with pytest.raises(ValueError, match="differ only after"):
        SENEncoder(loaded, processor).embed_labels(labels, ["{}"])


def test_long_texts_are_truncated_with_one_warning(loaded, processor, warnings, monkeypatch):
    monkeypatch.setattr("modeling_sen.encoding.TEXTS_AT_ONCE", 2)
    SENEncoder(loaded, processor).encode_text(["a dog", "x" * 30, f"{LONG}a", f"{LONG}b"])
    processor(text=f"{LONG}c")
    assert warnings() == [
        f"the text tower takes 32 tokens of a text, and the text '{LONG}a' has 63: the rest is cut off, as in other "
        "long texts"
    ]


def test_long_training_texts_are_truncated_with_one_warning(loaded, processor, warnings):
    texts = [f"{LONG}a", f"{LONG}b", "a dog", f"{LONG}c"]
    clips = LabelledClips("clips", texts, list("0123"), lambda row: {"video": FRAMES})
    task = Retrieval(loaded, processor, [ClipDataset(clips, processor)])
    assert len(warnings()) == 1
    assert torch.equal(task.text_embeds[0], task.text_embeds[1])
    torch.testing.assert_close(task.text_embeds.norm(dim=1), torch.ones(4))


def test_text_neurons_truncate_with_one_warning(processor, warnings):
    for _ in range(2):
        processor(videos=[{"text": "a dog"}, {"text": "a dog barks " * 20}])
    assert len(warnings()) == 1
    assert "neuron 'words' takes 32 tokens of a text, and the text 'a dog barks a dog" in warnings()[0]
    assert "has 62: the rest" in warnings()[0]


def text_processor(folder: Path, class_name: str, **limits) -> SENProcessor:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **limits}))
    tower = {"modality": "text", "hub_id": str(folder), "hidden_size": 16, "class_name": class_name}
    return SENProcessor(SENConfig(text_tower=tower))


@pytest.mark.parametrize("limits", [{}, {"model_max_length": 512}, {"model_max_length": 20}])
def test_texts_are_truncated_to_the_smaller_limit_of_tower_and_tokenizer(limits, towers, tmp_path, warnings):
    """Also if the tokenizer has a larger limit or none."""
    folder = shutil.copytree(towers["bert"], tmp_path / "bert")
    tokens = text_processor(folder, "BertModel", **limits).tokenize("a dog " * 40)
    longest = min(limits.get("model_max_length", 32), 32)
    assert tokens["text_input_ids"].shape == (1, longest)
    assert f"takes {longest} tokens of a text, and the text" in warnings()[0]


def test_positions_after_the_padding_id_reduce_the_limit(tmp_path):
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    config = RobertaConfig(**sizes, vocab_size=40, max_position_embeddings=34, pad_token_id=1)
    tower = RobertaModel(config)
    tower.save_pretrained(tmp_path)
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(tmp_path)
    tokens = text_processor(tmp_path, "RobertaModel").tokenize(["a dog " * 40])
    assert tokens["text_input_ids"].shape == (1, 32)
    tower(tokens["text_input_ids"])  # would raise for a longer text
    with pytest.raises((IndexError, RuntimeError)):
        tower(torch.full((1, 33), 5))


def test_long_texts_in_messages_are_shortened_in_the_middle():
    assert shortened("a dog") == "a dog"
    found = shortened("a" * 100 + "b" * 100)
    assert found == "a" * 45 + "..." + "b" * 30
