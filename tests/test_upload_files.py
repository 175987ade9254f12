"""The files of a checkpoint's folder that are uploaded."""

import json
import shutil
from pathlib import Path

import pytest
from test_pretrained_sen import load_toy_head
from tiny_language_model import write_language_model

import modeling_sen
from modeling_sen import SEN_TINY, SEN_TINY_CHAT, SENForConditionalGeneration, SENModel
from modeling_sen.upload_files import add_code, check_loads_elsewhere, checkpoint_files, copy_checkpoint, read_settings

JUNK = (
    *(
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "training_args.bin",
        "trainer_state.json",
        "train.yaml",
        ".token",
    ),
    *(
        "pytorch_model.bin",
        "best/config.json",
        "checkpoint-2/model.safetensors",
        "evaluation/embeddings/a.safetensors",
    ),
    *("evaluation/results.json", "card/limits.md", "neuron_old/model.safetensors", "README.md"),
)


def test_only_files_that_the_model_needs_are_uploaded(sen_folder, tmp_path):
    folder = shutil.copytree(sen_folder, tmp_path / "sen")
    before = set(checkpoint_files(folder))
    for name in JUNK:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("junk")
    assert set(checkpoint_files(folder)) == before
    copy_checkpoint(folder, tmp_path / "copy")
    copied = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert copied == before
    assert {"config.json", "model.safetensors", "processor_config.json", "neuron_words/tokenizer.json"} <= copied
    SENModel.from_pretrained(tmp_path / "copy")


def test_towers_of_the_package_are_not_uploaded():
    assert checkpoint_files(Path(SEN_TINY)) == ["config.json", "model.safetensors", "processor_config.json"]


def test_a_tower_in_a_local_folder_is_refused(make_sen, sen_folder, tmp_path):
    make_sen().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"neuron 'image': its tower is the folder .* of this machine.*--include-neurons"
    ):
        check_loads_elsewhere(tmp_path)
    check_loads_elsewhere(sen_folder, with_code=True)
    check_loads_elsewhere(Path(SEN_TINY))
    with pytest.raises(ValueError, match=r"neuron 'image': its tower is part of the package.*--include-neurons"):
        check_loads_elsewhere(Path(SEN_TINY), with_code=True)


def test_a_language_model_in_a_local_folder_is_refused(tmp_path):
    model = SENForConditionalGeneration.from_llm(write_language_model(tmp_path / "llm"), SEN_TINY)
    model.save_pretrained(tmp_path / "chat")
    expected = rf"language model: it is the folder {tmp_path / 'llm'} of this machine.*--include-neurons"
    with pytest.raises(ValueError, match=expected):
        check_loads_elsewhere(tmp_path / "chat")
    model.save_pretrained(tmp_path / "whole", include_language_model=True)
    check_loads_elsewhere(tmp_path / "whole")
    check_loads_elsewhere(Path(SEN_TINY_CHAT))


def test_code_is_added_only_to_this_checkpoint(sen_folder, tmp_path, make_sen):
    folder = shutil.copytree(sen_folder, tmp_path / "sen")
    model = SENModel.from_pretrained(folder)
    add_code(model, folder)
    classes = {"AutoConfig": "configuration_sen.SENConfig", "AutoModel": "modeling_sen.SENModel"}
    assert json.loads((folder / "config.json").read_text())["auto_map"] == classes
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["auto_map"] == {"AutoProcessor": "processing_sen.SENProcessor"}
    assert {"modeling_sen.py", "pretrained_sen.py", "processing_sen.py", "video_io.py"} <= {
        p.name for p in folder.iterdir()
    }
    model.save_pretrained(tmp_path / "later")  # the classes are unchanged
    assert not list((tmp_path / "later").glob("*.py"))


def test_the_code_of_a_head_is_added(make_sen, tmp_path, monkeypatch):
    toy = load_toy_head()
    head = toy.ToyHead(toy.ToyConfig(sen_config=make_sen().config.to_dict()))
    head.base_model.load_neurons()
    head.save_pretrained(tmp_path / "toy", include_neurons=True)
    with pytest.raises(ValueError, match=r"ToyConfig: its code needs .*tests/\w+.py, which is not there"):
        add_code(head, tmp_path / "toy")
    package = shutil.copytree(Path(modeling_sen.__file__).parent, tmp_path / "package")
    monkeypatch.setattr(toy, "__file__", shutil.copy(toy.__file__, package))  # as for a head of the package
    add_code(head, tmp_path / "toy")
    classes = {"AutoConfig": "toy_head.ToyConfig", "AutoModel": "toy_head.ToyHead"}
    assert json.loads((tmp_path / "toy" / "config.json").read_text())["auto_map"] == classes
    assert {"toy_head.py", "modeling_sen.py", "neuron_bank.py"} <= {path.name for path in (tmp_path / "toy").iterdir()}


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_settings_are_named_in_the_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json: expected the settings of a model"):
        read_settings(tmp_path)
