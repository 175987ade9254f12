"""Any checkpoint by its folder alone, in the layout that the Hub has it: loads, looks, is saved and comes back."""

import copy

import numpy as np
import pytest
import torch
from tower_table import CHECKPOINTS, LAYERS, VISION
from transformers import (
    ClapModel,
    PeAudioConfig,
    PeAudioVideoConfig,
    PeAudioVideoEncoderConfig,
    PeAudioVideoModel,
    PeVideoEncoderConfig,
    ViTConfig,
)

from modeling_sen import SENModel, SENProcessor

SMALL = {"hidden_size": 8, "projection_dim": 4, "num_prompt_tokens": 2, "bottleneck_size": 4}
DUAL_ENCODERS = (
    "clip",
    "metaclip_2",
    "siglip",
    "siglip2",
    "clap",
    "imagebind",
    "languagebind_image",
    "languagebind_video",
)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_folder_is_enough_from_the_clip_to_the_saved_model(checkpoint, towers, clips, tmp_path):
    model = SENModel.from_neurons([towers[checkpoint]], **SMALL).eval()
    spec = model.config.neuron_specs[0]
    clip = {"video": clips[0], "depth": clips[0], "thermal": clips[0], "text": "a dog barks"}
    if checkpoint == "siglip2":  # its own frames are larger than the tiny tower's pixels need to be
        assert spec.preprocessing == {"size": [256, 256]}
        model.config.neurons[0]["preprocessing"] = {"size": [16, 16]}
    inputs = SENProcessor(model.config)(
        videos=[clip, {**clip, **dict.fromkeys(("video", "depth", "thermal"), clips[1])}]
    )
    with torch.no_grad():
        output = model(**inputs)
    state = output.neuron_states[spec.name]
    t, h, w = state.grid
    assert state.last_hidden_state.shape == (2, t * h * w, 16)
    assert state.answers.shape == (2, SMALL["num_prompt_tokens"], 16)
    assert output.fused_embeds.isfinite().all()
    assert (output.fused_embeds[0] - output.fused_embeds[1]).abs().max() > 0 or spec.modality == "text"
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    again = SENModel.from_pretrained(tmp_path / "sen").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).fused_embeds, output.fused_embeds, atol=0, rtol=0)


@pytest.mark.parametrize("checkpoint", DUAL_ENCODERS)
def test_dual_encoders_give_both_their_towers_aligned(checkpoint, towers, clips, tmp_path):
    model = SENModel.from_neurons(
        [{"hub_id": towers[checkpoint], "preprocessing": None if checkpoint == "clap" else {"size": [16, 16]}}],
        text_tower=towers[checkpoint],
        hidden_size=8,
    ).eval()
    assert model.config.neuron_specs[0].aligned
    inputs = SENProcessor(model.config)(videos=[clips[0], clips[1]], text=["a dog", "a man speaks"])
    with torch.no_grad():
        logits = model(**inputs).logits_per_video
    assert logits.shape == (2, 2)
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    with torch.no_grad():
        again = SENModel.from_pretrained(tmp_path / "sen").eval()(**inputs).logits_per_video
    torch.testing.assert_close(again, logits, atol=0, rtol=0)


def test_clap_embeds_sound_and_text_as_transformers_does(towers):
    whole = ClapModel.from_pretrained(towers["clap"]).eval()
    model = SENModel.from_neurons([towers["clap"]], text_tower=towers["clap"], hidden_size=8).eval()
    sound = (np.random.default_rng(0).normal(size=48_000).astype(np.float32) / 4, 48_000)
    inputs = SENProcessor(model.config)(videos={"audio": sound}, text=["a dog", "a man speaks"])
    with torch.no_grad():
        sounds = whole.get_audio_features(inputs["audio_input_features"], is_longer=torch.zeros(1, 1)).pooler_output
        texts = whole.get_text_features(inputs["text_input_ids"], inputs["text_attention_mask"]).pooler_output
        output = model(**inputs)
    torch.testing.assert_close(output.fused_embeds, torch.nn.functional.normalize(sounds), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_embeds, torch.nn.functional.normalize(texts), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.logit_scale.data, whole.logit_scale_a.data)


@pytest.mark.parametrize("checkpoint", ["wav2vec2", "wavlm"])
def test_waveforms_of_different_length_are_padded_and_masked(checkpoint, towers):
    model = SENModel.from_neurons([towers[checkpoint]], **SMALL).eval()
    processor = SENProcessor(model.config)
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32) / 4
    short, long = ({"audio": (noise[:length], 16_000)} for length in (4_000, 16_000))
    both = processor(videos=[short, long])
    assert both["audio_input_features"].shape == both["audio_attention_mask"].shape == (2, 16_000)
    assert both["audio_attention_mask"].sum(1).tolist() == [4_000, 16_000]
    with torch.no_grad():
        single, together = model(**processor(videos=short)), model(**both)
    torch.testing.assert_close(together.fused_embeds[:1], single.fused_embeds, atol=1e-5, rtol=0)


def test_a_clip_without_sound_changes_nothing_for_the_others(towers, clips):
    model = SENModel.from_neurons([towers["clip"], towers["wav2vec2"]], **SMALL).eval()
    processor = SENProcessor(model.config)
    inputs = processor(videos=[np.zeros((8, 16, 16, 3), dtype=np.uint8), clips[0]])
    assert inputs["neuron_mask"].tolist() == [[True, False], [True, True]]
    with torch.no_grad():
        together, single = model(**inputs), model(**processor(videos=clips[0]))
    assert together.fused_embeds.isfinite().all()
    torch.testing.assert_close(together.fused_embeds[1:], single.fused_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpoint", ["wav2vec2", "whisper", "clap", "pe_audio"])
def test_no_more_sound_is_read_than_a_tower_has_room_for(checkpoint, towers):
    processor = SENProcessor(SENModel.from_neurons([towers[checkpoint]], **SMALL).config)
    features = processor(videos={"audio": (np.zeros(40 * 16_000, dtype=np.float32), 16_000)})["audio_input_features"]
    longest = {"wav2vec2": (1, 480_000), "whisper": (1, 8, 100), "clap": (1, 4, 101, 16), "pe_audio": (1, 1, 480_000)}
    assert tuple(features.shape) == longest[checkpoint]


def test_pe_audio_is_cut_out_of_an_audio_video_checkpoint(tmp_path):
    """Only the sound's tower is built: the pictures' would need timm, for which a ViT stands in here."""
    _, settings = CHECKPOINTS["pe_audio"]
    audio = PeAudioConfig(**copy.deepcopy(settings))
    video = PeVideoEncoderConfig(**LAYERS, head_dim=8)
    video.vision_config = ViTConfig(**VISION, num_labels=6)
    both = PeAudioVideoEncoderConfig(**LAYERS, head_dim=8, audio_config=audio.audio_config, video_config=video)
    whole = PeAudioVideoModel(PeAudioVideoConfig(text_config=audio.text_config, audio_video_config=both)).eval()
    whole.save_pretrained(tmp_path)
    model = SENModel.from_neurons([str(tmp_path)], **SMALL).eval()
    sound = torch.randn(1, 1, 800)
    with torch.no_grad():
        state = model.neurons["audio"].first_look({"input_features": sound}).state
        expected = whole.audio_model.audio_encoder(sound)
    torch.testing.assert_close(state.pooler_output, expected.pooler_output)
    torch.testing.assert_close(state.last_hidden_state, expected.last_hidden_state)
