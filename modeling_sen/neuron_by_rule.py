# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a tower of a type that nobody registered is used: by rules, and after a trial without values.

Modality follows from what the tower's class declares; width, grid and where prompts may stand are found by passes over
tensors without values, which cost nothing.
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
    """The grid of an image tower whose tokens stand row by row, in proportion to that of a trial.

    Attributes:
        size: (height, width) of the trial's picture.
        plane: (height, width) of its tokens.
        special: tokens in front of the plane.
    """

    size: tuple[int, int]
    plane: tuple[int, int]
    special: int

    def __call__(self, config: Any, inputs: Mapping[str, Any]) -> Grid:
        """See [`NeuronAdapter`]; all tokens in one row where they are not as many as a plane of the picture's size has."""
        num_tokens, sides = inputs["num_tokens"], inputs["pixel_values"].shape[-2:]
        rows, columns = (sides[side] * self.plane[side] / self.size[side] for side in (0, 1))
        for height, width in ((math.ceil(rows), math.ceil(columns)), (int(rows), int(columns))):
            # Towers pad pictures that do not fill their last tokens, or cut them.
            if height * width + self.special == num_tokens:
                return 1, height, width
        return 1, 1, num_tokens


def patch_grid(config: Any, inputs: Mapping[str, Any]) -> Grid:
    """Patches of one frame, see [`image_grid`]; all tokens in one row where they are fewer or many more."""
    _, height, width = image_grid(config, inputs)
    num_tokens = inputs["num_tokens"]
    return (1, height, width) if 0 <= num_tokens - height * width <= MOST_SPECIAL else (1, 1, num_tokens)


@dataclass(frozen=True)
class Trial:
    """What passes over tensors without values found; the defaults where a tower cannot run so.

    Attributes:
        width: of the tokens.
        grid: of an image tower whose tokens fill a plane.
        side: where prompts may stand; `None` where the layers take no other tokens.
        queries: whether prompts can run through the layers alone, see [`NeuronAdapter`].
        output_layers: see [`NeuronAdapter`].
    """

    width: int | None = None
    grid: PlaneGrid | None = None
    side: str | None = None
    queries: bool = False
    output_layers: bool = True


_MIXERS = (nn.modules.conv._ConvNd, nn.RNNBase)  # modules by which a layer mixes its tokens beside attention
MOST_SPECIAL = 16  # tokens in front of those of patches: class tokens and registers
_TRIALS: dict[tuple, Trial] = {}  # (class, modality, configuration) -> what was found, up to seconds each


def find_layers(tower: nn.Module, path: str | None = None) -> nn.ModuleList | None:
    """The tower's transformer layers: at `path`, or the longest list of layers of one class.

    Returns:
        The list, or `None` where the tower has none.

    Raises:
        ValueError: what stands at `path` is no list of layers.
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
    """The tokens that a tower returns, as it gives them.

    Raises:
        ValueError: it returns none: it is no encoder.
    """
    tokens = getattr(outputs, "last_hidden_state", None)
    if tokens is None:
        kind = "Tensor" if isinstance(outputs, Tensor) else type(outputs).__name__
        found = ", ".join(outputs) if isinstance(outputs, Mapping) else f"a {kind}"
        raise ValueError(f"{type(tower).__name__} returns {found}, expected an encoder's last_hidden_state")
    return tokens


def _is_convolution(layer: nn.Module) -> bool:
    """Whether a layer has no weights but those of convolutions and norms: one that turns samples into tokens."""
    weighted = [part for part in layer.modules() if any(True for _ in part.parameters(recurse=False))]
    return all(isinstance(part, nn.modules.conv._ConvNd) or "Norm" in type(part).__name__ for part in weighted)


def main_input_of(tower: nn.Module) -> str:
    """Name of the argument that a tower reads: the one its class declares, or the first of its forward.

    Parts of a larger model inherit its declaration, `input_ids`, where they read pictures or sound.
    """
    parameters = list(inspect.signature(type(tower).forward).parameters.values())[1:]  # without self
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    declared: Any = getattr(tower, "main_input_name", "input_ids")
    return declared if declared in names or not names else names[0]


def adapter_for(tower: nn.Module) -> NeuronAdapter:
    """The registered adapter of the tower's model type, or one made by rule, with a warning."""
    model_type = getattr(tower.config, "model_type", type(tower).__name__)
    if model_type in NEURON_ADAPTERS:
        return NEURON_ADAPTERS[model_type]
    modality, layers = _modality_of(tower), find_layers(tower)
    config: Any = tower.config
    tried = (type(tower), modality, repr(config))
    if tried not in _TRIALS:
        _TRIALS[tried] = _try(tower, modality)
    trial = _TRIALS[tried]
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
    grid: Any = trial.grid  # of a text none: some towers return fewer tokens than they read
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
    """What a tower reads: `image`, `video`, `audio` or `text`."""
    modalities: Any = getattr(tower, "input_modalities", "text")
    declared = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    main_input = main_input_of(tower)
    if main_input == "pixel_values_videos" or (main_input == "pixel_values" and hasattr(tower.config, "num_frames")):
        return "video"
    if main_input == "pixel_values":
        return "video" if declared[0] == "video" else "image"
    return "audio" if main_input in ("input_values", "input_features") or declared[0] == "audio" else "text"


