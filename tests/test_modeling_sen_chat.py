"""The chat model: outputs, trained weights, generation with features and caches, and wrong inputs."""

import copy

import pytest
import torch
from random_chat import VOCABULARY, make_chat, make_language_model, prompt
from random_sen import random_inputs, random_weights
from transformers import AnyToAnyPipeline, BatchFeature, DynamicCache

from modeling_sen import SENForConditionalGeneration

IDS = torch.tensor([[2, 9, 5, 6, 7]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_models")
    for kind in ("qwen3", "tied", "llama"):
        make_language_model(kind).save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in ("qwen3", "tied", "llama")}


@pytest.fixture
def chat(make_sen, folders):
    return make_chat(random_weights(make_sen()), folders["qwen3"])


@pytest.fixture
def asking(make_sen, towers, folders):
    """A chat model whose association depends on a question."""
    neurons = [
        {"hub_id": towers["clip"], "num_frames": 2},
        towers["videomae"],
        {"hub_id": towers["bert"], "name": "words"},
    ]
    sen = random_weights(make_sen(neurons=neurons))
    return make_chat(sen, folders["qwen3"], question_neuron="words")


def rows(inputs, *indices):
    return {name: value[list(indices)] for name, value in inputs.items()}


def logits_of(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def answer(model, ids, **inputs):
    inputs.setdefault("attention_mask", torch.ones_like(ids))  # random answers may contain the padding id
    return model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, **inputs)[:, ids.shape[1] :]


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "tied", "llama"])
def test_without_video_the_outputs_equal_the_language_models_bit_for_bit(make_sen, folders, kind):
    model = SENForConditionalGeneration.from_llm(folders[kind], make_sen())
    plain = make_language_model(kind)
    with torch.no_grad():
        assert torch.equal(logits_of(model, IDS), plain(input_ids=IDS).logits)
    assert torch.equal(answer(model, IDS), plain.generate(input_ids=IDS, max_new_tokens=6, do_sample=False)[:, 5:])


