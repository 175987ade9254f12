"""Every registered neuron type with tiny random weights, and its tower written out by hand as the reference for prompting.

A written-out forward takes the tower, its inputs and `through`, which runs the layers: `through(layers, hidden_states)`,
with `arguments(layer)` for the layer's arguments besides tokens and mask.
"""

import copy
import inspect
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from family_inputs import Family, Outputs, frames_of, sound_of, waves_of, words_of
from imagebind_families import IMAGEBIND_FAMILIES
from torch import Tensor
from tower_table import LAYERS, VISION
from transformers import PeVideoEncoder, PeVideoEncoderConfig, PreTrainedModel, ViTConfig

from modeling_sen import NeuronSpec, SENConfig
from modeling_sen.first_look import FirstLook, NeuronState
from modeling_sen.neuron import Neuron
from modeling_sen.neuron_loading import load_neuron, resolve_spec
from modeling_sen.prompting import AfterTower


def _clip_image(tower, inputs, through) -> Outputs:
    hidden = through(tower.encoder.layers, tower.pre_layrnorm(tower.embeddings(inputs["pixel_values"])))
    return hidden, tower.post_layernorm(hidden[:, 0])


def _siglip_image(tower, inputs, through) -> Outputs:
    hidden = tower.post_layernorm(through(tower.encoder.layers, tower.embeddings(inputs["pixel_values"])))
    return hidden, tower.head(hidden)


def _xclip(tower, inputs, through) -> Outputs:
    hidden = through(tower.encoder.layers, tower.pre_layernorm(tower.embeddings(inputs["pixel_values"])))
    return hidden, tower.post_layernorm(hidden[:, 0])


def _videomae(tower, inputs, through) -> Outputs:
    hidden = tower.layernorm(through(tower.encoder.layer, tower.embeddings(inputs["pixel_values"], None)))
    return hidden, None


def _ast(tower, inputs, through) -> Outputs:
    hidden = tower.layernorm(through(tower.layers, tower.embeddings(inputs["input_values"])))
    return hidden, (hidden[:, 0] + hidden[:, 1]) / 2


def _dinov2(tower, inputs, through) -> Outputs:
    hidden = tower.layernorm(through(tower.encoder.layer, tower.embeddings(inputs["pixel_values"])))
    return hidden, hidden[:, 0]


def _bert(tower, inputs, through) -> Outputs:
    hidden = through(tower.encoder.layer, tower.embeddings(input_ids=inputs["input_ids"]))
    return hidden, tower.pooler(hidden)


def _clip_text(tower, inputs, through) -> Outputs:
    hidden = tower.final_layer_norm(through(tower.encoder.layers, tower.embeddings(input_ids=inputs["input_ids"])))
    ends = (inputs["input_ids"] == tower.config.eos_token_id).int().argmax(dim=-1)
    return hidden, hidden[torch.arange(len(ends)), ends]


def _siglip_text(tower, inputs, through) -> Outputs:
    hidden = tower.final_layer_norm(through(tower.encoder.layers, tower.embeddings(input_ids=inputs["input_ids"])))
    return hidden, tower.head(hidden[:, -1])


def _siglip2_image(tower, inputs, through) -> Outputs:
    # Four patches of 8 x 8 pixels; each row holds values by position, then by channel.
    rows = [
        inputs["pixel_values"][:, :, top : top + 8, left : left + 8] for top, left in ((0, 0), (0, 8), (8, 0), (8, 8))
    ]
    patches = torch.stack([patch.permute(0, 2, 3, 1).flatten(1) for patch in rows], dim=1)
    hidden = tower.embeddings(patches, torch.tensor([[2, 2]] * len(patches)))
    hidden = tower.post_layernorm(through(tower.encoder.layers, hidden))
    return hidden, tower.head(hidden)


def _dinov3(tower, inputs, through) -> Outputs:
    turns = tower.rope_embeddings(inputs["pixel_values"])  # of the patches, which are the last tokens
    hidden = tower.embeddings(inputs["pixel_values"])
    hidden = tower.norm(through(tower.model.layer, hidden, arguments=lambda layer: {"position_embeddings": turns}))
    return hidden, hidden[:, 0]


def _vivit(tower, inputs, through) -> Outputs:
    return tower.layernorm(through(tower.layers, tower.embeddings(inputs["pixel_values"]))), None


def _vjepa2(tower, inputs, through) -> Outputs:
    encoder = tower.encoder
    return encoder.layernorm(through(encoder.layer, encoder.embeddings(inputs["pixel_values"]))), None


