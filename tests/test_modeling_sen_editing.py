"""The editing model: features of clips, one step of the video UNet, gradients, saving and loading, and wrong inputs."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from random_editing import make_editing, make_unet, per_frame, random_step, randomize
from random_sen import random_weights
from transformers import AutoConfig, AutoModel

import modeling_sen
from modeling_sen import SENEditingConfig, SENForVideoEditing

pytest.importorskip("diffusers")

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 20, 28, 3), dtype=np.uint8)


@pytest.fixture
def base(tmp_path):
    """The folder of a base model with only a UNet, the only part that is read here."""
    make_unet().save_pretrained(tmp_path / "base" / "unet")
    return str(tmp_path / "base")


@pytest.fixture
def editing(make_sen):
    return make_editing(random_weights(make_sen()))


@pytest.fixture
def worded(make_sen, towers):
    """An editing model whose association depends on a prompt."""
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, {"hub_id": towers["bert"], "name": "words"}]
    return make_editing(random_weights(make_sen(neurons=neurons)))


def predicted(model, features, frames=6):
    with torch.no_grad():
        return model.predict(*random_step(1, frames), features)


def trained(model):
    """Gives the adapter and the modulation of tokens non-zero weights, as after training."""
    randomize(model.adapter, 0.2)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.sen.modulation.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_an_untrained_model_equals_the_base_unet_on_one_frame_bit_for_bit(editing):
    step = random_step(2, 1)
    expected = per_frame(make_unet(), *step)
    with torch.no_grad():
        assert torch.equal(editing.predict(*step, editing.video_features(FRAMES[:1])), expected)
        assert torch.equal(editing(*step), expected)


def test_features_are_the_tokens_of_every_frame(editing):
    """An image neuron encodes each frame separately, so its tokens equal those of the tower on that frame."""
    editing.sen.modulation.clear()
    with torch.no_grad():
        found = editing.video_features(FRAMES)
        pixels = editing.processor(videos=FRAMES[:4])["image_pixel_values"]  # one window
        tower = editing.sen.neurons["image"].tower(pixels[0]).last_hidden_state[:, 1:]
    assert {name: values.shape[:2] for name, values in found.items()} == {"image": (1, 6), "video": (1, 6)}
    torch.testing.assert_close(found["image"][0, :4].flatten(1, 2), tower)


def test_each_step_of_a_video_neuron_applies_to_its_two_frames(editing):
    with torch.no_grad():
        found = editing.video_features(FRAMES)["video"][0]
    steps = editing.sen.neurons["video"].spec.num_frames // 2  # the tower's tubelets have two frames
    assert steps == 2
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[1], found[2])


def test_features_depend_on_the_prompt_if_a_neuron_reads_it(worded):
    trained(worded)
    with torch.no_grad():
        red, blue = (worded.video_features(FRAMES, prompt)["image"] for prompt in ("a dog barks", "man speaks"))
    assert not torch.allclose(red, blue, atol=1e-3)
    assert not torch.allclose(predicted(worded, {"image": red}), predicted(worded, {"image": blue}), atol=1e-4)


def test_a_model_without_neurons_works_as_in_tune_a_video(make_sen):
    model = make_editing(make_sen(), read_neurons=[])
    assert model.video_features(FRAMES) == {}
    randomize(model.adapter)
    assert predicted(model, {}).shape == (1, 4, 6, 8, 8)


def test_the_given_sen_is_not_modified(make_sen):
    sen = random_weights(make_sen())
    before = copy.deepcopy(sen.state_dict())
    model = make_editing(sen)
    assert model.sen.neurons["image"].tower is sen.neurons["image"].tower
    assert not sen.modulation
    for name, weight in before.items():
        assert torch.equal(model.sen.state_dict()[name], weight)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_adapter_and_the_association_get_gradients(worded, checkpointing):
    trained(worded)
    if checkpointing:
        worded.train()
        worded.activation_checkpointing_enable()
        assert worded.unet.is_gradient_checkpointing
    worded.predict(*random_step(1, 6), worded.video_features(FRAMES, "a dog barks")).square().mean().backward()
    reached = {name for name, parameter in worded.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(("unet.", "sen.neurons.")) for name in reached)
    assert {name for name, _ in worded.named_parameters() if name.startswith("adapter.")} <= reached
    association = {name for name in reached if name.startswith("sen.")}
    assert any(name.startswith("sen.modulation.") for name in association)
    assert any(name.startswith("sen.blocks.") for name in association)
    weights = dict(worded.named_parameters())
    assert all(weights[name].grad.abs().sum() > 0 for name in association if name.startswith("sen.modulation."))


# --- saving and loading ----------------------------------------------------------------------------------------------


def test_a_saved_model_gives_the_same_output(make_sen, base, tmp_path):
    model = trained(make_editing(random_weights(make_sen()), base, conditioning="residual+cross"))
    model.save_pretrained(tmp_path / "saved")
    files = {path.relative_to(tmp_path / "saved").as_posix() for path in (tmp_path / "saved").rglob("*.*")}
    weights = "adapter/diffusion_pytorch_model.safetensors"
    assert files == {"config.json", "model.safetensors", "adapter/config.json", weights}
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert settings["model_type"] == "sen_editing"
    assert settings["base_model_id"] == base
    found = AutoModel.from_pretrained(tmp_path / "saved")
    assert isinstance(found, SENForVideoEditing)
    with torch.no_grad():
        features, expected = found.video_features(FRAMES), model.video_features(FRAMES)
    for name, values in expected.items():
        assert torch.equal(features[name], values)
    assert torch.equal(predicted(found, features), predicted(model, expected))
    assert not any(parameter.requires_grad for parameter in found.unet.parameters())
    assert all(parameter.requires_grad for parameter in found.adapter.parameters())


def test_a_base_model_in_the_checkpoint_folder_is_copied_when_saved_again(make_sen, base, tmp_path):
    model = trained(make_editing(random_weights(make_sen()), base))
    (tmp_path / "base" / "scheduler").mkdir()
    (tmp_path / "base" / "scheduler" / "scheduler_config.json").write_text("{}")
    model.config.base_model_id = "./base"
    model.base_source = modeling_sen.modeling_sen_editing._editing().base_source(base, None, None, {})
    model.save_pretrained(tmp_path / "first")
    SENForVideoEditing.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    (tmp_path / "first").rename(tmp_path / "away")
    assert (tmp_path / "second" / "base" / "scheduler" / "scheduler_config.json").is_file()
    found = SENForVideoEditing.from_pretrained(tmp_path / "second")
    assert found.config.base_model_id == "./base"
    assert torch.equal(predicted(found, None), predicted(model, None))


def test_a_unet_can_be_passed(editing, tmp_path):
    trained(editing).save_pretrained(tmp_path)
    found = SENForVideoEditing.from_pretrained(tmp_path, unet=make_unet())
    assert torch.equal(predicted(found, None), predicted(editing, None))
    with pytest.raises(ValueError, match="base_model_id is None, expected the id of a base model"):
        SENForVideoEditing.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter of another base model"):
        SENForVideoEditing.from_pretrained(tmp_path, unet=make_unet("sd2"))


def test_bfloat16_outputs_are_close(make_sen, base, tmp_path):
    trained(make_editing(random_weights(make_sen()), base)).save_pretrained(tmp_path / "saved")
    found = SENForVideoEditing.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert {part.dtype for part in (found.sen, found.unet, found.adapter)} == {torch.bfloat16}
    mixed = SENForVideoEditing.from_pretrained(tmp_path / "saved", base_kwargs={"torch_dtype": torch.bfloat16})
    assert (mixed.unet.dtype, mixed.adapter.dtype) == (torch.bfloat16, torch.float32)
    expected = SENForVideoEditing.from_pretrained(tmp_path / "saved")
    latents, times, texts = random_step(1, 6)
    with torch.no_grad():
        wanted = expected(latents, times, texts, expected.video_features(FRAMES))
        for model in (found, mixed):
            output = model(latents.bfloat16(), times, texts.bfloat16(), model.video_features(FRAMES))
            assert output.dtype == torch.bfloat16
            assert (output.float() - wanted).norm() < 0.1 * wanted.norm()


def test_missing_weights_raise(make_sen, base, tmp_path):
    from safetensors.torch import load_file, save_file

    make_editing(make_sen(), base).save_pretrained(tmp_path / "saved")
    for path, what in (("saved/adapter", "adapter of"), ("base/unet", "base model")):
        file = tmp_path / path / "diffusion_pytorch_model.safetensors"
        weights, whole = load_file(file), file.read_bytes()
        name = sorted(weights)[0]
        del weights[name]
        save_file(weights, file)
        with pytest.raises(RuntimeError, match=rf"{what}.*1 weights are missing \(e\.g\. {name}\)"):
            SENForVideoEditing.from_pretrained(tmp_path / "saved")
        file.write_bytes(whole)
    (tmp_path / "saved/adapter/config.json").unlink()
    with pytest.raises(OSError, match="adapter of"):
        SENForVideoEditing.from_pretrained(tmp_path / "saved")


# --- configuration and wrong inputs ----------------------------------------------------------------------------------


def test_image_and_video_neurons_are_read_by_default(make_sen, tmp_path):
    config = SENEditingConfig(sen_config=make_sen().config.to_dict())
    assert config.read_neurons == ["image", "video"]
    config.save_pretrained(tmp_path)
    found = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(found, SENEditingConfig)
    kept = ("conditioning", "num_frames", "read_neurons", "base_model_id", "sen_config")
    assert {name: found.to_dict()[name] for name in kept} == {name: config.to_dict()[name] for name in kept}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditioning": "concat"}, "conditioning is 'concat', expected one of residual, cross, residual[+]cross"),
        ({"read_neurons": ["eye"]}, "no neurons .*eye.*expected some of image, video, audio"),
        ({"read_neurons": ["audio"]}, "'audio' reads audio, expected neurons of image, video, depth"),
        ({"num_frames": 0}, "num_frames is 0, expected at least 1"),
    ],
)
def test_wrong_settings_raise(make_sen, settings, message):
    with pytest.raises(ValueError, match=message):
        SENEditingConfig(sen_config=make_sen().config.to_dict(), **settings)


def test_wrong_frames_and_base_models_raise(editing, make_sen, tmp_path):
    for frames in (FRAMES[0], FRAMES.astype(np.float32), FRAMES[:0], FRAMES[..., :2]):
        with pytest.raises(ValueError, match=r"frames: expected \(T, H, W, 3\) uint8, found shape"):
            editing.video_features(frames)
    with pytest.raises(OSError, match="base model"):
        make_editing(make_sen(), str(tmp_path))
    with pytest.raises(ValueError, match="found a Linear"):
        make_editing(make_sen(), torch.nn.Linear(2, 2))


def test_an_adapter_that_does_not_fit_is_refused_and_the_old_one_kept(editing, make_sen):
    trained(editing)
    expected, old = predicted(editing, None), editing.adapter
    other = modeling_sen.SENEditAdapter.from_unet(make_unet("sd2"))
    with pytest.raises(ValueError, match="adapter of another base model"):
        editing.attach_adapter(other)
    with pytest.raises(ValueError, match=r"reads neurons \(name, width\).*'eye', 3.*expected some of"):
        editing.attach_adapter(modeling_sen.SENEditAdapter.from_unet(make_unet(), neuron_widths={"eye": 3}))
    assert editing.adapter is old
    assert torch.equal(predicted(editing, None), expected)
    editing.attach_adapter(modeling_sen.SENEditAdapter.from_unet(make_unet()))
    assert old.unet is None


def test_without_diffusers_the_error_names_the_extra(make_sen, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("modeling_sen.editing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(modeling_sen, "editing", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    message = r"^video editing needs Diffusers: pip install 'modeling-sen\[editing\]'$"
    with pytest.raises(ImportError, match=message):
        SENForVideoEditing.from_base("org/base", make_sen())
    with pytest.raises(ImportError, match=message):
        SENForVideoEditing.from_pretrained("org/editing")
    with pytest.raises(ImportError, match=message):
        _ = modeling_sen.SENEditAdapter
