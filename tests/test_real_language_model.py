"""Video chat with a trained language model, SmolLM2-135M-Instruct, and trained encoders of frames and of speech.

`real_models.py` describes their checkpoints. `pytest -s` prints figures.
"""

import csv
import json
from pathlib import Path

import pytest
import torch
from real_models import MODELS, needs_models
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_sen import ChatSession, SENForConditionalGeneration, SENModel
from modeling_sen.pipelines.video_chat import VideoChatPipeline
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.training.chat_task import ConversationDataset, end_tokens_of
from modeling_sen.training.conversations import open_conversations
from modeling_sen.training.train_chat import train_chat
from modeling_sen.training.train_settings import TrainSettings
from modeling_sen.training.trainer import SENTrainingArguments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), needs_models("llm", "vit", "speech")]
CLIP = "chat/video-llama/applausing.mp4"
# Clips that are not used in training; each has something in common with one that is.
HELD_OUT = {
    "v_ZNVhz7ctTq0",
    "R6llTwEh07w",
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0",
    "making_cake",
    "man-skiing",
}
PROMPT = [{"role": "system", "content": "Answer briefly."}]
ASKED = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]}


def make_chat(folder, language_model_kwargs=None, **sen_settings):
    """A chat model with an untrained projector, saved with its processor."""
    torch.manual_seed(0)
    neurons = [
        {"hub_id": str(MODELS / "vit"), "name": "image", "output_layer": 6, "num_frames": 2},
        {"hub_id": str(MODELS / "speech"), "name": "speech"},
    ]
    sen = SENModel.from_neurons(neurons, **sen_settings)
    llm = str(MODELS / "llm")
    model = SENForConditionalGeneration.from_llm(llm, sen, language_model_kwargs, window_frames=2, tokens_per_frame=4)
    processor = SENChatProcessor.from_llm(llm, model.config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """The chat model in float32, for exact comparisons."""
    return make_chat(tmp_path_factory.mktemp("chat"), {"dtype": torch.float32})


def recorded(model, answer):
    """The result of `answer()`, and the scores (tokens, vocabulary) from which it chose each token."""
    scores = []
    hook = model.language_model.register_forward_hook(lambda _, args, output: scores.append(output.logits[0, -1]))
    try:
        return answer(), torch.stack(scores)
    finally:
        hook.remove()


def test_a_question_without_video_is_answered_like_by_the_plain_language_model(chat):
    model, processor = chat
    plain = AutoModelForCausalLM.from_pretrained(MODELS / "llm", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "llm")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    settings = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    expected, found = (each.apply_chat_template(messages, **settings) for each in (tokenizer, processor))
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(model(**found).logits, plain(**expected).logits, rtol=0, atol=0)
    answers = [
        each.generate(**inputs, max_new_tokens=24, do_sample=False)
        for each, inputs in ((model, found), (plain, expected))
    ]
    assert answers[0].tolist() == answers[1].tolist()
    text = tokenizer.decode(answers[0][0, expected["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"\ntext alone: {text!r}")
    assert "Paris" in text


def test_a_second_turn_about_a_real_clip_equals_reading_the_whole_prompt_again(chat, shared_data):
    model, processor = chat
    session = ChatSession(model, processor, max_new_tokens=12)
    read = session.add_video(str(shared_data / CLIP))
    assert read.has_sound
    session.ask("What happens?")
    lengths = []
    hook = model.language_model.register_forward_pre_hook(
        lambda _, args, given: lengths.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    later, scores = recorded(model, lambda: session.ask("How many people are there?"))
    hook.remove()
    pipe = VideoChatPipeline(model=model, processor=processor)
    whole, expected = recorded(model, lambda: pipe(session.messages[:-1], max_new_tokens=12))
    assert later == whole
    assert lengths[0] < 40  # neither the video nor the first turn is read again
    assert scores.argmax(-1).tolist() == expected.argmax(-1).tolist()
    difference = (scores - expected).abs().max().item()
    print(f"\nsecond turn: {lengths[0]} tokens read, largest difference of scores {difference:.1e}")
    assert difference < 1e-3


def test_a_streamed_answer_about_a_real_clip_equals_the_answer(chat, shared_data):
    model, processor = chat
    pipe = VideoChatPipeline(model=model, processor=processor)
    asked = {"video": str(shared_data / CLIP), "question": "What happens?", "max_new_tokens": 12}
    *pieces, result = pipe(**asked, stream=True)
    assert len(pieces) > 3
    assert "".join(pieces) == result["answer"]
    assert result == pipe(**asked)
    assert len(result["frame_times"][0]) == 2
    print(f"\nstreamed: {pieces}")


# --- alignment -------------------------------------------------------------------------------------------------------


def described_clips(data: Path) -> dict[str, list[str]]:
    """Path -> the description of the clip in the manifest: captions, or its label in words."""
    found: dict[str, list[str]] = {}
    with open(data / "MANIFEST.csv", newline="") as file:
        for row in csv.DictReader(file):
            path = row["path"].removeprefix("shared/")
            if row["modality"] == "video" and not path.startswith("tracking/") and (texts := texts_of(row["label"])):
                found[path] = [text.replace("_", " ") for text in texts]
    return found


def texts_of(label: str) -> list[str]:
    if label[:1] not in ("{", "["):
        says_something = label and not any(word in label for word in ("no caption", "no prompt", "stored rotation"))
        return [label] if says_something else []
    decoded = json.loads(label)
    if isinstance(decoded, list):
        return [each for each in decoded if isinstance(each, str)]
    text = (
        decoded.get("captions") or decoded.get("printed_top1") or decoded.get("source_prompt") or decoded.get("label")
    )
    return [text] if isinstance(text, str) else text or []


def write_captions(path: Path, data: Path, clips: dict[str, list[str]]) -> str:
    rows = [
        {"messages": [*PROMPT, ASKED, {"role": "assistant", "content": text}], "video": str(data / clip)}
        for clip, texts in clips.items()
        for text in texts
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


@torch.no_grad()
def losses(model, processor, source) -> torch.Tensor:
    """(captions, clips): the loss of each caption with the visual tokens of each clip."""
    dataset = ConversationDataset(open_conversations(source), processor, end_tokens_of(model, processor))
    batches = [dataset.collate([dataset[row]]) for row in range(len(dataset))]
    text = ("input_ids", "attention_mask", "labels")
    keys = [keys[0] for keys in dataset.conversations.video_keys]
    clips = dict(zip(keys, batches, strict=True))
    features = [
        model.get_video_features(**{name: value for name, value in batch.items() if name not in (*text, "rows")})
        for batch in clips.values()
    ]
    found = [
        [model(**{name: batch[name] for name in text}, mm_encoder_outputs={"video": each}).loss for each in features]
        for batch in batches
    ]
    own = [list(clips).index(key) for key in keys]
    return torch.tensor(found), torch.tensor(own)


def own_and_other(found, own) -> tuple[torch.Tensor, torch.Tensor]:
    """(captions,): the loss with the clip's own features, and the mean loss with the features of the other clips."""
    mine = found.gather(1, own[:, None])[:, 0]
    return mine, (found.sum(1) - mine) / (found.shape[1] - 1)


def test_alignment_lowers_the_loss_of_unseen_captions_with_the_features_of_their_clip(shared_data, tmp_path):
    model, processor = make_chat(tmp_path / "start", num_rounds=0)  # only the projector is trained
    clips = described_clips(shared_data)
    held_out = {clip: texts for clip, texts in clips.items() if Path(clip).stem in HELD_OUT}
    assert len(held_out) == len(HELD_OUT)
    seen = {clip: texts for clip, texts in clips.items() if clip not in held_out}
    train = write_captions(tmp_path / "train.jsonl", shared_data, seen)
    unseen = write_captions(tmp_path / "unseen.jsonl", shared_data, held_out)
    before = own_and_other(*losses(model, processor, unseen))
    settings = {"task": "chat", "preset": "align", "train": train, "model": str(tmp_path / "start")}
    training = SENTrainingArguments(
        str(tmp_path / "run"),
        max_steps=100,
        per_device_train_batch_size=2,
        logging_steps=10,
        learning_rate=1e-3,
        save_steps=1000,
        report_to=[],
    )
    folder = train_chat(TrainSettings(**settings, cache=str(tmp_path / "cache")), training)
    model, processor = (kind.from_pretrained(folder) for kind in (SENForConditionalGeneration, SENChatProcessor))
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    after = own_and_other(*losses(model, processor, unseen))
    print(f"\n{len(seen)} clips trained on, {len(held_out)} held out")
    print("training loss:", [round(entry["loss"], 2) for entry in log if "loss" in entry])
    for when, (own, other) in (("before", before), ("after", after)):
        print(f"held out, {when}: own {own.mean():.3f}, other clips' {other.mean():.3f}; captions", own - other)
    assert after[0].mean() < before[0].mean()
    assert after[0].mean() < after[1].mean()
