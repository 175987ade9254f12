"""Reference for prompts that run alone: tokens and prompts run together, and no token attends to a prompt.

Attention is written out here and registered with Transformers under its own name, so that no code of `prompt_queries.py`
is used. Other tests compare the second look with prompt `tokens` with towers written out by hand.
"""

import copy
import math

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from modeling_sen.first_look import FirstLook
from modeling_sen.neuron import Neuron

NAME = "written_out"
_PROMPTS: list[slice] = []  # positions of the prompts, while tokens do not attend to them


def _attention(module, query, key, value, attention_mask, scaling=None, softcap=None, position_bias=None, **kwargs):
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:  # relative bias of T5: prompts have no position and get no bias
        for prompts in _PROMPTS:
            position_bias = position_bias.index_fill(2, torch.arange(query.shape[2])[prompts], 0.0)
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    # In attention over the frames of a clip, each patch and each prompt attends to itself: nothing to mask.
    for prompts in () if getattr(module, "attends_over_frames", False) else _PROMPTS:
        is_token = torch.ones(query.shape[2], dtype=torch.bool)
        is_token[prompts] = False
        hidden = is_token[:, None] & ~is_token
        hidden = torch.nn.functional.pad(hidden, (0, scores.shape[-1] - len(hidden)))  # for rows that a layer adds
        scores = scores.masked_fill(hidden, -math.inf)
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)  # additive masks; causal attention always has one


def record_outputs(layer: nn.Module) -> list[Tensor]:
    """Records the outputs of the layer from now on, prompts included."""
    outputs: list[Tensor] = []
    forward = layer.forward

    def recorded(*args, **kwargs):
        output = forward(*args, **kwargs)
        outputs.append(output[0] if isinstance(output, tuple) else output)
        return output

    layer.forward = recorded
    return outputs


def joint_pass(neuron: Neuron, inputs: dict[str, Tensor], prompts: Tensor) -> tuple[FirstLook, Tensor]:
    """Runs prompts (batch, prompt_tokens, width) and tokens through the crown of a copy of the neuron.

    Returns:
        The first look of the copy, and the prompts' outputs of the crown's last layer (batch * frames, prompt_tokens, width).
    """
    neuron = copy.deepcopy(neuron)
    neuron.tower.set_attn_implementation(NAME)
    look, count = neuron.first_look(inputs), prompts.shape[1]
    place = slice(-count, None) if neuron.prompted_tower.prompt_side == "suffix" else slice(count)
    outputs = record_outputs(neuron.prompted_tower.crown[-1])
    _PROMPTS.append(place)
    try:
        state = neuron.look_again(look, prompts)
    finally:
        _PROMPTS.pop()
    torch.testing.assert_close(state.last_hidden_state, look.state.last_hidden_state, atol=1e-5, rtol=0)
    (output,) = outputs
    return look, output[:, place]
