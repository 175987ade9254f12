"""The table of encoder types: what is said of a few types whose answer is known, and of those that crash or hang."""

import os
import time

import pytest
import torch
import transformers
from transformers import BertModel, CLIPConfig, LlamaModel, T5Model, ViTConfig, ViTModel

from benchmarks import every_encoder_type
from benchmarks.every_encoder_type import Row, check, check_apart, table, what_it_reads
from benchmarks.tiny_configurations import _first, _reduced, tiny_model


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("ViTModel", ("vit", "pixels", False, "prompts, queries", (2, 14, 14))),
        ("CLIPTextModel", ("clip_text_model", "text", True, "prompts, queries", (1, 1, 16))),
        ("ResNetModel", ("resnet", "pixels", False, "after the tower", (2, 7, 7))),
        ("DPRQuestionEncoder", ("dpr", "text", False, "refused", None)),
    ],
)
def test_a_type_is_a_neuron_or_the_reason_is_given(class_name, expected):
    row = check(getattr(transformers, class_name))
    assert (row.model_type, row.reads, row.registered, row.how, row.grid) == expected
    if row.how == "refused":
        assert (
            row.why == "ValueError: DPRQuestionEncoder returns pooler_output, expected an encoder's last_hidden_state"
        )


class Unbuildable(ViTModel):
    def __init__(self, config):
        raise RuntimeError("no | weights")


def test_a_type_that_cannot_be_built_is_named():
    row = check(Unbuildable)
    assert (row.how, row.why) == ("not built", "RuntimeError: no | weights")
    assert row.line == "| `vit` | Unbuildable | pixels | not built | RuntimeError: no \\| weights |"


@pytest.mark.parametrize(
    ("what", "seconds", "why"),
    [
        (lambda model_class: os._exit(3), 60, "its process ended with code 3"),
        (lambda model_class: time.sleep(60), 0.2, "took longer than 0.2 s"),
    ],
)
def test_a_type_that_crashes_or_hangs_does_not_stop_the_others(what, seconds, why, monkeypatch):
    monkeypatch.setattr(every_encoder_type, "check", what)
    assert check_apart(BertModel, seconds) == Row("bert", "BertModel", "text", True, "refused", why=why)


def test_encoders_are_told_from_decoders():
    assert [what_it_reads(each) for each in (ViTModel, BertModel, LlamaModel, T5Model)] == [
        "pixels",
        "text",
        None,
        None,
    ]
    with pytest.raises(ValueError, match="LlamaModel: found no encoder"):
        check(LlamaModel)


def test_configurations_are_reduced_by_the_names_of_fields():
    settings = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "depths": [3, 4, 6],
        "layer_types": ["a", "b", "a"],
        "global_attn_indexes": [1, 5],
        "vocab_size": 50_000,
        "eos_token_id": 49_407,
        "image_size": 336,
        "patch_size": 14,
        "num_channels": 3,
        "text_config": {"d_model": 512, "num_layers": 6},
    }
    assert _reduced(settings, ("layers", "widths", "vocabulary", "pictures")) == {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "depths": [1, 1, 1],
        "layer_types": ["a", "b"],
        "global_attn_indexes": [1],
        "vocab_size": 1000,
        "eos_token_id": 407,
        "image_size": 224,
        "patch_size": 14,
        "num_channels": 3,
        "text_config": {"d_model": 64, "num_layers": 2},
    }
    assert _reduced({"hidden_size": 768, "num_attention_heads": 12, "head_dim": 64}, ("heads",)) == {
        "hidden_size": 192,
        "num_attention_heads": 3,
        "head_dim": 64,
    }


def test_sizes_of_inputs_are_also_read_from_parts_of_a_configuration():
    config = CLIPConfig(vision_config={"image_size": 48})
    assert [_first(config, (name,), 7) for name in ("image_size", "projection_dim", "num_mel_bins")] == [48, 512, 7]


def test_a_tiny_model_is_the_same_each_time():
    model, inputs, failure = tiny_model(ViTModel)
    again, same, _ = tiny_model(ViTModel)
    assert failure is None
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (96, 2)
    assert torch.equal(inputs["pixel_values"], same["pixel_values"])
    with torch.no_grad():
        assert torch.equal(model(**inputs).last_hidden_state, again(**same).last_hidden_state)
    assert ViTConfig().hidden_size == 768


def test_the_table_counts_its_rows():
    rows = [
        Row("a", "A", "text", False, "prompts, tokens", (1, 1, 16)),
        Row("b", "B", "text", True, "after the tower", (1, 1, 16)),
        Row("c", "C", "text", False, "refused", why="why"),
    ]
    lines = table(rows).splitlines()
    assert lines[0].endswith("3 types: 1 prompts, 1 after the tower, 1 refused, 0 not built.")
    assert lines[4:] == [
        "| `a` | A | text | prompts, tokens | 1 x 1 x 16 |",
        "| `b` | B | text | after the tower (registered) | 1 x 1 x 16 |",
        "| `c` | C | text | refused | why |",
    ]
