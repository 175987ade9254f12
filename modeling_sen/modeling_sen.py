# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENModel: embeds a video by recursive association of frozen encoders ("super neurons").

After "Super Encoding Network: Recursive Association of Multi-Modal Encoders for Video Understanding" (arXiv 2506.07576),
which has no public code; the equations are our reading. A checkpoint contains only the association's weights.
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

    `from_neurons`, `from_pretrained` and `load_neurons` load the towers. A model constructed from a configuration loads them
    on first use.

    Raises:
        ValueError: `config.neurons` is empty, or a neuron's name is not allowed.
    """

    def __init__(self, config: SENConfig):
        super().__init__(config)
        if not config.neurons:
            raise ValueError("config.neurons is empty: a SEN needs at least one neuron")
        # Created first, because it checks the names. Added last, because a model's dtype is that of its first parameter.
        bank = NeuronBank(config)
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
        self.gradient_checkpointing = False  # applied to towers when they are loaded
        self.specs = bank.neuron_specs
        self.post_init()

    def init_own_weights(self, std: float) -> None:
        """Called by Transformers for a new model, and for weights missing from a checkpoint."""
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
        """An untrained SEN of frozen encoders, with its towers loaded.

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
        # The text tower's scale, unless the configuration has one or weights were loaded.
        if text_tower is not None and self.config.logit_scale_init_value is None:
            scale = None if text_tower.source is None else read_logit_scale(text_tower.source)
            if scale is not None and torch.equal(self.logit_scale.data, initial):
                self.logit_scale.data.fill_(scale)
        return self

    def ensure_loaded(self) -> None:
        """Loads missing towers and logs a warning."""
        if self.neurons.missing:
            logger.warning(
                f"loading neurons {', '.join(self.specs)} on first use; call load_neurons() to load them in advance"
            )
            self.load_neurons()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the towers layer by layer, where most time is spent; arguments as for `torch.compile`."""
        self.ensure_loaded()
        for neuron in self.neurons.values():
            neuron.compile(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Input embeddings of the text tower, or of the first neuron if there is no text tower."""
        self.ensure_loaded()
        return (self.neurons.text_tower or self.neurons[next(iter(self.specs))]).tower.get_input_embeddings()

    def add_logit_bias(self, value: float) -> None:
        """Adds a trainable bias of the similarities, which the sigmoid loss needs."""
        self.config.logit_bias_init_value = value
        self.logit_bias = nn.Parameter(torch.full_like(self.logit_scale.data, value))

    def add_dense_modulation(self, *names: str) -> None:
        """Adds trainable modulation of the tokens that [`dense_features`] returns for these neurons.

        Call it for each neuron that a head reads. Untrained, it does not change the tokens. Existing modulation is kept.

        Raises:
            ValueError: no such neuron.
        """
        for name in names:
            self.check_neuron(name)
        for name in names:
            if name not in self.modulation:
                modulation = TokenModulation(self.config, self.specs[name]).to(self.gate)
                self.modulation[name] = modulation.apply(self._init_weights)
        self.config.dense_neurons = list(self.modulation)

    def check_neuron(self, name: str) -> None:
        """Raises a ValueError if the model has no neuron of this name."""
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
            neuron_mask (`(batch, neurons)` bool): whether each sample has inputs for each neuron, in the order of
                `config.neurons`; default: true for all neurons with inputs.
            frame_times (`(batch, frames)` float): seconds; used by heads, not by this model.
            text_input_ids, text_attention_mask (`(texts, tokens)` int): class texts, or one text per video.
            text_embeds (`(texts, projection_dim)` float): embedded class texts, instead of `text_input_ids`.
            labels (`(batch,)` int): indices into the texts, for the cross-entropy loss.
            return_loss: whether to compute the symmetric contrastive loss; needs one text per video, in the videos' order or
                in that of `labels`.
            output_all_rounds: whether to return fused and per-neuron embeddings of each round.
            output_hidden_states, output_attentions: whether to return those of the towers' first looks; default: the
                configuration's values. Attention weights need `attn_implementation="eager"` in the tower.
            trunks: neuron -> its first look, instead of `inputs` (see [`FeatureCache`]).
            inputs: `{neuron}_pixel_values` (batch, time, channels, height, width), `{neuron}_input_features` (batch, time,
                bins), `{neuron}_input_ids` and `{neuron}_attention_mask` (batch, tokens).

        Raises:
            TypeError: an input that belongs to no neuron, or `trunks` together with inputs or towers' outputs.
            ValueError: a sample with no neuron present; shapes or labels that do not fit.
        """
        self.ensure_loaded()
        outputs = self._requested_outputs(output_hidden_states, output_attentions)
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
        round_knowledge, round_associations, round_states = [], [association], [states]

        for number in range(self.config.num_rounds):
            block: RABlock = self.blocks[0 if self.config.share_blocks else number]  # type: ignore[assignment]
            knowledge = block.integrate(states, present)  # (batch, hidden_size)
            context = block.distribute(knowledge, summary, states)  # neuron -> (batch, prompt_tokens, bottleneck)
            states = block.prompt(self.neurons, looks, context)  # neuron -> NeuronState
            summary, association = self.fusion(states, present)
            round_knowledge.append(knowledge)
            round_associations.append(association)
            round_states.append(states if output_all_rounds else {})

        fused = self._fuse(association, aligned)
        association_embeds = torch.stack(round_associations[1:] or round_associations, dim=1)
        association_embeds = nn.functional.normalize(association_embeds, dim=-1)  # (batch, num_rounds, projection_dim)
        rounds = zip(round_states, round_associations, strict=True) if output_all_rounds else ()
        texts = self._class_texts(text_input_ids, text_attention_mask, text_embeds, fused)
        logits = None if texts is None else self._logits(fused, texts)
        return SENOutput(
            loss=self._loss(fused, association_embeds, texts, labels, return_loss),
            logits_per_video=logits,
            logits_per_text=None if logits is None else logits.t(),
            fused_embeds=fused,
            association_embeds=association_embeds,
            text_embeds=texts,
            knowledge=torch.stack(round_knowledge, dim=1) if round_knowledge else None,
            summary=summary,
            neuron_states=states,
            all_rounds=tuple(SENRound(self._fuse(f, aligned), self._embed(s, present)) for s, f in rounds) or None,
            **{output: {name: looks[name].outputs[output] for name in present} for output in outputs},
        )

    def _requested_outputs(self, output_hidden_states: bool | None, output_attentions: bool | None) -> list[str]:
        """Names of the layer outputs to request from the towers."""
        flags = {"hidden_states": output_hidden_states, "attentions": output_attentions}
        return [
            name for name, flag in flags.items() if (getattr(self.config, f"output_{name}") if flag is None else flag)
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
        """The aligned neurons' mean (batch, projection_dim), and (batch, 1) bool, whether a sample has an aligned neuron.

        `None` if the configuration has no aligned neuron.
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
        """z (batch, projection_dim), normalised: the aligned neurons' mean plus gated F, or F for samples without them.

        With the initial gate of 0, z is the normalised mean of the aligned neurons.
        """
        if aligned is not None:
            mean, has_aligned = aligned
            association = torch.where(has_aligned, mean + torch.tanh(self.gate) * association, association)
        return nn.functional.normalize(association, dim=-1)

    def _class_texts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, embeds: Tensor | None, fused: Tensor
    ) -> Tensor | None:
        if input_ids is not None:
            options = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
            embeds = self.get_text_features(input_ids, attention_mask, **options).pooler_output
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
        self, fused: Tensor, associations: Tensor, texts: Tensor | None, labels: Tensor | None, contrastive: bool
    ) -> Tensor | None:
        """Loss of z, plus the weighted mean loss of every round's F (batch, num_rounds, projection_dim).

        Without a loss of its own, a round does not learn the answers that the next round uses.
        """
        if labels is None and not contrastive:
            return None
        if texts is None:
            raise ValueError("a loss needs texts: give text_input_ids or text_embeds")
        loss = text_loss(self._logits(fused, texts), labels, contrastive)
        if not self.config.association_loss:
            return loss
        rounds = [text_loss(self._logits(each, texts), labels, contrastive) for each in associations.unbind(dim=1)]
        return loss + self.config.association_loss * torch.stack(rounds).mean()

    # --- features ----------------------------------------------------------------------------------------------------

    @can_return_tuple
    def get_video_features(self, **inputs: Tensor) -> BaseModelOutputWithPooling:
        """Fused embeddings; `inputs` as for `forward`.

        Returns:
            `pooler_output` (batch, projection_dim), the fused embeddings, normalised; `last_hidden_state` (batch, num_rounds,
            hidden_size), knowledge of each round; `hidden_states` and `attentions` as for `forward`.
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
        """Text embeddings.

        Returns:
            `pooler_output` (texts, projection_dim), normalised; `last_hidden_state`, `hidden_states` and `attentions` of the
            text tower.

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
        look = text_tower.first_look(inputs, (), self._requested_outputs(output_hidden_states, output_attentions))
        embeds = nn.functional.normalize(text_tower.project(look.state.pooler_output), dim=-1)
        return BaseModelOutputWithPooling(
            last_hidden_state=look.state.last_hidden_state, pooler_output=embeds, **look.outputs
        )

    def dense_features(self, name: str, output: SENOutput) -> DenseFeatures:
        """Features of one neuron for dense heads: its tokens and answers of the last round.

        If `config.dense_neurons` lists the neuron (see [`add_dense_modulation`]), the last round's summary modulates the
        tokens.

        Args:
            name: name of the neuron.
            output: output of this model's `forward`.

        Raises:
            ValueError: no such neuron, or `output` was computed without inputs for it.
        """
        self.check_neuron(name)
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
        """Whether no neuron is aligned and the fusion head is untrained."""
        return not any(spec.aligned for spec in self.specs.values()) and self.fusion.is_untrained


__all__ = ["SENModel", "SENOutput", "SENPreTrainedModel", "SENRound"]
