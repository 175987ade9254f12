"""Tiny configurations of any Transformers encoder, and inputs for it, by the names of configuration fields.

Widths become an eighth, so that heads still divide them; layers become two; vocabularies, pictures and lists of layers follow.
Where such a model cannot be built or run, a less reduced one is tried, up to the default configuration.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

NUM_LAYERS, VOCABULARY, PICTURE = 2, 1000, 224
MOST_PARAMETERS = 40_000_000

# Fields that may be reduced, in the order of the attempts: where a model fails, fewer of them are.
STEPS = (
    ("layers", "widths", "vocabulary", "pictures"),
    ("layers", "widths", "vocabulary"),
    ("widths", "vocabulary"),
    ("layers", "vocabulary"),
    (),  # the default configuration
)

_LAYERS = re.compile(
    r"((num|n)_)?((\w+_)?(hidden|encoder|decoder|attention)_)?(layers?|blocks?)|depth|(num|n)_(?!feat)\w+_layers?"
)
_DEPTHS = re.compile(r"depths?|\w*num_blocks|layers|\w+_depths|num_layers|blocks_per_stage|stage_num_blocks")
_WIDTHS = re.compile(
    r"(\w+_)?(hidden_sizes?|dims?|embed_dims?|widths?|d_model|d_ff|d_kv|intermediate_sizes?|channels?|d_inner|ranks?|"
    r"embedding_size|feature_size|embed_dim_per_stage|n_embd|d_embed|d_head|kv_size|output_size|hidden)|filter_sizes"
)
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
    """A configuration's fields, parts included, with the fields of some kinds reduced."""
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
            reduced[key] = _an_eighth(value)
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


def _an_eighth(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_an_eighth(each) for each in value]
    return value // 8 if isinstance(value, int) and value >= 32 and value % 8 == 0 else value


def _at_most(side: Any, patch: Any) -> Any:
    if isinstance(side, list | tuple):
        return [_at_most(each, patch) for each in side]
    if not isinstance(side, int) or side <= PICTURE:
        return side
    return PICTURE // patch * patch if isinstance(patch, int) else PICTURE


def tiny_model(
    model_class: type[PreTrainedModel],
) -> tuple[PreTrainedModel, dict[str, Tensor] | None, Exception | None]:
    """A model with random weights, and inputs that it takes alone.

    Returns:
        Model and inputs; where it takes none of those tried, `None` for the inputs, and what it raised.

    Raises:
        Exception: what the default configuration raises, where none can be built.
        ValueError: it has too many parameters, where none of the smaller ones can be built.
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
                refusal = refusal or error
                continue
            return model, inputs, None
        if isinstance(refusal, TypeError) and "required positional argument" in str(refusal):
            break  # of another size, it takes no other arguments
    if built is None:
        assert failure is not None
        raise failure
    return built, None, refusal


def plain_inputs(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """What a model may read, two samples each: tokens, waveforms, spectrograms with bins or with time first, frames."""
    config: Any = model.config
    name = list(inspect.signature(type(model).forward).parameters)[1]  # behind self
    generator = torch.Generator().manual_seed(0)
    if name == "input_ids":
        yield {name: torch.randint(2, min(100, _first(config, ("vocab_size",), 100)), (2, 16), generator=generator)}
        return
    if name == "input_values":
        yield {name: 0.1 * torch.randn(2, 16_000, generator=generator)}
        yield {name: 0.1 * torch.randn(2, 1, 16_000, generator=generator)}
        bins, time = _bins(config), _first(config, ("max_length",), 200)
        yield {name: torch.randn(2, time, bins, generator=generator)}
        return
    if name == "input_features":
        bins, time = _bins(config), 2 * _first(config, ("max_source_positions",), 100)
        yield {name: torch.randn(2, bins, time, generator=generator)}
        yield {name: torch.randn(2, time, bins, generator=generator)}
        yield {name: torch.randn(2, 1, time, bins, generator=generator)}
        return
    size = _first(config, ("image_size", "img_size", "crop_size"), PICTURE)
    channels, sides = _first(config, ("num_channels", "in_channels", "in_chans"), 3), _pair(size)
    frames = _first(config, ("num_frames", "frames_per_clip"), 8)
    if name == "pixel_values" and not hasattr(config, "num_frames"):
        yield {name: torch.randn(2, channels, *sides, generator=generator)}
    yield {name: torch.randn(2, frames, channels, *sides, generator=generator)}


def _bins(config: Any) -> int:
    names = ("num_mel_bins", "n_mels", "feature_projection_input_dim", "input_feat_per_channel", "input_feat_size")
    return _first(config, (*names, "input_dim", "feature_size"), 80)


def _first(config: Any, names: tuple[str, ...], default: int) -> Any:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if value is not None), default)


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)
