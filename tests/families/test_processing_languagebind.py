"""LanguageBind's processor against recipes written out here, and the same files through SENProcessor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kaldi_filter_bank import kaldi_filter_bank
from PIL import Image
from tiny_towers import clip_tokenizer
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer

from modeling_sen import SENConfig, SENProcessor, read_audio, read_video
from modeling_sen.clip_inputs import as_depth
from modeling_sen.families.filter_bank import filter_bank
from modeling_sen.families.languagebind import LanguageBindFeatureExtractor, LanguageBindProcessor
from modeling_sen.families.languagebind import configuration_languagebind as configurations

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
FILES = {
    "Image": ["image/0.jpg", "image/1.jpg"],
    "Thermal": ["thermal/0.jpg", "thermal/1.jpg"],
    "Depth": ["depth/0.png", "depth/1.png"],
    "Video": ["video/0.mp4", "video/1.mp4"],
    "Audio": ["audio/0.wav", "audio/1.wav", "../gram/audio1.mp3", "../audioclip/cat_3-95694-A-5.wav"],
}


def config_of(modality: str, **tower):
    return getattr(configurations, f"LanguageBind{modality}Config")(vision_config=tower or None)


def processor_of(modality: str, **tower) -> LanguageBindProcessor:
    return LanguageBindProcessor(config_of(modality, **tower))


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=16_000 * 30).astype(np.float32) / 8


# --- recipes written out ---------------------------------------------------------------------------------------------


def short_side(values: np.ndarray, size: int, filter_: int) -> np.ndarray:
    """(H, W) float32 -> (size, size) by Pillow in floating-point numbers, the centre cut out."""
    height, width = values.shape
    longer = int(size * max(height, width) / min(height, width))
    height, width = (size, longer) if height <= width else (longer, size)
    values = np.asarray(Image.fromarray(values.astype(np.float32), mode="F").resize((width, height), filter_))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return values[top : top + size, left : left + size]


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) -> (height, width), each pixel from the four around its centre, whatever the scale."""

    def places(count: int, of: int):
        centres = np.clip((np.arange(count) + 0.5) * of / count - 0.5, 0, None)
        first = np.floor(centres).astype(int)
        return first, np.minimum(first + 1, of - 1), centres - first

    top, bottom, down = places(height, values.shape[0])
    left, right, along = places(width, values.shape[1])
    rows = values[top] * (1 - down[:, None]) + values[bottom] * down[:, None]
    return rows[:, left] * (1 - along) + rows[:, right] * along


# --- sound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [112, 126])
def test_spectrograms_are_kaldis(bins, noise):
    samples = noise[: 160 * 1035 + 400]  # as many windows as one crop has
    features = LanguageBindFeatureExtractor(num_mel_bins=bins)(samples, 16_000)["input_features"]
    assert features.shape == (1, 3, bins, 1036)
    assert features.dtype == np.float32
    expected = (kaldi_filter_bank(samples, bins) + 4.2677393) / (2 * 4.5689974)
    for crop in features[0]:
        np.testing.assert_allclose(crop, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("windows", [1037, 1038, 1500, 2997])
def test_crops_of_a_long_sound_begin_where_the_originals_ranges_do(windows, noise):
    samples = noise[: 160 * (windows - 1) + 400]
    features = LanguageBindFeatureExtractor()(samples, 16_000)["input_features"][0]
    bank = (kaldi_filter_bank(samples, 112) + 4.2677393) / (2 * 4.5689974)
    ranges = np.array_split(np.arange(windows - 1036 + 1), 3)
    starts = [int(part[0]) if len(part) else 0 for part in ranges]
    for crop, start in zip(features, starts, strict=True):
        np.testing.assert_allclose(crop, bank[:, start : start + 1036], atol=1e-3, rtol=0)
    again = LanguageBindFeatureExtractor()(samples, 16_000)["input_features"][0]
    np.testing.assert_array_equal(again, features)


def test_a_short_sound_is_repeated(noise):
    features = LanguageBindFeatureExtractor()(noise[: 160 * 299 + 400], 16_000)["input_features"][0]
    np.testing.assert_array_equal(features[0, :, :300], features[0, :, 300:600])
    np.testing.assert_array_equal(features[0, :, 900:], features[0, :, :136])
    np.testing.assert_array_equal(features[0], features[2])


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(399), 16_000, r"found samples of shape \(399,\), expected \(S,\) with at least 400, one window"),
        ([np.zeros((2, 800))], 16_000, r"found samples of shape \(2, 800\)"),
        (np.zeros(800), 44_100, "sampling_rate is 44100, expected 16000"),
    ],
)
def test_sounds_of_another_form_are_refused(samples, rate, message):
    with pytest.raises(ValueError, match=message):
        LanguageBindFeatureExtractor()(samples, rate)


