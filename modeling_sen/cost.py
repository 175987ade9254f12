# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Parameters and FLOPs of a SEN, from its configuration: towers are built and run on the meta device, without weights.

FLOPs are those of matrix products, attention and convolutions, two per multiply-add. Norms, activations and the few products
of the association are not counted. The clip has square frames, ten seconds of sound and a sentence of text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from modeling_sen.configuration_sen import NeuronSpec, SENConfig
from modeling_sen.hub_files import HubSource
from modeling_sen.modeling_sen import SENModel
from modeling_sen.neuron import Neuron
from modeling_sen.neuron_loading import config_for, tower_class_of
from modeling_sen.presets import PRESETS, resolve_checkpoint
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.recursive_association import PROMPT
from modeling_sen.sentence_layout import SentenceHead, read_layout, tower_source

_FRAMES = np.zeros((16, 256, 256, 3), dtype=np.uint8)
_SOUND = (np.zeros(160_000, dtype=np.float32), 16_000)
_IMU = np.zeros((6, 2000), dtype=np.float32)
_CLIP = {"video": _FRAMES, "depth": _FRAMES, "thermal": _FRAMES, "audio": _SOUND, "imu": _IMU}
_CLIP |= {"text": "the dog runs after a ball"}


@dataclass
class NeuronCost:
    """Size and FLOPs of one neuron.

    Attributes:
        parameters: number of weights in tower and projection; `None` if the checkpoint's configuration cannot be read.
        layers: number of transformer layers; `None` if unknown, or if no crown runs again.
        prompt_depth: number of layers in the crown, which run again in each round.
        prompt: entry of `PROMPT`; `None` for the text tower.
        first_pass_flops: FLOPs of the unprompted pass over one clip.
        round_flops: FLOPs in the tower per round: of the crown, or with `queries` of the prompt tokens only; 0 if no layer
            runs again.
        cache_bytes: size of the keys and values that `queries` keeps for one clip during its forward pass; else 0.
        unknown: why numbers are missing.
    """

    parameters: int | None = None
    layers: int | None = None
    prompt_depth: int | None = None
    prompt: str | None = None
    first_pass_flops: int | None = None
    round_flops: int | None = None
    cache_bytes: int | None = None
    unknown: str | None = None


def neuron_cost(spec: NeuronSpec, processor: SENProcessor) -> NeuronCost:
    """Cost of one neuron, or of the text tower (size only). If numbers cannot be found, `unknown` has the reason."""
    config = processor.config
    is_neuron = spec.name in [neuron_spec.name for neuron_spec in config.neuron_specs]
    cost = NeuronCost(prompt=config.prompt_of(spec) if is_neuron else None)
    try:
        neuron, projection_parameters = neuron_without_weights(spec, processor)
    except (OSError, ValueError) as error:
        cost.unknown = _first_sentence(error)
        return cost
    cost.parameters = projection_parameters + sum(weight.numel() for weight in neuron.tower.parameters())
    if cost.prompt is None:
        return cost
    if (prompted := neuron.prompted_tower) is not None and PROMPT[cost.prompt].records:
        cost.layers, cost.prompt_depth = prompted.num_layers, prompted.prompt_depth
    try:
        cost.first_pass_flops, cost.round_flops, cost.cache_bytes = _count(neuron, config, processor)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        cost.unknown = _first_sentence(error)
    return cost


