"""Baselines for a SEN: other fusions of frozen encoders, without second looks.

Each is called with the first looks of a batch, as a SEN, and returns the fused embedding.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modeling_sen.configuration_sen import NeuronSpec
from modeling_sen.first_look import FirstLook
from modeling_sen.modeling_sen import SENModel
from modeling_sen.neuron_loading import DEFAULT_LOGIT_SCALE
from modeling_sen.recursive_association import masked_mean

# Inputs of a late fusion from each neuron: its final tokens, its trunk's tokens (the crown's input), or its pooled output.
SOURCES = ("round0", "trunk", "pooled")


class FrozenMean(nn.Module):
    """The mean of the aligned neurons' embeddings, which equals an untrained SEN; it has no trainable parameters.

    Args:
        model: a SEN, whose towers' projections are used.
    """

    def __init__(self, model: SENModel):
        super().__init__()
        self.neurons = {spec.name: model.neurons[spec.name] for spec in model.config.neuron_specs if spec.aligned}
        self.register_buffer("logit_scale", torch.tensor(DEFAULT_LOGIT_SCALE))

    def forward(self, trunks: Mapping[str, FirstLook], present: Mapping[str, Tensor]) -> Tensor:
        """(batch, embedding), normalised."""
        embeds = {
            name: nn.functional.normalize(self.neurons[name].project(trunk.state.pooler_output).float(), dim=-1)
            for name, trunk in trunks.items()
            if name in self.neurons
        }
        return nn.functional.normalize(masked_mean(embeds, present), dim=-1)


class Resampler(nn.Module):
    """Reduces a neuron's tokens to a few: learned queries attend to them in two layers (Perceiver, arXiv 2103.03206).

    Input and output tokens are normalised, and queries are initialised at the same scale; without this it hardly learned
    (docs/association_details.md).

    Args:
        width: width of the neuron's tokens.
        hidden_size: width of the output tokens.
        num_tokens: number R of learned queries.
        num_heads: attention heads.
    """

    def __init__(self, width: int, hidden_size: int, num_tokens: int, num_heads: int):
        super().__init__()
        self.read = nn.Sequential(nn.Linear(width, hidden_size), nn.LayerNorm(hidden_size))
        self.queries = nn.Parameter(torch.randn(num_tokens, hidden_size))
        layer = nn.TransformerDecoderLayer(
            hidden_size, num_heads, 2 * hidden_size, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, num_layers=2, norm=nn.LayerNorm(hidden_size))

    def forward(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """Tokens (batch, N, width), padding (batch, N) bool -> (batch, R, hidden_size)."""
        queries = self.queries.expand(len(tokens), -1, -1)
        return self.layers(queries, self.read(tokens), memory_key_padding_mask=padding)


class LateFusion(nn.Module):
    """A transformer over the tokens of all present neurons.

    Args:
        neurons: specifications of the neurons.
        embedding: width of the fused embedding.
        source: one of `SOURCES`.
        num_resampled: number of tokens to which each neuron's tokens are reduced first; `None` for all tokens.
        hidden_size, num_layers, num_heads: of the transformer.

    Raises:
        ValueError: an unknown source.
    """

    def __init__(
        self,
        neurons: Sequence[NeuronSpec],
        embedding: int,
        source: str = "round0",
        num_resampled: int | None = None,
        hidden_size: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
    ):
        super().__init__()
        if source not in SOURCES:
            raise ValueError(f"source is {source!r}, expected one of {', '.join(SOURCES)}")
        self.source = source
        self.read = nn.ModuleDict(
            {
                spec.name: nn.Linear(spec.hidden_size, hidden_size)
                if num_resampled is None
                else Resampler(spec.hidden_size, hidden_size, num_resampled, num_heads)
                for spec in neurons
            }
        )
        self.kind = nn.ParameterDict({spec.name: 0.02 * torch.randn(hidden_size) for spec in neurons})
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, hidden_size))
        layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, 4 * hidden_size, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, embedding)
        self.logit_scale = nn.Parameter(torch.tensor(DEFAULT_LOGIT_SCALE))

    def forward(
        self, trunks: Mapping[str, FirstLook], present: Mapping[str, Tensor], question: Tensor | None = None
    ) -> Tensor:
        """(batch, embedding), normalised.

        Args:
            trunks: neuron -> its first look.
            present: neuron -> (batch,) bool.
            question: (batch, hidden_size), an optional embedding that is added to the query.
        """
        batch = len(next(iter(present.values())))
        query = self.query.expand(batch, -1, -1)
        tokens = [query if question is None else query + question.unsqueeze(1)]
        padding = [torch.zeros(batch, 1, dtype=torch.bool, device=query.device)]
        for name, read in self.read.items():
            if name not in trunks:
                continue
            of_neuron, padded = neuron_tokens(trunks[name], self.source)
            of_neuron = of_neuron.to(self.query)
            if isinstance(read, Resampler):
                of_neuron, padded = read(of_neuron, padded), None
            else:
                of_neuron = read(of_neuron)
            if padded is None:
                padded = torch.zeros(of_neuron.shape[:2], dtype=torch.bool, device=of_neuron.device)
            tokens.append(of_neuron + self.kind[name])
            padding.append(padded | ~present[name].unsqueeze(1))
        fused = self._fuse(torch.cat(tokens, 1), torch.cat(padding, 1))  # (batch, hidden_size)
        return nn.functional.normalize(self.head(self.norm(fused)), dim=-1)

    def _fuse(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """The first token's output; the last layer computes only this one."""
        *lower, last = self.layers.layers
        for layer in lower:
            tokens = layer(tokens, src_key_padding_mask=padding)
        read = last.norm1(tokens)
        first = tokens[:, :1] + last.self_attn(read[:, :1], read, read, padding, need_weights=False)[0]
        return (first + last.linear2(last.activation(last.linear1(last.norm2(first)))))[:, 0]


def neuron_tokens(trunk: FirstLook, source: str) -> tuple[Tensor, Tensor | None]:
    """A neuron's tokens (batch, N, width), and (batch, N) bool, true for padding, or `None` without an attention mask.

    Raises:
        ValueError: `source` is "trunk", but the neuron has no trunk.
    """
    if source == "pooled":
        return trunk.state.pooler_output.unsqueeze(1), None
    tokens = trunk.state.last_hidden_state
    if source == "trunk":
        if trunk.trunk is None:
            raise ValueError("source 'trunk': the neuron is re-associated after its tower and has no trunk")
        tokens = trunk.trunk.hidden_states.unflatten(0, (trunk.batch_size, -1)).flatten(1, 2)  # concatenates frames
    mask = None if trunk.trunk is None else trunk.trunk.inputs.get("attention_mask")
    return tokens, None if mask is None or mask.shape != tokens.shape[:2] else mask == 0
