# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Adapters for unregistered tower types, made by rules and a trial run on fake tensors.

The modality follows from the declarations of the tower's class. Width, grid and prompt side are found by forward passes on
fake tensors, which have shapes and no values.
"""

import copy
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from .neuron_registry import NEURON_ADAPTERS, Grid, NeuronAdapter, clip_grid, image_grid
from .prompt_injection import PromptedTower

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class PlaneGrid:
    """The grid of an image tower whose tokens are in row-major order, scaled from the grid of a trial.

    Attributes:
        size: (height, width) of the trial's image.
        plane: (height, width) of its token grid.
        special: number of tokens in front of the grid.
    """

    size: tuple[int, int]
    plane: tuple[int, int]
    special: int

    def __call__(self, config: Any, inputs: Mapping[str, Any]) -> Grid:
        """See [`NeuronAdapter`]; all tokens in one row if their number fits no scaled grid."""
        num_tokens, sides = inputs["num_tokens"], inputs["pixel_values"].shape[-2:]
        rows, columns = (sides[side] * self.plane[side] / self.size[side] for side in (0, 1))
        for height, width in ((math.ceil(rows), math.ceil(columns)), (int(rows), int(columns))):
            # Towers pad or cut images that are no multiple of the patch size.
            if height * width + self.special == num_tokens:
                return 1, height, width
        return 1, 1, num_tokens


def patch_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of one frame, see [`image_grid`]; all tokens in one row if they are fewer or more than `MOST_SPECIAL` more."""
    _, height, width = image_grid(config, inputs)
    num_tokens = inputs["num_tokens"]
    return (1, height, width) if 0 <= num_tokens - height * width <= MOST_SPECIAL else (1, 1, num_tokens)


@dataclass(frozen=True)
class Trial:
    """Results of forward passes on fake tensors; the defaults if the tower cannot run on them.

    Attributes:
        width: width of the tokens.
        grid: grid of an image tower whose tokens fill a rectangle.
        side: prompt side; `None` if the layers take no extra tokens.
        queries: see `takes_queries` of [`NeuronAdapter`].
        output_layers: see [`NeuronAdapter`].
    """

    width: int | None = None
    grid: PlaneGrid | None = None
    side: str | None = None
    queries: bool = False
    output_layers: bool = True


_MIXERS = (nn.modules.conv._ConvNd, nn.RNNBase)  # modules other than attention that mix tokens
MOST_SPECIAL = 16  # largest number of class tokens and registers in front of the patches
_TRIALS: dict[tuple, Trial] = {}  # (class, modality, configuration) -> result; a trial can take seconds


def find_layers(tower: nn.Module, path: str | None = None) -> nn.ModuleList | None:
    """The tower's transformer layers: at `path`, or the longest list of layers of one class.

    Returns:
        The list, or `None` if the tower has none.

    Raises:
        ValueError: the module at `path` is no list of layers.
    """
    if path is not None:
        layers = tower.get_submodule(path)
        if not isinstance(layers, nn.ModuleList):
            raise ValueError(f"{type(tower).__name__}.{path}: found {type(layers).__name__}, expected a ModuleList")
        return layers
    longest = None
    for module in tower.modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        kinds = {type(layer) for layer in module}
        if len(kinds) != 1 or not issubclass(kinds.pop(), GradientCheckpointingLayer) or _is_convolution(module[0]):
            continue
        if longest is None or len(module) > len(longest):
            longest = module
    return longest


def tokens_of(tower: nn.Module, outputs: Any) -> Tensor:
    """The tokens in a tower's outputs: `last_hidden_state`, in the tower's own shape.

    Raises:
        ValueError: the outputs have no `last_hidden_state`.
    """
    tokens = getattr(outputs, "last_hidden_state", None)
    if tokens is None:
        kind = "Tensor" if isinstance(outputs, Tensor) else type(outputs).__name__
        found = ", ".join(outputs) if isinstance(outputs, Mapping) else f"a {kind}"
        raise ValueError(f"{type(tower).__name__} returns {found}, expected an encoder's last_hidden_state")
    return tokens