def test_the_extractor_is_made_of_a_published_configuration(tmp_path):
    config = config_of("Audio", num_mel_bins=126, target_length=500, audio_mean=1.5, audio_std=2.5)
    extractor = LanguageBindFeatureExtractor.from_config(config)
    assert (extractor.num_mel_bins, extractor.target_length, extractor.mean, extractor.std) == (126, 500, 1.5, 2.5)
    extractor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert again.to_dict() == extractor.to_dict()


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(301, 467), (467, 301), (224, 224), (224, 300), (40, 60)])
def test_images_are_resized_with_antialiasing_and_not_rounded(size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = processor_of("Image")(images=Image.fromarray(pixels))["pixel_values"]
    assert found.shape == (1, 3, 224, 224)
    for channel in range(3):
        expected = short_side(pixels[..., channel] / 255, 224, Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[0, channel], (expected - MEAN[channel]) / STD[channel], atol=1e-4, rtol=0)


def test_depth_is_distance_up_to_ten_metres(tmp_path):
    millimetres = np.random.default_rng(2).integers(0, 14_000, (300, 451)).astype(np.uint16)
    millimetres[:30] = 0  # no distance was measured
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    found = processor_of("Depth")(images=tmp_path / "depth.png")["pixel_values"]
    metres = np.clip(millimetres / 1000, 0.01, 10) / 10
    expected = short_side(metres, 224, Image.Resampling.BICUBIC)
    for channel in range(3):
        np.testing.assert_allclose(found[0, channel], (expected - MEAN[channel]) / STD[channel], atol=1e-4, rtol=0)
    torch.testing.assert_close(processor_of("Depth")(images=[millimetres])["pixel_values"], found)
    relative = processor_of("Depth", max_depth=0)(images=millimetres)["pixel_values"]
    expected = short_side(np.clip(millimetres / 1000, 0.01, None) / 13.999, 224, Image.Resampling.BICUBIC)
    np.testing.assert_allclose(relative[0, 0], (expected - MEAN[0]) / STD[0], atol=1e-3, rtol=0)


def test_thermal_images_of_one_channel_have_three():
    grey = np.random.default_rng(3).integers(0, 256, (224, 224), dtype=np.uint8)
    for image in (grey, Image.fromarray(grey), Image.fromarray(grey).convert("RGBA")):
        found = processor_of("Thermal")(images=image)["pixel_values"][0].numpy()
        for channel in range(3):
            np.testing.assert_allclose(found[channel], (grey / 255 - MEAN[channel]) / STD[channel], atol=1e-5, rtol=0)


def test_frames_are_spread_evenly_and_resized_without_antialiasing():
    frames = np.random.default_rng(4).integers(0, 256, (13, 301, 467, 3), dtype=np.uint8)
    found = processor_of("Video")(images=frames)["pixel_values"]
    assert found.shape == (1, 3, 8, 224, 224)
    for place, index in enumerate(np.linspace(0, 12, 8, dtype=int)):
        for channel in range(3):
            resized = bilinear(frames[index, ..., channel] / 255, 224, 347)[:, 62 : 62 + 224]  # 61.5, to the even one
            expected = (resized - MEAN[channel]) / STD[channel]
            np.testing.assert_allclose(found[0, channel, place], expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(processor_of("Video")(images=frames)["pixel_values"], found, atol=0, rtol=0)  # no flips


@pytest.mark.parametrize(
    ("modality", "entry", "message"),
    [
        ("Image", np.zeros((8, 8, 4), np.uint8), r"images: found \(8, 8, 4\) uint8, expected \(H, W\) or \(H, W, 3\)"),
        ("Image", np.zeros((8, 8, 3), np.float32), r"images: found \(8, 8, 3\) float32"),
        ("Depth", np.zeros((8, 8, 3), np.uint8), r"depth: found shape \(8, 8, 3\), expected one channel"),
        ("Audio", np.zeros((4, 8, 8, 3), np.uint8), "audio: found no sound in ndarray"),
        ("Video", np.zeros((4, 8, 8, 1), np.uint8), "video: expected "),
    ],
)
def test_inputs_of_another_kind_are_refused(modality, entry, message):
    with pytest.raises(ValueError, match=message):
        processor_of(modality)(images=entry)


def test_nothing_and_other_tensors_are_refused():
    with pytest.raises(ValueError, match="LanguageBindProcessor: expected images, text or both, found neither"):
        processor_of("Image")()
    with pytest.raises(ValueError, match="return_tensors is 'np', expected 'pt'"):
        processor_of("Image")(images=np.zeros((8, 8), np.uint8), return_tensors="np")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        processor_of("Image")(images="none.jpg")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OSError, match=r"text\.png"):
        processor_of("Thermal")(images=str(tmp_path / "text.png"))


# --- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", FILES)
def test_the_originals_own_files_go_through(modality, shared_data):
    files = [str(shared_data / "multimodal" / "languagebind" / name) for name in FILES[modality]]
    values = processor_of(modality)(images=files)["pixel_values"]
    shape = {"Video": (3, 8, 224, 224), "Audio": (3, 112, 1036)}.get(modality, (3, 224, 224))
    assert values.shape == (len(files), *shape)
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    lowest, highest = -MEAN / STD, (1 - MEAN) / STD
    if modality == "Audio":
        assert values.min() == pytest.approx(
            (np.log(np.finfo(np.float32).eps) + 4.2677393) / (2 * 4.5689974), abs=1e-4
        )
        assert 0.5 < values.max() < 3
    else:  # bicubic resizing overshoots a little
        per_channel = values.transpose(0, 1).flatten(1)
        assert (per_channel.amin(1).numpy() > lowest - 0.5).all()
        assert (per_channel.amax(1).numpy() < highest + 0.5).all()
    assert (values[0] - values[1]).abs().mean() > 0.05


@pytest.mark.parametrize("name", FILES["Audio"])
def test_filter_banks_of_real_sounds_are_kaldis(name, shared_data):
    samples = read_audio(str(shared_data / "multimodal" / "languagebind" / name), 16_000).samples
    for bins in (112, 128):
        assert np.abs(filter_bank(samples, bins) - kaldi_filter_bank(samples, bins)).max() < 1e-3


def test_depth_files_hold_millimetres(shared_data):
    for name in FILES["Depth"]:
        path = shared_data / "multimodal" / "languagebind" / name
        millimetres = np.asarray(Image.open(path))
        assert millimetres.dtype == np.uint16
        assert 500 < np.median(millimetres) < 10_000


# --- texts and files of checkpoints ----------------------------------------------------------------------------------


def published_folder(folder: Path, tokenizer_class: str | None) -> Path:
    """A config.json and a tokenizer's files as of 2023."""
    config_of("Thermal").save_pretrained(folder)
    tokenizer = clip_tokenizer()
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 77, "pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>"}
    settings |= {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    if tokenizer_class is not None:
        settings["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("tokenizer_class", ["CLIPTokenizer", "LanguageBindThermalTokenizer", None])
def test_texts_have_77_tokens(tokenizer_class, tmp_path):
    folder = published_folder(tmp_path / "published", tokenizer_class)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, LanguageBindProcessor)
    tokens = processor(text=["a dog", "a" * 200])
    assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (2, 77)
    start, end = 512, 513
    assert tokens["input_ids"][:, 0].tolist() == [start, start]
    assert tokens["input_ids"][0, 5:].tolist() == [end] * 72  # four letters before, each a token
    assert tokens["attention_mask"].sum(1).tolist() == [6, 77]
    assert tokens["input_ids"][1, -1] == end
    assert processor(text="a dog")["input_ids"].tolist() == tokens["input_ids"][:1].tolist()
    assert AutoTokenizer.from_pretrained(folder)("a dog")["input_ids"] == tokens["input_ids"][0, :6].tolist()


def test_a_saved_processor_comes_back(tmp_path):
    processor = AutoProcessor.from_pretrained(published_folder(tmp_path / "published", None))
    processor.save_pretrained(tmp_path / "saved")
    again = AutoProcessor.from_pretrained(tmp_path / "saved")
    grey = np.full((300, 400), 7, dtype=np.uint8)
    one, other = (each(images=grey, text="a dog") for each in (processor, again))
    assert set(one) == {"pixel_values", "input_ids", "attention_mask"}
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=0, rtol=0)


