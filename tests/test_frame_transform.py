"""A FrameTransform gives the same pixel values as the stock processor from the Hub, without torchvision."""

import json
import pickle

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from test_staged_towers import TYPES
from transformers import (
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DPTImageProcessorPil,
    EfficientNetImageProcessorPil,
    GLPNImageProcessorPil,
    LevitImageProcessorPil,
    PerceiverImageProcessorPil,
    PoolFormerImageProcessorPil,
    SiglipImageProcessorPil,
    VideoMAEImageProcessorPil,
    VivitImageProcessor,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from modeling_sen import SENConfig, SENProcessor, list_neurons
from modeling_sen.configuration_sen import NeuronSpec
from modeling_sen.frame_transform import FrameTransform, hub_settings
from modeling_sen.hub_files import HubSource
from modeling_sen.neuron_registry import CHECKPOINT_SPECS

SIZES = [(97, 131), (240, 135), (224, 224), (225, 223), (17, 40), (301, 12)]  # (height, width)
PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip_small": CLIPImageProcessorPil(size={"shortest_edge": 33}, crop_size={"height": 20, "width": 28}),
    "crop_larger_than_frame": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 131, "width": 142}),
    "siglip": SiglipImageProcessorPil(),
    "videomae": VideoMAEImageProcessorPil(),
    "depth_anything": DPTImageProcessorPil(
        size={"height": 252, "width": 252}, keep_aspect_ratio=True, ensure_multiple_of=14
    ),
    "dpt_multiple": DPTImageProcessorPil(size={"height": 64, "width": 96}, ensure_multiple_of=14),
    "crop_of_no_square": CLIPImageProcessorPil(size={"shortest_edge": 33}, do_center_crop=False),
    "convnext_below_384": ConvNextImageProcessorPil(size={"shortest_edge": 56}, crop_pct=0.9),
    "levit_square": LevitImageProcessorPil(size={"height": 40, "width": 50}, do_center_crop=False),
    "poolformer_square": PoolFormerImageProcessorPil(size={"height": 50, "width": 50}, crop_size=40),
    "poolformer_oblong": PoolFormerImageProcessorPil(size={"height": 40, "width": 50}, crop_size=40),
    "not_normalised": CLIPImageProcessorPil(do_normalize=False),
    "not_rescaled": SiglipImageProcessorPil(do_rescale=False),
    "efficientnet": EfficientNetImageProcessorPil(size={"height": 40, "width": 50}),  # divides by the deviation twice
    "efficientnet_offset": EfficientNetImageProcessorPil(
        size={"height": 40, "width": 50}, include_top=False, rescale_offset=True, rescale_factor=1 / 127.5
    ),
    "vivit": VivitImageProcessor(),  # rescales to -1..1 and then normalises
}


def frames_like_a_film(height: int, width: int, count: int = 2) -> np.ndarray:
    """Smooth blobs with noise: (count, height, width, 3) uint8."""
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


TOWERS = {getattr(transformers, name).config_class.model_type for name in TYPES}
TOWERS |= {*list_neurons(), *(model_type for model_type, _ in CHECKPOINT_SPECS)}
CLASSES = {
    classes.get("pil") or classes["torchvision"]
    for model_type, classes in IMAGE_PROCESSOR_MAPPING_NAMES.items()
    if model_type in TOWERS
}
# DINOv3's needs torchvision; the size of Siglip2's NaFlex images comes from the neuron's preprocessing.
NOT_COMPARED = {"DINOv3ViTImageProcessor", "Siglip2ImageProcessorPil"}


def settings_of(folder, settings, model_type=None):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return hub_settings(HubSource(str(folder)))


@pytest.mark.parametrize("class_name", sorted(CLASSES - NOT_COMPARED))
def test_defaults_of_every_stock_processor_give_the_same_pixel_values(class_name, caplog):
    stock = getattr(transformers, class_name)()
    transform = FrameTransform.from_settings(stock.to_dict(), spec())
    assert not caplog.records
    for size in [(97, 131), (120, 65), (40, 52), (224, 224)]:
        frames = frames_like_a_film(*size, count=1)
        theirs = torch.as_tensor(stock(list(frames), return_tensors="pt")["pixel_values"])
        ours = transform(frames)
        assert ours.shape[1:] == theirs.shape[-3:]
        assert (ours - theirs.reshape(ours.shape)).abs().max() <= 1e-5
    again = pickle.loads(pickle.dumps(transform))  # as when sent to the workers of a data loader
    assert torch.equal(again(frames), ours)


