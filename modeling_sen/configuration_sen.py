# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENConfig: which frozen encoders are neurons, and how recursive association joins them.

Variant sets are data at the end of the file.
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
# First words a neuron's name may not have: its inputs could be taken for `text_input_ids`, `neuron_mask`, `frame_times`.
RESERVED_NAMES = ("text", "neuron", "frame")
PREPROCESSING_KEYS = ("size", "crop", "mean", "std", "resample", "gray")


@strict
@dataclass
class NeuronSpec:
    """One frozen encoder, as it stands in `config.neurons` (there as a plain JSON dict without the `None`s).

    Args:
        name: `[a-z][a-z0-9_]*`; the prefix of the neuron's inputs.
        modality: one of `image, video, audio, depth, thermal, imu` (motion sensors)`, text`.
        hub_id: a Hub repository, a local folder, `"builtin:NAME"` (a tower shipped inside sen-tiny) or `"./NAME"` (a folder
            beside the SEN checkpoint, one level deep).
        hidden_size: width of the tower's tokens.
        class_name: the Transformers class that loads the tower.
        revision: commit of `hub_id`; pinned when the SEN is first saved.
        submodule: dotted path of the tower inside the loaded class, where that is larger than the tower.
        key_mapping: regular expressions that rename checkpoint keys (`from_pretrained(key_mapping=...)`).
        num_frames: frames sampled from the clip (image, video, depth and thermal neurons).
        sampling: how they are sampled, see `video_io.SAMPLING_RULES`.
        preprocessing: any of `size, crop, mean, std, resample, gray`, overriding the hub's processor. `size` is the shorter
            side (int) or `[height, width]`; `crop` is `[height, width]`; `gray` turns frames to their luma.
        prompt_side: `prefix` or `suffix`, by default the adapter's; `after` re-associates the neuron after its tower.
        prompt: entry of `PROMPT` for this neuron instead of the configuration's; a configuration with `prompt="none"` applies
            to all neurons. `SENModel.from_neurons` sets it for towers that cannot take `queries`.
        dtype: dtype the tower runs in, e.g. `"float32"`; by default the one it was saved in.
        output_layer: the layer whose output is the neuron's tokens, as an index into Transformers' `hidden_states`: -1 is the
            last of the tower's transformer layers, 1 the first. Layers above it are never run, and the pooled output is the
            mean of the tokens. By default the tower's own output.
        aligned: whether the projected pooled output lives in the text tower's space.
        projection: how the pooled output enters that space: a dotted path in the loaded class (`"visual_projection"`), or a
            safetensors file beside the tower holding `weight` (embedding, width). By default the identity.
        base_model: `"HUB_ID@COMMIT"` (or `"builtin:NAME"`) that a tower beside the checkpoint is a copy of; model cards name
            it, with its licence.

    Raises:
        ValueError: on a bad name, modality, hub id, or preprocessing key.
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
        if self.name.split("_")[0] in RESERVED_NAMES:
            raise ValueError(
                f"neuron name: {self.name!r} begins with one of {', '.join(RESERVED_NAMES)}, which are taken"
            )
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

    def to_dict(self) -> dict[str, Any]:
        """JSON form: only what differs from the defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {
            key: value for key, value in asdict(self).items() if defaults[key] is MISSING or value != defaults[key]
        }

    @classmethod
    def from_dict(cls, data: "dict[str, Any] | NeuronSpec") -> "NeuronSpec":
        if isinstance(data, NeuronSpec):
            return data
        known = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        label = data.get("name", data)
        if unknown := set(data) - known:
            raise ValueError(f"neuron {label!r}: unknown fields {sorted(unknown)}, expected some of {sorted(known)}")
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
        text_tower: [`NeuronSpec`] dict of the text encoder that embeds class texts; `None` for a SEN without texts.
        hidden_size: width d of knowledge.
        num_rounds: number K of recursive association rounds; 0 reads the frozen encoders once.
        num_prompt_tokens: prompt tokens P that each neuron gets in each round.
        prompt_depth: layers below the top where prompts enter. `None`: a quarter of the tower, at least 1, which with
            `queries` did as well as the whole tower in our study and holds a quarter of the keys and values. `"all"`: the
            whole tower.
        integrate, distribute, prompt: variant of each step, an entry of `INTEGRATE`, `DISTRIBUTE` and `PROMPT` in
            `recursive_association.py`. In our study all ways to integrate and distribute did about as well, but for `linear`
            distribution: ten points better on combinations that never occurred in training, up to two worse in crowded clips.
            `prompt="queries"`, the default: prompt tokens alone run through the crown and attend to the keys and values of
            the first look. `"tokens"`, the paper's way: they join all tokens, and the crown runs again for all. `"none"`: no
            second look; answers are read from the first look's tokens. In our study none of the three was ahead of the others
            by more than the spread of seeds; queries are the default as a second look for the cost of the prompts.
        bottleneck_size: width per prompt token of the bottleneck that distribution goes through. 20 keeps the association of
            three base-size towers under 20 MB.
        active_fraction: share of the bottleneck units that stay active in `sparse_mlp`.
        read_answers: whether a round builds on the one before: integration reads what each prompt token finds among its
            neuron's tokens, not pooled outputs only, and each neuron's context is also made of the summary of all answers.
        share_blocks: one block's parameters for all rounds.
        association_loss: weight of the loss on what association says alone after each round. With 0 the frozen mean in front,
            which knows already what occurs, leaves little to teach F and the prompts: in our study (`docs/association.md`)
            the first hop was then learned three times later, and the second not at all.
        projection_dim: width e of the text space and of the fused embedding.
        logit_scale_init_value: log of the similarity scale; `None` copies it from the text tower's checkpoint.
        logit_bias_init_value: start of a trained bias of the similarities, as SigLIP has one; `None`: no bias.
        dense_neurons: names of the neurons whose tokens association modulates in `SENModel.dense_features`; only those that a
            head reads, as no other loss trains the modulation. `SENModel.add_dense_modulation` adds to them.
        initializer_range: standard deviation of the initial weights.
        depth_estimator: hub id of a depth model (GLPN, Depth-Anything) that makes depth for clips that bring none.

    Raises:
        ValueError: on unknown fields, or a bad [`NeuronSpec`].
        StrictDataclassError: on duplicate or unknown neuron names, wrong types, unknown variants, or values out of range.
    """

    model_type = "sen"
    # Per-neuron states are no predictions: the Trainer does not gather them.
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
            # Its inputs and its saved folder are called so, whatever the spec says: a neuron may be of the same spec.
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
            raise ValueError(f"neurons: the name {TEXT_TOWER_NAME!r} is the text tower's")
        for first in names:
            for second in names:
                if first != second and second.startswith(f"{first}_"):
                    raise ValueError(f"neurons: {first!r} is a prefix of {second!r}, their inputs could be confused")
        if unknown := sorted(set(self.dense_neurons or []) - set(names)):
            raise ValueError(f"dense_neurons: no neurons {unknown}, expected some of {', '.join(names)}")
        if self.text_tower is not None and self.text_tower["modality"] != "text":
            raise ValueError(f"text_tower: modality is {self.text_tower['modality']!r}, expected 'text'")

    def validate_variants(self):
        """Called by the strict dataclass on construction and on save."""
        # Here, as the modules need the configuration.
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
                f"prompt is {self.prompt!r} and read_answers False: association would read nothing new; expected "
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
        """The entry of `PROMPT` for one neuron: its own, `"after"` where its tower takes no prompts, else `prompt`."""
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
        """Configuration of a preset (`sen presets` lists them), optionally with a named variant set such as `paper_reading`.

        Args:
            checkpoint: folder or Hub id of the converted weights, for presets whose weights are not on the Hub.

        Raises:
            ValueError: for an unknown preset or variant set, naming the known ones; a preset that needs a checkpoint, naming
                the command that makes it.
        """
        try:
            from modeling_sen.presets import PRESETS
        except ImportError as error:  # a configuration that travels with its code leaves presets behind
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
    """What a config.json of Transformers may carry beyond a class's own fields."""
    keys = set(GenerationConfig._get_default_generation_params())
    keys |= {"name_or_path", "_name_or_path", "_commit_hash", "model_type", "auto_map", "custom_pipelines"}
    keys |= {"torch_dtype", "transformers_version", "num_labels", "per_layer_config", "output_attentions"}
    keys |= {"attn_implementation", "experts_implementation"}
    return keys | {"_attn_implementation_internal", "_experts_implementation_internal", "_attn_implementation"}


# Our reading of a second-hand description of the paper: average pooling, a sparse MLP per modality, hidden prompt tokens with
# a second pass through the whole encoder, three rounds; integration reads pooled vectors only.
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
