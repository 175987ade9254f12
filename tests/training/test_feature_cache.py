"""FeatureCache: what it returns is what a first look gives; whatever is missing, damaged or of other clips is built anew."""

import os

import pytest
import torch
from random_sen import random_inputs, random_weights
from safetensors.torch import load_file, save_file

from modeling_sen import SENProcessor
from modeling_sen.training.feature_cache import FeatureCache

NUM_CLIPS = 7
CLIPS = [f"clip-{number}" for number in range(NUM_CLIPS)]


@pytest.fixture
def model(make_sen, towers):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["bert"]]
    return random_weights(make_sen(neurons=neurons)).eval()


@pytest.fixture
def inputs(model):
    ids = torch.randint(5, 10, (NUM_CLIPS, 6), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(6) < torch.tensor([[6], [3], [4], [6], [2], [5], [1]])).long()
    name = model.config.neuron_specs[-1].name
    return {**random_inputs(NUM_CLIPS), f"{name}_input_ids": ids, f"{name}_attention_mask": mask}


def rows_of(inputs, rows):
    return {key: value[list(rows)] for key, value in inputs.items()}


def build(model, folder, inputs, clips=CLIPS, **settings):
    """A cache, built, and the rows that had to be looked at."""
    asked: list[int] = []

    def inputs_of(rows):
        asked.extend(rows)
        return rows_of(inputs, rows)

    cache = FeatureCache(model, folder, clips, **{"dtype": torch.float32, "shard_clips": 3, **settings})
    cache.build(inputs_of, batch_size=2)
    return cache, asked


def test_forward_on_cached_trunks_equals_forward_on_inputs(model, inputs, tmp_path):
    cache, asked = build(model, tmp_path, inputs)
    assert asked == list(range(NUM_CLIPS))
    for rows in ([0, 1, 2, 3], [6, 2, 4], [5, 5, 0]):
        with torch.no_grad():
            expected = model(**rows_of(inputs, rows))
            found = model(trunks=cache.trunks(rows))
        torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-6, rtol=0)
        for name, state in expected.neuron_states.items():
            assert found.neuron_states[name].grid == state.grid
            torch.testing.assert_close(found.neuron_states[name].answers, state.answers, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", ["queries", "tokens", "none"])
def test_texts_of_batches_padded_to_different_lengths(prompt, make_sen, model, inputs, tmp_path):
    model = random_weights(make_sen(neurons=model.config.neurons, prompt=prompt)).eval()
    *_, words = model.config.neuron_specs
    lengths = inputs[f"{words.name}_attention_mask"].sum(dim=1)

    def padded_to_the_longest(rows):
        found, keys = rows_of(inputs, rows), (f"{words.name}_input_ids", f"{words.name}_attention_mask")
        return {**found, **{key: found[key][:, : lengths[list(rows)].max()] for key in keys}}

    cache = FeatureCache(model, tmp_path, CLIPS, dtype=torch.float32, shard_clips=3)
    cache.build(padded_to_the_longest, batch_size=2)
    for rows in ([2], [2, 6], [6, 5, 2], [0, 2]):  # clip 2 is stored beside longer texts
        with torch.no_grad():
            expected, found = model(**padded_to_the_longest(rows)), model(trunks=cache.trunks(rows))
        torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-6, rtol=0)
        state = found.neuron_states[words.name]
        assert state.grid == (1, 1, state.last_hidden_state.shape[1])


def test_without_a_second_look_cached_first_looks_are_asked_about_their_own_tokens(make_sen, model, inputs, tmp_path):
    model = random_weights(make_sen(neurons=model.config.neurons, prompt="none")).eval()
    cache, _ = build(model, tmp_path, inputs)
    for rows in ([0, 3], [4, 6]):  # words that are padding in one batch are none in the other
        with torch.no_grad():
            expected, found = model(**rows_of(inputs, rows)), model(trunks=cache.trunks(rows))
        torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-6, rtol=0)


