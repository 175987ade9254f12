# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tokenizes texts for one tower: its tokenizer, its prompt, and its longest text, with warnings about cut texts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from .configuration_sen import TEXT_TOWER_NAME, NeuronSpec
from .hub_files import HubSource
from .neuron_registry import adapter_of_class
from .sentence_layout import read_layout, tower_source

logger = logging.get_logger(__name__)

# Number of tokens; tokenizers without a limit have a larger `model_max_length`.
LONGEST_TEXT = 1 << 20
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# Types whose positions count from the padding token's id, so that the first positions are not used.
_COUNT_FROM_PADDING = {"camembert", "clap_text_model", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet"}
_COUNT_FROM_PADDING |= {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}


class TextReader:
    """Tokenizes texts, and warns once if it cuts a text.

    Args:
        spec: the tower's specification.
        source: the tower's checkpoint.

    Raises:
        OSError, ValueError: the tokenizer, or the sentence-transformers layout, cannot be read.
    """

    def __init__(self, spec: NeuronSpec, source: HubSource):
        layout, adapter = read_layout(source), adapter_of_class(spec.class_name)
        source = tower_source(source).at_commit()
        source.prefetch("config.json", *TOKENIZER_FILES)
        arguments = {} if layout is None else layout.tokenizer_arguments
        self.tokenizer: Any = AutoTokenizer.from_pretrained(source.location, **{**arguments, **source.arguments})
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, _num_positions(source), LONGEST_TEXT)
        self.prompt = "" if layout is None else layout.prompt
        self.lower_case = layout is not None and layout.lower_case
        self.padding = True if adapter is None else adapter.padding
        self._tower = "the text tower" if spec.name == TEXT_TOWER_NAME else f"neuron {spec.name!r}"
        self._warned = False

    @property
    def longest(self) -> int:
        """Largest number of tokens per text, including special tokens and prompt."""
        return self.tokenizer.model_max_length

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt, without an end token."""
        tokens = self._numbers([""])[0]
        return len(tokens) - (bool(tokens) and tokens[-1] in self.tokenizer.all_special_ids)

    def __call__(self, texts: Sequence[str], warn: bool = True) -> tuple[Tensor, Tensor]:
        """Token ids (texts, tokens) int64 and their attention mask, 0 for padding; longer texts are cut.

        Args:
            texts: the texts, without prompt.
            warn: whether to warn if a text is cut, unless a warning was given before.
        """
        tokens = self.tokenizer(self._prompted(texts), padding=self.padding, truncation=True, return_tensors="pt")
        mask = tokens.get("attention_mask")
        mask = torch.ones_like(tokens["input_ids"]) if mask is None else mask
        if warn and not self._warned:
            full = (mask.sum(dim=1) >= self.longest).nonzero().flatten().tolist()
            if found := self._cut([texts[number] for number in full]):
                self._warned = True
                (text, count), *_ = found.items()
                logger.warning(
                    f"{self._tower} takes {self.longest} tokens of a text, and the text {shortened(text)!r} has {count}: "
                    "the rest is cut off, as in other long texts"
                )
        return tokens["input_ids"], mask

    def check_labels(self, labels: Sequence[str], templates: Sequence[str]) -> None:
        """Warns about labels whose texts are cut, and about different labels with the same tokens.

        Args:
            labels: class names; duplicates are allowed.
            templates: texts with `{}` for the label.

        Raises:
            ValueError: two different labels have the same tokens because their texts are cut.
        """
        labels, size = list(dict.fromkeys(labels)), len(templates)
        texts = [template.replace("{}", label) for label in labels for template in templates]
        rows = self._numbers(texts, truncation=True)
        cut = self._cut([text for text, row in zip(texts, rows, strict=True) if len(row) >= self.longest])
        first: dict[tuple, str] = {}
        lengths: dict[str, int] = {}  # label -> tokens of its longest text that is cut
        same: list[tuple[str, str]] = []
        for number, label in enumerate(labels):
            of_label = slice(number * size, (number + 1) * size)
            if found := [cut[text] for text in texts[of_label] if text in cut]:
                lengths[label] = max(found)
            other = first.setdefault(tuple(map(tuple, rows[of_label])), label)
            if other != label:
                same.append((other, label))
        for one, two in same:
            if one in lengths or two in lengths:
                counts = [lengths.get(label, self.longest) for label in (one, two)]
                raise ValueError(
                    f"labels {shortened(one)!r} and {shortened(two)!r} differ only after the first {self.longest} tokens, "
                    f"and {self._tower} takes no more: their texts have {counts[0]} and {counts[1]}, expected shorter labels "
                    "or a shorter template"
                )
        if lengths:
            (label, count), *others = lengths.items()
            more = f", like the texts of {len(others)} more labels" if others else ""
            logger.warning(
                f"label {shortened(label)!r}: its text has {count} tokens, of which {self._tower} takes {self.longest}; the "
                f"rest is cut off{more}"
            )
        if same:
            one, two = same[0]
            more = f", like {len(same) - 1} more pairs" if len(same) > 1 else ""
            logger.warning(
                f"labels {shortened(one)!r} and {shortened(two)!r} have the same tokens for {self._tower}{more}"
            )

    def _prompted(self, texts: Sequence[str]) -> list[str]:
        texts = [self.prompt + text for text in texts]
        return [text.lower() for text in texts] if self.lower_case else texts

    def _numbers(self, texts: Sequence[str], truncation: bool = False) -> list[list[int]]:
        """Token ids of each text, without padding."""
        # Not verbose, because this class has its own warning about long texts.
        return self.tokenizer(self._prompted(texts), truncation=truncation, verbose=False)["input_ids"]

    def _cut(self, texts: Sequence[str]) -> dict[str, int]:
        """Texts that are too long -> their number of tokens."""
        lengths = [len(row) for row in self._numbers(texts)] if texts else []
        return {text: count for text, count in zip(texts, lengths, strict=True) if count > self.longest}


def shortened(text: str) -> str:
    """A text for a message: its start and end, because long texts often differ only at the end."""
    return text if len(text) <= 80 else f"{text[:45]}...{text[-30:]}"


def _num_positions(source: HubSource) -> int:
    """Number of tokens that a tower has positions for."""
    try:
        config = AutoConfig.from_pretrained(source.location, **source.arguments)
    except ValueError:  # the configuration needs remote code, which may run for the tower only
        return LONGEST_TEXT
    config = getattr(config, "text_config", config)
    positions = getattr(config, "max_position_embeddings", None) or LONGEST_TEXT
    if config.model_type in _COUNT_FROM_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    return positions if positions > 0 else LONGEST_TEXT  # -1: no limit


__all__ = ["LONGEST_TEXT", "TextReader", "shortened"]
