"""Tune-A-Video's own checkpoints as adapters: the same output as the tuned UNet, computed as its authors do."""

import pytest
import torch
from random_editing import make_unet, random_step
from safetensors.torch import save_file

pytest.importorskip("diffusers")

from modeling_sen.conversion.tune_a_video import convert_tune_a_video
from modeling_sen.editing.edit_adapter import SENEditAdapter, unet_shape


def tuned_weights():
    """State dict of a UNet that Tune-A-Video tuned: names and shapes are those of its UNet3DConditionModel."""
    unet = make_unet()
    weights, generator = dict(unet.state_dict()), torch.Generator().manual_seed(4)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    for path, (width, _) in unet_shape(unet)[0].items():
        for name in ("attn1", "attn2"):
            weights[f"{path}.{name}.to_q.weight"] = weights[f"{path}.{name}.to_q.weight"] + random(width, width)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            weights[f"{path}.attn_temp.{name}.weight"] = random(width, width)
        weights[f"{path}.attn_temp.to_out.0.bias"] = random(width)
        weights[f"{path}.norm_temp.weight"], weights[f"{path}.norm_temp.bias"] = torch.ones(width), torch.zeros(width)
    return weights


def save(weights, folder, kind="bin"):
    (folder / "unet").mkdir(exist_ok=True)
    file = folder / "unet" / f"diffusion_pytorch_model.{kind}"
    torch.save(weights, file) if kind == "bin" else save_file(weights, file)
    return str(folder)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_the_adapter_makes_the_tuned_unet_of_the_base(tmp_path, kind):
    weights, base = tuned_weights(), make_unet()
    adapter = convert_tune_a_video(save(weights, tmp_path, kind), base).attach(base)
    # The reference: the tuned weights themselves in the UNet, and beside it only what the UNet has no place for.
    reference = make_unet()
    reference.load_state_dict({name: weights[name] for name in reference.state_dict()})
    rest = SENEditAdapter.from_unet(reference, trained_queries=())
    rest.load_state_dict({name: weights[name] for name in rest.state_dict()})
    rest.attach(reference)
    step = random_step()
    with torch.no_grad():
        torch.testing.assert_close(adapter(*step), rest(*step), rtol=1e-4, atol=1e-5)


def test_other_checkpoints_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none of the files unet/diffusion_pytorch_model\.safetensors"):
        convert_tune_a_video(str(tmp_path), make_unet())
    plain = make_unet().state_dict()
    with pytest.raises(ValueError, match=r"has no weight .*norm_temp.weight, expected one that was tuned"):
        convert_tune_a_video(save(plain, tmp_path), make_unet())
    weights = tuned_weights()
    with pytest.raises(ValueError, match=r"another base model: .* is \(8,\), expected \(4,\)"):
        convert_tune_a_video(save(weights, tmp_path), make_unet(block_out_channels=(4, 8)))
    other = make_unet()
    other.conv_in.weight.data += 1.0
    with pytest.raises(ValueError, match=r"another base model: the two differ in conv_in\.weight"):
        convert_tune_a_video(save(weights, tmp_path), other)
    with pytest.raises(ValueError, match="another base model: only one of the two has"):
        convert_tune_a_video(save({**weights, "conv_new.weight": torch.ones(1)}, tmp_path), make_unet())
