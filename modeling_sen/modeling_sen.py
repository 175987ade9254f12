# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENModel: frozen encoders ("super neurons"), associated recursively, give one embedding of a video.

After "Super Encoding Network: Recursive Association of Multi-Modal Encoders for Video Understanding" (arXiv 2506.07576),
which has no public code; the equations are our reading. A checkpoint holds the association's weights only.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple, logging

from .configuration_sen import TEXT_TOWER_NAME, NeuronSpec, SENConfig
from .dense_features import DenseFeatures, TokenModulation
from .first_look import FirstLook, NeuronState
from .neuron_bank import NeuronBank, resolve_specs
from .neuron_loading import DEFAULT_LOGIT_SCALE, load_neuron, read_logit_scale
from .pretrained_sen import SENPreTrainedModel, lists_neuron_inputs
from .recursive_association import PROMPT, FusionHead, RABlock, masked_mean
from .sen_outputs import SENOutput, SENRound, text_loss

logger = logging.get_logger(__name__)


class SENModel(SENPreTrainedModel):
    """Neurons, K rounds of recursive association, and the fused embedding.

    `from_neurons`, `from_pretrained` and `load_neurons` load the towers; constructed from a configuration alone, the model
    loads them when first used.
    """

    def __init__(self, config: SENConfig):
        super().__init__(config)
        if not config.neurons:
            raise ValueError("config.neurons is empty: a SEN needs at least one neuron")
        bank = NeuronBank(
            config
        )  # raises where a name cannot be a module's; becomes a child after the trainable modules,
        # as a model's dtype is that of its first parameter.
        num_blocks = min(1, config.num_rounds) if config.share_blocks else config.num_rounds
        self.blocks = nn.ModuleList(
            RABlock(config, first=index == 0 and not config.share_blocks) for index in range(num_blocks)
        )
        self.fusion = FusionHead(config)
        self.gate = nn.Parameter(torch.zeros(()))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = None if config.logit_bias_init_value is None else nn.Parameter(torch.zeros(()))
        self.modulation = nn.ModuleDict(
            {name: TokenModulation(config, bank.neuron_specs[name]) for name in config.dense_neurons or []}
        )
        self.neurons = bank
        self.gradient_checkpointing = False  # of towers that are still to be loaded
        self.specs = bank.neuron_specs
        self.post_init()

    def init_own_weights(self, std: float) -> None:
        """Called by Transformers on a new model, and for weights that a load lacks."""
        scale, bias = self.config.logit_scale_init_value, self.config.logit_bias_init_value
        init.zeros_(self.gate)
        init.constant_(self.logit_scale, DEFAULT_LOGIT_SCALE if scale is None else scale)
        if self.logit_bias is not None and bias is not None:
            init.constant_(self.logit_bias, bias)

    # --- towers ------------------------------------------------------------------------------------------------------

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
        prompt = overrides.get("prompt", SENConfig.prompt)
        specs, text_spec = resolve_specs(neurons, text_tower, neuron_kwargs or {}, prompt)
        text_neuron = None
        if text_spec is not None and "projection_dim" not in overrides:
            text_neuron = load_neuron(text_spec, **(neuron_kwargs or {}).get(TEXT_TOWER_NAME, {}))
            overrides["projection_dim"] = text_neuron.embedding_size
        text = None if text_spec is None else text_spec.to_dict()
        model = cls(SENConfig(neurons=[spec.to_dict() for spec in specs], text_tower=text, **overrides))
        if text_neuron is not None:
            model.neurons.arguments[TEXT_TOWER_NAME] = (neuron_kwargs or {}).get(TEXT_TOWER_NAME, {})
            model.neurons.add(text_neuron, model.gate.device)
        model.load_neurons(neuron_kwargs)
        return model.eval()

    def load_neurons(self, neuron_kwargs: Mapping[str, Mapping[str, Any]] | None = None) -> "SENModel":
        """Loads the towers that are not loaded yet, onto the association's device.

        Raises:
            OSError, RuntimeError, ValueError: see [`load_neuron`].
            ValueError: `neuron_kwargs` names no neuron of this model.
        """
        self.neurons.load(self.gate.device, neuron_kwargs)
        if self.gradient_checkpointing:
            self._set_gradient_checkpointing(True, self._gradient_checkpointing_func)
        text_tower, initial = self.neurons.text_tower, torch.full_like(self.logit_scale.data, DEFAULT_LOGIT_SCALE)
        # The text tower's own scale, unless the configuration gives one or weights were loaded.
        if text_tower is not None and self.config.logit_scale_init_value is None:
            scale = None if text_tower.source is None else read_logit_scale(text_tower.source)
            if scale is not None and torch.equal(self.logit_scale.data, initial):
                self.logit_scale.data.fill_(scale)
        return self

    def ensure_loaded(self) -> None:
        """Loads what is missing, and logs it."""
        if self.neurons.missing:
            logger.warning(f"loading neurons {', '.join(self.specs)} on first use; load_neurons() does it ahead")
            self.load_neurons()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the towers layer by layer, which is where the time goes; arguments as of `torch.compile`."""
        self.ensure_loaded()
        for neuron in self.neurons.values():
            neuron.compile(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Of the text tower; of the first neuron where there is none."""
        self.ensure_loaded()
        return (self.neurons.text_tower or self.neurons[next(iter(self.specs))]).tower.get_input_embeddings()

    def add_logit_bias(self, value: float) -> None:
        """Gives the model a trainable bias of its similarities, which the sigmoid loss needs."""
        self.config.logit_bias_init_value = value
        self.logit_bias = nn.Parameter(torch.full_like(self.logit_scale.data, value))

    def add_dense_modulation(self, *names: str) -> None:
        """Gives the model trainable modulation of the tokens that [`dense_features`] returns for these neurons.

        Call it for each neuron that a head reads. Tokens stay as they are until it is trained; modulation that a neuron has
        already is kept.

        Raises:
            ValueError: no such neuron.
        """
        for name in names:
            self._check_neuron(name)
        for name in names:
            if name not in self.modulation:
                modulation = TokenModulation(self.config, self.specs[name]).to(self.gate)
                self.modulation[name] = modulation.apply(self._init_weights)
        self.config.dense_neurons = list(self.modulation)

    def _check_neuron(self, name: str) -> None:
        if name not in self.specs:
            raise ValueError(f"no neuron {name!r}, expected one of {', '.join(self.specs)}")

    # --- forward -----------------------------------------------------------------------------------------------------

    @lists_neuron_inputs
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
        trunks: Mapping[str, FirstLook] | None = None,
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
            return_loss: symmetric contrastive loss; there must be one text per video, in the videos' order or in that of
                `labels`.
            output_all_rounds: fused and per-neuron embeddings of each round.
            output_hidden_states, output_attentions: the towers' own, of the first look. Attention weights exist where a tower
                runs with `attn_implementation="eager"`. By default what the configuration says.
            trunks: neuron -> its first look, instead of `inputs` (see [`FeatureCache`]).
            inputs: `{neuron}_pixel_values` (batch, time, channels, height, width), `{neuron}_input_features` (batch, time,
                bins), `{neuron}_input_ids` and `{neuron}_attention_mask` (batch, tokens).

        Raises:
            TypeError: an input that belongs to no neuron.
            ValueError: a sample with no neuron present; shapes or labels that do not fit.
        """
        self.ensure_loaded()
        outputs = self._outputs_asked(output_hidden_states, output_attentions)
        if trunks is not None and (inputs or outputs):
            raise TypeError(f"trunks take the place of inputs and towers' outputs, found both: {[*inputs, *outputs]}")
        records = {name: PROMPT[self.config.prompt_of(spec)].records for name, spec in self.specs.items()}
        if trunks is None:
            looks, present = self.neurons.first_looks(inputs, neuron_mask, self.gate.device, records, outputs)
        else:
            sizes = {name: look.batch_size for name, look in trunks.items()}
            looks, present = dict(trunks), self.neurons.present(sizes, neuron_mask, self.gate.device)
        states = {name: looks[name].state for name in present}
        aligned = self._aligned_mean(states, present)
        summary, association = self.fusion(states, present)  # (batch, hidden_size), (batch, projection_dim)
        every_knowledge, every_association, all_states = [], [association], [states]

        for number in range(self.config.num_rounds):
            block: RABlock = self.blocks[0 if self.config.share_blocks else number]  # type: ignore[assignment]
            knowledge = block.integrate(states, present)  # (batch, hidden_size)
            context = block.distribute(knowledge, summary, states)  # neuron -> (batch, prompt_tokens, bottleneck)
            states = block.prompt(self.neurons, looks, context)  # neuron -> NeuronState
            summary, association = self.fusion(states, present)
            every_knowledge.append(knowledge)
            every_association.append(association)
            all_states.append(states if output_all_rounds else {})

        fused = self._fuse(association, aligned)
        alone = nn.functional.normalize(torch.stack(every_association[1:] or every_association, dim=1), dim=-1)
        rounds = zip(all_states, every_association, strict=True) if output_all_rounds else ()
        texts = self._class_texts(text_input_ids, text_attention_mask, text_embeds, fused)
        logits = None if texts is None else self._logits(fused, texts)
        return SENOutput(
            loss=self._loss(fused, alone, texts, labels, return_loss),
            logits_per_video=logits,
            logits_per_text=None if logits is None else logits.t(),
            fused_embeds=fused,
            association_embeds=alone,
            text_embeds=texts,
            knowledge=torch.stack(every_knowledge, dim=1) if every_knowledge else None,
            summary=summary,
            neuron_states=states,
            all_rounds=tuple(SENRound(self._fuse(f, aligned), self._embed(s, present)) for s, f in rounds) or None,
            **{what: {name: looks[name].outputs[what] for name in present} for what in outputs},
        )

    def _outputs_asked(self, output_hidden_states: bool | None, output_attentions: bool | None) -> list[str]:
        """What the towers are asked to return of their layers, by the name it has in outputs."""
        wanted = {"hidden_states": output_hidden_states, "attentions": output_attentions}
        return [
            what
            for what, asked in wanted.items()
            if (getattr(self.config, f"output_{what}") if asked is None else asked)
        ]

    # --- the fused embedding and its loss ----------------------------------------------------------------------------

    def _embed(self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Aligned neurons' projected pooled outputs, normalised: neuron -> (batch, projection_dim)."""
        embeds = {}
        for name, state in states.items():
            if self.specs[name].aligned:
                projected = self.neurons[name].project(state.pooler_output).to(self.gate)
                projected = nn.functional.normalize(projected, dim=-1)
                embeds[name] = projected.masked_fill(~present[name].unsqueeze(-1), 0.0)
        return embeds

    def _aligned_mean(
        self, states: Mapping[str, NeuronState], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """(batch, projection_dim), and (batch, 1) bool, which samples have an aligned neuron; `None` where the configuration
        has none.
        """
        if not any(spec.aligned for spec in self.specs.values()):
            return None
        embeds, shape = self._embed(states, present), (len(next(iter(present.values()))), 1)
        has_aligned = torch.zeros(shape, dtype=torch.bool, device=self.gate.device)
        for name in embeds:
            has_aligned = has_aligned | present[name].unsqueeze(-1)
        if not self.training and self.fusion.is_untrained and not bool(has_aligned.all()):
            logger.warning_once(
                "a clip has no aligned neuron's input, and this SEN is untrained: its embedding is random"
            )
        mean = masked_mean(embeds, present) if embeds else torch.zeros(shape).to(self.gate)
        return mean, has_aligned

    def _fuse(self, association: Tensor, aligned: tuple[Tensor, Tensor] | None) -> Tensor:
        """z (batch, projection_dim) from F: at the safe start (gate 0) the mean of the aligned neurons and nothing else; F
        alone for a sample that has none of them.
        """
        if aligned is not None:
            mean, has_aligned = aligned
            association = torch.where(has_aligned, mean + torch.tanh(self.gate) * association, association)
        return nn.functional.normalize(association, dim=-1)

    def _class_texts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, embeds: Tensor | None, fused: Tensor
    ) -> Tensor | None:
        if input_ids is not None:
            asked = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
            embeds = self.get_text_features(input_ids, attention_mask, **asked).pooler_output
        if embeds is None:
            return None
        if embeds.ndim != 2 or embeds.shape[-1] != self.config.projection_dim:
            expected = f"(texts, {self.config.projection_dim})"
            raise ValueError(f"text_embeds have shape {tuple(embeds.shape)}, expected {expected}")
        return embeds.to(fused)

    def _logits(self, embeds: Tensor, texts: Tensor) -> Tensor:
        logits = self.logit_scale.exp() * embeds @ texts.t()  # (batch, texts)
        return logits if self.logit_bias is None else logits + self.logit_bias

    def _loss(
        self, fused: Tensor, alone: Tensor, texts: Tensor | None, labels: Tensor | None, contrastive: bool
    ) -> Tensor | None:
        """Of z, and of every round's F: what one round does not learn to answer, the next cannot build upon."""
        if labels is None and not contrastive:
            return None
        if texts is None:
            raise ValueError("a loss needs texts: give text_input_ids or text_embeds")
        loss = text_loss(self._logits(fused, texts), labels, contrastive)
        if not self.config.association_loss:
            return loss
        rounds = [text_loss(self._logits(each, texts), labels, contrastive) for each in alone.unbind(dim=1)]
        return loss + self.config.association_loss * torch.stack(rounds).mean()

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
        self.ensure_loaded()
        text_tower = self.neurons.text_tower
        if text_tower is None:
            raise ValueError("this SEN has no text tower (config.text_tower is None), so it cannot embed class texts")
        inputs = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        look = text_tower.first_look(inputs, (), self._outputs_asked(output_hidden_states, output_attentions))
        embeds = nn.functional.normalize(text_tower.project(look.state.pooler_output), dim=-1)
        return BaseModelOutputWithPooling(
            last_hidden_state=look.state.last_hidden_state, pooler_output=embeds, **look.outputs
        )

    def dense_features(self, name: str, output: SENOutput) -> DenseFeatures:
        """Features of one neuron for a head with an output at each token: its tokens, modulated, and its answers.

        Tokens are modulated by the summary of the last round where `config.dense_neurons` lists the neuron (see
        [`add_dense_modulation`]), and are those of its state otherwise.

        Args:
            name: of the neuron.
            output: of this model's `forward`.

        Raises:
            ValueError: no such neuron; the inputs of `output` had none for it.
        """
        self._check_neuron(name)
        states = output.neuron_states or {}
        if name not in states:
            raise ValueError(f"neuron {name!r} had no inputs in this output, which has states of {', '.join(states)}")
        state = states[name]
        tokens, mask = state.last_hidden_state.to(self.gate.device), state.token_mask
        if name in self.modulation:
            tokens = self.modulation[name](tokens, output.summary)
        return DenseFeatures(
            tokens=tokens,
            answers=None if state.answers is None else state.answers.to(tokens),
            grid=state.grid,
            token_mask=None if mask is None else mask.to(tokens.device),
        )

    @property
    def is_untrained_without_start(self) -> bool:
        """Whether no neuron is aligned and the fusion head was never trained."""
        return not any(spec.aligned for spec in self.specs.values()) and self.fusion.is_untrained


__all__ = ["SENModel", "SENOutput", "SENPreTrainedModel", "SENRound"]
