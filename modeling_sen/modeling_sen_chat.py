# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENForConditionalGeneration: a language model that reads videos through a SEN.

A video is cut into windows of equal length. The SEN reads each window as one clip, and the projector turns the dense features
of its neurons into a fixed number of visual tokens, which take the places of placeholders in the prompt.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.generation import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import TransformersKwargs, logging
from transformers.utils.deprecation import deprecate_kwarg

from .configuration_sen_chat import SENChatConfig
from .first_look import FirstLook
from .hub_files import FETCH_ARGUMENTS, HubSource
from .language_model import (
    WithoutPlaceholders,
    add_adapter,
    expect_none,
    leave_out,
    load_adapter,
    load_language_model,
    restore_language_model,
    save_language_model,
)
from .modeling_sen import SENModel
from .neuron import is_dispatched
from .pretrained_sen import SENPreTrainedModel, lists_neuron_inputs
from .recursive_association import PROMPT
from .tower_weights import weight_names
from .visual_tokens import VisualProjector

logger = logging.get_logger(__name__)


class SENForConditionalGeneration(SENPreTrainedModel, GenerationMixin):
    """A SEN, a projector of its dense features, and a causal language model, which is frozen as the towers are."""

    config: SENChatConfig  # type: ignore[assignment]
    main_input_name = "input_ids"
    # Text alone, as the pipeline "any-to-any" asks for torchvision where "video" or "image" is named, which a SEN does not
    # need, and as `generate` of this class encodes videos itself.
    input_modalities = ["text"]  # noqa: RUF012 (Transformers' own declaration)
    accepts_loss_kwargs = True  # the loss is a mean over tokens
    _save_arguments = ("include_language_model",)

    def __init__(self, config: SENChatConfig):
        super().__init__(config)
        self.sen = SENModel(config.sen_config)  # type: ignore[arg-type]  # the base class made it a configuration
        text_config: Any = config.text_config
        self.projector = VisualProjector(
            [self.sen.specs[name] for name in config.read_neurons or ()],
            (config.window_frames, config.grid_side, config.grid_side),
            config.projector_hidden_size or text_config.hidden_size,
            text_config.hidden_size,
            config.fusion,
            reads_answers=config.num_answer_tokens > 0,
        )
        self.language_model: Any = None
        self.language_model_source: HubSource | None = None
        self.loaded_names: frozenset[str] = frozenset()  # of the language model's weights
        self.register_state_dict_post_hook(leave_out)
        self.register_load_state_dict_post_hook(expect_none)
        self.post_init()

    # --- the language model ------------------------------------------------------------------------------------------

    @classmethod
    def from_llm(
        cls,
        llm: str | PreTrainedModel,
        sen: str | SENModel,
        language_model_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> "SENForConditionalGeneration":
        """A model with an untrained projector between a SEN and a language model.

        The SEN's association is copied, its towers are shared; the SEN given stays as it is.

        Args:
            llm: hub id or folder of a causal language model, or the model itself, which is frozen then.
            sen: hub id or folder of a SEN, or the model itself.
            language_model_kwargs: arguments of `from_pretrained` of the language model, `revision` and `dtype` among them.
            settings: fields of [`SENChatConfig`]. `video_token_id` is by default the first id outside of the language
                model's vocabulary.

        Raises:
            OSError, RuntimeError, ValueError: see [`load_language_model`] and [`SENChatConfig`].
        """
        arguments, source = dict(language_model_kwargs or {}), None
        where: dict[str, Any] | None = None
        if isinstance(llm, str):
            # A folder by its whole path: in a configuration, `./` means beside the checkpoint.
            where = {"hub_id": os.path.abspath(llm) if os.path.isdir(llm) else llm}
            where["revision"] = arguments.pop("revision", None)
            language_model, source = load_language_model(where, **arguments)
        else:
            language_model = llm.requires_grad_(False).eval()
        sen_model: Any = SENModel.from_pretrained(sen) if isinstance(sen, str) else sen
        sen_model.ensure_loaded()
        text_config = language_model.config.get_text_config()
        settings = {"video_token_id": text_config.vocab_size, "language_model": where, **settings}
        parts = {"sen_config": sen_model.config.to_dict(), "text_config": text_config.to_dict()}
        config: Any = SENChatConfig(**parts, **settings)
        # So that association reaches the projector by the tokens, too.
        dense = [*(config.sen_config.dense_neurons or []), *config.read_neurons]
        config.sen_config.dense_neurons = list(dict.fromkeys(dense))
        model = cls(config)
        model.sen.neurons.share(sen_model.neurons)
        model.sen.load_state_dict(sen_model.state_dict(), strict=False)  # it may lack the modulation
        model.to(sen_model.gate.device)  # type: ignore[arg-type]
        model.attach_language_model(language_model, source)
        model.generation_config = copy.deepcopy(language_model.generation_config)
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, language_model_kwargs=None, **kwargs):  # type: ignore[override]
        """As of any SEN; loads the language model too.

        Args:
            language_model_kwargs: arguments of `from_pretrained` of the language model, such as `dtype`, `device_map` and
                `quantization_config`. `trust_remote_code` reaches it only here.

        Raises:
            OSError, RuntimeError, ValueError: as of any SEN, and see [`load_language_model`].
        """
        shared = {key: kwargs[key] for key in FETCH_ARGUMENTS if key in kwargs and key != "force_download"}
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if dtype not in (None, "auto"):
            shared["dtype"] = dtype
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.load_language_model({**shared, **(language_model_kwargs or {})})
        return loaded

    def load_language_model(self, language_model_kwargs: Mapping[str, Any] | None = None) -> None:
        """Loads the language model that the configuration names, frozen.

        Raises:
            OSError, RuntimeError, ValueError: see [`load_language_model`]; the configuration names none.
        """
        if self.config.language_model is None:
            raise ValueError("config.language_model is None, expected the hub id of a language model")
        given = dict(language_model_kwargs or {})
        if (attention := self.config._attn_implementation) not in (None, "sdpa"):
            given = {"attn_implementation": attention, **given}
        settings, base = self.config.language_model, self.sen.neurons.base
        self.attach_language_model(*load_language_model(settings, base, **given))
        if settings.get("adapter"):
            load_adapter(self.language_model, settings["adapter"], base, **given)

    def attach_language_model(self, language_model: PreTrainedModel, source: HubSource | None = None) -> None:
        """Takes a language model for its own, on the projector's device unless a device map has placed it."""
        width, expected = language_model.get_input_embeddings().embedding_dim, self.projector.tokens.leave.out_features
        if width != expected:
            raise ValueError(f"language model: found embeddings of width {width}, expected {expected}")
        self.loaded_names, self.language_model_source = frozenset(weight_names(language_model)), source
        self.language_model = language_model if is_dispatched(language_model) else language_model.to(self.device)  # type: ignore[arg-type]

    def add_language_model_adapter(self, adapter_config: Any) -> None:
        """Puts trainable adapters of peft on the language model; `save_pretrained` writes them to `language_model_adapter/`.

        Args:
            adapter_config: such as `peft.LoraConfig`.

        Raises:
            ImportError: peft is not installed.
            ValueError: there are adapters already.
        """
        self.ensure_loaded()
        add_adapter(self.language_model, adapter_config)

    def ensure_loaded(self) -> None:
        """Loads what is missing of towers and language model, and logs it."""
        self.sen.ensure_loaded()
        if self.language_model is None:
            logger.warning("loading the language model on first use; load_language_model() does it ahead")
            self.load_language_model()

    def restore_language_model(self, folder: str | Path) -> None:
        """Takes over the language model's weights and adapters that a checkpoint of this model has beside it, if any.

        Raises:
            OSError, RuntimeError: they cannot be read, or are of other layers.
        """
        settings = type(self.config).from_pretrained(folder).language_model or {}
        restore_language_model(self.language_model, settings, self.loaded_names, Path(folder))

    def _config_to_save(
        self, folder: Path, include_neurons: bool, include_language_model: bool | None = None, **own: Any
    ) -> Any:
        include = include_neurons if include_language_model is None else include_language_model
        config = super()._config_to_save(folder, include_neurons, **own)
        settings = self.config.language_model
        is_beside = (settings or {}).get("hub_id", "").startswith("./")
        if self.language_model is None and (include or is_beside):
            self.load_language_model()
        if self.language_model is not None:
            loaded = self.language_model_source, self.loaded_names
            config.language_model = save_language_model(self.language_model, settings, *loaded, folder, include)
        return config

    def get_input_embeddings(self):
        """Of the language model."""
        self.ensure_loaded()
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self):
        """Of the language model."""
        return None if self.language_model is None else self.language_model.get_output_embeddings()

    # --- visual tokens -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_trunks(
        self, neuron_mask: Tensor | None = None, frame_times: Tensor | None = None, **inputs: Tensor
    ) -> dict[str, FirstLook]:
        """First looks of the neurons that have inputs: with them, association alone runs for each question about a video.

        Arguments and errors are those of `get_video_features`.
        """
        self.sen.ensure_loaded()
        records = {name: PROMPT[self.sen.config.prompt_of(spec)].records for name, spec in self.sen.specs.items()}
        return self.sen.neurons.first_looks(inputs, neuron_mask, self.sen.gate.device, records)[0]

    def get_video_features(
        self,
        trunks: Mapping[str, FirstLook] | None = None,
        neuron_mask: Tensor | None = None,
        frame_times: Tensor | None = None,
        **inputs: Tensor,
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of windows.

        Args:
            trunks: neuron -> its first look, see `encode_trunks`.
            neuron_mask (`(windows, neurons)` bool): which neurons each window has inputs for; by default all that are given.
            frame_times: not read; part of what processors return.
            inputs: as of [`SENModel`], one row for each window; with `trunks`, of the neurons that these lack.

        Returns:
            `pooler_output`: (windows, visual_tokens, width of the language model).

        Raises:
            TypeError: an input that belongs to no neuron.
            ValueError: shapes that do not fit; no inputs for any neuron that is read.
        """
        if trunks is None:
            output = self.sen(neuron_mask=neuron_mask, **inputs)
        else:
            looks = {**trunks, **(self.encode_trunks(**inputs) if inputs else {})}
            looks = {name: looks[name] for name in self.sen.specs if name in looks}  # sums run in this order
            output = self.sen(neuron_mask=neuron_mask, trunks=looks)
        sizes = {name: len(state.pooler_output) for name, state in output.neuron_states.items()}
        present = self.sen.neurons.present(sizes, neuron_mask, self.sen.gate.device)
        names = [name for name in self.config.read_neurons or () if name in present]
        if not names:
            expected = ", ".join(self.config.read_neurons or ())
            raise ValueError(f"no neuron that is read has inputs, expected some of {expected}")
        features = {name: self.sen.dense_features(name, output) for name in names}
        return BaseModelOutputWithPooling(pooler_output=self.projector(features, present))

    def _embed(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """(batch, tokens, width) of the language model, with visual tokens in the places of placeholders."""
        is_visual = input_ids == self.config.video_token_id
        found = int(is_visual.sum())
        given = 0 if features is None else features.shape[:-1].numel()
        if found != given:
            windows, rest = divmod(given, self.config.visual_tokens)
            raise ValueError(
                f"input_ids have {found} placeholders of visual tokens (id {self.config.video_token_id}), expected {given}: "
                f"{self.config.visual_tokens} for each of {windows} windows" + (f" and {rest}" if rest else "")
            )
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_visual, 0))
        if features is None:
            return embeds
        return embeds.masked_scatter(is_visual.unsqueeze(-1), features.to(embeds.device, embeds.dtype))

    # --- forward -----------------------------------------------------------------------------------------------------

    @lists_neuron_inputs
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as Transformers' own models
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: Mapping[str, BaseModelOutputWithPooling] | None = None,
        neuron_mask: Tensor | None = None,
        frame_times: Tensor | None = None,
        trunks: Mapping[str, FirstLook] | None = None,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """
        Args:
            input_ids (`(batch, tokens)` int): with `visual_tokens` placeholders for each window.
            attention_mask, position_ids, cache, use_cache, logits_to_keep: as of any causal language model.
            inputs_embeds (`(batch, tokens, width)`): instead of `input_ids`, visual tokens included.
            labels (`(batch, tokens)` int): -100 where no loss is wanted.
            mm_encoder_outputs: `{"video": output of get_video_features}`, instead of inputs of neurons.
            neuron_mask, frame_times, trunks, inputs: of `get_video_features`, one row for each window of all videos, in the
                order of the prompts. Other keyword arguments are the language model's.

        Returns:
            The language model's own output: `loss`, `logits`, `cache`, ...

        Raises:
            TypeError: an input that belongs to no neuron.
            ValueError: placeholders and visual tokens do not match; videos beside `inputs_embeds`, or encoded already.
        """
        self.ensure_loaded()
        rest = {name: inputs.pop(name) for name in list(inputs) if name in _LANGUAGE_MODEL_KEYS}
        inputs |= {"neuron_mask": neuron_mask, "frame_times": frame_times, "trunks": trunks}
        outputs = self._encoded(inputs, mm_encoder_outputs)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("found neither input_ids nor inputs_embeds, expected one of them")
            inputs_embeds = self._embed(input_ids, None if outputs is None else outputs["video"].pooler_output)
        elif outputs is not None:
            raise ValueError("inputs_embeds and a video: expected input_ids, which say where its visual tokens go")
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **rest,
        )

    def _encoded(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, BaseModelOutputWithPooling] | None
    ) -> dict[str, BaseModelOutputWithPooling] | None:
        """Visual tokens, encoded now or given; `None` without a video."""
        given = {name: value for name, value in inputs.items() if value is not None}
        is_given = outputs is not None and outputs.get("video") is not None
        if not given.keys() - {"neuron_mask", "frame_times"}:
            # A copy: `generate` repeats features for its beams in place.
            return {"video": copy.copy(outputs["video"])} if outputs is not None and is_given else None
        if is_given:
            raise ValueError(f"found both mm_encoder_outputs and inputs of neurons ({', '.join(given)}), expected one")
        return {"video": self.get_video_features(**given)}

    # --- generation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        *args: Any,
        mm_encoder_outputs: Mapping[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As of any causal language model; videos are encoded once.

        Args:
            mm_encoder_outputs: `{"video": output of get_video_features}`, instead of inputs of neurons.
            kwargs: inputs of `forward`, and arguments of Transformers' `generate`.
        """
        videos = {name: kwargs.pop(name) for name in self._video_inputs() if name in kwargs}
        outputs = self._encoded(videos, mm_encoder_outputs)
        if outputs is not None:
            kwargs["mm_encoder_outputs"] = outputs
        return super().generate(inputs, *args, **kwargs)

    def _video_inputs(self) -> list[str]:
        columns = [column for spec in self.sen.specs.values() for column in spec.model_inputs]
        return [*columns, "neuron_mask", "frame_times", "trunks"]

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]
        return LogitsProcessorList([WithoutPlaceholders(processors, self.config.video_token_id)])


# Keyword arguments of `forward` that are the language model's.
_LANGUAGE_MODEL_KEYS = {*TransformersKwargs.__optional_keys__, "return_dict"}


__all__ = ["SENChatConfig", "SENForConditionalGeneration"]