def _videoprism(tower, inputs, through) -> Outputs:
    hidden = tower.spatial_embeddings(inputs["pixel_values"])
    for layer in tower.spatial_layers:
        hidden = layer(hidden)  # (batch * time, places, width)
    hidden = tower.temporal_embeddings(tower.layernorm1(hidden), inputs["pixel_values"].shape)
    hidden = tower.layernorm2(through(tower.temporal_layers, hidden))  # (batch * places, time, width)
    return hidden.unflatten(0, (-1, 4)).transpose(1, 2).flatten(1, 2), None


def _whisper(tower, inputs, through) -> Outputs:
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(inputs["input_features"])))).transpose(1, 2)
    return tower.layer_norm(through(tower.layers, hidden + tower.embed_positions.weight)), None


def _of_samples(inputs) -> Tensor | None:
    """(batch, tokens) mask after Wav2Vec2's two convolutions: a token counts if its receptive field lies in the sound."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return None
    lengths = ((mask.sum(-1) - 10) // 40 + 1 - 3) // 4 + 1
    return torch.arange(((mask.shape[-1] - 10) // 40 + 1 - 3) // 4 + 1) < lengths[:, None]


def _wav2vec2(tower, inputs, through) -> Outputs:
    hidden, _ = tower.feature_projection(tower.feature_extractor(inputs["input_values"]).transpose(1, 2))
    visible = _of_samples(inputs)
    hidden = hidden * visible[..., None]
    hidden = hidden + tower.encoder.pos_conv_embed(hidden)
    hidden = tower.encoder.layer_norm(through(tower.encoder.layers, hidden, visible))
    return hidden, (hidden * visible[..., None]).sum(1) / visible.sum(1, keepdim=True)


def _hubert(tower, inputs, through) -> Outputs:
    hidden = tower.feature_projection(tower.feature_extractor(inputs["input_values"]).transpose(1, 2))
    hidden = tower.encoder.layer_norm(hidden + tower.encoder.pos_conv_embed(hidden))
    return through(tower.encoder.layers, hidden), None


def _wavlm(tower, inputs, through) -> Outputs:
    hidden, _ = tower.feature_projection(tower.feature_extractor(inputs["input_values"]).transpose(1, 2))
    hidden = tower.encoder.layer_norm(hidden + tower.encoder.pos_conv_embed(hidden))

    def bias(length: int) -> Tensor:  # (batch * heads, tokens, tokens), the same in every layer
        return tower.encoder.layers[0].attention.compute_bias(length, length).repeat(len(hidden), 1, 1)

    return through(tower.encoder.layers, hidden, arguments=lambda layer: {"position_bias": bias}), None


def _pe(tower, inputs, through) -> Outputs:
    hidden = tower.embedder(inputs[tower.main_input_name])[0]
    hidden, _ = tower.patch_embedder(hidden)
    turns = tower.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    hidden = through(tower.layers, hidden, arguments=lambda layer: {"position_embeddings": turns})
    hidden = tower.output(tower.norm(hidden))
    return hidden[:, 1:], hidden[:, 0]


def _modernbert(tower, inputs, through) -> Outputs:
    hidden = tower.embeddings(input_ids=inputs["input_ids"])
    places = torch.arange(hidden.shape[1])
    near = (places[:, None] - places[None]).abs() <= 2
    turns = {kind: tower.rotary_emb(hidden, places[None], kind) for kind in set(tower.config.layer_types)}

    def arguments(layer):
        windows = {"window": near} if layer.attention_type == "sliding_attention" else {}
        return {"position_embeddings": turns[layer.attention_type], **windows}

    hidden = tower.final_norm(through(tower.layers, hidden, arguments=arguments))
    weight = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))[..., None]
    return hidden, (hidden * weight).sum(1) / weight.sum(1)


def _build_pe_video() -> PreTrainedModel:
    """PE video's image model is a timm model; timm needs torchvision, which breaks Transformers if versions differ.

    A ViT replaces it here. Prompting, and everything after the image model, is PE video's own code.
    """
    torch.manual_seed(0)
    config = PeVideoEncoderConfig(**LAYERS, head_dim=8)
    config.vision_config = ViTConfig(**VISION, num_labels=6)
    tower = PeVideoEncoder(config)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return tower


LANGUAGEBIND_INPUTS = {
    "image": frames_of(2),
    "video": frames_of(4),
    "audio": sound_of(3, 16, 64),
    "depth": frames_of(2),
    "thermal": frames_of(2),
}
_NAME = {"name": "n"}
_BACKBONE = {"name": "n", "class_name": "Dinov2Model", "key_mapping": {r"^backbone\.": ""}}
FAMILIES: dict[str, Family] = {
    "clip_vision_model": Family("clip", frames_of(2), _clip_image, _NAME),
    "metaclip_2_vision_model": Family("metaclip_2", frames_of(2), _clip_image, _NAME),
    "siglip_vision_model": Family("siglip", frames_of(2), _siglip_image, _NAME),
    "siglip2_vision_model": Family("siglip2", frames_of(2), _siglip2_image, _NAME),
    "dinov2": Family("depth_anything", frames_of(1), _dinov2, _BACKBONE),
    "dinov3_vit": Family("dinov3", frames_of(2), _dinov3, _NAME),
    "xclip_vision_model": Family("xclip", frames_of(4), _xclip, _NAME),
    "videomae": Family("videomae", frames_of(4), _videomae, _NAME),
    "vivit": Family("vivit", frames_of(4), _vivit, _NAME),
    "vjepa2": Family("vjepa2", frames_of(4), _vjepa2, _NAME),
    "videoprism_vision_model": Family("videoprism", frames_of(4), _videoprism, _NAME),
    "pe_video_encoder": Family("none", frames_of(4), _pe, {"modality": "video"}, build=_build_pe_video),
    "timesformer": Family("timesformer", frames_of(4), None, _NAME),
    "audio-spectrogram-transformer": Family("ast", sound_of(64, 16), _ast, _NAME),
    "whisper": Family("whisper", sound_of(8, 100), _whisper, _NAME),
    "wav2vec2": Family("wav2vec2", waves_of(masked=True), _wav2vec2, _NAME),
    "hubert": Family("hubert", waves_of(masked=False), _hubert, _NAME),
    "wavlm": Family("wavlm", waves_of(masked=False), _wavlm, _NAME),
    "pe_audio_encoder": Family("pe_audio", waves_of(masked=False, shape=(1, 800)), _pe, _NAME),
    "clap_audio_model": Family("clap", sound_of(4, 101, 16), None, _NAME),
    "bert": Family("bert", words_of(40), _bert, _NAME),
    "modernbert": Family("modernbert", words_of(40), _modernbert, _NAME),
    "clip_text_model": Family("clip", words_of(500, 513), _clip_text, {}, "text_tower", causal=True),
    "metaclip_2_text_model": Family("metaclip_2", words_of(500, 513), _clip_text, {}, "text_tower", causal=True),
    "siglip_text_model": Family("siglip", words_of(500), _siglip_text, {}, "text_tower"),
    "siglip2_text_model": Family("siglip2", words_of(500), _siglip_text, {}, "text_tower"),
    "clap_text_model": Family("clap", words_of(40), _bert, {}, "text_tower"),
    **IMAGEBIND_FAMILIES,
    **{
        f"languagebind_{kind}_model": Family(f"languagebind_{kind}", inputs, _clip_image, _NAME)
        for kind, inputs in LANGUAGEBIND_INPUTS.items()
    },
}


EAGER_ONLY = ("videoprism_vision_model", "wavlm", "clap_text_model")
_LOADED: dict[tuple, Neuron] = {}


def make_neuron(
    model_type: str, towers: Mapping[str, str], prompt_depth: int | str | None = None, attention: str | None = None
) -> Neuron:
    """A neuron of the type; the tower is loaded once per session, and each call gets its own copy."""
    family = FAMILIES[model_type]
    if attention == "sdpa" and model_type in EAGER_ONLY:
        pytest.skip("Transformers has this type with eager attention only")
    if family.build is not None:
        tower = family.build()
        tower.set_attn_implementation(attention or "sdpa")
        spec = NeuronSpec(**{"name": "n", "hub_id": "here", "hidden_size": 16, "class_name": "none", **family.given})
        return Neuron(spec, tower, None, prompt_depth)
    key = (towers[family.checkpoint], model_type, attention)
    if key not in _LOADED:
        spec = resolve_spec({"hub_id": towers[family.checkpoint], **family.given}, family.role)
        _LOADED[key] = load_neuron(spec, **({"attn_implementation": attention} if attention else {}))
    tower = copy.deepcopy(_LOADED[key].tower)
    return Neuron(_LOADED[key].spec, tower, _LOADED[key].projection, prompt_depth)


def make_inputs(model_type: str, batch_size: int = 2, seed: int = 0) -> dict[str, Tensor]:
    return FAMILIES[model_type].inputs(torch.Generator().manual_seed(seed), batch_size)


def prompted_from_raw_inputs(model_type: str, neuron: Neuron, inputs: dict[str, Tensor], prompts: Tensor, site: int):
    """The whole tower, layer by layer, with prompts inserted at the site.

    Returns:
        last_hidden_state (batch * frames, tokens, width), pooler_output or `None`.
    """
    family, count = FAMILIES[model_type], prompts.shape[1]
    suffix = neuron.adapter.prompt_side == "suffix"
    names = {"input_features": neuron.tower.main_input_name}
    tower_inputs = {names.get(key, key): values for key, values in inputs.items()}
    if neuron.adapter.folds_frames:
        tower_inputs["pixel_values"] = inputs["pixel_values"].flatten(0, 1)
    elif "pixel_values" in inputs:
        tower_inputs[neuron.tower.main_input_name] = inputs["pixel_values"]

    def through(layers, hidden_states: Tensor, key_mask: Tensor | None = None, arguments=lambda layer: {}) -> Tensor:
        tokens = hidden_states.shape[1]
        if "input_ids" in tower_inputs:
            key_mask = tower_inputs.get("attention_mask")
        folded = prompts.repeat_interleave(len(hidden_states) // len(prompts), dim=0)
        for index, layer in enumerate(layers):
            given = dict(arguments(layer))
            visible = _visible(key_mask, tokens, family.causal, given.pop("window", None))
            if index == site:
                parts = (hidden_states, folded) if suffix else (folded, hidden_states)
                hidden_states = torch.cat(parts, dim=1)
            if index >= site:
                visible = None if visible is None else _with_prompts(visible, count)
                if "position_embeddings" in given:
                    given["position_embeddings"] = _unturned(given["position_embeddings"], tokens, count)
            if bias := given.pop("position_bias", None):
                # Prompts take positions before the sound only if they enter at the first layer, which computes the bias.
                given["position_bias"] = (
                    bias(count + tokens) if site == 0 else _unbiased(bias(tokens), index, site, count)
                )
            if "attention_mask" in inspect.signature(type(layer).forward).parameters:
                given["attention_mask"] = _as_read(visible, neuron)
            output = layer(hidden_states, **given)
            hidden_states = output[0] if isinstance(output, tuple) else output
        return hidden_states[:, :tokens] if suffix else hidden_states[:, count:]

    return family.written_out(neuron.tower, tower_inputs, through)


def _unbiased(bias: Tensor, index: int, site: int, count: int) -> Tensor:
    return F.pad(bias, (count, 0, count, 0)) if index >= site else bias


def _unturned(position_embeddings: tuple[Tensor, Tensor], tokens: int, count: int) -> tuple[Tensor, Tensor]:
    cosine, sine = position_embeddings
    if cosine.shape[-2] != tokens:  # DINOv3: rotary embeddings of the patches only
        return cosine, sine
    still = cosine.new_ones(*cosine.shape[:-2], count, cosine.shape[-1])
    return torch.cat([still, cosine], dim=-2), torch.cat([torch.zeros_like(still), sine], dim=-2)


def _as_read(visible: Tensor | None, neuron: Neuron) -> Tensor | None:
    """Eager attention adds its mask to the scores."""
    if visible is None or neuron.tower.config._attn_implementation != "eager":
        return visible
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)


def _visible(attention_mask: Tensor | None, tokens: int, causal: bool, window: Tensor | None) -> Tensor | None:
    """(batch, 1, queries, keys) bool: whether a query attends to a key."""
    visible = None if attention_mask is None else attention_mask.bool()[:, None, None, :].expand(-1, 1, tokens, -1)
    for rule in (torch.ones(tokens, tokens, dtype=torch.bool).tril() if causal else None, window):
        if rule is not None:
            visible = rule[None, None] if visible is None else visible & rule
    return visible


def _with_prompts(visible: Tensor, count: int) -> Tensor:
    """Prompts in front: all tokens attend to them, and they attend to every token that is not padding."""
    batch, _, tokens, _ = visible.shape
    wider = torch.ones(batch, 1, count + tokens, count + tokens, dtype=torch.bool)
    wider[:, :, count:, count:] = visible
    wider[:, :, :count, count:] = visible.any(dim=2, keepdim=True)
    return wider


def look_again(neuron: Neuron, look: FirstLook, prompts: Tensor, prompt: str = "tokens") -> NeuronState:
    """A second look with given prompts (batch, prompt_tokens, width), in the form that the variant of PROMPT takes."""
    if neuron.prompted_tower is None:
        width = neuron.spec.hidden_size
        config = SENConfig(neurons=[neuron.spec.to_dict()], bottleneck_size=width, num_prompt_tokens=1)
        after = AfterTower(config, neuron.spec)
        with torch.no_grad():  # so that the prompts are exactly the shift
            after.up.weight.copy_(torch.eye(width))
            after.weight.copy_(torch.eye(width))
        return after(neuron, look, prompts)
    if prompt == "add":
        return neuron.look_again_shifted(look, prompts.mean(dim=1, keepdim=True))
    return neuron.look_again(look, prompts)
