"""What sen-tiny's towers are shown: batches that depend on the step only, labels that are true, stock preprocessing."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, AutoTokenizer, CLIPTokenizer

from modeling_sen.world.drawing import render
from modeling_sen.world.scene import make_scene
from modeling_sen.world.sound import sound_of
from modeling_sen.world.vocabulary import COLOURS, MOTIONS, SHAPES, SIZES
from recipes.sen_tiny.tiny_batches import (
    IGNORED,
    MAX_LENGTH,
    MEL_MEAN,
    MEL_STD,
    MIDDLE_FRAME,
    NUM_MEL_BINS,
    VIDEO_FRAMES,
    TinyBatches,
    clip_tensors,
    log_mel,
    luma,
    scene_attributes,
)
from recipes.sen_tiny.tiny_captions import attribute_list, draw_attributes, phrase


@pytest.fixture(scope="module")
def batches():
    return TinyBatches(seed=3, batch_size=8, masked_steps=5)


def test_a_batch_is_a_function_of_seed_and_step(batches):
    first, again, other = batches(4), TinyBatches(seed=3, batch_size=8, masked_steps=5)(4), batches(5)
    assert first.keys() == again.keys() == other.keys() | {"kept"}
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(first["grey"], other["grey"])
    assert (first["kept"].sum(1) == 128).all()


def test_every_clip_has_its_own_caption_among_the_true_ones(batches):
    batch = batches(7)
    assert batch["one_truth"].diagonal().all()
    assert batch["many_truth"].diagonal().all()
    captions = batches.tokenizer.batch_decode(batch["one_ids"], skip_special_tokens=True)
    names = [*COLOURS, *SHAPES, *MOTIONS.values(), *SIZES]
    for number in range(4):
        scene = make_scene("train", 3, 7 * 8 + number, num_objects=1)
        (sprite,) = scene.sprites
        own = {sprite.colour, sprite.shape, MOTIONS[sprite.motion], sprite.size}
        for caption, true in zip(captions, batch["one_truth"][number].tolist(), strict=True):
            words = caption.replace("moving in a circle", "CIRCLING")
            named = {name for name in names if name in words.split() or (name in caption and " " in name)}
            assert true == (named <= own), (caption, own)


def test_phrases_name_the_attributes_and_lists_only_what_the_clip_contains():
    random = np.random.default_rng(0)
    for _ in range(200):
        caption = phrase(random, (0, 3, 6, -1))  # red diamond shaking
        assert {"red", "diamond", "shaking"} <= set(caption.removesuffix(".").split())
        colour, shape, motion, _ = draw_attributes(random, (0, 3, 6, 1))
        assert (colour, shape, motion) != (-1, -1, -1)
        listed = attribute_list(random, [(0, 3, 6, 1), (2, 7, 5, 0)]).rpartition("with ")[2].rpartition("shows ")[2]
        assert set(listed.split(", ")) <= {"red", "diamond", "shaking", "green", "heart", "moving in a circle"}


def test_patch_labels_name_what_lies_under_the_patch():
    scene = make_scene("train", 1, 11, num_objects=4)
    seen = clip_tensors(scene, MIDDLE_FRAME, purity=1.0)
    clip = render(scene, [*VIDEO_FRAMES, MIDDLE_FRAME])
    attributes = scene_attributes(scene)
    checked = 0
    for token in range(256):
        time, row, column = token // 64, token // 8 % 8, token % 8
        block = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        under = np.unique(clip.masks[2 * time : 2 * time + 2][:, *block])
        wanted = IGNORED if len(under) > 1 else 0 if under[0] == 0 else attributes[under[0] - 1][2] + 1
        assert seen["video_motion"][token] == wanted
        if time == 0:
            under = np.unique(clip.masks[8][block])
            wanted = IGNORED if len(under) > 1 else 0 if under[0] == 0 else attributes[under[0] - 1][0] + 1
            assert seen["image_colour"][token] == wanted
            checked += wanted > 0
    assert checked > 0


def test_grey_is_pillows_and_log_mel_is_the_stock_feature_extractors():
    scene = make_scene("train", 0, 5)
    frame = render(scene, [3]).frames[0]
    assert np.array_equal(luma(frame), np.asarray(Image.fromarray(frame).convert("L")))
    waveform = sound_of(scene).astype(np.float32) / 32768
    extractor = ASTFeatureExtractor(num_mel_bins=NUM_MEL_BINS, max_length=MAX_LENGTH, mean=MEL_MEAN, std=MEL_STD)
    stock = extractor(waveform, sampling_rate=16_000, return_tensors="np")["input_values"][0]
    assert stock.shape == (200, 64)
    np.testing.assert_allclose(log_mel(waveform), stock, rtol=0, atol=1e-5)


def test_any_text_gets_tokens_of_its_own(batches, tmp_path):
    tokenizer = batches.tokenizer
    texts = ["a red circle", "a Zebra crossing", "漢字", "naïve 🙂", "42", "?!", ""]
    rows = [tuple(tokenizer(text)["input_ids"]) for text in texts]
    assert len(set(rows)) == len(texts)
    for row in rows:
        assert row[0] == tokenizer.bos_token_id
        assert row[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in row[1:-1]
    for word in (*COLOURS, *SHAPES):
        assert len(tokenizer(word)["input_ids"]) == 3, word
    tokenizer.save_pretrained(tmp_path)
    for cls in (AutoTokenizer, CLIPTokenizer):
        again = cls.from_pretrained(tmp_path)
        assert type(again) is CLIPTokenizer
        assert [tuple(again(text)["input_ids"]) for text in texts] == rows