def test_visual_tokens_replace_the_placeholders(chat):
    """Two prompts with different numbers of windows; the reference embeddings are concatenated by hand."""
    inputs, visual = random_inputs(3), chat.config.visual_tokens
    ids = torch.cat([prompt(chat, 2), torch.nn.functional.pad(prompt(chat, 1, seed=1), (visual, 0))])
    mask = torch.ones_like(ids)
    mask[1, :visual] = 0
    labels = torch.where(ids == chat.config.video_token_id, -100, ids)
    with torch.no_grad():
        features = chat.get_video_features(**inputs).pooler_output  # (3, visual, width)
        embed = chat.language_model.get_input_embeddings()
        first = torch.cat([embed(ids[0, :2]), features[0], features[1], embed(ids[0, -3:])])
        second = torch.cat([embed(ids[1, : visual + 2]), features[2], embed(ids[1, -3:])])
        expected = chat.language_model(inputs_embeds=torch.stack([first, second]), attention_mask=mask, labels=labels)
        found = chat(input_ids=ids, attention_mask=mask, labels=labels, **inputs)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)
    shifted = torch.nn.functional.cross_entropy(found.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(found.loss, shifted)


def test_a_padded_row_equals_a_single_one(chat):
    inputs = random_inputs(3)
    short, long = prompt(chat, 1), prompt(chat, 2, question=(8, 7, 6, 5))
    padding = long.shape[1] - short.shape[1]
    ids = torch.cat([torch.nn.functional.pad(short, (padding, 0)), long])
    mask = (torch.arange(ids.shape[1]) >= torch.tensor([[padding], [0]])).long()
    both = answer(chat, ids, attention_mask=mask, **inputs)
    assert torch.equal(both[:1], answer(chat, short, **rows(inputs, 0)))
    assert torch.equal(both[1:], answer(chat, long, **rows(inputs, 1, 2)))
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    batch = logits_of(chat, ids, attention_mask=mask, position_ids=positions, **inputs)
    torch.testing.assert_close(batch[:1, padding:], logits_of(chat, short, **rows(inputs, 0)), rtol=1e-4, atol=1e-4)


def test_answers_depend_on_the_video(chat):
    ids = prompt(chat)
    one, other = (logits_of(chat, ids, **random_inputs(1, seed)) for seed in (0, 1))
    assert not torch.allclose(one, other, atol=1e-2)


def test_an_absent_neuron_has_no_effect(chat):
    ids, inputs = prompt(chat), random_inputs(1)
    mask = torch.tensor([[True, False, True]])
    masked = logits_of(chat, ids, neuron_mask=mask, **inputs)
    without = {name: value for name, value in inputs.items() if not name.startswith("video")}
    torch.testing.assert_close(masked, logits_of(chat, ids, **without))
    assert not torch.allclose(masked, logits_of(chat, ids, **inputs), atol=1e-3)
    inputs["video_pixel_values"] = torch.zeros_like(inputs["video_pixel_values"])
    torch.testing.assert_close(masked, logits_of(chat, ids, neuron_mask=mask, **inputs))


def test_precomputed_features_and_first_looks_give_the_same_outputs_as_inputs(chat):
    ids, inputs = prompt(chat, 2), random_inputs(2)
    with torch.no_grad():
        features = chat.get_video_features(**inputs)
        trunks = chat.encode_trunks(**inputs)
    before = features.pooler_output.clone()
    raw = logits_of(chat, ids, **inputs)
    assert torch.equal(raw, logits_of(chat, ids, mm_encoder_outputs={"video": features}))
    assert torch.equal(raw, logits_of(chat, ids, trunks=trunks))
    assert torch.equal(answer(chat, ids, trunks=trunks), answer(chat, ids, **inputs))
    for settings in ({}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
        expected = answer(chat, ids, **settings, **inputs)
        for _ in range(2):
            found = answer(chat, ids, **settings, mm_encoder_outputs={"video": features})
            assert torch.equal(found, expected)
            assert torch.equal(features.pooler_output, before)  # beam search must not repeat them in place


def test_generation_runs_the_towers_once(chat):
    calls = []
    chat.sen.neurons["image"].tower.register_forward_hook(lambda *_: calls.append(1))
    answer(chat, prompt(chat), num_beams=2, **random_inputs(1))
    assert len(calls) == 1


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"prefill_chunk_size": 4}])
def test_generation_does_not_depend_on_caching_and_prefill_chunks(chat, settings):
    ids, inputs = prompt(chat, 2), random_inputs(2)
    assert torch.equal(answer(chat, ids, **settings, **inputs), answer(chat, ids, **inputs))


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_second_question_needs_no_video_inputs_if_the_cache_contains_it(chat, name):
    inputs, cache = random_inputs(2), DynamicCache(config=chat.language_model.config)
    ids = prompt(chat)
    first = answer(chat, ids, **{name: cache}, **rows(inputs, 0))
    ids = torch.cat([ids, first, torch.tensor([[9, 8, 7]])], dim=1)
    second = answer(chat, ids, **{name: cache})
    assert torch.equal(second, answer(chat, ids, **rows(inputs, 0)))
    ids = torch.cat([ids, second, prompt(chat, seed=1)], dim=1)  # a second video in a later turn
    third = answer(chat, ids, **{name: cache}, **rows(inputs, 1))
    assert torch.equal(third, answer(chat, ids, **inputs))


def test_placeholders_are_never_generated_and_are_hidden_from_logits_processors(make_sen, folders):
    """Also if the placeholder has an id of the language model's vocabulary."""
    for token in (VOCABULARY, 33):
        model = make_chat(make_sen(), folders["qwen3"], video_token_id=token)
        model.language_model.lm_head.weight.data[33] = 0
        ids, inputs = prompt(model), random_inputs(1)
        best = logits_of(model, ids, **inputs)[0, -1]
        if token == 33:
            # Makes this token the most likely one.
            direction = torch.linalg.pinv(model.language_model.lm_head.weight) @ best
            model.language_model.lm_head.weight.data[33] = direction * 100
            assert logits_of(model, ids, **inputs)[0, -1].argmax() == 33
        assert token not in answer(model, ids, repetition_penalty=1.5, no_repeat_ngram_size=2, **inputs)
        assert token not in answer(model, ids, num_beams=2, repetition_penalty=1.5, **inputs)


def test_a_repetition_penalty_ignores_placeholders(chat):
    """It lowers the scores of the prompt's text tokens, once each, and no others."""
    ids, inputs = prompt(chat), random_inputs(1)
    text = ids[ids != chat.config.video_token_id][None]
    found = chat.generate(
        input_ids=ids,
        max_new_tokens=1,
        repetition_penalty=1.9,
        output_scores=True,
        return_dict_in_generate=True,
        **inputs,
    )
    scores = logits_of(chat, ids, **inputs)[:, -1]
    seen = scores.gather(1, text)
    expected = scores.scatter(1, text, torch.where(seen < 0, seen * 1.9, seen / 1.9))
    torch.testing.assert_close(found.scores[0], expected)


