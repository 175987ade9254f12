"""ImageBind's towers inside a SEN: one space, all modalities, any variant, cards with the licence, saved and back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_sen import SENEncoder, SENModel, SENProcessor
from modeling_sen.families.imagebind import ImageBindModel
from modeling_sen.model_card import model_card

MODALITIES = ("video", "audio", "depth", "thermal", "imu")
SMALL = {"hidden_size": 8, "num_prompt_tokens": 2, "bottleneck_size": 4}


def make(towers, **settings) -> SENModel:
    torch.manual_seed(0)
    neurons = [{"hub_id": towers["imagebind"], "modality": modality} for modality in MODALITIES]
    return SENModel.from_neurons(neurons, text_tower=towers["imagebind"], **{**SMALL, **settings}).eval()


def clip(seed: int = 0) -> dict:
    generator = np.random.default_rng(seed)
    maps = generator.integers(0, 256, (8, 16, 16), dtype=np.uint8)
    return {
        "video": generator.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8),
        "audio": (generator.normal(scale=0.1, size=40_000).astype(np.float32), 16_000),
        "depth": maps,
        "thermal": 255 - maps,
        "imu": generator.normal(size=(6, 32)),
    }


def test_untrained_it_is_the_mean_of_imagebinds_embeddings(towers):
    model, whole = make(towers), ImageBindModel.from_pretrained(towers["imagebind"]).eval()
    inputs = SENProcessor(model.config)(videos=[clip(0), clip(1)], text=["a dog", "a car"])
    assert inputs["imu_imu_values"].shape == (2, 6, 32)
    assert inputs["audio_input_features"].shape == (2, 3, 1, 16, 20)
    with torch.no_grad():
        found = model(**inputs)
        pairs = inputs["video_pixel_values"].unflatten(1, (4, 2)).transpose(2, 3)  # (batch, clips, channels, 2, ...)
        parts = {
            "vision": [pairs[:, number] for number in range(4)],
            "audio": list(inputs["audio_input_features"].unbind(1)),
            "depth": list(inputs["depth_pixel_values"][:, :, :1].unbind(1)),
            "thermal": list(inputs["thermal_pixel_values"][:, :, :1].unbind(1)),
            "imu": [inputs["imu_imu_values"]],
        }
        embeds = []
        for modality, pieces in parts.items():
            pooled = torch.stack([getattr(whole, f"{modality}_model")(piece).pooler_output for piece in pieces]).mean(
                0
            )
            embeds.append(F.normalize(getattr(whole, f"{modality}_projection")(pooled), dim=-1))
        texts = whole(input_ids=inputs["text_input_ids"]).text_embeds
    expected = F.normalize(torch.stack(embeds).mean(0), dim=-1)
    torch.testing.assert_close(found.fused_embeds, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, F.normalize(texts, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.logit_scale.data, whole.text_logit_scale.data)


@pytest.mark.parametrize("prompt", ["tokens", "queries", "add", "none"])
def test_every_variant_trains_the_association_only(prompt, towers):
    model = make(towers, prompt=prompt)
    inputs = SENProcessor(model.config)(videos=[clip(0), clip(1)], text=["a dog", "a car"])
    torch.nn.init.constant_(model.gate, 0.5)
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if name.startswith("blocks.0"))
    assert all(weight.grad is None for neuron in model.neurons.values() for weight in neuron.tower.parameters())


def test_missing_modalities_are_left_out(towers):
    model = make(towers)
    inputs = SENProcessor(model.config)(videos=[{"imu": clip()["imu"]}, {"audio": clip()["audio"]}])
    assert inputs["neuron_mask"].tolist() == [[False, False, False, False, True], [False, True, False, False, False]]
    with torch.no_grad():
        together = model(**inputs).fused_embeds
        single = model(**SENProcessor(model.config)(videos={"imu": clip()["imu"]})).fused_embeds
    torch.testing.assert_close(together[:1], single, atol=1e-5, rtol=0)


def test_saved_with_its_towers_it_comes_back(towers, tmp_path):
    model = make(towers)
    model.save_pretrained(tmp_path, include_neurons=True)
    SENProcessor(model.config).save_pretrained(tmp_path)
    encoder = SENEncoder.from_pretrained(str(tmp_path))
    found = encoder.encode([clip()])
    with torch.no_grad():
        expected = model(**SENProcessor(model.config)(videos=clip())).fused_embeds
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    spec = encoder.model.config.neuron_specs[4]
    assert (spec.class_name, spec.projection) == ("ImageBindImuModel", "projection.safetensors")


def test_cards_name_the_licence_whether_towers_are_copied_or_not(towers, tmp_path):
    model = make(towers)
    card = model_card(model, model.config, "org/name")
    assert card.data.to_dict()["license_name"] == "cc-by-nc-sa-4.0"
    assert card.data.to_dict()["license_link"] == "https://creativecommons.org/licenses/by-nc-sa/4.0/"
    model.save_pretrained(tmp_path, include_neurons=True)
    copied = SENModel.from_pretrained(tmp_path)
    card = model_card(copied.load_neurons(), copied.config, "org/name")
    assert card.data.to_dict()["license_name"] == "cc-by-nc-sa-4.0"
    assert "| motion sensors |" in card.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (np.zeros(12), r"clip: expected \(channels, samples\) as imu, found shape \(12,\)"),
        (np.zeros((6, 31)), r"imu_values: found shape \(1, 6, 31\), expected \(batch, 6, 32\)"),
    ],
)
def test_motion_sensors_of_another_shape_raise(entry, message, towers):
    model = make(towers)
    with pytest.raises(ValueError, match=message), torch.no_grad():
        model(**SENProcessor(model.config)(videos={"imu": entry}))


def test_an_odd_number_of_frames_raises_and_one_is_an_image(towers):
    neuron = {"hub_id": towers["imagebind"], "num_frames": 3}
    model = SENModel.from_neurons([neuron], **SMALL).eval()
    with pytest.raises(ValueError, match="found 3 frames, expected 1 or a multiple of 2"):
        model(**SENProcessor(model.config)(videos=clip()["video"]))
    model = SENModel.from_neurons([{**neuron, "num_frames": 1}], **SMALL).eval()
    inputs = SENProcessor(model.config)(videos=clip()["video"])
    with torch.no_grad():
        pooled = model(**inputs).neuron_states["video"].pooler_output
        whole = ImageBindModel.from_pretrained(towers["imagebind"]).eval()
        torch.testing.assert_close(pooled, whole.vision_model(inputs["video_pixel_values"][:, 0]).pooler_output)


def test_real_files_go_through_a_sen(shared_data, towers):
    folder = shared_data / "multimodal"
    files = {
        "video": str(folder / "gram" / "video1.mp4"),
        "depth": str(folder / "languagebind" / "depth" / "0.png"),
        "thermal": str(folder / "languagebind" / "thermal" / "0.jpg"),
        "imu": clip()["imu"],
    }
    model = make(towers)
    inputs = SENProcessor(model.config)(videos=[files, {"audio": str(folder / "audioclip" / "cat_3-95694-A-5.wav")}])
    assert inputs["neuron_mask"].tolist() == [[True] * 5, [False, True, False, False, False]]
    with torch.no_grad():
        assert model(**inputs).fused_embeds.isfinite().all()
