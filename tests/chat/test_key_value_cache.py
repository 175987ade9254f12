"""Which tokens a cache keeps: a common beginning, cut where a prompt differs, in whatever state a failed pass left it."""

import pytest
import torch
from chat_words import tiny_language_model

from modeling_sen.chat.key_value_cache import KeyValueCache


@pytest.fixture(scope="module")
def model():
    return tiny_language_model()


def read(model, cache: KeyValueCache, ids: list[int], start: int) -> torch.Tensor:
    """Logits of the last token."""
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids[start:]]), cache=cache.cache, use_cache=True)
    return output.logits[0, -1]


def test_the_common_prefix_leaves_one_token_to_process(model):
    cache = KeyValueCache(model.config)
    assert cache.common([1, 2, 3]) == 0
    cache.keys = [1, 2, -7, -8]
    assert cache.common([1, 2, -7, -8, 5]) == 4
    assert cache.common([1, 2, -7, -8]) == 3
    assert cache.common([1, 2, -9, -10, 5]) == 2
    assert cache.common([1]) == 0


def test_a_shortened_cache_continues_like_a_fresh_one(model):
    cache = KeyValueCache(model.config)
    assert cache.cut(0) == 0
    read(model, cache, [*b"what is it?"], 0)
    cache.grown([*b"what is it?"])
    assert cache.keys == [*b"what is it?"]
    ids = [*b"what was that?"]
    start = cache.cut(cache.common(ids))
    assert start == len("what ")
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(read(model, cache, ids, start), expected, rtol=1e-5, atol=1e-5)


def test_a_failed_pass_is_undone(model):
    cache = KeyValueCache(model.config)
    cache.cut(0)
    read(model, cache, [*b"what"], 0)
    cache.grown([*b"what"])
    kept = [layer.keys.clone() for layer in cache.cache.layers]
    noise = torch.ones(1, 2, 3, 8)
    cache.cache.update(noise, noise, 0)  # the first layer has read on, the second has not
    assert cache.cut(4, changed=True) == 4
    for layer, keys in zip(cache.cache.layers, kept, strict=True):
        assert torch.equal(layer.keys, keys)


def test_the_last_token_of_an_answer_is_not_cached_yet(model):
    cache = KeyValueCache(model.config)
    cache.cut(0)
    read(model, cache, [1, 2, 3], 0)
    cache.grown([1, 2, 3, 4])
    assert cache.keys == [1, 2, 3]


def test_sliding_windows_are_recomputed():
    from transformers import MistralConfig

    config = MistralConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, sliding_window=4)
    cache = KeyValueCache(config)
    cache.cut(0)
    values = torch.ones(1, 1, 3, 8)
    cache.cache.update(values, values, 0)
    cache.grown([1, 2, 3])
    assert cache.cut(3) == 3
    assert cache.cut(2) == 0
    assert cache.keys == []
