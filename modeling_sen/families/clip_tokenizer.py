# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""CLIP's tokenizer for texts of ImageBind and LanguageBind, read from the Hub, a folder or the original's file."""

import gzip
from typing import Any

from transformers import AutoTokenizer, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_MERGES = 49152 - 256 - 2  # of the file's merges, how many CLIP uses


def read_tokenizer(location: str) -> Any:
    """CLIP's tokenizer.

    Args:
        location: a hub id or folder of a tokenizer (`openai/clip-vit-base-patch32`), or the list of merges that comes with
            the original, `bpe_simple_vocab_16e6.txt.gz`.

    Raises:
        OSError: no such tokenizer or file.
        ValueError: the file is not a list of merges.
    """
    if not location.endswith(".txt.gz"):
        return AutoTokenizer.from_pretrained(location)
    try:
        with gzip.open(location, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{location}: found no list of merges, or a damaged one ({error})") from error
    merges: Any = [tuple(line.split()) for line in lines[1 : _MERGES + 1] if line.strip()]
    if not merges or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{location}: expected two word pieces on each line but the first")
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocab = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges)


__all__ = ["read_tokenizer"]