COLOURS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "do_normalize": True, "do_resize": True}
CROP = {**COLOURS, "do_center_crop": True, "resample": 3}
SHORT_FILES = {  # files that rely on defaults of their class; a single number as size is a square or the shorter side
    "clip": {**CROP, "feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224},
    "deit": {**CROP, "feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224},
    "levit": {**CROP, "feature_extractor_type": "LevitFeatureExtractor", "size": 224},
    "resnet": {**COLOURS, "feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875},
    "poolformer": {**COLOURS, "feature_extractor_type": "PoolFormerFeatureExtractor", "size": 224, "crop_pct": 0.95},
    "mobilevit": {
        "do_resize": True,
        "feature_extractor_type": "MobileViTFeatureExtractor",
        "size": 288,
        "crop_size": 256,
    },
    "glpn": {"do_resize": True, "feature_extractor_type": "GLPNFeatureExtractor", "size_divisor": 32},
    "vit": {**COLOURS, "size": 224},
    "efficientnet": {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 64, "width": 64}},
    "vivit": {**COLOURS, "video_processor_type": "VivitVideoProcessor", "rescale_factor": 1 / 127.5},
    "dinov2": {**COLOURS, "image_processor_type": "BitImageProcessorFast", "size": 224, "do_center_crop": False},
    "swin": {"image_processor_type": "ViTImageProcessor", "size": [64, 96], "image_mean": 0.5, "image_std": 0.5},
}


@pytest.mark.parametrize("model_type", SHORT_FILES)
def test_fields_missing_in_a_file_take_the_defaults_of_its_class(model_type, tmp_path):
    classes = {"deit": "DeiTImageProcessorPil", "vivit": "VivitImageProcessor"}
    stock_class = getattr(transformers, classes.get(model_type) or IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["pil"])
    stock = stock_class.from_dict(SHORT_FILES[model_type])
    transform = FrameTransform.from_settings(settings_of(tmp_path, SHORT_FILES[model_type], model_type), spec())
    frames = frames_like_a_film(97, 131)
    theirs = torch.as_tensor(np.asarray(stock(list(frames), return_tensors="np")["pixel_values"]))
    ours = transform(frames)
    assert ours.shape[1:] == theirs.shape[-3:]
    assert (ours - theirs.reshape(ours.shape)).abs().max() <= 1e-5


def test_the_file_of_an_unknown_class_is_read_without_defaults(tmp_path, caplog):
    mine = {**COLOURS, "image_processor_type": "MyImageProcessor", "size": 40, "crop_size": 32}
    transform = FrameTransform.from_settings(settings_of(tmp_path, mine, "mine"), spec())
    assert (transform.size, transform.crop, transform.mean) == (40, (32, 32), (0.5, 0.4, 0.3))
    nameless = {key: value for key, value in mine.items() if key != "image_processor_type"}
    assert FrameTransform.from_settings(settings_of(tmp_path, nameless, "mine"), spec()) == transform
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": {"shortest_edge": 32, "longest_edge": 64}},
            r"size is \{'shortest_edge': 32, 'longest_edge': 64\}, exp",
        ),
        ({"size": {"longest_edge": 64}}, "expected shortest_edge, or height and width"),
        ({"size": "large"}, "size is 'large'"),
        ({"size": 32, "crop_size": {"shortest_edge": 32}}, "crop_size is .*, expected height and width"),
        ({"size": 32, "do_pad": True}, "do_pad is True, expected no padding"),
        ({"image_processor_type": "Owlv2ImageProcessor", "do_pad": True}, "do_pad is True, expected no padding"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 8, "width": 8}},
            "expected shortest_edge",
        ),
    ],
)
def test_a_setting_without_an_equivalent_is_refused_and_can_be_overridden(changes, message, tmp_path):
    settings = settings_of(tmp_path, {**COLOURS, **changes})
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json: .*{message}.*; size and crop in the neuron's"):
        FrameTransform.from_settings(settings, spec())
    if "crop_size" not in changes:
        own = FrameTransform.from_settings(settings, spec(preprocessing={"size": [16, 20]}))
        assert own(frames_like_a_film(40, 50)).shape == (2, 3, 16, 20)


def test_padding_without_effect_is_accepted():
    stock = CLIPImageProcessorPil(do_pad=True)
    assert FrameTransform.from_settings(stock.to_dict(), spec()).crop == (224, 224)


def test_a_processor_with_steps_of_its_own_is_named_in_a_warning(tmp_path, caplog):
    PerceiverImageProcessorPil().save_pretrained(tmp_path)  # it crops before it resizes
    settings = hub_settings(HubSource(str(tmp_path)))
    FrameTransform.from_settings(settings, spec())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "preprocessor_config.json: frames are not prepared as PerceiverImageProcessorPil" in caplog.text
    caplog.clear()
    FrameTransform.from_settings(settings, spec(preprocessing={"size": [16, 16], "crop": None}))
    assert not caplog.records