def test_gradients_are_those_of_training_on_inputs(model, inputs, tmp_path):
    cache, _ = build(model, tmp_path, inputs)
    labels = torch.tensor([0, 1, 2])
    texts = torch.nn.functional.normalize(torch.randn(4, model.config.projection_dim), dim=-1)
    gradients = []
    for given in (rows_of(inputs, [3, 1, 6]), {"trunks": cache.trunks([3, 1, 6])}):
        model.zero_grad()
        model(**given, text_embeds=texts, labels=labels).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_halves_the_files_and_stays_close(model, inputs, tmp_path, dtype):
    whole, _ = build(model, tmp_path, inputs)
    half, asked = build(model, tmp_path, inputs, dtype=dtype)
    assert len(asked) == NUM_CLIPS  # a cache of its own
    assert half.bytes_for(rows_of(inputs, [0, 1])) < 0.6 * whole.bytes_for(rows_of(inputs, [0, 1]))
    with torch.no_grad():
        exact = model(trunks=whole.trunks([0, 4])).fused_embeds
        close = model(trunks=half.trunks([0, 4])).fused_embeds
        with torch.autocast("cpu", torch.bfloat16):  # as training reads them
            close_too = model(trunks=half.trunks([0, 4])).fused_embeds
    torch.testing.assert_close(close, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(close_too.float(), exact, atol=0.1, rtol=0)


def test_the_size_said_before_building_is_that_of_the_files(model, inputs, tmp_path):
    cache, _ = build(model, tmp_path, inputs)
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    predicted = cache.bytes_for(rows_of(inputs, [0, 1]))
    assert predicted < on_disk < predicted + 2048 * len(list(tmp_path.rglob("*.safetensors")))  # and the headers


def test_a_second_build_looks_at_nothing(model, inputs, tmp_path):
    build(model, tmp_path, inputs)
    assert build(model, tmp_path, inputs)[1] == []


def damage_by_truncation(path):
    path.write_bytes(path.read_bytes()[:-10])


def damage_by_a_changed_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_by_another_file(path):
    path.write_text("not a shard")


@pytest.mark.parametrize("damage", [os.remove, damage_by_truncation, damage_by_a_changed_byte, damage_by_another_file])
def test_a_missing_or_damaged_shard_is_built_anew(model, inputs, tmp_path, damage):
    cache, _ = build(model, tmp_path, inputs)
    damage(next(cache.folders["audio"].glob("00001-*")))
    assert cache.missing_shards() == [1]
    again, asked = build(model, tmp_path, inputs)
    assert asked == [3, 4, 5]
    with torch.no_grad():
        found, expected = model(trunks=again.trunks([4])).fused_embeds, model(**rows_of(inputs, [4])).fused_embeds
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_other_clips_are_other_shards_beside_the_first(model, inputs, tmp_path):
    build(model, tmp_path, inputs)
    changed = [*CLIPS[:4], "another", *CLIPS[5:]]
    assert build(model, tmp_path, inputs, clips=changed)[1] == [3, 4, 5]
    assert build(model, tmp_path, inputs)[1] == []


def test_another_prompt_site_is_another_cache(make_sen, inputs, tmp_path, towers):
    neurons = [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["ast"], towers["bert"]]
    folders = [
        FeatureCache(make_sen(neurons=neurons, prompt_depth=depth), tmp_path, CLIPS).folders for depth in (1, "all")
    ]
    assert all(folders[0][name] != folders[1][name] for name in folders[0])


def test_a_shard_that_is_not_built_is_an_error_that_names_it(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"00000-\w+\.safetensors"):
        FeatureCache(model, tmp_path, CLIPS).trunks([0])


def test_an_interrupted_build_goes_on_with_its_shard(model, inputs, tmp_path):
    cache = FeatureCache(model, tmp_path, CLIPS, dtype=torch.float32, shard_clips=3)

    def until_row_four(rows):
        if 4 in rows:
            raise KeyboardInterrupt
        return rows_of(inputs, rows)

    with pytest.raises(KeyboardInterrupt):
        cache.build(until_row_four, batch_size=1)
    assert not list(tmp_path.rglob("*.tmp"))
    assert build(model, tmp_path, inputs)[1] == [3, 4, 5, 6]


def test_clips_that_lack_a_modality_are_cached_without_it(model, inputs, tmp_path):
    mask = torch.ones(NUM_CLIPS, 4, dtype=torch.bool)
    mask[[0, 1, 2, 4], 2] = False  # no sound: in no clip of the first shard, in some of the second

    def inputs_of(rows):
        chosen = {**rows_of(inputs, rows), "neuron_mask": mask[list(rows)], "frame_times": torch.zeros(len(rows), 2)}
        if not mask[list(rows), 2].any():
            del chosen["audio_input_features"]
        return chosen

    cache = FeatureCache(model, tmp_path, CLIPS, dtype=torch.float32, shard_clips=3)
    cache.build(inputs_of, batch_size=2)
    for rows in ([0, 2], [4, 5], [1, 3, 6], [6, 4]):
        with torch.no_grad():
            expected = model(**inputs_of(rows)).fused_embeds
            trunks = cache.trunks(rows)
            assert ("audio" in trunks) == (rows != [0, 2])
            assert torch.equal(cache.neuron_mask(rows), mask[rows])
            found = model(trunks=trunks, neuron_mask=cache.neuron_mask(rows)).fused_embeds
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_texts_of_different_length_are_padded_behind_their_masks(model, inputs, tmp_path):
    name = model.config.neuron_specs[-1].name
    lengths = inputs[f"{name}_attention_mask"].sum(1)

    def inputs_of(rows):
        longest = int(lengths[list(rows)].max())  # as a tokenizer pads
        chosen = rows_of(inputs, rows)
        return chosen | {key: value[:, :longest] for key, value in chosen.items() if key.startswith(f"{name}_")}

    cache = FeatureCache(model, tmp_path, CLIPS, dtype=torch.float32, shard_clips=3)
    cache.build(inputs_of, batch_size=2)
    for rows in ([0, 6], [4, 1], [6, 4]):
        with torch.no_grad():
            expected = model(**inputs_of(rows)).fused_embeds
            found = model(trunks=cache.trunks(rows)).fused_embeds
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_sounds_of_different_length_need_a_tower_with_a_mask(make_sen, towers, tmp_path):
    hubert = make_sen(neurons=[{"hub_id": towers["hubert"], "name": "audio"}])
    sounds = {0: torch.randn(1, 3200), 1: torch.randn(1, 4000)}
    cache = FeatureCache(hubert, tmp_path, ["a", "b"])
    with pytest.raises(ValueError, match=r"neuron 'audio': clips have .* of shapes .*no attention mask"):
        cache.build(lambda rows: {"audio_input_features": sounds[rows[0]]}, batch_size=1)


def test_shards_may_be_written_one_by_one(model, inputs, tmp_path):
    cache = FeatureCache(model, tmp_path, CLIPS, dtype=torch.float32, shard_clips=3)
    asked = []
    cache.build(lambda rows: asked.extend(rows) or rows_of(inputs, rows), shards=[2, 0])
    assert asked == [6, 0, 1, 2]
    assert cache.missing_shards() == [1]


CUT = ["clip", "xclip", "vjepa2", "videomae", "dinov3", "ast", "whisper", "wavlm", "bert", "modernbert", "timesformer"]


@pytest.mark.parametrize("tower", CUT)
def test_without_its_lower_layers_a_model_answers_the_same_on_stored_trunks(make_sen, towers, clips, tmp_path, tower):
    model = random_weights(make_sen(neurons=[{"hub_id": towers[tower], "name": "one"}])).eval()
    given = [{"video": clip, "text": text} for clip, text in zip(clips, ("a dog", "dog", "a man speaks"), strict=True)]
    inputs = SENProcessor(model.config)(videos=given)
    cache = FeatureCache(model, tmp_path, ["a", "b", "c"], dtype=torch.float32)
    cache.build(lambda rows: rows_of(inputs, rows))
    with torch.no_grad():
        expected = model(trunks=cache.trunks([2, 0])).fused_embeds
        freed = cache.drop_trunks()
        assert torch.equal(model(trunks=cache.trunks([2, 0])).fused_embeds, expected)
        torch.testing.assert_close(model(trunks=cache.trunks([2, 0, 1])).fused_embeds[:2], expected)
    assert (freed > 0) == (tower not in ("wavlm", "timesformer"))
    if freed:
        trunk = model.neurons["one"].prompted_tower.trunk
        assert len(trunk) == 3  # layers, of four
        assert not [weight for layer in trunk for weight in layer.parameters()]


def test_shards_are_plain_safetensors(model, inputs, tmp_path):
    cache, _ = build(model, tmp_path, inputs)
    path = next(cache.folders["video"].glob("00000-*"))
    tensors = load_file(path)
    save_file(tensors, tmp_path / "copy.safetensors")  # without its checksum
    os.replace(tmp_path / "copy.safetensors", path)
    assert cache.missing_shards() == [0]
