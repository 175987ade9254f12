# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The language model's key-value cache between the turns of a conversation."""

from collections.abc import Sequence

from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class KeyValueCache:
    """Cached keys and values of the tokens of one conversation.

    Each token is identified by a key: its id, or a unique negative number for a visual token, because all visual tokens have
    the same id. A new prompt reuses the cache for the longest common prefix, because a chat template may format earlier turns
    differently in a later prompt.

    Args:
        config: the language model's configuration.
    """

    def __init__(self, config: PreTrainedConfig):
        self.config = config
        self.keys: list[int] = []  # keys of the tokens in `cache`
        self.cache: DynamicCache | None = None

    def common(self, keys: Sequence[int]) -> int:
        """Length of the longest common prefix with the cache, at most `len(keys) - 1`: the model needs one token as input."""
        limit = min(len(self.keys), len(keys) - 1)
        return next((number for number in range(limit) if self.keys[number] != keys[number]), limit)

    def cut(self, length: int, changed: bool = False) -> int:
        """Reduces the cache to its first `length` tokens; empties it if a layer does not keep all tokens (sliding windows).

        Args:
            length: number of tokens to keep.
            changed: whether `cache` may have more tokens than `keys`.

        Returns:
            The number of tokens left.
        """
        if changed or length < len(self.keys):
            self.cache = None if self.cache is None else _first_tokens(self.cache, length)
        if self.cache is None or not length:
            self.cache, length = DynamicCache(config=self.config), 0
        self.keys = self.keys[:length]
        return length

    def grown(self, keys: Sequence[int]) -> None:
        """Sets the keys after the language model has extended the cache.

        Args:
            keys: keys of all tokens; the last may not be in the cache yet.
        """
        self.keys = list(keys[: self.cache.get_seq_length()])  # type: ignore[union-attr]


def _first_tokens(cache: DynamicCache, length: int) -> DynamicCache | None:
    """A copy of the first tokens, which is safe from a thread that still writes into `cache`."""
    kept = DynamicCache()
    for number, layer in enumerate(cache.layers):
        if type(layer) is not DynamicLayer:  # sliding windows and linear attention do not keep all tokens
            return None
        kept.update(layer.keys[..., :length, :], layer.values[..., :length, :], number)  # type: ignore[index]
    return kept


__all__ = ["KeyValueCache"]
