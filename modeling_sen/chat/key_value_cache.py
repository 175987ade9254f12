# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which tokens a language model's keys and values are kept of between the turns of a conversation."""

from collections.abc import Sequence

from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class KeyValueCache:
    """Keys and values of the tokens that a language model has read, one conversation at a time.

    Tokens are told apart by keys: a token's id, or a negative number of a visual token's own, as all visual tokens have the
    same id. A later prompt takes over what both have in common from the first token on, so that a chat template may write a
    turn differently once it has passed.

    Args:
        config: the language model's.
    """

    def __init__(self, config: PreTrainedConfig):
        self.config = config
        self.keys: list[int] = []  # of the tokens in `cache`
        self.cache: DynamicCache | None = None

    def common(self, keys: Sequence[int]) -> int:
        """How many tokens from the first on are those of the cache; one at least is left to read."""
        limit = min(len(self.keys), len(keys) - 1)
        return next((number for number in range(limit) if self.keys[number] != keys[number]), limit)

    def cut(self, length: int, changed: bool = False) -> int:
        """Drops all tokens from `length` on; of layers that forget tokens on their own, all tokens.

        Args:
            changed: `cache` may have more tokens than `keys`.

        Returns:
            How many tokens are left.
        """
        if changed or length < len(self.keys):
            self.cache = None if self.cache is None else _first_tokens(self.cache, length)
        if self.cache is None or not length:
            self.cache, length = DynamicCache(config=self.config), 0
        self.keys = self.keys[:length]
        return length

    def grown(self, keys: Sequence[int]) -> None:
        """After the language model has read more: the keys of all tokens, of which the last may not be read yet."""
        self.keys = list(keys[: self.cache.get_seq_length()])  # type: ignore[union-attr]


def _first_tokens(cache: DynamicCache, length: int) -> DynamicCache | None:
    """A copy of the first tokens. A thread that still writes into `cache` does not change it."""
    kept = DynamicCache()
    for number, layer in enumerate(cache.layers):
        if type(layer) is not DynamicLayer:  # sliding windows and linear attention have lost what is needed
            return None
        kept.update(layer.keys[..., :length, :], layer.values[..., :length, :], number)  # type: ignore[index]
    return kept


__all__ = ["KeyValueCache"]