# --- questions as inputs of the association --------------------------------------------------------------------------


def test_association_depends_on_the_question_with_the_same_first_looks(asking):
    generator = torch.Generator().manual_seed(2)
    video = {name: value for name, value in random_inputs(2).items() if not name.startswith("audio")}
    with torch.no_grad():
        trunks = asking.encode_trunks(**video)
        found = []
        for _ in range(2):
            words = {
                "words_input_ids": torch.randint(5, 10, (2, 4), generator=generator),
                "words_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
            }
            features = asking.get_video_features(trunks=trunks, **words).pooler_output
            assert torch.equal(features, asking.get_video_features(**video, **words).pooler_output)
            found.append(features)
    assert not torch.allclose(*found, atol=1e-3)


def test_a_masked_neuron_has_no_effect_on_its_window(chat):
    """For any inputs of the masked neuron; the other window of the batch has the neuron."""
    inputs, mask = random_inputs(2), torch.tensor([[True, False, True], [True, True, True]])
    with torch.no_grad():
        before = chat.get_video_features(neuron_mask=mask, **inputs).pooler_output
        inputs["video_pixel_values"] = -inputs["video_pixel_values"]
        after = chat.get_video_features(neuron_mask=mask, **inputs).pooler_output
        single = chat.get_video_features(neuron_mask=mask[:1], **rows(inputs, 0)).pooler_output
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)
    torch.testing.assert_close(before[:1], single)


def test_first_looks_take_a_mask_of_neurons(chat):
    inputs, mask = random_inputs(2), torch.tensor([[True, True, False], [False, True, True]])
    with torch.no_grad():
        expected = chat.get_video_features(neuron_mask=mask, **inputs).pooler_output
        trunks = chat.encode_trunks(neuron_mask=mask, **inputs)
        found = chat.get_video_features(trunks=trunks, neuron_mask=mask).pooler_output
    assert torch.equal(found, expected)


# --- training --------------------------------------------------------------------------------------------------------


def gradients(model, **settings):
    ids = prompt(model)
    model.zero_grad()
    model(input_ids=ids, labels=ids.where(ids < VOCABULARY, -100), **random_inputs(1), **settings).loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def test_only_projector_and_association_are_trained(chat):
    found = gradients(chat)
    reached = {name for name, grad in found.items() if grad.any()}
    for part in ("projector.tokens.norms.image", "projector.tokens.enter.video", "projector.tokens.fusion.logits"):
        assert any(name.startswith(part) for name in reached), part
    for part in ("projector.tokens.leave", "projector.answers.enter.audio", "projector.answers.leave"):
        assert any(name.startswith(part) for name in reached), part
    for part in ("sen.blocks.0", "sen.blocks.2", "sen.modulation.image", "sen.modulation.video", "sen.fusion"):
        assert any(name.startswith(part) for name in reached), part
    assert not any(name.startswith(("sen.neurons", "language_model")) for name in found)
    frozen = [*chat.sen.neurons.parameters(), *chat.language_model.parameters()]
    assert not any(parameter.requires_grad for parameter in frozen)
    trainable, total = chat.trainable_parameters()
    assert total == trainable + sum(parameter.numel() for parameter in frozen)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(chat, use_reentrant):
    chat.train()
    expected = gradients(chat)
    chat.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert chat.language_model.model.gradient_checkpointing
    found = gradients(chat, use_cache=False)
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, msg=name)


def test_losses_of_partial_batches_add_up(chat):
    """`num_items_in_batch`, which the Trainer passes during gradient accumulation, is a number of labels."""
    ids = prompt(chat)
    labels = torch.where(ids < VOCABULARY, ids, -100)
    whole = chat(input_ids=ids, labels=labels, **random_inputs(1)).loss
    half = chat(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(8), **random_inputs(1)).loss
    torch.testing.assert_close(half * 8, whole * (labels[:, 1:] != -100).sum())


