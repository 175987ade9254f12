"""An editing model on the Hub: the commit of its base model is pinned, and the adapter is uploaded with the model."""

import numpy as np
import pytest
import torch
from fake_hub import fake_hub
from hub_session import READER, WRITER, connected
from random_editing import make_editing, make_unet, random_step, randomize
from random_sen import SMALL, random_weights
from tiny_diffusion import make_base
from transformers import pipeline

from modeling_sen import SENForVideoEditing, SENModel

pytest.importorskip("diffusers")

from modeling_sen.editing.tuning import TuningSettings

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 3), dtype=np.uint8)


@pytest.fixture
def hub(towers, tmp_path):
    make_unet().save_pretrained(tmp_path / "base" / "unet")
    with fake_hub() as hub:
        hub.tokens = {WRITER: "write", READER: "read"}
        hub.upload("org/clip", towers["clip"])
        hub.upload("org/base", tmp_path / "base")
        yield hub


def of_the_hub():
    torch.manual_seed(1)
    sen = SENModel.from_neurons([{"hub_id": "org/clip", "num_frames": 2}], text_tower="org/clip", **SMALL)
    model = make_editing(random_weights(sen), "org/base")
    randomize(model.adapter, 0.2)
    return model


def predicted(model):
    with torch.no_grad():
        return model.predict(*random_step(2, 3), model.video_features(FRAMES))


def test_a_pushed_model_gives_the_same_output_after_the_base_model_has_changed(hub, tmp_path):
    commit = hub.repositories["org/base"].refs["main"]
    with connected(hub, tmp_path / "author", WRITER):
        model = of_the_hub()
        expected = predicted(model)
        model.push_to_hub("org/editing", include_neurons=True)
    files = hub.repositories["org/editing"].files
    assert {"adapter/config.json", "adapter/diffusion_pytorch_model.safetensors", "config.json"} <= set(files)
    assert not any(name.startswith(("unet/", "base/")) for name in files)
    assert f'"base_model_revision": "{commit}"' in files["config.json"].decode()
    other = make_unet()
    other.conv_out.weight.data.neg_()
    other.save_pretrained(tmp_path / "other" / "unet")
    hub.upload("org/base", tmp_path / "other")  # a newer commit on the branch
    with connected(hub, tmp_path / "reader", READER):
        found = SENForVideoEditing.from_pretrained("org/editing")
        assert torch.equal(predicted(found), expected)
        assert found.config.base_model_revision == commit


def test_a_base_model_in_the_repository_is_loaded_and_saved_with_it(hub, tmp_path):
    with connected(hub, tmp_path / "author", WRITER):
        model = of_the_hub()
        expected = predicted(model)
        model.save_pretrained(tmp_path / "saved", include_neurons=True)
        make_unet().save_pretrained(tmp_path / "saved" / "base" / "unet")
        config = model.config.from_pretrained(tmp_path / "saved")
        config.base_model_id, config.base_model_revision = "./base", None
        config.save_pretrained(tmp_path / "saved")
        hub.upload("org/editing", tmp_path / "saved")
    with connected(hub, tmp_path / "reader", READER):
        found = SENForVideoEditing.from_pretrained("org/editing")
        outputs = [predicted(found)]
        found.save_pretrained(tmp_path / "again")
    outputs.append(predicted(SENForVideoEditing.from_pretrained(tmp_path / "again")))
    for output in outputs:
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_a_missing_base_model_is_named_in_the_error(hub, tmp_path):
    with (
        connected(hub, tmp_path / "reader", READER),
        pytest.raises(OSError, match=r"base model org/none.*no such repo"),
    ):
        SENForVideoEditing.from_base("org/none", of_the_hub().sen)


def test_a_pushed_adapter_gives_the_same_frames(towers, tmp_path):
    """After saving, loading, pushing and pulling, with the base model by its id; the card describes the tuning."""
    base = make_base(tmp_path / "base", vae="unshuffle", prediction="v_prediction")
    clip = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "progress": False}
    with fake_hub() as hub:
        hub.tokens = {WRITER: "write", READER: "read"}
        hub.upload("org/clip", towers["clip"])
        hub.upload("org/base", base)
        with connected(hub, tmp_path / "author", WRITER):
            edit = pipeline("video-editing", model=of_the_hub(), device="cpu", **options)
            settings = TuningSettings(steps=1, learning_rate=1e-2)
            expected = edit(clip, "a dog", "a red dog", tuning=settings).frames
            edit.save_pretrained(tmp_path / "saved")
            saved = pipeline("video-editing", model=str(tmp_path / "saved"), **options)
            assert np.array_equal(saved(clip, "a dog", "a red dog").frames, expected)
            edit.push_to_hub("org/editing")
        card = hub.repositories["org/editing"].files["README.md"].decode()
        assert "The adapter was tuned on one clip, `frames`: 3 frames of 32 x 32" in card
        assert "[org/base](https://huggingface.co/org/base)" in card
        with connected(hub, tmp_path / "reader", READER):
            pulled = pipeline("video-editing", model="org/editing", **options)
            assert np.array_equal(pulled(clip, "a dog", "a red dog").frames, expected)
            edited = edit(clip, "a dog", "a red dog", adapter="org/editing")
            assert np.array_equal(edited.frames, expected)