def test_without_a_tokenizer_images_go_and_texts_do_not(tmp_path):
    config_of("Image").save_pretrained(tmp_path / "bare")
    processor = AutoProcessor.from_pretrained(tmp_path / "bare")
    assert processor(images=np.zeros((8, 8), np.uint8))["pixel_values"].shape == (1, 3, 224, 224)
    with pytest.raises(OSError, match=r"found neither tokenizer\.json nor vocab\.json, expected CLIP's tokenizer"):
        processor(text="a dog")


# --- the same files in a SEN -----------------------------------------------------------------------------------------


def sen_inputs(modality: str, folder: Path, clip: dict, **fields) -> torch.Tensor:
    config_of(modality).save_pretrained(folder)
    kind = modality.lower()
    spec = {"name": kind, "modality": kind, "hub_id": str(folder), "hidden_size": 1024, **fields}
    spec |= {"class_name": f"LanguageBind{modality}"}
    processor = SENProcessor(SENConfig(neurons=[spec]))
    return processor(videos=clip)[f"{kind}_{'input_features' if kind == 'audio' else 'pixel_values'}"]


def test_a_neuron_hears_what_the_original_hears(tmp_path, noise):
    found = sen_inputs("Audio", tmp_path, {"audio": (noise[:200_000], 16_000)})
    expected = processor_of("Audio")(images=(noise[:200_000], 16_000))["pixel_values"]
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert read_audio((noise, 16_000)).present


