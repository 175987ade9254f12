"""ImageBind's processor against references written out here, and on real files of every modality."""

import gzip
import math

import numpy as np
import pytest
import torch
from kaldi_filter_bank import kaldi_filter_bank
from PIL import Image
from tiny_towers import clip_tokenizer
from transformers import AutoFeatureExtractor, AutoProcessor

from modeling_sen.families.clip_tokenizer import read_tokenizer
from modeling_sen.families.filter_bank import filter_bank
from modeling_sen.families.imagebind import (
    ImageBindConfig,
    ImageBindFeatureExtractor,
    ImageBindModel,
    ImageBindProcessor,
)
from modeling_sen.families.imagebind.feature_extraction_imagebind import clip_starts

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def processor() -> ImageBindProcessor:
    made = ImageBindProcessor()
    made.tokenizer = clip_tokenizer()
    return made


@pytest.mark.parametrize("bins", [128, 23])
def test_the_filter_bank_is_kaldis(bins):
    generator = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16_000) + 0.05 * generator.normal(size=8000) + 0.1
    found = filter_bank(tone, bins)
    assert found.shape == (bins, 48)
    assert np.abs(found - kaldi_filter_bank(tone, bins)).max() < 1e-3
    assert filter_bank(np.zeros(399), bins).shape == (bins, 0)


def test_sound_is_three_clips_that_reach_from_end_to_end():
    sound = np.random.default_rng(0).normal(scale=0.1, size=7 * 16_000)
    found = ImageBindFeatureExtractor()(sound, 16_000, return_tensors="np")["input_features"]
    assert found.shape == (1, 3, 1, 128, 204)
    for clip, start in enumerate((0, 40_000, 80_000)):
        bank = kaldi_filter_bank(sound[start : start + 32_000], 128)
        assert np.abs(found[0, clip, 0, :, :198] - (bank + 4.268) / 9.138).max() < 1e-3
    assert np.allclose(found[..., 198:], 4.268 / 9.138)  # missing frames are 0 before normalisation
    short = ImageBindFeatureExtractor()(sound[:8000], return_tensors="np")["input_features"]
    assert (short[0, 0] == short[0, 2]).all()
    assert clip_starts(7.0, 2.0, 3) == [0.0, 2.5, 5.0]


def test_images_are_resized_and_cropped_by_pillow(processor):
    frame = np.random.default_rng(0).integers(0, 256, (301, 400, 3), dtype=np.uint8)
    found = processor(images=Image.fromarray(frame))["pixel_values"]
    resized = Image.fromarray(frame).resize((297, 224), Image.Resampling.BICUBIC)
    left = round((297 - 224) / 2)
    expected = (np.asarray(resized)[:, left : left + 224] / 255 - MEAN) / STD
    assert found.shape == (1, 3, 224, 224)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5
    assert torch.equal(processor(images=frame)["pixel_values"], found)


def test_videos_are_five_clips_of_two_frames_seen_three_times(processor, tmp_path):
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (72, 12, 20, 3), dtype=np.uint8)  # three seconds at 24 a second
    found = ImageBindProcessor(image_size=12)(videos=frames)["pixel_values"]
    assert found.shape == (1, 15, 3, 2, 12, 12)
    for clip, start in enumerate((0, 6, 12, 18, 24)):  # a quarter of a second apart
        for place, number in enumerate((start, start + 47)):
            expected = (frames[number] / 255 - MEAN) / STD
            for crop, left in enumerate((0, 4, 8)):
                values = found[0, clip * 3 + crop, :, place].permute(1, 2, 0).numpy()
                assert np.abs(values - expected[:, left : left + 12]).max() < 1e-5
    upright = ImageBindProcessor(image_size=12)(videos=frames.transpose(0, 2, 1, 3).copy())["pixel_values"]
    assert torch.allclose(upright, found.transpose(-1, -2))


def test_a_clip_shorter_than_two_seconds_has_its_first_and_last_frame(processor):
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    found = ImageBindProcessor(image_size=16)(videos=[frames, frames[:1]])["pixel_values"]
    assert torch.equal(found[0, 0], found[0, 14])
    assert np.abs(found[0, 0, :, 1].permute(1, 2, 0).numpy() - (frames[4] / 255 - MEAN) / STD).max() < 1e-5
    assert torch.equal(found[1, 0, :, 0], found[1, 0, :, 1])


def test_depth_is_disparity(tmp_path):
    processor = ImageBindProcessor(image_size=8, depth_focal_length=500.0, depth_baseline=0.1)
    millimetres = np.random.default_rng(0).integers(300, 9000, (8, 8)).astype(np.uint16)
    millimetres[0, 0] = 0  # no measurement: as near as can be
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    found = processor(depth=[str(tmp_path / "depth.png"), millimetres, millimetres / 1000])["depth_values"]
    metres = (millimetres / 1000).clip(0.01, 50)
    expected = ((0.1 * 500 / metres).clip(0, 75) / 75 - 0.0418) / 0.0295
    assert found.shape == (3, 1, 8, 8)
    assert np.abs(found.numpy() - expected).max() < 1e-4


def test_heat_is_its_luma_in_0_to_1():
    processor = ImageBindProcessor(image_size=8)
    heat = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    found = processor(thermal=[heat, Image.fromarray(np.stack([heat] * 3, axis=-1))])["thermal_values"]
    assert found.shape == (2, 1, 8, 8)
    assert np.abs(found.numpy() - heat / 255).max() < 1e-6