def test_a_bfloat16_language_model_works_with_a_float32_projector(make_sen, folders):
    model = make_chat(random_weights(make_sen()), folders["qwen3"], language_model_kwargs={"dtype": torch.bfloat16})
    assert model.language_model.dtype == torch.bfloat16
    assert model.projector.tokens.leave.weight.dtype == torch.float32
    ids, inputs = prompt(model), random_inputs(1)
    found = logits_of(model, ids, **inputs)
    assert found.dtype == torch.bfloat16
    single = make_chat(random_weights(make_sen()), folders["qwen3"])
    expected = logits_of(single, ids, **inputs)
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    assert all(grad.isfinite().all() for grad in gradients(model).values())
    assert answer(model, ids, **inputs).shape == (1, 6)


def test_the_given_sen_is_not_modified(make_sen, folders):
    sen = random_weights(make_sen())
    before = copy.deepcopy(sen.state_dict())
    model = SENForConditionalGeneration.from_llm(folders["llama"], sen)
    assert model.sen.neurons["image"].tower is sen.neurons["image"].tower
    assert not sen.modulation
    assert sen.config.dense_neurons is None
    for name, weight in before.items():
        assert torch.equal(model.sen.state_dict()[name], weight)
        assert torch.equal(sen.state_dict()[name], weight)


# --- wrong inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("windows", "videos"), [(1, 2), (2, 1), (1, 0), (0, 1)])
def test_placeholders_must_match_the_windows(chat, windows, videos):
    visual = chat.config.visual_tokens
    message = (
        f"input_ids have {windows * visual} placeholders.*expected {videos * visual}: {visual} for each of {videos}"
    )
    inputs = random_inputs(videos) if videos else {}
    with pytest.raises(ValueError, match=message):
        chat(input_ids=prompt(chat, windows), **inputs)
    with pytest.raises(ValueError, match=message):
        answer(chat, prompt(chat, windows), **inputs)


def test_contradictory_inputs_raise(chat):
    inputs = random_inputs(1)
    features = {"video": chat.get_video_features(**inputs)}
    with pytest.raises(ValueError, match="both mm_encoder_outputs and inputs of neurons"):
        chat(input_ids=prompt(chat), mm_encoder_outputs=features, **inputs)
    with pytest.raises(ValueError, match="both mm_encoder_outputs and inputs of neurons"):
        answer(chat, prompt(chat), mm_encoder_outputs=features, **inputs)
    with pytest.raises(ValueError, match="inputs_embeds and a video"):
        chat(inputs_embeds=torch.randn(1, 5, 32), mm_encoder_outputs=features)
    with pytest.raises(ValueError, match="neither input_ids nor inputs_embeds"):
        chat(**inputs)


def test_unknown_inputs_raise(chat):
    with pytest.raises(TypeError, match="unexpected input 'pixel_values'"):
        chat(input_ids=prompt(chat), pixel_values=torch.zeros(1, 2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"not used by the model.*pixel_value"):
        answer(chat, prompt(chat), pixel_value=torch.zeros(1, 2, 3, 16, 16))


def test_windows_without_inputs_of_a_read_neuron_raise(asking):
    with pytest.raises(ValueError, match="no neuron that is read has inputs, expected some of image, video"):
        asking.get_video_features(words_input_ids=torch.tensor([[5, 6]]))


def test_the_signature_lists_the_inputs(chat):
    import inspect

    names = inspect.signature(chat.forward).parameters
    assert {"input_ids", "labels", "image_pixel_values", "audio_input_features", "neuron_mask", "frame_times"} <= set(
        names
    )


# --- Transformers' pipeline ------------------------------------------------------------------------------------------


class StubProcessor:
    """A processor that returns one prompt with one window."""

    chat_template = None
    tokenizer = feature_extractor = image_processor = None

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, text, videos, return_tensors, **settings):
        return BatchFeature({"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), **videos})

    def post_process_multimodal_output(self, ids, **settings):
        return ["".join(f" {number}" for number in row) for row in ids.tolist()]


def test_the_any_to_any_pipeline_runs_the_model_without_torchvision(chat):
    ids, inputs = prompt(chat), random_inputs(1)
    pipe = AnyToAnyPipeline(model=chat, processor=StubProcessor(ids), device="cpu")
    found = pipe({"text": "", "videos": inputs}, max_new_tokens=6, generate_kwargs={"do_sample": False})
    assert found[0]["generated_text"] == "".join(f" {number}" for number in answer(chat, ids, **inputs)[0].tolist())