def _try(tower: nn.Module, modality: str) -> Trial:
    # Fake tensors, not those of the meta device: where it meets them, Transformers looks into no mask.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with torch.device("meta"):  # structure only: no weights are made
            trial: Any = type(tower)(copy.deepcopy(tower.config))
        trial.set_attn_implementation("eager")
        with fake:
            trial.to_empty(device="cpu").eval()
    except Exception:  # whatever a constructor raises that looks at values
        return Trial()
    with _no_reports(), fake, torch.no_grad():
        return _found(trial, modality)


@contextmanager
def _no_reports() -> Iterator[None]:
    """Without the log of each operation that fails on fake tensors: a trial tries what may fail."""
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
        except Exception:  # whatever a tower raises that looks at values, or reads another shape
            continue
    if outputs is None:
        return Trial()
    plain = tokens_of(trial, outputs)
    width, grid = plain.shape[-1], None
    if plain.ndim == 4 and plain.shape[1] != plain.shape[2]:  # (1, width, height, width of the plane), or width last
        width = plain.shape[1]
    if plain.ndim == 3 and modality == "image":
        grid = _plane_of(plain.shape[1], inputs[main_input_of(trial)].shape[-2:])
    if layers is None or len(set(shapes)) != 1 or len(shapes) != len(layers):  # stages, or one layer that runs again
        return Trial(width, grid, output_layers=False)
    alike = [module for module in trial.modules() if type(module) is type(layers[0])]  # in other stages, too
    output_layers = shapes == [plain.shape] * len(alike)
    side = _prompt_side(trial, layers, inputs, plain, width)
    queries = side is not None and _takes_queries(PromptedTower(trial, layers, len(layers), None, side), inputs, width)
    return Trial(width, grid, side, queries, output_layers)


def _shape_of(output: Any) -> torch.Size | None:
    while isinstance(output, tuple):
        output = output[0]
    return getattr(output, "shape", None)


def _plane_of(num_tokens: int, size: Sequence[int]) -> PlaneGrid | None:
    """The plane that tokens fill behind at most one token of another kind, in the proportions of a picture."""
    for special in (0, 1):
        height = round(math.sqrt((num_tokens - special) * size[0] / size[1]))
        if height and (num_tokens - special) % height == 0:
            return PlaneGrid((size[0], size[1]), (height, (num_tokens - special) // height), special)
    return None


def _prompt_side(trial: Any, layers: nn.ModuleList, inputs: dict[str, Any], plain: Tensor, width: int) -> str | None:
    """Where the tower lets prompts stand; `None` where its layers take no other tokens."""
    for side in ("prefix", "suffix"):
        prompted = PromptedTower(trial, layers, 1, None, side)
        try:
            _, trunk = prompted.first_pass(inputs)
            outputs = prompted.prompted_pass(trunk, torch.empty(1, 2, width))
        except Exception:  # whatever a tower raises when it meets tokens that it has no place for
            continue
        if outputs.last_hidden_state.shape == plain.shape:
            return side
    return None


def _takes_queries(prompted: PromptedTower, inputs: dict[str, Tensor], width: int) -> bool:
    """Whether prompts can run through the layers without the tokens; not where one mixes tokens other than by attention."""
    if any(isinstance(module, _MIXERS) for layer in prompted.crown for module in layer.modules()):
        return False
    try:
        _, trunk = prompted.first_pass(inputs, record=True)
        outputs = prompted.query_pass(trunk, torch.empty(1, 2, width))
    except Exception:  # whatever a tower raises whose attention is not Transformers', or has windows
        return False
    return outputs.shape == (1, 2, width)


def _trial_inputs(tower: Any, modality: str) -> list[dict[str, Tensor]]:
    config, main_input = tower.config, main_input_of(tower)
    if modality == "text":
        # Long where the tower's positions allow it: BigBird's attention is another in short texts.
        length = min(1024, max(8, (getattr(config, "max_position_embeddings", None) or 16) // 2))
        return [{"input_ids": torch.ones(1, length, dtype=torch.long)}]
    shape: list[int] = [1]
    shapes = [shape]
    if modality == "audio" and main_input == "input_values":
        shapes = [[1, 16_000], [1, 1, 16_000]]  # without and with a channel
    elif modality == "audio":
        bins = getattr(config, "num_mel_bins", getattr(config, "feature_projection_input_dim", 80))
        shapes = [[1, 200, bins], [1, bins, 2 * getattr(config, "max_source_positions", 100)]]  # as Whisper's
    else:
        size: Any = getattr(config, "image_size", getattr(config, "crop_size", 224))
        shape += [getattr(config, "num_frames", 8)] if modality == "video" else []
        shape += [getattr(config, "num_channels", 3), *([size, size] if isinstance(size, int) else size)]
    return [{main_input: torch.empty(shape)} for shape in shapes]


__all__ = ["adapter_for", "find_layers", "main_input_of", "tokens_of"]
