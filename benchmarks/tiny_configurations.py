"""Tiny configurations of any Transformers encoder, and inputs for it, by the names of configuration fields.

Widths are divided by eight, so that heads still divide them, and there are two layers; vocabularies, images and lists of
layers become smaller, too. If such a model cannot be built or run, larger ones are tried, the default configuration last.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

NUM_LAYERS, VOCABULARY, PICTURE, SAMPLES = 2, 1000, 224, 19_200
MOST_PARAMETERS = 80_000_000

# Kinds of fields that are reduced, one row for each attempt.
STEPS = (
    ("layers", "widths", "vocabulary", "pictures"),
    ("layers", "widths", "vocabulary"),
    ("layers", "heads", "vocabulary", "pictures"),
    ("widths", "vocabulary"),
    ("layers", "vocabulary"),
    (),  # the default configuration
)

_LAYERS = re.compile(
    r"((num|n)_)?((\w+_)?(hidden|encoder|decoder|attention)_)?(layers?|blocks?)|depth|(num|n)_(?!feat)\w+_layers?"
)
_DEPTHS = re.compile(r"depths?|\w*num_blocks|layers|\w+_depths|num_layers|blocks_per_stage|stage_num_blocks")
_WIDTHS = re.compile(
    r"(?!input_feat)(\w+_)?(hidden_sizes?|dims?|embed_dims?|widths?|d_model|d_ff|d_kv|intermediate_sizes?|channels?|d_inner|ranks?|"
    r"embedding_size|projection_size|feature_size|embed_dim_per_stage|n_embd|d_embed|d_head|kv_size|output_size|hidden)|filter_sizes"
)
_HEADS, _HEAD_WIDTHS = re.compile(r"\w*heads"), re.compile(r"\w*head_(dim|size)|d_kv|d_head")
_PICTURES = re.compile(r"image_size|img_size|input_size|crop_size|pretrain_img_size|\w+_image_size")
_INDICES = re.compile(r"\w*(indexes|indices|_layers|_blocks|layer_ids)")
_DERIVED = (
    "out_features",
    "out_indices",
    "stage_names",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "architectures",
)


def _reduced(settings: dict[str, Any], steps: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a configuration and of its parts, some kinds of them reduced."""
    reduced: dict[str, Any] = {}
    for key, value in settings.items():
        if key in _DERIVED and value is not None:
            continue
        if isinstance(value, dict) and ("model_type" in value or key.endswith("config")):
            reduced[key] = _reduced(value, steps)
        elif "vocabulary" in steps and key.endswith("vocab_size") and isinstance(value, int | None):
            reduced[key] = VOCABULARY if value is None else min(value, VOCABULARY)
        elif "vocabulary" in steps and re.search(r"token_(id|index)$", key) and isinstance(value, int | None):
            reduced[key] = value % VOCABULARY if value is not None and value >= 0 else 0
        elif "layers" in steps and _is_layers(key, value):
            reduced[key] = [1] * len(value) if isinstance(value, list) else min(value, NUM_LAYERS)
        elif "layers" in steps and isinstance(value, list) and _INDICES.fullmatch(key) and _are_integers(value):
            reduced[key] = [index for index in value if index < NUM_LAYERS]
        elif "layers" in steps and key.endswith("_types") and isinstance(value, list):
            reduced[key] = value[:NUM_LAYERS]  # of each layer
        elif "widths" in steps and _WIDTHS.fullmatch(key):
            reduced[key] = _a_fraction(value, 8, 32)
        elif "heads" in steps and (
            _HEADS.fullmatch(key) or (_WIDTHS.fullmatch(key) and not _HEAD_WIDTHS.fullmatch(key))
        ):
            reduced[key] = _a_fraction(value, 4, 4)
        elif "pictures" in steps and _PICTURES.fullmatch(key):
            reduced[key] = _at_most(value, settings.get("patch_size"))
        else:
            reduced[key] = value
    return reduced


def _is_layers(key: str, value: Any) -> bool:
    if isinstance(value, list):
        return _are_integers(value) and bool(_DEPTHS.fullmatch(key))
    return isinstance(value, int) and not isinstance(value, bool) and bool(_LAYERS.fullmatch(key))


