"""Sen-tiny-chat in miniature: batches, masks, the measure, and a checkpoint after two steps."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.modeling_outputs import BaseModelOutputWithPooling

pytest.importorskip("accelerate")

from modeling_sen import SENChatProcessor, SENForConditionalGeneration
from modeling_sen.training import trainer
from modeling_sen.world import WorldClips, describe
from recipes.sen_tiny import train_tiny_chat as recipe
from recipes.sen_tiny.chat_batches import IGNORED, ChatBatches, window_inputs
from recipes.sen_tiny.chat_texts import TRAINED_KINDS, description


@pytest.fixture(scope="module")
def training():
    torch.manual_seed(0)
    return recipe.ChatTraining(recipe.untrained_model()).eval()


def first_batch(training, is_conversation, batch_size=4, **settings):
    batches = ChatBatches(training.model.config, 5, batch_size, **settings)
    for step in range(20):
        batch = batches(step)
        if batch["is_conversation"] == is_conversation:
            return batch
    raise AssertionError


def text(training, ids):
    return ChatBatches(training.model.config, 5, 1).tokenizer.decode(ids)


def test_labels_are_answers_with_their_end(training):
    batch = first_batch(training, False, num_questions=6, num_windows=1)
    config = training.model.config
    assert batch["kinds"].shape == (4, 7)
    for row in range(4):
        ids, labels, turns = (batch[name][row] for name in ("input_ids", "labels", "turns"))
        assert (ids == config.video_token_id).sum() == config.visual_tokens
        assert (turns[ids == config.video_token_id] == 0).all()
        for turn in range(1, 8):
            own = turns == turn
            asked, _, answer = text(training, ids[own]).partition("<|assistant|>")
            assert text(training, ids[own & (labels != IGNORED)]) == answer.strip()
            assert answer.endswith("<|end|>")
            assert asked.endswith("<|end|>")
            assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])


@pytest.mark.parametrize("windows", [1, 2])
def test_a_clip_is_what_the_processor_makes_of_it(training, tmp_path, windows):
    config = training.model.config
    batches = ChatBatches(config, 0, 1, split="test", num_objects=2, num_windows=windows)
    batches.tokenizer.save_pretrained(tmp_path)
    processor = SENChatProcessor.from_llm(tmp_path, config)
    clip = WorldClips("test", 1, num_objects=2, num_frames=16 * windows)[0]
    video = {"video": clip["frames"], "times": clip["times"], "depth": clip["depth"]}
    video["audio"] = {"array": clip["audio"].astype("float32") / 32768, "sampling_rate": clip["sampling_rate"]}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": "how?"}]}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        num_frames=windows * config.window_frames,
    )
    asked = processor.tokenizer("how?<|end|><|assistant|>", add_special_tokens=False)["input_ids"]
    assert inputs["input_ids"][0].tolist() == [*batches.prefix(0.0, windows), *asked]

    batch = batches(0)
    row = batch["input_ids"][0].tolist()
    assert row.count(config.video_token_id) == windows * config.visual_tokens
    for name, value in window_inputs([clip["scene"]], windows).items():
        assert torch.equal(batch[name], value)
        if name != "depth_pixel_values":
            torch.testing.assert_close(value, inputs[name].float(), atol=0.02, rtol=0)


def test_questions_see_the_prefix_and_themselves_or_all_that_came_before():
    turns = torch.tensor([[0, 0, 1, 1, 2, 2]])
    apart = recipe.attention_mask(turns, torch.tensor(False))[0, 0] == 0
    together = recipe.attention_mask(turns, torch.tensor(True))[0, 0] == 0
    assert apart.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert together.equal(torch.ones(6, 6).tril().bool())


@torch.no_grad()
def test_a_question_behind_others_is_answered_as_if_it_were_alone(training):
    batch = first_batch(training, False, batch_size=2, num_questions=3, num_windows=1)
    logits = training.answer(batch).logits[0]
    turns = batch["turns"][0]
    single = {name: value[:1].clone() for name, value in batch.items() if value.ndim}
    keep = ((turns == 0) & (torch.arange(len(turns)) < (turns > 0).int().argmax())) | (turns == 3)
    for name in ("input_ids", "labels", "position_ids", "turns"):
        single[name] = single[name][:, keep]
    single["is_conversation"] = torch.tensor(True)  # the plain causal mask
    torch.testing.assert_close(
        training.answer(single).logits[0][single["turns"][0] == 3], logits[turns == 3], atol=1e-4, rtol=1e-4
    )
    assert single["position_ids"][0].tolist() == list(range(keep.sum()))


def test_what_a_clip_is_not_given_is_not_asked_for(training):
    batches = ChatBatches(training.model.config, 5, 16, num_questions=40, num_windows=1)
    batch = batches(0)
    no_depth = ~batch["neuron_mask"][:, 3]
    assert no_depth.any()
    for row in torch.nonzero(no_depth)[:, 0].tolist():
        assert "near" not in text(training, batch["input_ids"][row])
    no_sound = ~batch["neuron_mask"][:, 2]
    for row in torch.nonzero(no_sound)[:, 0].tolist():
        assert "sound" not in text(training, batch["input_ids"][row])


def test_a_description_names_objects_from_left_to_right():
    clip = WorldClips("train", 9, num_objects=3)[4]
    places = [np.nonzero(clip["masks"][8] == number + 1)[1].mean() for number in range(3)]
    first, second, third = (describe(clip["objects"][number]) for number in np.argsort(places))
    found = description(np.random.default_rng(0), clip["scene"])
    assert found.answer == f"{first}, {second} and {third}"


def test_clips_have_more_objects_as_the_run_goes_on(training):
    batches = ChatBatches(training.model.config, 5, 8, steps=100)
    found = [batches.objects_at(step) for step in (0, 4, 5, 20, 40, 99)]
    assert found == [(1, 1), (1, 1), (2, 2), (2, 3), (1, 4), (1, 4)]
    assert ChatBatches(training.model.config, 5, 8).objects_at(0) == (1, 4)


def test_the_measure_is_the_share_of_greedy_answers():
    """Against `generate`, for a language model that has learnt the answers about one of two clips by heart."""
    torch.manual_seed(1)
    model = recipe.untrained_model()
    learner = recipe.ChatTraining(model)
    batch = ChatBatches(model.config, 0, 2, num_questions=4, split="validation", num_objects=1, num_windows=1)(0)
    own = ("input_ids", "labels", "position_ids", "turns", "kinds", "is_conversation")
    with torch.no_grad():
        features = model.get_video_features(**{name: each for name, each in batch.items() if name not in own})
    embeds = model._embed(batch["input_ids"][:1], features.pooler_output[:1])
    mask = recipe.attention_mask(batch["turns"][:1], torch.tensor(False))
    optimiser = torch.optim.AdamW(model.language_model.parameters(), lr=2e-3)
    for _ in range(25):
        where = {"attention_mask": mask, "position_ids": batch["position_ids"][:1], "use_cache": False}
        model.language_model(inputs_embeds=embeds.detach(), labels=batch["labels"][:1], **where).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    measured = recipe.chat_accuracy(learner, 2, num_objects=1, num_questions=4)

    right = defaultdict(list)
    for row, kinds in enumerate(batch["kinds"].tolist()):
        turns, ids, labels = (batch[name][row] for name in ("turns", "input_ids", "labels"))
        prefix = ids[: int((turns > 0).int().argmax())]
        video = {"video": BaseModelOutputWithPooling(pooler_output=features.pooler_output[row : row + 1])}
        for turn, kind in enumerate(kinds, start=1):
            own_ids, is_answer = ids[turns == turn], (labels != IGNORED)[turns == turn]
            prompt, answer = torch.cat([prefix, own_ids[~is_answer]])[None], own_ids[is_answer].tolist()
            found = model.generate(prompt, mm_encoder_outputs=video, do_sample=False, max_new_tokens=len(answer))
            right[TRAINED_KINDS[kind]].append(found[0, prompt.shape[1] :].tolist() == answer)
    shares = {kind: sum(each) / len(each) for kind, each in right.items()}
    assert 0 < sum(shares.values()) < len(shares)
    assert measured == pytest.approx({**shares, "mean": sum(shares.values()) / len(shares)})


def test_two_steps_leave_a_checkpoint_in_half_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: None)
    few = {"warmup_steps": 1, "dataloader_num_workers": 0, "dataloader_prefetch_factor": None, "disable_tqdm": True}
    arguments = recipe.chat_arguments(tmp_path, 2, eval_steps=2, **few)
    before = recipe.untrained_model().sen.state_dict()
    training = recipe.train_chat(tmp_path, arguments, batch_size=2, validation_clips=2)
    recipe.export(tmp_path, training, tmp_path / "chat")
    sizes = [path.stat().st_size for path in (tmp_path / "chat").rglob("*") if path.is_file()]
    assert sum(sizes) < 7e6
    weights = load_file(tmp_path / "chat" / "model.safetensors")
    weights |= load_file(tmp_path / "chat" / "language_model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}

    (tmp_path / "chat").rename(tmp_path / "moved")
    loaded = SENForConditionalGeneration.from_pretrained(tmp_path / "moved")
    assert loaded.dtype == loaded.language_model.dtype == torch.float32
    trained = training.model
    for theirs, ours in ((loaded, trained), (loaded.language_model, trained.language_model)):
        for name, weight in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], weight.half().float()), name
    assert any(
        not torch.equal(before[name], each) for name, each in trained.sen.state_dict().items() if name in before
    )
    assert {spec.hub_id for spec in loaded.sen.specs.values()} == {f"builtin:{name}" for name in loaded.sen.specs}

    processor = SENChatProcessor.from_pretrained(tmp_path / "moved")
    clip = WorldClips("test", 1)[0]
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": {"video": clip["frames"], "times": clip["times"]}},
                {"type": "text", "text": "what colour is the object?"},
            ],
        }
    ]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert loaded.generate(**inputs, max_new_tokens=3).shape[1] <= inputs["input_ids"].shape[1] + 3

    again = recipe.train_chat(tmp_path, arguments, batch_size=2, validation_clips=2)  # finished: loads the weights
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, training.state_dict()[name]), name
