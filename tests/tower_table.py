"""Tiny checkpoints of every neuron type, in the layouts of the Hub: whole dual encoders, heads, encoder-decoders.

Each entry is a class of Transformers and the arguments of its configuration; `tiny_towers.make_towers` adds random weights.
"""

from typing import Any

LAYERS = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
VISION = {**LAYERS, "image_size": 16, "patch_size": 8}
TEXT = {
    **LAYERS,
    "vocab_size": 600,
    "max_position_embeddings": 32,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}
WAVES = {
    **LAYERS,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (40, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 10,
}
_WORDS = {**LAYERS, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_WORDS |= {"cls_token_id": 2, "sep_token_id": 3, "max_position_embeddings": 32}
# The class names in published checkpoints; `import modeling_sen` makes the Auto classes load them.
_LANGUAGEBIND = {"text_config": TEXT, "projection_dim": 12, "logit_scale_init_value": 2.0}
_X_CLIP_VISION = {**VISION, "num_frames": 4, "mit_hidden_size": 16, "mit_intermediate_size": 32}
_X_CLIP_VISION |= {"mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}

# checkpoint -> (class, its configuration's arguments)
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": (
        "CLIPModel",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 12, "logit_scale_init_value": 2.0},
    ),
    "metaclip_2": ("MetaClip2Model", {"text_config": TEXT, "vision_config": VISION, "projection_dim": 12}),
    "siglip": ("SiglipModel", {"text_config": {**TEXT, "projection_size": 16}, "vision_config": VISION}),
    "siglip2": (
        "Siglip2Model",
        {"text_config": {**TEXT, "projection_size": 16}, "vision_config": {**VISION, "num_patches": 4}},
    ),
    "xclip": (
        "XCLIPModel",
        {
            "text_config": TEXT,
            "vision_config": _X_CLIP_VISION,
            "projection_dim": 12,
            "prompt_num_attention_heads": 2,
        },
    ),
    "depth_anything": (
        "DepthAnythingForDepthEstimation",
        {
            "backbone_config": {
                **VISION,
                "model_type": "dinov2",
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                "reshape_hidden_states": False,
            },
            "reassemble_hidden_size": 16,
            "neck_hidden_sizes": [4, 8, 12, 16],
            "fusion_hidden_size": 4,
            "patch_size": 8,
        },
    ),
    "dinov3": ("DINOv3ViTModel", {**VISION, "num_register_tokens": 2}),
    "videomae": ("VideoMAEModel", {**VISION, "num_frames": 4, "tubelet_size": 2, "use_mean_pooling": False}),
    "vivit": ("VivitForVideoClassification", {**LAYERS, "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8]}),
    "vjepa2": (
        "VJEPA2ForVideoClassification",
        {
            **LAYERS,
            "patch_size": 8,
            "crop_size": 16,
            "frames_per_clip": 4,
            "tubelet_size": 2,
            "pred_hidden_size": 16,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
            "pred_num_mask_tokens": 1,
            "num_pooler_layers": 1,
        },
    ),
    "videoprism": (
        "VideoPrismClipModel",
        {
            "text_config": TEXT,
            "vision_config": {
                **{key: value for key, value in LAYERS.items() if key != "num_hidden_layers"},
                "num_spatial_layers": 2,
                "num_temporal_layers": 4,
                "num_auxiliary_layers": 1,
                "image_size": 16,
                "num_frames": 4,
                "tubelet_size": [1, 8, 8],
            },
        },
    ),
    "timesformer": ("TimesformerModel", {**VISION, "num_frames": 4}),
    "ast": (
        "ASTModel",
        {**LAYERS, "patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 64, "num_mel_bins": 16},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            "d_model": 16,
            "encoder_layers": 4,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 32,
            "num_mel_bins": 8,
            "max_source_positions": 50,
            "vocab_size": 60,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
    # The two kinds of Wav2Vec2: inputs normalised per sample and masked, or group norm and no mask.
    "wav2vec2": ("Wav2Vec2ForCTC", {**WAVES, "feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert": ("HubertModel", {**WAVES, "feat_extract_norm": "group"}),
    "wavlm": ("WavLMModel", {**WAVES, "feat_extract_norm": "layer", "num_buckets": 8, "max_bucket_distance": 16}),
    "pe_audio": (
        "PeAudioModel",
        {
            "text_config": {**_WORDS, "model_type": "modernbert"},
            "audio_config": {
                **LAYERS,
                "head_dim": 8,
                "dac_config": {"encoder_hidden_size": 4, "downsampling_ratios": [8, 10], "codebook_dim": 8},
            },
        },
    ),
    "clap": (
        "ClapModel",
        {
            "text_config": {**_WORDS, "max_position_embeddings": 64},
            "audio_config": {
                "spec_size": 64,
                "num_mel_bins": 16,
                "window_size": 4,
                "patch_size": 4,
                "patch_stride": [4, 4],
                "depths": [2, 2],
                "num_hidden_layers": 2,
                "num_attention_heads": [2, 2],
                "patch_embeds_hidden_size": 8,
                "hidden_size": 16,
                "enable_fusion": True,
                "fusion_type": "aff_2d",
                "aff_block_r": 1,
            },
            "projection_dim": 12,
        },
    ),
    "bert": ("BertModel", {**LAYERS, "vocab_size": 40, "max_position_embeddings": 32}),
    "modernbert": ("ModernBertForMaskedLM", {**_WORDS, "global_attn_every_n_layers": 2, "local_attention": 4}),
    "languagebind_image": ("LanguageBindImage", {**_LANGUAGEBIND, "vision_config": VISION}),
    "languagebind_video": ("LanguageBindVideo", {**_LANGUAGEBIND, "vision_config": {**VISION, "num_frames": 4}}),
    "languagebind_audio": (
        "LanguageBindAudio",
        {**_LANGUAGEBIND, "vision_config": {**VISION, "num_mel_bins": 16, "target_length": 64}},
    ),
    "languagebind_depth": ("LanguageBindDepth", {**_LANGUAGEBIND, "vision_config": VISION}),
    "languagebind_thermal": ("LanguageBindThermal", {**_LANGUAGEBIND, "vision_config": VISION}),
    "imagebind": (
        "ImageBindModel",
        {
            "vision_config": VISION,
            "text_config": TEXT,
            "audio_config": {**LAYERS, "num_mel_bins": 16, "num_mel_frames": 20, "patch_size": 8, "patch_stride": 4},
            "depth_config": VISION,
            "thermal_config": VISION,
            "imu_config": {**LAYERS, "num_samples": 32},
            "projection_dim": 12,
        },
    ),
}