def neuron_without_weights(spec: NeuronSpec, processor: SENProcessor) -> tuple[Neuron, int]:
    """The neuron on the meta device, and the number of parameters of the modules that follow its tower.

    Raises:
        OSError: the checkpoint's files cannot be found or read.
        ValueError: the specification does not fit the checkpoint.
    """
    root = HubSource.of_neuron(spec, processor.source)
    source, layout = tower_source(root), read_layout(root) if spec.modality == "text" else None
    config = AutoConfig.from_pretrained(source.location, **source.files)
    tower_class = tower_class_of(spec, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = tower_class(config_for(tower_class, config)).to("meta")  # Wav2Vec2 makes one weight on the CPU
    model.set_attn_implementation("eager")  # plain matrix products, counted the same on every machine
    tower = model.get_submodule(spec.submodule) if spec.submodule else model
    if spec.projection is None:
        projection_parameters = 0
    elif spec.projection.endswith(".safetensors"):
        projection_parameters = spec.hidden_size * processor.config.projection_dim
    else:
        projection: nn.Module = model.get_submodule(spec.projection)
        projection_parameters = sum(weight.numel() for weight in projection.parameters())
    sentence = None if layout is None else SentenceHead(layout).to("meta")
    if sentence is not None:
        projection_parameters += sum(weight.numel() for weight in sentence.parameters())
    return Neuron(spec, tower, None, processor.config.prompt_depth, sentence=sentence), projection_parameters


def one_clip(spec: NeuronSpec, processor: SENProcessor) -> dict[str, Tensor]:
    """The neuron's inputs for one clip, on the meta device."""
    neuron_processor = SENProcessor(SENConfig(neurons=[spec.to_dict()]), processor.source)
    return {spec.input_name: neuron_processor(videos=[_CLIP])[f"{spec.name}_{spec.input_name}"].to("meta")}


def describe(model: str) -> dict[str, Any]:
    """Parts and cost of a SEN, JSON-serialisable. Numbers that cannot be found are `None`, with the reason in `unknown`.

    Args:
        model: a preset, a folder or a Hub id.

    Returns:
        `model`; `neurons` and `text_tower` with `name, modality, hub_id, revision, aligned` and the fields of
        [`NeuronCost`]; `trainable_parameters`, `parameters`, `trainable_share`; `rounds`; `first_pass_flops` of all neurons
        for one clip, `recursion_flops` of all rounds, and `cost_ratio`, the sum of both divided by the first;
        `cache_bytes` of all neurons.

    Raises:
        OSError: no such checkpoint.
        ValueError: it is not a SEN.
    """
    if model in PRESETS:
        processor = SENProcessor(SENConfig.from_preset(model))
    else:
        processor = SENProcessor.from_pretrained(resolve_checkpoint(model))
    config = processor.config
    with torch.device("meta"):
        trainable = sum(weight.numel() for weight in SENModel(config).parameters())
    neurons = [_describe_neuron(spec, processor) for spec in config.neuron_specs]
    text_tower = None if config.text_tower_spec is None else _describe_neuron(config.text_tower_spec, processor)
    frozen = _sum([part["parameters"] for part in [*neurons, *([text_tower] if text_tower else [])]])
    first = _sum([neuron["first_pass_flops"] for neuron in neurons])
    one_round = _sum([neuron["round_flops"] for neuron in neurons])
    recursion = None if one_round is None else config.num_rounds * one_round
    total = None if frozen is None else frozen + trainable
    return {
        "model": model,
        "neurons": neurons,
        "text_tower": text_tower,
        "trainable_parameters": trainable,
        "parameters": total,
        "trainable_share": None if total is None else trainable / total,
        "rounds": config.num_rounds,
        "first_pass_flops": first,
        "recursion_flops": recursion,
        "cost_ratio": None if first is None or recursion is None else (first + recursion) / first,
        "cache_bytes": _sum([neuron["cache_bytes"] for neuron in neurons]),
    }


def _describe_neuron(spec: NeuronSpec, processor: SENProcessor) -> dict[str, Any]:
    names = ("name", "modality", "hub_id", "revision", "aligned")
    return {**{name: getattr(spec, name) for name in names}, **asdict(neuron_cost(spec, processor))}


def _sum(numbers: Sequence[int | None]) -> int | None:
    found = [number for number in numbers if number is not None]
    return sum(found) if len(found) == len(numbers) else None


def _count(neuron: Neuron, config: SENConfig, processor: SENProcessor) -> tuple[int, int, int]:
    """FLOPs of the first pass and of one round, and bytes of keys and values."""
    spec = neuron.spec
    variant = PROMPT[config.prompt_of(spec)]
    with FlopCounterMode(display=False) as first:
        look = neuron.first_look(one_clip(spec, processor), variant.records)
    if look.trunk is None:
        return first.get_total_flops(), 0, 0
    with torch.device("meta"):
        prompting, context = variant(config, spec), torch.empty(1, config.num_prompt_tokens, config.bottleneck_size)
    with FlopCounterMode(display=False) as again, torch.no_grad():
        prompting(neuron, look, context)
    # The association's product in this pass is not the tower's.
    association = again.get_flop_counts().get(f"{type(prompting).__name__}.up", {})
    dtype: Any = spec.dtype or getattr(neuron.tower.config, "dtype", None) or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    calls = [call for layer in look.trunk.layers or () for call in layer.calls]
    elements = sum(call.keys.numel() + call.values.numel() for call in calls)
    one_round = again.get_total_flops() - sum(association.values())
    return first.get_total_flops(), one_round, elements * dtype.itemsize


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


__all__ = ["NeuronCost", "describe", "neuron_cost", "neuron_without_weights", "one_clip"]
