"""Every registered neuron type on tiny random weights, with its tower written out by hand: the reference of prompting.

A forward written out takes the tower, its inputs and `through`, which runs the layers: `through(layers, hidden_states)`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling_sen.neuron import Neuron
from modeling_sen.neuron_loading import load_neuron, resolve_spec

Outputs = tuple[Tensor, Tensor | None]  # last_hidden_state, pooler_output


@dataclass(frozen=True)
class Family:
    """How to build one type and feed it.

    Attributes:
        checkpoint: key of `tiny_towers.make_towers`.
        given: fields of the neuron's specification.
        role: of `resolve_spec`.
        inputs: `inputs(generator, batch_size)`, as a SEN hands them to the neuron.
        written_out: `written_out(tower, tower_inputs, through)`; `None` for towers that take no prompts.
        causal: whether tokens see only what stands before them.
    """

    checkpoint: str
    inputs: Callable[[torch.Generator, int], dict[str, Tensor]]
    written_out: Callable[..., Outputs] | None
    given: Mapping[str, Any]
    role: str = "tower"
    causal: bool = False


def _frames(count: int):
    return lambda generator, batch: {"pixel_values": torch.randn(batch, count, 3, 16, 16, generator=generator)}


def _sound(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
    return {"input_features": torch.randn(batch, 64, 16, generator=generator)}


def _words(vocabulary: int, end: int | None = None):
    def inputs(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        ids = torch.randint(1, vocabulary, (batch, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 6:] = 0  # the first sample is shorter
        if end is not None:
            ids[:, -1] = end
            ids[0, 5] = end
        return {"input_ids": ids, "attention_mask": mask}

    return inputs


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
    hidden = tower.layernorm(through(tower.encoder.layer, tower.embeddings(inputs["pixel_values"], None), False))
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


_BACKBONE = {"name": "n", "class_name": "Dinov2Model", "key_mapping": {r"^backbone\.": ""}}
FAMILIES: dict[str, Family] = {
    "clip_vision_model": Family("clip", _frames(2), _clip_image, {"name": "n"}),
    "siglip_vision_model": Family("siglip", _frames(2), _siglip_image, {"name": "n"}),
    "xclip_vision_model": Family("xclip", _frames(4), _xclip, {"name": "n"}),
    "dinov2": Family("depth_anything", _frames(1), _dinov2, _BACKBONE),
    "videomae": Family("videomae", _frames(4), _videomae, {"name": "n"}),
    "timesformer": Family("timesformer", _frames(4), None, {"name": "n"}),
    "audio-spectrogram-transformer": Family("ast", _sound, _ast, {"name": "n"}),
    "bert": Family("bert", _words(40), _bert, {"name": "n"}),
    "clip_text_model": Family("clip", _words(500, 513), _clip_text, {}, "text_tower", causal=True),
    "siglip_text_model": Family("siglip", _words(500), _siglip_text, {}, "text_tower"),
}


_LOADED: dict[tuple, Neuron] = {}


def make_neuron(
    model_type: str, towers: Mapping[str, str], prompt_depth: int | str | None = None, attention: str | None = None
) -> Neuron:
    """A neuron of the type; the tower is loaded once for a session, and each call gets a copy of its own."""
    family = FAMILIES[model_type]
    key = (towers[family.checkpoint], model_type, attention)
    if key not in _LOADED:
        spec = resolve_spec({"hub_id": towers[family.checkpoint], **family.given}, family.role)
        _LOADED[key] = load_neuron(spec, **({"attn_implementation": attention} if attention else {}))
    tower = copy.deepcopy(_LOADED[key].tower)
    return Neuron(_LOADED[key].spec, tower, _LOADED[key].projection, prompt_depth)


def make_inputs(model_type: str, batch_size: int = 2, seed: int = 0) -> dict[str, Tensor]:
    return FAMILIES[model_type].inputs(torch.Generator().manual_seed(seed), batch_size)


def prompted_from_raw_inputs(model_type: str, neuron: Neuron, inputs: dict[str, Tensor], prompts: Tensor, site: int):
    """The whole tower again, layer by layer, with prompts joining at the site.

    Returns:
        last_hidden_state (batch * frames, tokens, width), pooler_output or `None`, answers (batch * frames, prompts, width).
    """
    family, count = FAMILIES[model_type], prompts.shape[1]
    suffix = neuron.adapter.prompt_side == "suffix"
    frames = 1
    tower_inputs = {neuron.tower.main_input_name if key == "input_features" else key: x for key, x in inputs.items()}
    if neuron.adapter.folds_frames:
        frames = inputs["pixel_values"].shape[1]
        tower_inputs["pixel_values"] = inputs["pixel_values"].flatten(0, 1)
    prompts = torch.stack([prompts] * frames, dim=1).flatten(0, 1)
    kept = []

    def through(layers, hidden_states: Tensor, takes_mask: bool = True) -> Tensor:
        tokens = hidden_states.shape[1]
        visible = _visible(tower_inputs.get("attention_mask"), tokens, family.causal)
        for index, layer in enumerate(layers):
            if index == site:
                parts = (hidden_states, prompts) if suffix else (prompts, hidden_states)
                hidden_states = torch.cat(parts, dim=1)
                if visible is not None:
                    visible = _with_prompts(visible, count)
            hidden_states = layer(hidden_states, visible) if takes_mask else layer(hidden_states)
        kept.append(hidden_states[:, tokens:] if suffix else hidden_states[:, :count])
        return hidden_states[:, :tokens] if suffix else hidden_states[:, count:]

    last_hidden_state, pooled = family.written_out(neuron.tower, tower_inputs, through)
    return last_hidden_state, pooled, kept[0]


def _visible(attention_mask: Tensor | None, tokens: int, causal: bool) -> Tensor | None:
    """(batch, 1, queries, keys) bool: which token sees which."""
    visible = None if attention_mask is None else attention_mask.bool()[:, None, None, :].expand(-1, 1, tokens, -1)
    if causal:
        earlier = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
        visible = earlier if visible is None else visible & earlier
    return visible


def _with_prompts(visible: Tensor, count: int) -> Tensor:
    """Prompts in front: all see them, and they see every token that is not padding."""
    batch, _, tokens, _ = visible.shape
    wider = torch.ones(batch, 1, count + tokens, count + tokens, dtype=torch.bool)
    wider[:, :, count:, count:] = visible
    wider[:, :, :count, count:] = visible.any(dim=2, keepdim=True)
    return wider