def test_texts_have_the_full_length_and_zeros_behind_their_end(processor):
    found = processor(text=["a dog", "a " * 100])
    assert found["input_ids"].shape == found["attention_mask"].shape == (2, 77)
    end = processor.tokenizer.eos_token_id
    assert (found["input_ids"] == end).sum(-1).tolist() == [1, 1]
    assert found["input_ids"][1, -1] == end
    assert (found["input_ids"] * (1 - found["attention_mask"])).sum() == 0
    assert torch.equal(processor(text="a dog")["input_ids"], found["input_ids"][:1])


def test_the_originals_list_of_merges_is_a_tokenizer(tmp_path):
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('"bpe_simple_vocab_16e6.txt#version: 0.2\nd o\ndo g</w>\na</w> x\n')
    tokenizer = read_tokenizer(str(path))
    # 256 letters, 256 letters that end a word, and the merges before the two marks.
    start, end = 512 + 3, 512 + 4
    ids = tokenizer("a dog")["input_ids"]
    assert (ids[0], ids[2:]) == (start, [512 + 1, end])
    assert tokenizer.convert_ids_to_tokens(ids[1]) == "a</w>"
    assert 256 <= ids[1] < 512
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (start, end)
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="found no list of merges"):
        read_tokenizer(str(path))


def test_a_saved_processor_comes_back(processor, tmp_path):
    made = ImageBindProcessor(image_size=32, imu_shape=(6, 64), sound={"num_mel_bins": 32, "num_mel_frames": 40})
    made.tokenizer = processor.tokenizer
    made.save_pretrained(tmp_path)
    for found in (ImageBindProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(found) is ImageBindProcessor
        assert found.to_dict() == made.to_dict()
        assert torch.equal(found(text="a dog")["input_ids"], made(text="a dog")["input_ids"])
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == made.sound.to_dict()


def test_a_processor_is_made_for_a_configuration():
    config = ImageBindConfig(imu_config={"num_samples": 64}, audio_config={"num_mel_bins": 32})
    made = ImageBindProcessor.for_config(config)
    assert (made.imu_channels, made.imu_samples, made.sound.num_mel_bins, made.text_length) == (6, 64, 32, 77)
    with pytest.raises(ValueError, match=r"found \[112, 224\], expected one size"):
        ImageBindProcessor.for_config(ImageBindConfig(depth_config={"image_size": 112}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "found no input"),
        ({"images": np.zeros((4, 4, 3), np.uint8), "videos": np.zeros((2, 4, 4, 3), np.uint8)}, "found both"),
        ({"images": []}, "images: found an empty list"),
        ({"text": []}, "text: expected a string or a list"),
        ({"imu": np.zeros((2000, 6))}, r"imu: found shape \(2000, 6\), expected \(6, 2000\)"),
        ({"depth": np.zeros((4, 4, 3))}, r"depth: found an array of shape \(4, 4, 3\), expected \(height, width\)"),
        ({"depth": np.full((4, 4), -1.0)}, "depth: found negative or non-finite distances"),
        ({"depth": np.full((4, 4), math.nan)}, "depth: found negative or non-finite distances"),
        ({"audio": np.zeros((2, 4, 4, 3), np.uint8)}, "audio: found no sound"),
        ({"text": "a dog", "return_tensors": "np"}, "return_tensors is 'np'"),
    ],
)
def test_what_cannot_be_read_raises(given, message, processor):
    with pytest.raises(ValueError, match=message):
        processor(**given)


def test_files_that_are_not_there_or_no_pictures_raise(processor, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"depth: .*no.png is not a picture"):
        processor(depth=str(tmp_path / "no.png"))
    with pytest.raises(FileNotFoundError):
        processor(depth=str(tmp_path / "none.png"))
    with pytest.raises(FileNotFoundError):
        processor(images=str(tmp_path / "none.png"))
    with pytest.raises(OSError, match=r"has no file processor_config.json"):
        ImageBindProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this processor has no tokenizer; convert with --tokenizer"):
        ImageBindProcessor()(text="a dog")
    with pytest.raises(ValueError, match="sampling_rate is 8000, expected 16000"):
        ImageBindFeatureExtractor()(np.zeros(8000), 8000)


def test_real_files_of_every_modality_go_through_the_same_way_twice(shared_data, towers):
    folder = shared_data / "multimodal"
    files = {
        "images": [folder / "audioclip" / "cat_1.jpg", folder / "languagebind" / "image" / "0.jpg"],
        "audio": [folder / "audioclip" / "cat_3-95694-A-5.wav", folder / "gram" / "audio1.mp3"],
        "depth": [folder / "languagebind" / "depth" / f"{number}.png" for number in (0, 1)],
        "thermal": [folder / "languagebind" / "thermal" / f"{number}.jpg" for number in (0, 1)],
        "imu": [np.random.default_rng(number).normal(size=(6, 32)) for number in (0, 1)],
        "text": ["a cat", "a dog"],
    }
    processor = ImageBindProcessor.from_pretrained(towers["imagebind"])
    model = ImageBindModel.from_pretrained(towers["imagebind"]).eval()
    inputs, again = processor(**files), processor(**files)
    assert all(torch.equal(values, again[name]) for name, values in inputs.items())
    with torch.no_grad():
        output = model(**inputs)
        seen = model(**processor(videos=[str(folder / "gram" / "video1.mp4")])).vision_embeds
    assert set(output) == {f"{name}_embeds" for name in ("vision", "text", "audio", "depth", "thermal", "imu")}
    for embeds in (*output.values(), seen):
        assert embeds.isfinite().all()
    assert all((embeds[0] - embeds[1]).abs().max() > 1e-4 for embeds in output.values())
