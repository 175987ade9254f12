# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Configuration of a language model that reads videos through a SEN."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_sen import SENConfig
from .visual_tokens import FUSION


class SENChatConfig(PreTrainedConfig):
    """Configuration of a [`SENForConditionalGeneration`].

    Args:
        sen_config: of the SEN.
        text_config: of the language model.
        language_model: where the language model is: `hub_id`, and `revision` and `dtype` where they are known; `base_model`
            (`"HUB_ID@COMMIT"`) of a copy beside the checkpoint, for model cards. `None` for one that was given as a model and
            is not saved yet.
        read_neurons: names of the neurons whose dense features are read; by default all that are not text.
        window_frames: steps in time that a window has in the prompt.
        tokens_per_frame: visual tokens of each step, the cells of a square grid.
        fusion: entry of `FUSION` in `visual_tokens.py`: how neurons become one.
        projector_hidden_size: width in which neurons are fused; by default the language model's.
        video_token_id: of the placeholder of one visual token. It may lie outside of the language model's vocabulary.
        question_neuron: name of the text neuron that reads the question, so that association depends on it; `None` for none.
        initializer_range: standard deviation of the initial weights.

    Raises:
        ValueError: no such neuron, or one of the wrong modality; an unknown fusion; values out of range.
    """

    model_type = "sen_chat"
    sub_configs_defaults = {  # noqa: RUF012 (Transformers' own declaration)
        "sen_config": SENConfig,  # type: ignore[dict-item]
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3"),
    }

    sen_config: dict | SENConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    language_model: dict[str, Any] | None = None
    read_neurons: list[str] | None = None
    window_frames: int = 8
    tokens_per_frame: int = 16
    fusion: str = "weights"
    projector_hidden_size: int | None = None
    video_token_id: int = 0
    question_neuron: str | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        specs = {spec.name: spec for spec in self.sen_config.neuron_specs}
        if self.read_neurons is None:
            self.read_neurons = [name for name, spec in specs.items() if spec.modality != "text"]
        named = [*self.read_neurons, *([self.question_neuron] if self.question_neuron is not None else [])]
        if unknown := [name for name in named if name not in specs]:
            raise ValueError(f"no neurons {unknown}, expected some of {', '.join(specs)}")
        if texts := [name for name in self.read_neurons if specs[name].modality == "text"]:
            raise ValueError(f"read_neurons: {texts} read text, expected neurons of other modalities")
        if self.question_neuron is not None and specs[self.question_neuron].modality != "text":
            found = specs[self.question_neuron].modality
            raise ValueError(f"question_neuron: {self.question_neuron!r} reads {found}, expected a neuron of text")
        if self.window_frames < 1:
            raise ValueError(f"window_frames is {self.window_frames}, expected at least 1")
        if self.tokens_per_frame < 1 or self.grid_side**2 != self.tokens_per_frame:
            raise ValueError(f"tokens_per_frame is {self.tokens_per_frame}, expected a square number such as 16")
        if self.fusion not in FUSION:
            raise ValueError(f"fusion is {self.fusion!r}, expected one of {', '.join(FUSION)}")

    @property
    def grid_side(self) -> int:
        """Cells on each side of the square grid of a step in time."""
        return round(self.tokens_per_frame**0.5)

    @property
    def num_answer_tokens(self) -> int:
        """Visual tokens that are made of the answers of association, 0 where it has none."""
        sen: Any = self.sen_config
        return sen.num_prompt_tokens if sen.num_rounds and sen.read_answers else 0

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one window."""
        return self.window_frames * self.tokens_per_frame + self.num_answer_tokens


__all__ = ["SENChatConfig"]
