# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENModel: frozen encoders ("super neurons"), associated recursively, give one embedding of a video.

After "Super Encoding Network: Recursive Association of Multi-Modal Encoders for Video Understanding" (arXiv 2506.07576),
which has no public code; the equations are our reading. A checkpoint holds the association's weights only.
"""

import os
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple, logging
from transformers.utils.hub import resolve_revision

from .checkpoint_folder import replaced_folder
from .configuration_sen import TEXT_TOWER_NAME, NeuronSpec, SENConfig
from .hub_files import (
    DEFAULT_LOGIT_SCALE,
    quiet_transformers,
    read_logit_scale,
    readable_weights,
    resolve_spec,
)
from .neuron import Neuron, NeuronState, NeuronTrunk
from .neuron_loading import (
    TOWER_SOURCE,
    is_same_tower,
    load_neuron,
    save_neuron,
)
from .recursive_association import FusionHead, RABlock, Shift, masked_mean

logger = logging.get_logger(__name__)


@dataclass
class SENRound(ModelOutput):
    """One round as the pictures show it.

    Args:
        fused_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): z with F read from this round's states, normalised.
        neuron_embeds (`dict[str, torch.Tensor]`): aligned neurons' projected pooled outputs of this round, normalised, each
            `(batch, projection_dim)`; zeros in rows where the neuron is absent.
    """

    fused_embeds: Tensor | None = None
    neuron_embeds: dict[str, Tensor] | None = None


@dataclass
class SENOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor`, *optional*): cross-entropy over the texts (`labels`), or symmetric contrastive (`return_loss`);
            and `config.association_loss` times the mean of the same over the rounds of `association_embeds`.
        logits_per_video (`torch.Tensor` of shape `(batch, texts)`, *optional*): scaled cosine similarities.
        logits_per_text (`torch.Tensor` of shape `(texts, batch)`, *optional*): the same, transposed.
        fused_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): the fused embedding z, normalised.
        association_embeds (`torch.Tensor` of shape `(batch, num_rounds, projection_dim)`): F of each round's states, what
            association alone says, normalised; of round 0 where there is no other.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`, *optional*): normalised.
        knowledge (`torch.Tensor` of shape `(batch, num_rounds, hidden_size)`): what was integrated in each round.
        neuron_states (`dict[str, NeuronState]`): each neuron's tokens, pooled output, answers and grid after the last round.
        all_rounds (`tuple[SENRound]`, *optional*): rounds 0..K.
        hidden_states (`dict[str, tuple[torch.Tensor]]`, *optional*): of each neuron's first look, before any prompt, as its
            tower returns them, the input's embeddings first: each `(batch, tokens, width)`, or `(batch * frames, tokens,
            width)` for towers that look at one frame at a time.
        attentions (`dict[str, tuple[torch.Tensor]]`, *optional*): likewise; each `(batch, heads, tokens, tokens)`.
    """

    loss: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None
    fused_embeds: Tensor | None = None
    association_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    knowledge: Tensor | None = None
    neuron_states: dict[str, NeuronState] | None = None
    all_rounds: tuple[SENRound, ...] | None = None
    hidden_states: dict[str, tuple[Tensor, ...] | None] | None = None
    attentions: dict[str, tuple[Tensor, ...] | None] | None = None


class NeuronBank(nn.Module):
    """The frozen towers: children of the model, but never part of its state dict, so that a checkpoint leaves them out."""

    by_name: MutableMapping[str, Neuron]
    text_tower: Neuron | None

    def __init__(self) -> None:
        super().__init__()
        self.by_name = nn.ModuleDict()  # type: ignore[assignment]
        self.text_tower = None
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_expect_none)


def _leave_out(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]


def _expect_none(module: nn.Module, incompatible_keys: Any) -> None:
    own = {key for key, _ in module.named_parameters()} | {key for key, _ in module.named_buffers()}
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not any(key == name or key.endswith(f".{name}") for name in own)]


