"""Frames become a neuron's pixel values exactly as its hub processor makes them, in one path without torchvision."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    DPTImageProcessorPil,
    EfficientNetImageProcessorPil,
    SiglipImageProcessorPil,
    VideoMAEImageProcessorPil,
    VivitImageProcessor,
)

from modeling_sen.configuration_sen import NeuronSpec
from modeling_sen.frame_transform import FrameTransform, hub_settings
from modeling_sen.hub_files import HubSource

SIZES = [(97, 131), (240, 135), (224, 224), (225, 223), (17, 40), (301, 12)]  # (height, width)
PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip_small": CLIPImageProcessorPil(size={"shortest_edge": 33}, crop_size={"height": 20, "width": 28}),
    "crop_larger_than_frame": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 131, "width": 142}),
    "siglip": SiglipImageProcessorPil(),
    "videomae": VideoMAEImageProcessorPil(),
    "dpt": DPTImageProcessorPil(),
    "not_normalised": CLIPImageProcessorPil(do_normalize=False),
    "not_rescaled": SiglipImageProcessorPil(do_rescale=False),
    "efficientnet": EfficientNetImageProcessorPil(size={"height": 40, "width": 50}),  # divided by the deviation twice
    "efficientnet_offset": EfficientNetImageProcessorPil(
        size={"height": 40, "width": 50}, include_top=False, rescale_offset=True, rescale_factor=1 / 127.5
    ),
    "vivit": VivitImageProcessor(),  # rescaled to -1..1 before it is normalised
}


def frames_like_a_film(height: int, width: int, count: int = 2) -> np.ndarray:
    """Smooth blobs with some grain: (count, height, width, 3) uint8."""
    generator = np.random.default_rng(height * 1000 + width)
    coarse = generator.integers(0, 256, (count, 9, 11, 3), dtype=np.uint8)
    smooth = np.stack(
        [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in coarse]
    )
    grain = generator.integers(-9, 10, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def spec(**fields) -> NeuronSpec:
    return NeuronSpec(
        name="image", modality="image", hub_id="somewhere", hidden_size=8, class_name="CLIPVisionModel", **fields
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixel_values_equal_the_stock_processors(name, size):
    frames = frames_like_a_film(*size)
    stock = PROCESSORS[name](list(frames), return_tensors="pt")["pixel_values"]
    ours = FrameTransform.from_settings(PROCESSORS[name].to_dict(), spec())(frames)
    assert ours.dtype == torch.float32
    assert ours.shape == stock.reshape(ours.shape).shape
    scale = 255 if name == "not_rescaled" else 1
    assert (ours - stock.reshape(ours.shape)).abs().max() <= 1e-5 * scale


def test_settings_in_the_old_form_of_the_hub_are_read():
    """openai/clip-vit-base-patch16 says one number where newer files say a dict."""
    old = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    }
    assert FrameTransform.from_settings(old, spec()) == FrameTransform.from_settings(
        PROCESSORS["clip"].to_dict(), spec()
    )


def test_preprocessing_of_the_neuron_overrides_the_hub():
    settings = PROCESSORS["clip"].to_dict()
    transform = FrameTransform.from_settings(
        settings,
        spec(preprocessing={"size": [30, 20], "crop": [30, 20], "mean": [0, 0, 0], "std": [1, 1, 1], "resample": 0}),
    )
    frames = frames_like_a_film(60, 40)
    assert transform(frames).shape == (2, 3, 30, 20)
    assert torch.equal(transform(frames), torch.from_numpy(frames[:, 1::2, 1::2].copy()).permute(0, 3, 1, 2) / 255)


def test_preprocessing_alone_is_enough():
    whole = {"size": 16, "crop": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    assert FrameTransform.from_settings(None, spec(preprocessing=whole))(frames_like_a_film(40, 50)).shape == (
        2,
        3,
        16,
        16,
    )


def test_gray_repeats_the_luma_in_every_channel():
    frames = frames_like_a_film(20, 20)
    whole = {"size": None, "mean": [0.0] * 3, "std": [1.0] * 3, "gray": True}
    values = FrameTransform.from_settings(None, spec(preprocessing=whole))(frames)
    luma = frames @ np.array([0.299, 0.587, 0.114]) / 255
    assert torch.equal(values[:, 0], values[:, 1])
    assert torch.equal(values[:, 0], values[:, 2])
    assert np.abs(values[:, 0].numpy() - luma).max() <= 1 / 255


def test_missing_numbers_are_named():
    with pytest.raises(ValueError, match=r"says \['mean', 'std'\]; give them in the neuron's preprocessing"):
        FrameTransform.from_settings({"size": {"height": 8, "width": 8}, "image_mean": None}, spec())
    with pytest.raises(ValueError, match=r"\['mean', 'size', 'std'\]"):
        FrameTransform.from_settings(None, spec())


def test_settings_are_read_from_either_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert hub_settings(HubSource(str(tmp_path))) is None
    PROCESSORS["siglip"].save_pretrained(tmp_path)
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {"height": 224, "width": 224}
    nested = {"processor_class": "SiglipProcessor", "image_processor": {"size": {"height": 9, "width": 9}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {
        "height": 9,
        "width": 9,
    }  # newer, and preferred by Transformers


def test_a_processor_file_without_an_image_part_is_passed_over(tmp_path):
    PROCESSORS["siglip"].save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "SiglipProcessor"}')
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {"height": 224, "width": 224}


def test_the_file_of_sound_beside_a_video_processors_is_passed_over(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "PeAudioFeatureExtractor"}')
    assert hub_settings(HubSource(str(tmp_path))) is None
    (tmp_path / "video_preprocessor_config.json").write_text('{"size": {"height": 336, "width": 336}}')
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {"height": 336, "width": 336}


def test_settings_of_video_processors_are_read(tmp_path):
    """As V-JEPA2's checkpoints have them, and as newer ones keep them."""
    (tmp_path / "config.json").write_text("{}")
    video = {"size": {"shortest_edge": 292}, "crop_size": 256, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(video))
    spec = NeuronSpec("video", "video", str(tmp_path), 16, "VJEPA2Model")
    transform = FrameTransform.from_settings(hub_settings(HubSource(str(tmp_path))), spec)
    assert (transform.size, transform.crop) == (292, (256, 256))
    newer = {"video_processor": {**video, "size": {"height": 288, "width": 288}, "crop_size": None}}
    (tmp_path / "processor_config.json").write_text(json.dumps(newer))
    transform = FrameTransform.from_settings(hub_settings(HubSource(str(tmp_path))), spec)
    assert (transform.size, transform.crop) == ((288, 288), None)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is not JSON"):
        hub_settings(HubSource(str(tmp_path)))


def test_a_checkpoint_that_is_not_there_raises():
    with pytest.raises(OSError, match="cached files"):
        hub_settings(HubSource("nobody/nothing"))
