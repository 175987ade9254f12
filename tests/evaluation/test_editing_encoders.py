"""Encoders of the measures of editing, by checkpoint: a CLIP, a SEN, and what is neither."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from modeling_sen import SENEncoder
from modeling_sen.evaluation.editing_encoders import load_encoder


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (18, 40, 56, 3), dtype=np.uint8)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_clip_embeds_as_its_own_forward_does(towers, frames):
    loaded = load_encoder(towers["clip"])
    texts = ["a cat", "a dog " * 60]  # longer than the tower takes
    images, words = loaded.encoder(frames, texts)
    model, processor = CLIPModel.from_pretrained(towers["clip"]).eval(), CLIPProcessor.from_pretrained(towers["clip"])
    longest = model.config.text_config.max_position_embeddings
    inputs = processor(
        text=texts, images=list(frames), padding=True, truncation=True, max_length=longest, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs)
    np.testing.assert_allclose(images, unit(expected.image_embeds.numpy()), atol=1e-5)
    np.testing.assert_allclose(words, unit(expected.text_embeds.numpy()), atol=1e-5)
    assert loaded.encoder.name == towers["clip"]
    assert load_encoder(towers["clip"]).sha1 == loaded.sha1
    assert load_encoder(towers["clip"], dtype="bfloat16").sha1 != loaded.sha1


def test_a_sen_reads_each_frame_as_a_clip(sen_folder, frames):
    images, words = load_encoder(str(sen_folder)).encoder(frames[:2], ["a cat"])
    sen = SENEncoder.from_pretrained(sen_folder)
    expected = np.concatenate([sen.encode(frames[row : row + 1]) for row in (0, 1)])
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_allclose(words, sen.encode_text("a cat"), atol=1e-5)


def test_a_model_without_texts_is_refused(towers):
    with pytest.raises(ValueError, match="expected a model of images and texts, found one of type 'videomae'"):
        load_encoder(towers["videomae"])
