# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENConfig: the frozen encoders that are neurons, and the settings of recursive association.

Variant sets are at the end of the file.
"""

import copy
import re
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig

Modality = Literal["image", "video", "audio", "depth", "thermal", "imu", "text"]
MODALITIES: tuple[str, ...] = get_args(Modality)
NEURON_NAME = re.compile(r"[a-z][a-z0-9_]*")
FOLDER_NAME = re.compile(r"\w[\w.-]*")  # one level: no slash, no ".."
TEXT_TOWER_NAME = "class_text"
PREPROCESSING_KEYS = ("size", "crop", "mean", "std", "resample", "gray")


@strict
@dataclass
class NeuronSpec:
    """One frozen encoder; an entry of `config.neurons`, where it is a JSON dict without fields that have their default.

    Args:
        name: `[a-z][a-z0-9_]*`, but not `text`; the prefix of the neuron's inputs.
        modality: one of `image, video, audio, depth, thermal, imu` (motion sensors)`, text`.
        hub_id: a Hub repository, a local folder, `"builtin:NAME"` (a tower shipped inside sen-tiny) or `"./NAME"` (a folder
            beside the SEN checkpoint, one level deep).
        hidden_size: width of the tower's tokens.
        class_name: the Transformers class that loads the tower.
        revision: commit of `hub_id`; pinned when the SEN is first saved.
        submodule: dotted path of the tower inside the loaded class, if that contains more than the tower.
        key_mapping: regular expressions that rename checkpoint keys (`from_pretrained(key_mapping=...)`).
        num_frames: frames sampled from the clip (image, video, depth and thermal neurons).
        sampling: rule by which frames are sampled, see `frame_sampling.SAMPLING_RULES`.
        preprocessing: any of `size, crop, mean, std, resample, gray`; overrides the checkpoint's processor. `size` is the
            shorter side (int) or `[height, width]`; `crop` is `[height, width]`; `gray` converts frames to luma.
        prompt_side: `prefix` or `suffix`, by default the adapter's; `after` updates the neuron's state after its tower,
            without prompts.
        prompt: entry of `PROMPT` for this neuron, which overrides the configuration's, except for `prompt="none"`.
            `SENModel.from_neurons` sets it for towers that do not support `queries`.
        dtype: dtype the tower runs in, e.g. `"float32"`; default: the dtype it was saved in.
        output_layer: the layer whose output is the neuron's tokens, as an index into Transformers' `hidden_states`: -1 is the
            last of the tower's transformer layers, 1 the first. Layers above it never run, and the pooled output is the mean
            of the tokens. Default: the tower's own output.
        aligned: whether the projected pooled output is in the text tower's space.
        projection: module that maps the pooled output to that space: a dotted path in the loaded class
            (`"visual_projection"`), or a safetensors file beside the tower with `weight` (embedding, width). Default: the
            identity.
        base_model: `"HUB_ID@COMMIT"` (or `"builtin:NAME"`), the source of a tower that is saved beside the checkpoint; model
            cards list it with its licence.

    Raises:
        ValueError: a bad name, modality, hub id, projection, preprocessing key, layer or number of frames.
        StrictDataclassError: a value of the wrong type.
    """

    name: str
    modality: str
    hub_id: str
    hidden_size: int
    class_name: str
    revision: str | None = None
    submodule: str | None = None
    key_mapping: dict[str, str] | None = None
    num_frames: int | None = None
    sampling: str = "uniform"
    preprocessing: dict[str, Any] | None = None
    prompt_side: str | None = None
    prompt: str | None = None
    dtype: str | None = None
    output_layer: int | None = None
    aligned: bool = False
    projection: str | None = None
    base_model: str | None = None

    def __post_init__(self):
        where = f"neuron {self.name!r}"
        if not NEURON_NAME.fullmatch(self.name):
            raise ValueError(f"neuron name: found {self.name!r}, expected [a-z][a-z0-9_]*")
        if self.name == "text":
            raise ValueError("neuron name: found 'text', expected another: `text_input_ids` are the class texts")
        if self.modality not in MODALITIES:
            raise ValueError(f"{where}: modality is {self.modality!r}, expected one of {', '.join(MODALITIES)}")
        if self.prompt_side not in (None, "prefix", "suffix", "after"):
            raise ValueError(f"{where}: prompt_side is {self.prompt_side!r}, expected prefix, suffix or after")
        if not self.hub_id or ".." in self.hub_id.split("/"):
            raise ValueError(f"{where}: hub_id is {self.hub_id!r}; it may not be empty or contain '..'")
        if self.is_builtin and not FOLDER_NAME.fullmatch(self.hub_id.removeprefix("builtin:")):
            raise ValueError(f"{where}: hub_id is {self.hub_id!r}, expected 'builtin:' and the name of a tower")
        if self.is_relative and not FOLDER_NAME.fullmatch(self.hub_id[2:].rstrip("/")):
            raise ValueError(f"{where}: hub_id is {self.hub_id!r}, expected './' and a folder beside the checkpoint")
        if self.projection and (self.projection.startswith("/") or ".." in self.projection.split("/")):
            raise ValueError(f"{where}: projection {self.projection!r} must name a module, or a file beside the tower")
        unknown = set(self.preprocessing or ()) - set(PREPROCESSING_KEYS)
        if unknown:
            raise ValueError(
                f"{where}: unknown preprocessing {sorted(unknown)}, expected some of {', '.join(PREPROCESSING_KEYS)}"
            )
        if self.takes_frames and self.num_frames is None:
            self.num_frames = 1 if self.modality == "image" else 8
        if self.output_layer == 0:
            raise ValueError(
                f"{where}: output_layer is 0, expected 1 or more from the bottom, -1 or less from the top"
            )
        if self.output_layer is not None and self.aligned:
            raise ValueError(
                f"{where}: output_layer {self.output_layer} is not aligned, only the tower's own output is"
            )
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"{where}: num_frames is {self.num_frames}, expected at least 1")

    @property
    def takes_frames(self) -> bool:
        return self.modality in ("image", "video", "depth", "thermal")

    @property
    def is_builtin(self) -> bool:
        return self.hub_id.startswith("builtin:")

    @property
    def is_relative(self) -> bool:
        return self.hub_id.startswith("./")

    @property
    def input_name(self) -> str:
        """Suffix of the neuron's main input: `{name}_{input_name}`."""
        if self.takes_frames:
            return "pixel_values"
        return {"audio": "input_features", "imu": "imu_values", "text": "input_ids"}[self.modality]

    @property
    def model_inputs(self) -> dict[str, str]:
        """`{name}_{suffix}` -> suffix, for all inputs that the neuron may have."""
        suffixes = (self.input_name,) if self.takes_frames else (self.input_name, "attention_mask")
        return {f"{self.name}_{suffix}": suffix for suffix in suffixes}

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without fields that have their default."""
        defaults = {field.name: field.default for field in fields(self)}
        return {
            key: value for key, value in asdict(self).items() if defaults[key] is MISSING or value != defaults[key]
        }

    @classmethod
    def from_dict(cls, data: "dict[str, Any] | NeuronSpec") -> "NeuronSpec":
        if isinstance(data, NeuronSpec):
            return data
        names = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        label = data.get("name", data)
        if unknown := set(data) - names:
            raise ValueError(f"neuron {label!r}: unknown fields {sorted(unknown)}, expected some of {sorted(names)}")
        if missing := required - set(data):
            raise ValueError(f"neuron {label!r}: missing fields {sorted(missing)}")
        try:
            return cls(**copy.deepcopy(data))
        except StrictDataclassError as error:
            raise ValueError(f"neuron {label!r}: {error}") from error


@strict
class SENConfig(PreTrainedConfig):
    """Configuration of a [`SENModel`].

    Args:
        neurons: list of [`NeuronSpec`] dicts.
        text_tower: [`NeuronSpec`] dict of the text encoder that embeds class texts; `None` for a SEN without class texts.
        hidden_size: width d of knowledge.
        num_rounds: number K of recursive association rounds; with 0, F is computed from the first looks.
        num_prompt_tokens: number P of prompt tokens per neuron and round.
        prompt_depth: number of layers in the crown. `None`: a quarter of the tower's layers, at least 1; with `queries` it
            was as accurate as the whole tower in our study and stores a quarter of the keys and values. `"all"`: all layers.
        integrate, distribute, prompt: variant of each step, an entry of `INTEGRATE`, `DISTRIBUTE` and `PROMPT` in
            `recursive_association.py`. In our study the variants of integration and distribution were about equally accurate,
            except `linear` distribution: ten points better on combinations absent from training, up to two points worse in
            crowded clips. Variants of prompting: `"queries"`, the default: only the prompt tokens run through the crown and
            attend to the keys and values of the first look. `"tokens"`, as in the paper: prompt tokens are added to the
            tokens, and the crown runs again on all of them. `"none"`: no second look; answers are read from the first look's
            tokens. In our study the three differed by no more than the spread of seeds; `queries` is the default because its
            second look only costs a pass of the prompt tokens.
        bottleneck_size: width per prompt token of distribution's bottleneck. With 20, the association of three base-size
            towers takes less than 20 MB.
        active_fraction: fraction of the bottleneck units that `sparse_mlp` keeps active.
        read_answers: whether integration reads the answers besides the pooled outputs, and distribution reads the summary of
            the previous round.
        share_blocks: whether all rounds use one block's parameters.
        association_loss: weight of the loss on F after each round. With 0, F and the prompts get little gradient, because the
            frozen mean already encodes what occurs in a clip: in our study (`docs/association_details.md`) the first hop was
            then learned three times later, and the second not at all.
        projection_dim: width e of the text space and of the fused embedding.
        logit_scale_init_value: log of the similarity scale; `None` copies it from the text tower's checkpoint.
        logit_bias_init_value: initial value of a trained bias of the similarities, as in SigLIP; `None`: no bias.
        dense_neurons: names of the neurons whose tokens `SENModel.dense_features` modulates; list only those that a head
            reads, as no other loss trains the modulation. `SENModel.add_dense_modulation` adds neurons.
        initializer_range: standard deviation of the initial weights.
        depth_estimator: hub id of a depth model (GLPN, Depth-Anything) that estimates depth for clips without it.

    Raises:
        ValueError: unknown fields, or a bad [`NeuronSpec`].
        StrictDataclassError: duplicate or unknown neuron names, wrong types, unknown variants, or values out of range.
    """

    model_type = "sen"
    # The Trainer gathers predictions; these outputs are none.
    keys_to_ignore_at_inference = ["neuron_states", "knowledge", "summary", "all_rounds"]  # noqa: RUF012 (Transformers' own)

    neurons: list[dict[str, Any]] | None = None
    text_tower: dict[str, Any] | None = None
    hidden_size: int = 256
    num_rounds: int = 3
    num_prompt_tokens: int = 4
    prompt_depth: int | str | None = None
    integrate: str = "mean"
    distribute: str = "linear"
    prompt: str = "queries"
    bottleneck_size: int = 20
    active_fraction: float | int = 0.5
    read_answers: bool = True
    share_blocks: bool = False
    association_loss: float | int = 1.0
    projection_dim: int = 512
    logit_scale_init_value: float | int | None = None
    logit_bias_init_value: float | int | None = None
    dense_neurons: list[str] | None = None
    initializer_range: float | int = 0.02
    depth_estimator: str | None = None

    def __post_init__(self, **kwargs):
        self.neurons = [NeuronSpec.from_dict(neuron).to_dict() for neuron in self.neurons or []]
        if self.text_tower is not None:
            # Inputs and saved folder use this name; a neuron may have the same specification.
            self.text_tower = NeuronSpec.from_dict({**self.text_tower, "name": TEXT_TOWER_NAME}).to_dict()
        if unknown := set(kwargs) - _inherited_keys():
            own = sorted(field.name for field in fields(SENConfig) if field.name in SENConfig.__annotations__)
            raise ValueError(f"{type(self).__name__}: unknown fields {sorted(unknown)}; its own are {', '.join(own)}")
        super().__post_init__(**kwargs)

    def validate_neurons(self):
        """Called by the strict dataclass on construction and on save."""
        names = [neuron["name"] for neuron in self.neurons or []]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"neurons: duplicate names {duplicates}")
        if TEXT_TOWER_NAME in names:
            raise ValueError(f"neurons: the name {TEXT_TOWER_NAME!r} is reserved for the text tower")
        if unknown := sorted(set(self.dense_neurons or []) - set(names)):
            raise ValueError(f"dense_neurons: no neurons {unknown}, expected some of {', '.join(names)}")
        if self.text_tower is not None and self.text_tower["modality"] != "text":
            raise ValueError(f"text_tower: modality is {self.text_tower['modality']!r}, expected 'text'")

    def validate_variants(self):
        """Called by the strict dataclass on construction and on save."""
        # Imported here to avoid a cycle: the modules import the configuration.
        from .recursive_association import DISTRIBUTE, INTEGRATE, PROMPT

        registries: dict[str, dict[str, Any]] = {"integrate": INTEGRATE, "distribute": DISTRIBUTE, "prompt": PROMPT}
        for step, registry in registries.items():
            if (variant := getattr(self, step)) not in registry:
                raise ValueError(f"{step} is {variant!r}, expected one of {', '.join(registry)}")
        for spec in self.neuron_specs:
            if spec.prompt is not None and spec.prompt not in PROMPT:
                raise ValueError(
                    f"neuron {spec.name!r}: prompt is {spec.prompt!r}, expected one of {', '.join(PROMPT)}"
                )

    def validate_ranges(self):
        """Called by the strict dataclass on construction and on save."""
        for name, lowest in (("hidden_size", 1), ("num_rounds", 0), ("num_prompt_tokens", 1), ("bottleneck_size", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {lowest}")
        if self.num_prompt_tokens > self.hidden_size:
            raise ValueError(
                f"num_prompt_tokens is {self.num_prompt_tokens}, expected at most hidden_size, {self.hidden_size}"
            )
        if self.prompt in ("none", "queries") and not self.read_answers:
            raise ValueError(
                f"prompt is {self.prompt!r} and read_answers False: rounds would read no new features; expected "
                "read_answers True, or prompt 'tokens' or 'add'"
            )
        if not 0 < self.active_fraction <= 1:
            raise ValueError(f"active_fraction is {self.active_fraction}, expected in (0, 1]")
        depth = self.prompt_depth
        if (isinstance(depth, str) and depth != "all") or (isinstance(depth, int) and depth < 1):
            raise ValueError(f"prompt_depth is {depth!r}, expected a number of layers, 'all' or None (a quarter)")

    @property
    def neuron_specs(self) -> list[NeuronSpec]:
        return [NeuronSpec.from_dict(neuron) for neuron in self.neurons or []]

    def prompt_of(self, spec: NeuronSpec) -> str:
        """The entry of `PROMPT` for one neuron: its own, `"after"` if its tower takes no prompts, else `prompt`."""
        if self.prompt == "none":
            return "none"
        return spec.prompt or ("after" if spec.prompt_side == "after" else self.prompt)

    @property
    def text_tower_spec(self) -> NeuronSpec | None:
        return None if self.text_tower is None else NeuronSpec.from_dict(self.text_tower)

    @classmethod
    def from_preset(
        cls, name: str, variants: str | None = None, checkpoint: str | None = None, **overrides
    ) -> "SENConfig":
        """Configuration of a preset (`sen presets` lists them).

        Args:
            name: name of the preset.
            variants: name of a variant set, such as `paper_reading`.
            checkpoint: folder or Hub id of the converted weights, for presets whose weights are not on the Hub.
            overrides: fields of this class.

        Raises:
            ValueError: an unknown preset or variant set; a preset without the checkpoint that it needs.
        """
        try:
            from modeling_sen.presets import PRESETS
        except ImportError as error:  # remote code does not include the presets
            raise ImportError("presets come with the package: pip install modeling-sen") from error
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}, expected one of {', '.join(PRESETS)}")
        if variants is not None and variants not in VARIANT_SETS:
            raise ValueError(f"unknown variant set {variants!r}, expected one of {', '.join(VARIANT_SETS)}")
        preset = PRESETS[name]
        if preset.conversion is not None and checkpoint is None:
            raise ValueError(
                f"preset {name!r}: its weights are not on the Hub; convert them by `{preset.conversion}` and give the "
                "folder as checkpoint"
            )
        if preset.conversion is None and checkpoint is not None:
            raise ValueError(
                f"preset {name!r}: checkpoint is {checkpoint!r}, expected none: its weights are on the Hub"
            )
        towers = [*preset.neurons, preset.text_tower]
        if checkpoint is not None:
            towers = [{**tower, "hub_id": checkpoint} for tower in towers]
        settings = {"neurons": towers[:-1], "text_tower": towers[-1], **preset.settings}
        return cls(**copy.deepcopy({**settings, **VARIANT_SETS.get(variants or "", {}), **overrides}))


def _inherited_keys() -> set[str]:
    """Keys of a Transformers config.json that are no fields of the class."""
    keys = set(GenerationConfig._get_default_generation_params())
    keys |= {"name_or_path", "_name_or_path", "_commit_hash", "model_type", "auto_map", "custom_pipelines"}
    keys |= {"torch_dtype", "transformers_version", "num_labels", "per_layer_config", "output_attentions"}
    keys |= {"attn_implementation", "experts_implementation"}
    return keys | {"_attn_implementation_internal", "_experts_implementation_internal", "_attn_implementation"}


# After a second-hand description of the paper: average pooling, a sparse MLP per modality, hidden prompt tokens with a second
# pass through the whole encoder, three rounds. Integration reads only pooled vectors.
VARIANT_SETS: dict[str, dict[str, Any]] = {
    "paper_reading": {
        "integrate": "mean",
        "distribute": "sparse_mlp",
        "prompt": "tokens",
        "prompt_depth": "all",
        "read_answers": False,
        "num_rounds": 3,
    }
}


__all__ = ["TEXT_TOWER_NAME", "VARIANT_SETS", "NeuronSpec", "SENConfig"]