@pytest.mark.parametrize("given", ["file", "array", "clip", "image"])
def test_a_depth_neuron_is_given_distance_of_16_bit_maps(given, tmp_path):
    y, x = np.mgrid[:300, :451]
    millimetres = (200 + 20 * y + 15 * x).astype(np.uint16)  # up to 13 metres
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    forms = {"file": str(tmp_path / "depth.png"), "array": millimetres, "clip": millimetres[None].repeat(3, 0)}
    forms["image"] = Image.open(tmp_path / "depth.png")
    found = sen_inputs("Depth", tmp_path / "tower", {"depth": forms[given]}, num_frames=1)
    expected = processor_of("Depth")(images=millimetres)["pixel_values"]
    step = 1 / 255 / STD.min()  # of frames with 8 bits
    assert (found[0, 0] - expected[0]).abs().max() < 1.1 * step


def test_maps_of_8_bits_are_nearness():
    near, far = np.full((1, 4, 4), 255, np.uint8), np.zeros((1, 4, 4), np.uint8)
    assert as_depth(near) is near
    millimetres = np.array([[0, 5_000], [10_000, 65_535]], dtype=np.uint16)
    assert as_depth(millimetres).tolist() == [[[255, 128], [0, 0]]]
    assert as_depth("none.mp4") == "none.mp4"
    assert far.max() == 0


@pytest.mark.parametrize(("modality", "worst"), [("Image", 0.02), ("Thermal", 0.02), ("Video", 0.03)])
def test_a_neuron_sees_what_the_original_sees(modality, worst, tmp_path, shared_data):
    """But for rounding to 8 bits and the decoder's; on average."""
    path = str(shared_data / "multimodal" / "languagebind" / FILES[modality][0])
    fields = {"num_frames": 8, "sampling": "linspace"} if modality == "Video" else {"num_frames": 1}
    found = sen_inputs(modality, tmp_path, {modality.lower(): path}, **fields)
    expected = processor_of(modality)(images=path)["pixel_values"]
    expected = expected.transpose(1, 2) if modality == "Video" else expected[:, None]
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < worst
    assert read_video(path, 1).frames.shape[-1] == 3