def _is_convolution(layer: nn.Module) -> bool:
    """Whether all weights of a layer belong to convolutions and norms, as in the layers that turn samples into tokens."""
    weighted = [part for part in layer.modules() if any(True for _ in part.parameters(recurse=False))]
    return all(isinstance(part, nn.modules.conv._ConvNd) or "Norm" in type(part).__name__ for part in weighted)


def main_input_of(tower: nn.Module) -> str:
    """Name of the tower's input: the one that its class declares, or the first of its forward if that has no such argument.

    Parts of a larger model inherit the declaration `input_ids`, even if they read images or sound.
    """
    parameters = list(inspect.signature(type(tower).forward).parameters.values())[1:]  # without self
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    declared: Any = getattr(tower, "main_input_name", "input_ids")
    return declared if declared in names or not names else names[0]


def adapter_for(tower: nn.Module) -> NeuronAdapter:
    """The registered adapter of the tower's model type, or one made by rule, with a warning.

    Raises:
        ValueError: the tower returns no `last_hidden_state`.
    """
    model_type = getattr(tower.config, "model_type", type(tower).__name__)
    if model_type in NEURON_ADAPTERS:
        return NEURON_ADAPTERS[model_type]
    modality, layers = _modality_of(tower), find_layers(tower)
    config: Any = tower.config
    key = (type(tower), modality, repr(config))
    if key not in _TRIALS:
        _TRIALS[key] = _try(tower, modality)
    trial = _TRIALS[key]
    if layers is None:
        how = "after the tower: no list of identical transformer layers"
    elif trial.side is None:
        how = f"after the tower: its {len(layers)} layers take no other tokens"
    else:
        how = f"{len(layers)} layers"
    logger.warning_once(
        f"model type {model_type!r} is not registered as a neuron and is used by rule ({how}); "
        "register_neuron(...) makes it exact"
    )
    grid: Any = trial.grid  # None for text: some towers return fewer tokens than they read
    if modality == "image" and getattr(config, "patch_size", None) and (trial.side is not None or grid is None):
        grid = patch_grid
    if trial.side is not None and modality == "video" and hasattr(config, "tubelet_size"):
        grid = clip_grid
    return NeuronAdapter(
        modality=modality,
        grid=grid,
        folds_frames=modality == "image",
        prompt_side=trial.side or "prefix",
        takes_prompts=trial.side is not None,
        takes_queries=trial.queries,
        fixed_frames=modality == "video" and getattr(config, "num_frames", None) is not None,
        output_layers=trial.output_layers,
        width=trial.width,
    )


def _modality_of(tower: nn.Module) -> str:
    """The tower's input modality: `image`, `video`, `audio` or `text`."""
    modalities: Any = getattr(tower, "input_modalities", "text")
    declared = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    main_input = main_input_of(tower)
    if main_input == "pixel_values_videos" or (main_input == "pixel_values" and hasattr(tower.config, "num_frames")):
        return "video"
    if main_input == "pixel_values":
        return "video" if declared[0] == "video" else "image"
    return "audio" if main_input in ("input_values", "input_features") or declared[0] == "audio" else "text"


def _try(tower: nn.Module, modality: str) -> Trial:
    # Transformers reads the values of masks on the meta device, which raises, and not those of fake tensors.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with torch.device("meta"):  # structure only: no weights are made
            trial: Any = type(tower)(copy.deepcopy(tower.config))
        trial.set_attn_implementation("eager")  # its masks do not depend on tensor values
        with fake:
            trial.to_empty(device="cpu").eval()
    except Exception:  # constructors that depend on tensor values raise various exceptions
        return Trial()
    with _no_reports(), fake, torch.no_grad():
        return _found(trial, modality)