class SENPreTrainedModel(PreTrainedModel):
    config: SENConfig
    base_model_prefix = "sen"
    main_input_name = "neuron_mask"
    input_modalities = ["video", "image", "audio", "text"]  # noqa: RUF012 (Transformers' own declaration)
    _no_split_modules = ["RABlock", "FusionHead"]  # noqa: RUF012 (Transformers' own declaration)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the losses are means over videos: the Trainer is not to pass `num_items_in_batch`
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        # Only modules with parameters of their own come here: Transformers passes over the others of code outside it.
        if isinstance(module, Shift):
            init.zeros_(module.weight)
        for name in ("queries", "tokens", "answers"):
            if isinstance(parameter := getattr(module, name, None), nn.Parameter):
                init.normal_(parameter, std=std)
        if isinstance(module, SENModel):
            init.zeros_(module.gate)
            scale = self.config.logit_scale_init_value
            init.constant_(module.logit_scale, DEFAULT_LOGIT_SCALE if scale is None else scale)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias_init_value)


class SENModel(SENPreTrainedModel):
    """Neurons, K rounds of recursive association, and the fused embedding.

    `from_neurons`, `from_pretrained` and `load_neurons` load the towers; constructed from a configuration alone, the model
    loads them when first used.
    """

    def __init__(self, config: SENConfig):
        super().__init__(config)
        if not config.neurons:
            raise ValueError("config.neurons is empty: a SEN needs at least one neuron")
        # Trainable modules come before the bank: a model's dtype is that of its first parameter.
        num_blocks = min(1, config.num_rounds) if config.share_blocks else config.num_rounds
        self.blocks = nn.ModuleList(
            RABlock(config, first=index == 0 and not config.share_blocks) for index in range(num_blocks)
        )
        self.fusion = FusionHead(config)
        self.gate = nn.Parameter(torch.zeros(()))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        has_bias = config.logit_bias_init_value is not None
        self.logit_bias = nn.Parameter(torch.zeros(())) if has_bias else None
        self.neurons = NeuronBank()
        self.gradient_checkpointing = False  # of towers that are still to be loaded
        self._specs = {spec.name: spec for spec in config.neuron_specs}
        self._base: tuple[str | None, str | None] = (
            None,
            None,
        )  # checkpoint and commit that relative hub ids refer to
        self._neuron_kwargs: dict[str, dict[str, Any]] = {}
        self.post_init()

    def add_logit_bias(self, value: float) -> None:
        """Adds a trained bias of the similarities to a loaded model."""
        self.config.logit_bias_init_value = value
        self.logit_bias = nn.Parameter(torch.full_like(self.logit_scale, value))

    # --- loading -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_neurons(
        cls,
        neurons: Iterable[str | Mapping[str, Any] | NeuronSpec],
        text_tower: str | Mapping[str, Any] | NeuronSpec | None = None,
        neuron_kwargs: dict[str, dict[str, Any]] | None = None,
        **overrides: Any,
    ) -> "SENModel":
        """An untrained SEN over frozen encoders, loaded at once.

        Args:
            neurons: hub ids, folders, or specs. A neuron from the text tower's repository counts as aligned.
            text_tower: hub id or spec of the encoder of class texts.
            neuron_kwargs: `{neuron name: from_pretrained arguments}`.
            overrides: fields of [`SENConfig`].

        Raises:
            OSError, RuntimeError, ValueError: see [`load_neuron`].
        """
        kwargs = neuron_kwargs or {}
        text_spec = None
        if text_tower is not None:
            text_spec = resolve_spec(text_tower, "text_tower", **kwargs.get(TEXT_TOWER_NAME, {}))
        specs: list[NeuronSpec] = []
        for neuron in neurons:
            given = {"hub_id": neuron} if isinstance(neuron, str) else neuron
            if text_spec and not isinstance(given, NeuronSpec) and given.get("hub_id") == text_spec.hub_id:
                given = {"aligned": True, **given}
            name = given.name if isinstance(given, NeuronSpec) else given.get("name", "")
            taken = tuple(spec.name for spec in specs)
            specs.append(resolve_spec(given, "tower", taken, **kwargs.get(name, {})))
        config = SENConfig(
            neurons=[spec.to_dict() for spec in specs],
            text_tower=None if text_spec is None else text_spec.to_dict(),
            **overrides,
        )
        text_neuron = None
        if config.text_tower_spec is not None and "projection_dim" not in overrides:
            text_neuron = load_neuron(config.text_tower_spec, **kwargs.get(TEXT_TOWER_NAME, {}))
            config.projection_dim = text_neuron.embedding_size
        model = cls(config)
        model.neurons.text_tower = text_neuron
        model.load_neurons(neuron_kwargs)
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, neuron_kwargs=None, **kwargs):  # type: ignore[override]
        """As of any Transformers model; loads the neurons too.

        Args:
            neuron_kwargs: `{neuron name: from_pretrained arguments}`, e.g. `{"image": {"attn_implementation": "eager"}}`;
                `"class_text"` is the text tower. `trust_remote_code` reaches a neuron only here, never from the SEN.

        Raises:
            OSError: the checkpoint, or a neuron's, cannot be found or read.
            RuntimeError: the checkpoint lacks weights of the association, which would stay random.
        """
        hub_kwargs = {key: kwargs[key] for key in ("token", "local_files_only", "cache_dir") if key in kwargs}
        # One commit for all files of this load, those of neurons beside the checkpoint included.
        revision = resolve_revision(pretrained_model_name_or_path, kwargs.get("revision"), **hub_kwargs)
        if revision is not None:
            kwargs["revision"] = revision
        wants_info = kwargs.pop("output_loading_info", False)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        with (
            quiet_transformers(),
            readable_weights(f"{pretrained_model_name_or_path}"),
        ):  # what is missing raises below
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        if info["missing_keys"] and pretrained_model_name_or_path is not None:
            missing = sorted(info["missing_keys"])
            raise RuntimeError(
                f"{pretrained_model_name_or_path}: {len(missing)} weights of {cls.__name__} are missing (e.g. {missing[0]}) "
                "and would stay random"
            )
        if pretrained_model_name_or_path is not None:
            base = str(pretrained_model_name_or_path)
            if os.path.isdir(base):
                base = os.path.join(base, kwargs["subfolder"]) if kwargs.get("subfolder") else base
            model._base = (base, getattr(revision, "resolved", revision))
        shared = {**hub_kwargs, **({} if dtype in (None, "auto") else {"dtype": dtype})}
        neuron_kwargs = {
            name: {**shared, **(neuron_kwargs or {}).get(name, {})}
            for name in [*model._specs, *(neuron_kwargs or {}), TEXT_TOWER_NAME]
        }
        model.load_neurons(neuron_kwargs)
        model.eval()
        return (model, info) if wants_info else model

    def load_neurons(self, neuron_kwargs: dict[str, dict[str, Any]] | None = None) -> "SENModel":
        """Loads the towers that are not loaded yet, onto the association's device.

        Raises:
            OSError, RuntimeError, ValueError: see [`load_neuron`].
            ValueError: `neuron_kwargs` names no neuron of this model.
        """
        if unknown := set(neuron_kwargs or {}) - set(self._specs) - {TEXT_TOWER_NAME}:
            raise ValueError(f"neuron_kwargs: no neurons {sorted(unknown)}, expected some of {sorted(self._specs)}")
        self._neuron_kwargs.update(neuron_kwargs or {})
        for name, spec in self._specs.items():
            if name not in self.neurons.by_name:
                self.neurons.by_name[name] = self._prepare(self._load(spec))
        if self.gradient_checkpointing:
            self._set_gradient_checkpointing(True, self._gradient_checkpointing_func)
        text_spec = self.config.text_tower_spec
        if text_spec is None:
            return self
        if self.neurons.text_tower is None:
            self.neurons.text_tower = self._prepare(self._load(text_spec))
        else:  # loaded ahead by from_neurons, which asked it for the width of the text space
            self._prepare(self.neurons.text_tower)
        if self.config.logit_scale_init_value is None:
            self._copy_logit_scale(text_spec)
        return self

    def _load(self, spec: NeuronSpec) -> Neuron:
        kwargs = self._neuron_kwargs.get(spec.name, {})
        loaded = [*self.neurons.by_name.values(), *filter(None, [self.neurons.text_tower])]
        for other in loaded:
            if is_same_tower(spec, other.spec) and kwargs == self._neuron_kwargs.get(other.spec.name, {}):
                return Neuron(spec, other.tower, other.projection, self.config.prompt_depth, other.commit)
        if (attention := self.config._attn_implementation) not in (None, "sdpa"):  # sdpa they choose themselves
            kwargs = {"attn_implementation": attention, **kwargs}
        return load_neuron(spec, self.config.prompt_depth, *self._base, **kwargs)

    def _prepare(self, neuron: Neuron) -> Neuron:
        """Puts a loaded neuron on the association's device, after a check that its embeddings fit the text space."""
        spec, is_text = neuron.spec, neuron.spec.name == TEXT_TOWER_NAME
        if (spec.aligned or is_text) and neuron.embedding_size != self.config.projection_dim:
            raise ValueError(
                f"neuron {spec.name!r} {'embeds class texts' if is_text else 'is aligned'}, but its embeddings have width "
                f"{neuron.embedding_size} and projection_dim is {self.config.projection_dim}"
            )
        neuron.train(self.training)
        return neuron if "device_map" in self._neuron_kwargs.get(spec.name, {}) else neuron.to(self.gate.device)

    def _copy_logit_scale(self, spec: NeuronSpec) -> None:
        scale = read_logit_scale(spec, *self._base, **self._neuron_kwargs.get(TEXT_TOWER_NAME, {}))
        if scale is None:
            logger.info(f"{spec.hub_id} has no logit_scale; using that of an untrained CLIP")
            scale = DEFAULT_LOGIT_SCALE
        # Weights loaded into a model whose neurons came later (load_state_dict) stay.
        if torch.equal(self.logit_scale.data, torch.full_like(self.logit_scale.data, DEFAULT_LOGIT_SCALE)):
            self.logit_scale.data.fill_(scale)
        self.config.logit_scale_init_value = scale

    def _ensure_loaded(self) -> None:
        wants_text = self.config.text_tower is not None and self.neurons.text_tower is None
        if len(self.neurons.by_name) < len(self._specs) or wants_text:
            logger.warning(f"loading neurons {', '.join(self._specs)} on first use; load_neurons() does it ahead")
            self.load_neurons()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the towers layer by layer, which is where the time goes; arguments as of `torch.compile`."""
        self._ensure_loaded()
        for neuron in [*self.neurons.by_name.values(), *filter(None, [self.neurons.text_tower])]:
            neuron.compile(*args, **kwargs)

    # --- forward -----------------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        neuron_mask: Tensor | None = None,
        frame_times: Tensor | None = None,
        text_input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_loss: bool = False,
        output_all_rounds: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        trunks: Mapping[str, NeuronTrunk] | None = None,
        **inputs: Tensor,
    ) -> SENOutput:
        """
        Args:
            neuron_mask (`(batch, neurons)` bool): which neurons each sample has inputs for, in the order of
                `config.neurons`; by default those whose inputs are given.
            frame_times (`(batch, frames)` float): seconds; carried for the heads, not read here.
            text_input_ids, text_attention_mask (`(texts, tokens)` int): class texts, or one text per video.
            text_embeds (`(texts, projection_dim)` float): class texts embedded before, instead of `text_input_ids`.
            labels (`(batch,)` int): indices into the texts; gives the cross-entropy loss.
            return_loss: symmetric contrastive loss; there must be one text per video.
            output_all_rounds: fused and per-neuron embeddings of each round.
            output_hidden_states, output_attentions: the towers' own, of the first look. Attention weights exist where a tower
                runs with `attn_implementation="eager"`. By default what the configuration says.
            trunks: neuron -> what its first look left, instead of `inputs` (see [`FeatureCache`]).
            inputs: `{neuron}_pixel_values` (batch, time, channels, height, width), `{neuron}_input_features` (batch, time,
                bins), `{neuron}_input_ids` and `{neuron}_attention_mask` (batch, tokens).

        Raises:
            TypeError: an input that belongs to no neuron.
            ValueError: a sample with no neuron present; shapes or labels that do not fit.
        """
        self._ensure_loaded()
        record = self._to_record(output_hidden_states, output_attentions)
        if trunks is None:
            by_neuron = self._split_inputs(inputs)
            present = self._present(
                {name: len(next(iter(given.values()))) for name, given in by_neuron.items()}, neuron_mask
            )
            trunks = {name: self.neurons.by_name[name].first_look(by_neuron[name], record)[1] for name in present}
        elif inputs or record:
            raise TypeError(
                f"trunks take the place of inputs and of what towers record, found both: {[*inputs, *record]}"
            )
        else:
            present = self._present({name: trunk.batch_size for name, trunk in trunks.items()}, neuron_mask)
            trunks = {name: trunks[name] for name in present}
        states = {name: trunk.first_state for name, trunk in trunks.items()}
        aligned = self._aligned_mean(states, present)
        summary, embeds = self.fusion(states, present)
        said = [embeds]  # F of each round, (batch, projection_dim)
        rounds = [self._round(states, present, said[0], aligned)] if output_all_rounds else []

        knowledge = []
        for number in range(self.config.num_rounds):
            block: RABlock = self.blocks[0 if self.config.share_blocks else number]  # type: ignore[assignment]
            known = block.integrate(states, present)  # (batch, hidden_size)
            context = block.distribute(known, summary, list(states))  # neuron -> (batch, prompt_tokens, bottleneck)
            if self.config.prompt != "none":
                states = self._prompt(trunks, block.prompt_tokens(context))
            states = block.read_answers(states, context)
            knowledge.append(known)
            summary, embeds = self.fusion(states, present)
            said.append(embeds)
            if output_all_rounds:
                rounds.append(self._round(states, present, said[-1], aligned))

        fused = self._fuse(said[-1], aligned)
        alone = nn.functional.normalize(
            torch.stack(said[1:] or said, dim=1), dim=-1
        )  # (batch, rounds, projection_dim)
        logits = None
        if text_input_ids is not None:
            asked = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
            text_embeds = self.get_text_features(text_input_ids, text_attention_mask, **asked).pooler_output
        if text_embeds is not None:
            if text_embeds.ndim != 2 or text_embeds.shape[-1] != self.config.projection_dim:
                expected = f"(texts, {self.config.projection_dim})"
                raise ValueError(f"text_embeds have shape {tuple(text_embeds.shape)}, expected {expected}")
            text_embeds = text_embeds.to(fused)
            logits = self.logit_scale.exp() * fused @ text_embeds.t()  # (batch, texts)
            if self.logit_bias is not None:
                logits = logits + self.logit_bias
        loss = None
        if labels is not None or return_loss:
            if logits is None or text_embeds is None:
                raise ValueError("a loss needs texts: give text_input_ids or text_embeds")
            loss = self._loss(logits, labels, return_loss)
            if self.config.association_loss:
                # Each round is asked on its own: what a round does not learn to answer, the next cannot build upon.
                of_rounds = [self.logit_scale.exp() * each @ text_embeds.t() for each in alone.unbind(dim=1)]
                losses = torch.stack([self._loss(each, labels, return_loss) for each in of_rounds])
                loss = loss + self.config.association_loss * losses.mean()
        return SENOutput(
            loss=loss,
            logits_per_video=logits,
            logits_per_text=None if logits is None else logits.t(),
            fused_embeds=fused,
            association_embeds=alone,
            text_embeds=text_embeds,
            knowledge=torch.stack(knowledge, dim=1) if knowledge else None,
            neuron_states=states,
            all_rounds=tuple(rounds) or None,
            **{what: {name: trunk.recorded[what] for name, trunk in trunks.items()} for what in record},
        )

    def _to_record(self, output_hidden_states: bool | None, output_attentions: bool | None) -> list[str]:
        """What the towers are asked to return of their layers, by the name it has in outputs."""
        wanted = {"hidden_states": output_hidden_states, "attentions": output_attentions}
        return [
            what
            for what, asked in wanted.items()
            if (getattr(self.config, f"output_{what}") if asked is None else asked)
        ]

    def _prompt(self, trunks: Mapping[str, NeuronTrunk], prompts: Mapping[str, Tensor]) -> dict[str, NeuronState]:
        """Each neuron looks again, with its prompt tokens."""
        return {
            name: self.neurons.by_name[name].look_again(trunk, prompts[name], self.config.prompt)
            for name, trunk in trunks.items()
        }

    def _split_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """`{neuron}_{input}` -> neuron -> input; neurons without inputs are left out."""
        by_neuron: dict[str, dict[str, Tensor]] = {}
        for key, value in inputs.items():
            name = next((name for name in self._specs if key.startswith(f"{name}_")), None)
            suffix = key[len(name) + 1 :] if name else ""
            if name is None or suffix not in (self._specs[name].input_name, "attention_mask"):
                expected = [f"{name}_{spec.input_name}" for name, spec in self._specs.items()]
                raise TypeError(f"unexpected input {key!r}, expected some of {', '.join(expected)}")
            if value is not None:
                by_neuron.setdefault(name, {})[suffix] = value
        return {
            name: by_neuron[name] for name in self._specs if self._specs[name].input_name in by_neuron.get(name, {})
        }

    def _present(self, sizes: Mapping[str, int], neuron_mask: Tensor | None) -> dict[str, Tensor]:
        """neuron -> (batch,) bool, for the neurons that any sample has inputs for."""
        names, device = list(self._specs), self.gate.device
        if not sizes:
            raise ValueError(f"no neuron has inputs; missing modalities: {self._modalities(names)}")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"inputs have different batch sizes: {sizes}")
        batch_size = next(iter(sizes.values()))
        if neuron_mask is None:
            neuron_mask = torch.ones(batch_size, len(names), dtype=torch.bool, device=device)
        if neuron_mask.shape != (batch_size, len(names)):
            raise ValueError(f"neuron_mask has shape {tuple(neuron_mask.shape)}, expected {(batch_size, len(names))}")
        given = torch.tensor([name in sizes for name in names], device=device)
        mask = neuron_mask.to(device=device, dtype=torch.bool) & given  # (batch, neurons)
        if not bool(mask.any(dim=1).all()):
            rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"samples {rows} have no neuron present; missing modalities: {self._modalities(names)}")
        anywhere = mask.any(dim=0).tolist()
        return {name: mask[:, index] for index, name in enumerate(names) if anywhere[index]}

    def _modalities(self, names: Iterable[str]) -> str:
        return ", ".join(f"{self._specs[name].modality} ({name})" for name in names)

    def _embed(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Aligned neurons' projected pooled outputs, normalised: neuron -> (batch, projection_dim)."""
        embeds = {}
        for name, state in states.items():
            if self._specs[name].aligned:
                projected = self.neurons.by_name[name].project(state.pooler_output).to(self.gate)
                projected = nn.functional.normalize(projected, dim=-1)
                embeds[name] = projected.masked_fill(~present[name].unsqueeze(-1), 0.0)
        return embeds

    def _aligned_mean(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> Tensor | None:
        """(batch, projection_dim); `None` where the configuration has no aligned neuron."""
        if not any(spec.aligned for spec in self._specs.values()):
            return None
        embeds = self._embed(states, present)
        if not embeds:  # aligned neurons exist, but none in this batch
            return torch.zeros(len(next(iter(present.values()))), self.config.projection_dim).to(self.gate)
        return masked_mean(embeds, present)

    def _fuse(self, said: Tensor, aligned: Tensor | None) -> Tensor:
        """z (batch, projection_dim) from F: at the safe start (gate 0) the mean of the aligned neurons and nothing else."""
        if aligned is None:
            return nn.functional.normalize(said, dim=-1)
        # A sample without an aligned neuron has nothing but the gated part, which is zero at first and then leaves zero
        # steadily; normalising with the usual 1e-12 its gradient to the gate would drown all others.
        return nn.functional.normalize(aligned + torch.tanh(self.gate) * said, dim=-1, eps=1e-2)

    def _round(
        self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor], said: Tensor, aligned: Tensor | None
    ) -> SENRound:
        return SENRound(self._fuse(said, aligned), self._embed(states, present))

    def _loss(self, logits: Tensor, labels: Tensor | None, both_ways: bool = False) -> Tensor:
        """Cross-entropy over the texts; without labels, contrastive over one text for each video. logits: (batch, texts)."""
        if labels is not None and not both_ways:
            if labels.shape != logits.shape[:1]:
                raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({logits.shape[0]},)")
            return nn.functional.cross_entropy(logits, labels.to(logits.device))
        if logits.shape[0] != logits.shape[1]:
            raise ValueError(
                f"return_loss needs one text per video, found {logits.shape[0]} videos and {logits.shape[1]} texts"
            )
        pairs = torch.arange(logits.shape[0], device=logits.device)
        return (nn.functional.cross_entropy(logits, pairs) + nn.functional.cross_entropy(logits.t(), pairs)) / 2

    # --- features ----------------------------------------------------------------------------------------------------

    @can_return_tuple
    def get_video_features(self, **inputs: Tensor) -> BaseModelOutputWithPooling:
        """`pooler_output`: fused embeddings (batch, projection_dim), normalised; `last_hidden_state`: knowledge by round;
        `hidden_states` and `attentions`: as of `forward`.
        """
        output = self(**inputs, return_dict=True)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.knowledge,
            pooler_output=output.fused_embeds,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    @torch.no_grad()
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """`pooler_output`: text embeddings (texts, projection_dim), normalised; `last_hidden_state`, `hidden_states` and
        `attentions`: the tower's own.

        Raises:
            ValueError: the SEN has no text tower.
        """
        self._ensure_loaded()
        text_tower = self.neurons.text_tower
        if text_tower is None:
            raise ValueError("this SEN has no text tower (config.text_tower is None), so it cannot embed class texts")
        inputs = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        state, trunk = text_tower.first_look(inputs, self._to_record(output_hidden_states, output_attentions))
        embeds = nn.functional.normalize(text_tower.project(state.pooler_output), dim=-1)
        return BaseModelOutputWithPooling(
            last_hidden_state=state.last_hidden_state, pooler_output=embeds, **trunk.recorded
        )

    @property
    def is_untrained_without_start(self) -> bool:
        """Whether no neuron is aligned and the fusion head was never trained (its bias is still exactly zero)."""
        return not any(spec.aligned for spec in self._specs.values()) and not bool(self.fusion.up.bias.any())

    def trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all) parameters, the loaded towers included in the second."""
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in self.parameters())

    def print_trainable_parameters(self) -> None:
        """Prints the trainable share, as `peft` does."""
        self._ensure_loaded()
        trainable, total = self.trainable_parameters()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    # --- saving ------------------------------------------------------------------------------------------------------

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        include_neurons: bool = False,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves configuration and association weights; the folder is replaced whole, or not at all.

        Args:
            include_neurons: write each tower to `neuron_NAME/` too, so that the folder stands alone. Towers that stood
                beside the checkpoint this model was loaded from are written in any case.
            push_to_hub, kwargs: as of any Transformers model.
        """
        if not kwargs.get("is_main_process", True):
            return
        config = self.config
        with replaced_folder(save_directory) as folder:
            try:
                self.config = self._config_to_save(folder, include_neurons)
                hub_kwargs = {
                    key: kwargs.pop(key) for key in ("repo_id", "commit_message", "private") if key in kwargs
                }
                with quiet_transformers():
                    super().save_pretrained(folder, **kwargs)
            finally:
                self.config = config
        if push_to_hub:
            repo_id = hub_kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, include_neurons=include_neurons, token=kwargs.get("token"), **hub_kwargs)

    def push_to_hub(self, repo_id: str, *, include_neurons: bool = False, **kwargs: Any) -> str:  # type: ignore[override]
        """As of any Transformers model; `include_neurons` as of `save_pretrained`, so that the repository stands alone."""
        # Transformers saves by `self.save_pretrained`, with arguments of its own.
        self.save_pretrained = partial(type(self).save_pretrained, self, include_neurons=include_neurons)  # type: ignore
        try:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]
        finally:
            del self.save_pretrained

    def _config_to_save(self, folder: os.PathLike, include_neurons: bool) -> SENConfig:
        """The configuration with what a reload needs: commits, dtypes, and with `include_neurons` the towers beside it."""
        if include_neurons or any(spec.is_relative for spec in self._all_specs()):
            self._ensure_loaded()
        config = SENConfig.from_dict(self.config.to_dict())
        config._name_or_path = self.config._name_or_path
        written: dict[int, NeuronSpec] = {}  # a tower that serves several neurons is written once
        saved = {
            spec.name: self._spec_to_save(spec, folder, include_neurons, written).to_dict()
            for spec in self._all_specs()
        }
        config.text_tower = saved.pop(TEXT_TOWER_NAME, None)
        config.neurons = list(saved.values())
        return config

    def _all_specs(self) -> list[NeuronSpec]:
        text_spec = self.config.text_tower_spec
        return self.config.neuron_specs + ([] if text_spec is None else [text_spec])

    def _loaded(self, name: str) -> Neuron | None:
        return self.neurons.text_tower if name == TEXT_TOWER_NAME else dict(self.neurons.by_name).get(name)

    def _spec_to_save(
        self, spec: NeuronSpec, folder: os.PathLike, include_neurons: bool, written: dict[int, NeuronSpec]
    ) -> NeuronSpec:
        neuron = self._loaded(spec.name)
        if neuron is not None:
            spec.dtype = str(neuron.dtype).removeprefix("torch.")
            if include_neurons or spec.is_relative:
                kwargs = self._neuron_kwargs.get(spec.name, {})
                if id(neuron.tower) not in written:
                    written[id(neuron.tower)] = save_neuron(spec, neuron, folder, *self._base, **kwargs)
                beside = written[id(neuron.tower)]
                return replace(spec, **{field: getattr(beside, field) for field in TOWER_SOURCE})
        if os.path.isdir(spec.hub_id):
            logger.warning(
                f"neuron {spec.name!r} is a local folder; elsewhere the checkpoint needs include_neurons=True"
            )
        elif not spec.is_builtin:  # the commit that was loaded, not what the branch has become
            commit = resolve_revision(spec.hub_id, spec.revision) if neuron is None else neuron.commit
            spec.revision = getattr(commit, "resolved", commit)
        return spec


__all__ = ["SENModel", "SENOutput", "SENPreTrainedModel", "SENRound"]
