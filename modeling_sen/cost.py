# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a SEN costs, from configurations alone: its towers are built without weights, on the meta device, and run there.

A FLOP is half a multiply-add of a matrix product, attention or convolution; norms, activations and the association's own
few products are not counted. One clip: square frames, ten seconds of sound, a sentence of text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from modeling_sen.configuration_sen import NeuronSpec, SENConfig
from modeling_sen.hub_files import config_for, tower_class_of, tower_location
from modeling_sen.neuron import Neuron
from modeling_sen.processing_sen import SENProcessor

_FRAMES = np.zeros((16, 256, 256, 3), dtype=np.uint8)
_SOUND = (np.zeros(160_000, dtype=np.float32), 16_000)
_CLIP = {"video": _FRAMES, "depth": _FRAMES, "thermal": _FRAMES, "audio": _SOUND, "text": "the dog runs after a ball"}


@dataclass
class NeuronCost:
    """One neuron's size and work.

    Attributes:
        parameters: of tower and projection; `None` where the checkpoint's configuration is not at hand.
        layers: transformer layers; `None` where unknown, or where no crown runs again.
        crown_layers: those that run again in each round.
        prompt_side: `prefix`, `suffix`, `after` (the tower) or `none`.
        first_pass_flops: of the unprompted pass over one clip.
        round_flops: of one round's crown.
        unknown: why numbers are missing.
    """

    parameters: int | None = None
    layers: int | None = None
    crown_layers: int | None = None
    prompt_side: str | None = None
    first_pass_flops: int | None = None
    round_flops: int | None = None
    unknown: str | None = None


def neuron_cost(spec: NeuronSpec, processor: SENProcessor) -> NeuronCost:
    """Cost of one neuron, or of the text tower (its size only); what cannot be known is said, not raised."""
    config = processor.config
    cost = NeuronCost(prompt_side=spec.prompt_side)
    try:
        neuron, projection_parameters = neuron_without_weights(spec, processor)
    except (OSError, ValueError) as error:
        cost.unknown = _first_sentence(error)
        return cost
    cost.parameters = projection_parameters + sum(weight.numel() for weight in neuron.tower.parameters())
    if config.prompt == "none":
        cost.prompt_side = "none"
    elif (prompted := neuron.prompted_tower) is None:
        cost.prompt_side = "after"
    else:
        cost.prompt_side, cost.layers = prompted.prompt_side, len(prompted.layers)
        cost.crown_layers = cost.layers - prompted.site
    if spec.name not in [own.name for own in config.neuron_specs]:
        return cost
    try:
        cost.first_pass_flops, cost.round_flops = _count(neuron, config, processor)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        cost.unknown = _first_sentence(error)
    return cost


def neuron_without_weights(spec: NeuronSpec, processor: SENProcessor) -> tuple[Neuron, int]:
    """The neuron on the meta device, and the number of its projection's parameters."""
    location, where = tower_location(spec, processor.base, processor.base_revision)
    config = AutoConfig.from_pretrained(location, **where, **processor.hub_kwargs)
    tower_class = tower_class_of(spec, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = tower_class(config_for(tower_class, config)).to("meta")  # Wav2Vec2 makes a weight elsewhere
    model.set_attn_implementation("eager")  # plain products, which are counted whatever the machine offers
    tower = model.get_submodule(spec.submodule) if spec.submodule else model
    if spec.projection is None:
        projection_parameters = 0
    elif spec.projection.endswith(".safetensors"):
        projection_parameters = spec.hidden_size * processor.config.projection_dim
    else:
        projection: nn.Module = model.get_submodule(spec.projection)
        projection_parameters = sum(weight.numel() for weight in projection.parameters())
    return Neuron(spec, tower, None, processor.config.prompt_depth), projection_parameters


def one_clip(spec: NeuronSpec, processor: SENProcessor) -> dict[str, Tensor]:
    """What the neuron is given of one clip, on the meta device."""
    alone = SENProcessor(
        SENConfig(neurons=[spec.to_dict()]), processor.base, processor.base_revision, processor.hub_kwargs
    )
    return {spec.input_name: alone(videos=[_CLIP])[f"{spec.name}_{spec.input_name}"].to("meta")}


def _count(neuron: Neuron, config: SENConfig, processor: SENProcessor) -> tuple[int, int]:
    """(first pass, one round's crown) in FLOPs."""
    spec = neuron.spec
    with FlopCounterMode(display=False) as first:
        _, trunk = neuron.first_look(one_clip(spec, processor))
    if neuron.prompted_tower is None or config.prompt == "none":
        return first.get_total_flops(), 0
    prompts = torch.empty(1, config.num_prompt_tokens, spec.hidden_size, device="meta")
    with FlopCounterMode(display=False) as again, torch.no_grad():
        neuron.look_again(trunk, prompts, config.prompt)
    return first.get_total_flops(), again.get_total_flops()


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


__all__ = ["NeuronCost", "neuron_cost", "neuron_without_weights", "one_clip"]