@contextmanager
def _no_reports() -> Iterator[None]:
    """No log entries of operations that fail on fake tensors, as a trial tries some that may fail."""
    log = getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _found(trial: Any, modality: str) -> Trial:
    shapes: list[torch.Size | None] = []
    layers, outputs = find_layers(trial), None
    for layer in layers or ():
        layer.register_forward_hook(lambda module, args, output: shapes.append(_shape_of(output)))
    for inputs in _trial_inputs(trial, modality):
        shapes.clear()
        try:
            outputs = trial(**inputs)
            break
        except Exception:  # control flow that depends on tensor values, or inputs of another shape
            continue
    if outputs is None:
        return Trial()
    plain = tokens_of(trial, outputs)
    width, grid = plain.shape[-1], None
    if plain.ndim == 4 and plain.shape[1] != plain.shape[2]:  # a square feature map with channels first, not last
        width = plain.shape[1]
    if plain.ndim == 3 and modality == "image":
        grid = _plane_of(plain.shape[1], inputs[main_input_of(trial)].shape[-2:])
    if layers is None or len(set(shapes)) != 1 or len(shapes) != len(layers):  # stages, or layers that run repeatedly
        return Trial(width, grid, output_layers=False)
    alike = [module for module in trial.modules() if type(module) is type(layers[0])]  # including other stages' layers
    output_layers = shapes == [plain.shape] * len(alike)
    side = _prompt_side(trial, layers, inputs, plain, width)
    queries = side is not None and _takes_queries(PromptedTower(trial, layers, len(layers), None, side), inputs, width)
    return Trial(width, grid, side, queries, output_layers)


def _shape_of(output: Any) -> torch.Size | None:
    while isinstance(output, tuple):
        output = output[0]
    return getattr(output, "shape", None)


def _plane_of(num_tokens: int, size: Sequence[int]) -> PlaneGrid | None:
    """The grid that tokens fill in the image's aspect ratio, after at most one special token; `None` if there is none."""
    for special in (0, 1):
        height = round(math.sqrt((num_tokens - special) * size[0] / size[1]))
        if height and (num_tokens - special) % height == 0:
            return PlaneGrid((size[0], size[1]), (height, (num_tokens - special) // height), special)
    return None


def _prompt_side(trial: Any, layers: nn.ModuleList, inputs: dict[str, Any], plain: Tensor, width: int) -> str | None:
    """The side on which the tower takes prompts; `None` if its layers take no extra tokens."""
    for side in ("prefix", "suffix"):
        prompted = PromptedTower(trial, layers, 1, None, side)
        try:
            _, trunk = prompted.first_pass(inputs)
            outputs = prompted.prompted_pass(trunk, torch.empty(1, 2, width))
        except Exception:  # towers that take no extra tokens raise various exceptions
            continue
        if outputs.last_hidden_state.shape == plain.shape:
            return side
    return None


def _takes_queries(prompted: PromptedTower, inputs: dict[str, Tensor], width: int) -> bool:
    """Whether prompts can run through the layers without the tokens; false if a layer mixes tokens by other modules."""
    if any(isinstance(module, _MIXERS) for layer in prompted.crown for module in layer.modules()):
        return False
    try:
        _, trunk = prompted.first_pass(inputs, record=True)
        outputs = prompted.query_pass(trunk, torch.empty(1, 2, width))
    except Exception:  # windowed attention, or attention outside Transformers' interface, raises various exceptions
        return False
    return outputs.shape == (1, 2, width)


def _trial_inputs(tower: Any, modality: str) -> list[dict[str, Tensor]]:
    config, main_input = tower.config, main_input_of(tower)
    if modality == "text":
        # As long as the positions allow, up to 1024: BigBird's attention is block-sparse only in long texts.
        length = min(1024, max(8, (getattr(config, "max_position_embeddings", None) or 16) // 2))
        return [{"input_ids": torch.ones(1, length, dtype=torch.long)}]
    shape: list[int] = [1]
    shapes = [shape]
    if modality == "audio" and main_input == "input_values":
        shapes = [[1, 16_000], [1, 1, 16_000]]  # without and with a channel axis
    elif modality == "audio":
        bins = getattr(config, "num_mel_bins", getattr(config, "feature_projection_input_dim", 80))
        time = 2 * getattr(config, "max_source_positions", 100)
        shapes = [[1, 200, bins], [1, bins, time]]  # time first; bins first, as Whisper reads them
    else:
        size: Any = getattr(config, "image_size", getattr(config, "crop_size", 224))
        shape += [getattr(config, "num_frames", 8)] if modality == "video" else []
        shape += [getattr(config, "num_channels", 3), *([size, size] if isinstance(size, int) else size)]
    return [{main_input: torch.empty(shape)} for shape in shapes]


__all__ = ["adapter_for", "find_layers", "main_input_of", "tokens_of"]