def test_a_given_size_disables_the_crop_of_the_class():
    settings = ConvNextImageProcessorPil(size={"shortest_edge": 224}).to_dict()
    transform = FrameTransform.from_settings(settings, spec(preprocessing={"size": [16, 16]}))
    assert (transform.size, transform.crop) == ((16, 16), None)


def test_frames_that_are_too_small_for_the_resize_rule_raise():
    transform = FrameTransform.from_settings(GLPNImageProcessorPil().to_dict(), spec())
    with pytest.raises(ValueError, match=r"frames are 17 x 40, of which .* makes 0 x 32 pixels; give larger"):
        transform(frames_like_a_film(17, 40))


def test_clips_of_different_proportions_cannot_be_batched_without_a_fixed_size(tmp_path):
    settings_of(tmp_path, GLPNImageProcessorPil().to_dict())
    fields = {"hidden_size": 8, "class_name": "GLPNModel"}
    processor = SENProcessor(
        SENConfig(neurons=[{"name": "eye", "modality": "image", "hub_id": str(tmp_path), **fields}])
    )
    wide, square = np.zeros((1, 70, 130, 3), np.uint8), np.zeros((1, 70, 70, 3), np.uint8)
    assert processor(videos=[wide, wide])["eye_pixel_values"].shape == (2, 1, 3, 64, 128)
    with pytest.raises(
        ValueError, match=r"'eye': a batch has frames of one size, found .* \(64, 64\) and \(64, 128\)"
    ):
        processor(videos=[wide, square])
    with pytest.raises(ValueError, match="'eye': its frames are not brought to one height and width"):
        processor.frame_size("eye")


def test_the_neurons_preprocessing_overrides_the_hubs():
    settings = PROCESSORS["clip"].to_dict()
    transform = FrameTransform.from_settings(
        settings,
        spec(preprocessing={"size": [30, 20], "crop": [30, 20], "mean": [0, 0, 0], "std": [1, 1, 1], "resample": 0}),
    )
    frames = frames_like_a_film(60, 40)
    assert transform(frames).shape == (2, 3, 30, 20)
    assert torch.equal(transform(frames), torch.from_numpy(frames[:, 1::2, 1::2].copy()).permute(0, 3, 1, 2) / 255)


def test_preprocessing_without_a_file_is_sufficient():
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


def test_missing_settings_are_named_in_the_error():
    with pytest.raises(ValueError, match=r"with \['mean', 'std'\]; give them in the neuron's preprocessing"):
        FrameTransform.from_settings({"size": {"height": 8, "width": 8}, "image_mean": None}, spec())
    with pytest.raises(ValueError, match=r"\['mean', 'size', 'std'\]"):
        FrameTransform.from_settings(None, spec())
    with pytest.raises(ValueError, match=r"\['size'\]"):  # NaFlex
        FrameTransform.from_settings({"image_processor_type": "Siglip2ImageProcessor"}, spec())


def test_settings_are_read_from_processor_config_before_preprocessor_config(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert hub_settings(HubSource(str(tmp_path))) is None
    PROCESSORS["siglip"].save_pretrained(tmp_path)
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {"height": 224, "width": 224}
    nested = {"processor_class": "SiglipProcessor", "image_processor": {"size": {"height": 9, "width": 9}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {
        "height": 9,
        "width": 9,
    }  # newer; Transformers prefers it


def test_a_processor_file_without_image_settings_is_skipped(tmp_path):
    PROCESSORS["siglip"].save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "SiglipProcessor"}')
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {"height": 224, "width": 224}


def test_settings_of_an_audio_feature_extractor_are_skipped(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "PeAudioFeatureExtractor"}')
    assert hub_settings(HubSource(str(tmp_path))) is None
    (tmp_path / "video_preprocessor_config.json").write_text('{"size": {"height": 336, "width": 336}}')
    assert hub_settings(HubSource(str(tmp_path)))["size"] == {"height": 336, "width": 336}


def test_settings_of_video_processors_are_read(tmp_path):
    """Both the layout of V-JEPA2's checkpoints and the newer one."""
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


def test_a_damaged_file_is_named_in_the_error(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is not JSON"):
        hub_settings(HubSource(str(tmp_path)))


def test_a_missing_checkpoint_raises():
    with pytest.raises(OSError, match="local cache"):
        hub_settings(HubSource("nobody/nothing"))
