"""Every checkpoint in the Hub's layout is loaded from its folder, runs on a clip, and is saved and loaded again."""

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
def test_a_checkpoint_runs_on_clips_and_is_saved_with_only_its_folder_given(checkpoint, towers, clips, tmp_path):
    model = SENModel.from_neurons([towers[checkpoint]], **SMALL).eval()
    spec = model.config.neuron_specs[0]
    clip = {"video": clips[0], "depth": clips[0], "thermal": clips[0], "text": "a dog barks"}
    if checkpoint == "siglip2":  # its default size is larger than the tiny tower needs
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
def test_dual_encoders_provide_an_aligned_neuron_and_a_text_tower(checkpoint, towers, clips, tmp_path):
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


def test_clap_embeds_sound_and_text_as_in_transformers(towers):
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
def test_waveforms_of_different_lengths_are_padded_and_masked(checkpoint, towers):
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


def test_a_clip_without_sound_does_not_change_the_other_clips(towers, clips):
    model = SENModel.from_neurons([towers["clip"], towers["wav2vec2"]], **SMALL).eval()
    processor = SENProcessor(model.config)
    inputs = processor(videos=[np.zeros((8, 16, 16, 3), dtype=np.uint8), clips[0]])
    assert inputs["neuron_mask"].tolist() == [[True, False], [True, True]]
    with torch.no_grad():
        together, single = model(**inputs), model(**processor(videos=clips[0]))
    assert together.fused_embeds.isfinite().all()
    torch.testing.assert_close(together.fused_embeds[1:], single.fused_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpoint", ["wav2vec2", "whisper", "clap", "pe_audio"])
def test_sound_is_cut_to_the_longest_input_of_the_tower(checkpoint, towers):
    processor = SENProcessor(SENModel.from_neurons([towers[checkpoint]], **SMALL).config)
    features = processor(videos={"audio": (np.zeros(40 * 16_000, dtype=np.float32), 16_000)})["audio_input_features"]
    longest = {"wav2vec2": (1, 480_000), "whisper": (1, 8, 100), "clap": (1, 4, 101, 16), "pe_audio": (1, 1, 480_000)}
    assert tuple(features.shape) == longest[checkpoint]


def test_pe_audio_is_loaded_from_an_audio_video_checkpoint(tmp_path):
    """Only the audio tower is built. The image model would need timm, so the checkpoint contains a ViT in its place."""
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
