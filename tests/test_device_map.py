"""Neurons with a device map of accelerate, also with weights on disk: same outputs, gradients and saved files."""

import pytest
import torch
from random_sen import random_inputs, random_weights

from modeling_sen import SENModel

accelerate = pytest.importorskip("accelerate")

LAYERS = [f"encoder.layer.{index}" for index in range(4)]
TEXTS = torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513]])
MAPS = {
    "auto": "auto",
    "cpu": "cpu",
    "whole": {"": "cpu"},
    "disk": {"": "disk"},
    "layers on the disk": {
        "embeddings": "cpu",
        **dict(zip(LAYERS, ["cpu", "disk", "cpu", "disk"], strict=True)),
        "layernorm": "disk",
    },
}


def outputs(model) -> torch.Tensor:
    return model(**random_inputs(), text_input_ids=TEXTS).logits_per_video


@pytest.fixture
def saved(make_sen, tmp_path):
    model = random_weights(make_sen())
    model.save_pretrained(tmp_path / "sen")
    return model, tmp_path / "sen"


def check(model, plain, folder) -> None:
    """Compares outputs and gradients with the plain model, also after moves and after saving with towers."""
    expected = outputs(plain)
    assert torch.equal(outputs(model), expected)
    for each in (model, plain):
        outputs(each).sum().backward()
    assert torch.equal(model.gate.grad, plain.gate.grad)
    model.to("cpu").float()
    assert torch.equal(outputs(model), expected)
    model.save_pretrained(folder / "whole", include_neurons=True)
    assert torch.equal(outputs(SENModel.from_pretrained(folder / "whole")), expected)


# Without an accelerator "auto" also puts the whole tower on the CPU.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("cpu", "whole") else []) for name in MAPS]
)
def test_a_tower_with_a_device_map_gives_the_same_outputs(name, saved, tmp_path):
    plain, folder = saved
    kwargs = {"device_map": MAPS[name], "offload_folder": str(tmp_path / "offload")}
    model = SENModel.from_pretrained(folder, neuron_kwargs={"video": kwargs})
    on_disk = {place.device.type for place in model.neurons["video"].parameters()}
    assert ("meta" in on_disk) == ("disk" in name)
    check(model, plain, tmp_path)


@pytest.mark.slow
def test_towers_from_larger_checkpoints_can_be_offloaded(saved, tmp_path):
    plain, folder = saved
    kwargs = {
        name: {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / name)}
        for name in ("image", "video", "audio", "class_text")
    }
    model = SENModel.from_pretrained(folder, neuron_kwargs=kwargs)
    assert all(parameter.is_meta for parameter in model.neurons.parameters())
    check(model, plain, tmp_path)
    again = SENModel.from_pretrained(tmp_path / "whole", neuron_kwargs=kwargs)  # the projections are in separate files
    assert torch.equal(outputs(again), outputs(plain))


@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_towers_offloaded_by_hand_give_the_same_outputs(kind, saved, tmp_path):
    plain, folder = saved
    model = SENModel.from_pretrained(folder)
    tower, place = model.neurons["video"].tower, torch.device("cpu")
    if kind == "cpu":
        accelerate.cpu_offload(tower, execution_device=place)
    else:
        accelerate.disk_offload(tower, str(tmp_path / "offload"), execution_device=place)
    check(model, plain, tmp_path)


def test_an_offloaded_tower_keeps_its_dtype(saved, tmp_path):
    plain, folder = saved
    kwargs = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "offload")}
    model = SENModel.from_pretrained(folder, neuron_kwargs={"video": kwargs}).to(torch.bfloat16)
    dtypes = {name: model.neurons[name].dtype for name in model.specs}
    assert dtypes == {"image": torch.bfloat16, "video": torch.float32, "audio": torch.bfloat16}
    torch.testing.assert_close(outputs(model).float(), outputs(plain), atol=0.3, rtol=0.05)


def test_an_unavailable_device_is_named_with_its_neuron(saved):
    _, folder = saved
    with pytest.raises(ValueError, match=r"neuron 'video' \(.*found nowhere"):
        SENModel.from_pretrained(folder, neuron_kwargs={"video": {"device_map": "nowhere"}})
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"neuron 'video' \(.*(CUDA|NVIDIA)"):
            SENModel.from_pretrained(folder, neuron_kwargs={"video": {"device_map": {"": "cuda"}}})
