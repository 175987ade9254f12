"""Tune-A-Video's own checkpoints as adapters: the same output as the tuned UNet, computed as its authors do."""

import pytest
import torch
from random_editing import make_unet, random_step, save_tuned, tuned_weights

pytest.importorskip("diffusers")

from modeling_sen.conversion.tune_a_video import convert_tune_a_video
from modeling_sen.editing.edit_adapter import SENEditAdapter


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_the_adapter_makes_the_tuned_unet_of_the_base(tmp_path, kind):
    weights, base = tuned_weights(), make_unet()
    adapter = convert_tune_a_video(save_tuned(weights, tmp_path, kind), base).attach(base)
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
        convert_tune_a_video(save_tuned(plain, tmp_path), make_unet())
    weights = tuned_weights()
    with pytest.raises(ValueError, match=r"another base model: .* is \(8,\), expected \(4,\)"):
        convert_tune_a_video(save_tuned(weights, tmp_path), make_unet(block_out_channels=(4, 8)))
    other = make_unet()
    other.conv_in.weight.data += 1.0
    with pytest.raises(ValueError, match=r"another base model: the two differ in conv_in\.weight"):
        convert_tune_a_video(save_tuned(weights, tmp_path), other)
    file = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin: the file is truncated"):
        convert_tune_a_video(str(tmp_path), make_unet())
    with pytest.raises(ValueError, match="another base model: only one of the two has"):
        convert_tune_a_video(save_tuned({**weights, "conv_new.weight": torch.ones(1)}, tmp_path), make_unet())