def _are_integers(values: Any) -> bool:
    return bool(values) and all(isinstance(value, int) for value in values)


def _a_fraction(value: Any, divisor: int, least: int) -> Any:
    if isinstance(value, list | tuple):
        return [_a_fraction(each, divisor, least) for each in value]
    return value // divisor if isinstance(value, int) and value >= least and value % divisor == 0 else value


def _at_most(side: Any, patch: Any) -> Any:
    if isinstance(side, list | tuple):
        return [_at_most(each, patch) for each in side]
    if not isinstance(side, int) or side <= PICTURE:
        return side
    return PICTURE // patch * patch if isinstance(patch, int) else PICTURE


def tiny_model(
    model_class: type[PreTrainedModel],
) -> tuple[PreTrainedModel, dict[str, Tensor] | None, Exception | None]:
    """A model with random weights, and inputs that it takes without a SEN.

    Returns:
        Model, inputs and `None`; or, if the model takes none of the inputs that were tried, model, `None` and its exception.

    Raises:
        Exception: no model could be built; this is the exception of the default configuration.
        ValueError: the default configuration has too many parameters, and no smaller one could be built.
    """
    built: PreTrainedModel | None = None
    failure: Exception | None = None
    refusal: Exception | None = None
    config_class: Any = model_class.config_class
    default = config_class()
    for steps in STEPS:
        try:
            config = config_class.from_dict(_reduced(default.to_dict(), steps)) if steps else default
            with torch.device("meta"):
                size = sum(weight.numel() for weight in model_class(config).parameters())
            if size > MOST_PARAMETERS:
                raise ValueError(f"{size / 1e6:.0f} M parameters, expected at most {MOST_PARAMETERS / 1e6:.0f} M")
            torch.manual_seed(0)
            model = model_class(config).eval()
        except Exception as error:
            failure = error
            continue
        built = built or model
        for inputs in plain_inputs(model):
            try:
                with torch.no_grad():
                    model(**inputs)
            except Exception as error:
                refusal = error
                continue
            return model, inputs, None
        if isinstance(refusal, TypeError) and "required positional argument" in str(refusal):
            break  # a model of another size needs the same arguments
    if built is None:
        assert failure is not None
        raise failure
    return built, None, refusal


def plain_inputs(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Inputs of two samples, as tokens, waveforms, spectrograms or frames, in several shapes; the most usual is last."""
    config: Any = model.config
    name = list(inspect.signature(type(model).forward).parameters)[1]  # after self
    generator = torch.Generator().manual_seed(0)
    if name == "input_ids":
        yield {name: torch.randint(2, min(100, _first(config, ("vocab_size",), 100)), (2, 16), generator=generator)}
        return
    if name == "input_values":
        bins, time = _bins(config), _first(config, ("max_length",), 200)
        shapes = [(2, 1, SAMPLES), (2, time, bins), (2, SAMPLES)]
    elif name == "input_features":
        bins, time = _bins(config), min(3000, 2 * _first(config, ("max_source_positions",), 100))
        shapes = [(2, 1, 200, bins), (2, bins, time), (2, 200, bins)]
    else:
        size = _first(config, ("image_size", "img_size", "crop_size"), PICTURE)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        picture = (_first(config, ("num_channels", "in_channels", "in_chans"), 3), *sides)
        shapes = [(2, _first(config, ("num_frames", "frames_per_clip"), 8), *picture), (2, *picture)]
    for shape in shapes:
        yield {name: torch.randn(shape, generator=generator)}


def _bins(config: Any) -> int:
    names = ("num_mel_bins", "n_mels", "feature_projection_input_dim", "input_feat_per_channel", "input_feat_size")
    return _first(config, (*names, "input_dim", "feature_size"), 80)


def _first(config: Any, names: tuple[str, ...], default: int) -> Any:
    """The first value that is given for one of the names, by the configuration or else by one of its parts."""
    parts = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    found = (getattr(part, name, None) for part in (config, *parts) for name in names)
    return next((value for value in found if value is not None), default)
