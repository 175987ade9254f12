"""What all conversions share: files are read without running code, every weight is used, a folder is written whole."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from modeling_sen.conversion.original_checkpoint import (
    Conversion,
    DifferentOutputs,
    fill,
    read_reference,
    read_weights,
    rename,
    save,
)

RULES = [(r"old\.(\w+)", r"new.\1"), (r"head\.(\w+)", r"top.\1")]


class Code:
    def __reduce__(self):
        return print, ("this code ran",)


def test_tensors_are_read_as_they_were_saved(tmp_path):
    weights = {"a": torch.randn(3), "b": torch.arange(4)}
    torch.save(weights, tmp_path / "new.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "old.pth"):
        found = read_weights(tmp_path / name)
        assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_a_truncated_file_says_so(tmp_path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "part.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"part.pth: the file is truncated \([\d,]+ bytes\); download it again"):
        read_weights(tmp_path / "part.pth")


def test_a_file_that_holds_code_is_refused_and_nothing_runs(tmp_path, capsys):
    torch.save({"a": torch.randn(3), "b": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code.pth: it holds code \([a-z.]*print\), which is not run"):
        read_weights(tmp_path / "code.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Code()))
    with pytest.raises(ValueError, match=r"plain.pkl: "):
        read_weights(tmp_path / "plain.pkl")
    assert "this code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a line of text\n", "found no PyTorch file, or a damaged one"),
        ([1, 2], "found list, expected a dict of tensors by name"),
        ({}, "expected a dict of tensors by name"),
        ({"a": torch.zeros(1), "epoch": 3}, "'epoch' is int, expected tensors only"),
    ],
)
def test_files_of_another_kind_are_refused(content, message, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_weights(path)


def test_no_file_and_a_folder_raise(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError, match="found a folder, expected a PyTorch file"):
        read_weights(tmp_path)


def test_every_weight_is_renamed_by_one_rule_or_left_out():
    weights = {"old.a": torch.zeros(1), "head.b": torch.ones(1), "mask": torch.zeros(2)}
    assert set(rename(weights, RULES, ["mask"], "Toy")) == {"new.a", "top.b"}
    with pytest.raises(ValueError, match="not a checkpoint of Toy: found weight 'mask', which Toy does not have"):
        rename(weights, RULES, [], "Toy")


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10)
    return BertModel(config).eval()


def test_weights_that_do_not_fit_raise(bert):
    weights = bert.state_dict()
    first, *others = weights
    with pytest.raises(ValueError, match=f"the weights do not fit: {first!r} is missing; ask"):
        fill(bert, {name: weights[name] for name in others}, "ask")
    with pytest.raises(ValueError, match="'more' is left over; ask"):
        fill(bert, {**weights, "more": torch.zeros(1)}, "ask")
    with pytest.raises(ValueError, match=rf"{first!r} has shape \(1,\), expected .* and 1 more; ask"):
        fill(bert, {**weights, first: torch.zeros(1), others[0]: torch.zeros(1)}, "ask")


class Processor:
    def save_pretrained(self, folder):
        (folder / "processor_config.json").write_text("{}")


def conversion(model: BertModel) -> Conversion:
    def outputs(model, inputs):
        return {name: model(input_ids=ids).pooler_output for name, ids in inputs.items()}

    return Conversion(model, Processor(), "---\nlicense: mit\n---\n", outputs)


def write_reference(path, model, shift: float = 0.0) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        pooled = model(input_ids=ids).pooler_output
    save_file({"input.words": ids, "output.words": pooled + shift}, path)


def test_what_agrees_is_saved(bert, tmp_path):
    write_reference(tmp_path / "io.safetensors", bert)
    assert save(conversion(bert), tmp_path / "out", tmp_path / "io.safetensors")["words"] < 1e-6
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "processor_config.json", "README.md"}
    found = BertModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in bert.state_dict().items())


@pytest.mark.parametrize("shift", [2e-5, float("nan")])
def test_what_differs_is_not_saved(shift, bert, tmp_path):
    write_reference(tmp_path / "io.safetensors", bert, shift)
    with pytest.raises(DifferentOutputs):
        save(conversion(bert), tmp_path / "out", tmp_path / "io.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["io.safetensors"]


def test_weights_are_split_into_files(bert, tmp_path):
    save(conversion(bert), tmp_path / "out", shard_size="1KB")
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1


def test_references_that_say_nothing_raise(bert, tmp_path):
    save_file({"input.words": torch.zeros(1)}, tmp_path / "inputs.safetensors")
    with pytest.raises(ValueError, match=r"found input.words, expected tensors named output.NAME"):
        read_reference(tmp_path / "inputs.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="found no safetensors file, or a damaged one"):
        read_reference(tmp_path / "text.safetensors")
    save_file({"input.words": torch.tensor([[1]]), "output.other": torch.zeros(1)}, tmp_path / "io.safetensors")
    with pytest.raises(ValueError, match=r"output.other: the converted model gives none, expected \(1,\)"):
        save(conversion(bert), tmp_path / "out", tmp_path / "io.safetensors")
    assert not (tmp_path / "out").exists()
