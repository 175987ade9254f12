"""`sen convert`."""

import json

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from modeling_sen.commands.convert import FAMILIES, convert
from modeling_sen.conversion.imagebind import read_constructor
from modeling_sen.families.imagebind import ImageBindModel


@pytest.fixture
def original(tmp_path):
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    names = [
        f"{modality}_{name}" for modality in ("vision", "text", "audio", "depth", "thermal", "imu") for name in sizes
    ]
    arguments = {"out_embed_dim": 12, **{name: sizes[name.split("_", 1)[1]] for name in names}}
    (tmp_path / "config.json").write_text(json.dumps(arguments))
    torch.manual_seed(0)
    return tmp_path, ImageBindModel(read_constructor(tmp_path / "config.json")).eval()


def write(folder, model, monkeypatch, shift: float = 0.0) -> None:
    """Reference outputs, and a family `toy` that gives the model."""
    from modeling_sen.conversion import imagebind

    values = torch.randn(1, 6, 2000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds = model(imu_values=values).imu_embeds
    save_file({"input.imu": values, "output.imu": embeds + shift}, folder / "io.safetensors")
    monkeypatch.setattr(imagebind, "read_weights", lambda source: model.state_dict())
    monkeypatch.setattr(imagebind, "RULES", [(r"(.*)", r"\1")])
    monkeypatch.setattr(imagebind, "in_shape", lambda weights: weights)


def test_differences_are_printed_and_the_folder_is_written(original, monkeypatch, capsys):
    folder, model = original
    write(folder, model, monkeypatch)
    arguments = {"config": folder / "config.json", "verify": folder / "io.safetensors"}
    convert("imagebind", folder / "x.pth", folder / "out", **arguments)
    printed = capsys.readouterr().out
    assert "imu" in printed.splitlines()[0]
    assert "differs by at most" in printed
    assert "no tokenizer" in printed
    assert set(load_file(folder / "out" / "model.safetensors")) == set(model.state_dict())
    convert("imagebind", folder / "x.pth", folder / "out", **arguments, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["saved"]
    assert found["differences"]["imu"] <= 1e-5
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_a_difference_ends_with_status_1_and_without_a_folder(original, monkeypatch, capsys):
    folder, model = original
    write(folder, model, monkeypatch, shift=1e-3)
    with pytest.raises(typer.Exit) as ended:
        convert(
            "imagebind", folder / "x.pth", folder / "out", folder / "config.json", verify=folder / "io.safetensors"
        )
    assert ended.value.exit_code == 1
    assert "nothing written: expected differences of at most 1e-05" in capsys.readouterr().out
    assert not (folder / "out").exists()


def test_unknown_families_raise(tmp_path):
    with pytest.raises(ValueError, match=f"family is 'clip', expected one of {', '.join(FAMILIES)}"):
        convert("clip", tmp_path / "x", tmp_path / "out")
