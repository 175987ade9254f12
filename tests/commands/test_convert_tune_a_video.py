"""`sen convert tune-a-video`: a checkpoint of the editing model that computes what the tuned UNet does."""

import json
import sys

import numpy as np
import pytest
import torch
import typer
from fake_hub import fake_hub
from hub_session import connected
from random_editing import make_unet, random_step, save_tuned, tuned_weights
from safetensors.torch import save_file
from transformers import AutoModel

import sen_cli

pytest.importorskip("diffusers")

from modeling_sen import SENForVideoEditing
from modeling_sen.commands.convert import convert
from modeling_sen.editing.edit_adapter import SENEditAdapter

STEP = ("sample", "timestep", "encoder_hidden_states")


@pytest.fixture
def folders(tmp_path):
    """The tuned pipeline and its base model; each has a card."""
    make_unet().save_pretrained(tmp_path / "base" / "unet")
    save_tuned(tuned_weights(), tmp_path / "surfing")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    (tmp_path / "surfing" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    return tmp_path


def tuned_output(step):
    """By the tuned weights themselves: in the UNet those that it has a place for, the rest as an adapter beside it."""
    unet, weights = make_unet(), tuned_weights()
    unet.load_state_dict({name: weights[name] for name in unet.state_dict()})
    rest = SENEditAdapter.from_unet(unet, trained_queries=())
    rest.load_state_dict({name: weights[name] for name in rest.state_dict()})
    with torch.no_grad():
        return rest.attach(unet)(*step).contiguous()


def run(folders, out="out", **options):
    convert("tune-a-video", str(folders / "surfing"), folders / out, base=str(folders / "base"), **options)


def test_the_written_checkpoint_computes_the_tuned_model(folders, capsys):
    step = random_step()
    expected = tuned_output(step)
    inputs = {f"input.{name}": values for name, values in zip(STEP, step, strict=True)}
    save_file({**inputs, "output.sample": expected}, folders / "io.safetensors")
    run(folders, verify=folders / "io.safetensors")
    printed = capsys.readouterr().out
    assert "sample           differs by at most" in printed
    model = AutoModel.from_pretrained(folders / "out")
    assert isinstance(model, SENForVideoEditing)
    assert model.video_features(np.zeros((2, 8, 8, 3), np.uint8)) == {}  # it reads no neuron
    with torch.no_grad():
        found = model.predict(*step)
    assert (found - expected).abs().max() <= 1e-5
    assert f"{model.adapter.num_parameters():,} of these parameters are the adapter's" in printed
    assert f"the base model is the folder {folders / 'base'}" in printed
    # The adapter alone, on another copy of the base model.
    adapter = SENEditAdapter.from_pretrained(folders / "out" / "adapter").attach(make_unet())
    with torch.no_grad():
        assert torch.equal(adapter(*step), found)


def test_an_output_that_differs_writes_nothing(folders, capsys):
    step = random_step()
    inputs = {f"input.{name}": values for name, values in zip(STEP, step, strict=True)}
    save_file({**inputs, "output.sample": tuned_output(step) + 1e-3}, folders / "io.safetensors")
    with pytest.raises(typer.Exit) as ended:
        run(folders, verify=folders / "io.safetensors")
    assert ended.value.exit_code == 1
    save_file({"input.sample": step[0], "output.sample": step[0].clone()}, folders / "part.safetensors")
    with pytest.raises(ValueError, match=r"input\.timestep is missing, expected input\.sample, input\.timestep"):
        run(folders, verify=folders / "part.safetensors")
    assert not (folders / "out").exists()


def test_the_card_names_both_licences_if_stated(folders):
    run(folders)
    card = (folders / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "as their card states it: cc-by-4.0. Licence of the base model: creativeml-openrail-m." in card
    assert "base_model:" not in card
    assert "from the folder `surfing`" in card
    assert "the base model the folder `base`" in card
    assert str(folders) not in card
    (folders / "surfing" / "README.md").unlink()
    run(folders, "again")
    card = (folders / "again" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n")
    assert "as their card states it: unknown." in card


def test_repositories_are_read_at_one_commit_and_named_on_the_card(folders):
    with fake_hub() as hub:
        for name in ("base", "surfing"):
            hub.upload(f"org/{name}", folders / name)
        commits = {name: hub.repositories[f"org/{name}"].refs["main"] for name in ("base", "surfing")}
        with connected(hub, folders / "home"):
            convert("tune-a-video", "org/surfing", folders / "out", base="org/base")
            model = SENForVideoEditing.from_pretrained(folders / "out")
    assert (model.config.base_model_id, model.config.base_model_revision) == ("org/base", commits["base"])
    card = (folders / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nbase_model: org/base\nbase_model_relation: adapter\n")
    for name, commit in commits.items():
        assert f"[org/{name}](https://huggingface.co/org/{name}) at commit `{commit}`" in card


def test_the_json_counts_all_parameters(folders, capsys):
    run(folders, as_json=True)
    found = json.loads(capsys.readouterr().out)
    model = SENForVideoEditing.from_pretrained(folders / "out")
    assert found["saved"]
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["surfing", "out"], r"base: found none, expected the model that was tuned"),
        (
            ["surfing", "out", "--base", "base", "--config", "x.json"],
            "found --config, which tune-a-video does not support",
        ),
        (["./nothing", "out", "--base", "base"], r"\./nothing: no such checkpoint folder"),
        (["base", "out", "--base", "base"], r"base: found none of the files .*|has no weight .*norm_temp"),
        (["surfing", "out", "--base", "./nothing"], "base model .*nothing"),
        (["surfing", "out", "--base", "other"], r"surfing: its UNet was tuned from another base model"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, folders, monkeypatch, capsys):
    import re

    make_unet(block_out_channels=(4, 8)).save_pretrained(folders / "other" / "unet")
    monkeypatch.chdir(folders)
    monkeypatch.setattr(sys, "argv", ["sen", "convert", "tune-a-video", *arguments])
    with pytest.raises(SystemExit) as ended:
        sen_cli.main()
    printed = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert len(printed) == 1
    assert re.search(message, printed[0]), printed
    assert not (folders / "out").exists()


def test_other_families_take_no_base(tmp_path):
    with pytest.raises(
        ValueError, match="found --base, which imagebind does not support, expected --config and --tokenizer"
    ):
        convert("imagebind", str(tmp_path / "x.pth"), tmp_path / "out", base="org/base")
