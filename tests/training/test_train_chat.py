"""Video chat is trained: what each preset trains, that it learns, resumes bit for bit and loads as it was."""

import json
import shutil
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from tiny_language_model import TURNS, write_conversations, write_language_model
from transformers import AutoModelForCausalLM

pytest.importorskip("accelerate")

from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.training import train_chat as module
from modeling_sen.training import trainer
from modeling_sen.training.chat_task import ConversationDataset, end_tokens_of
from modeling_sen.training.conversations import open_conversations
from modeling_sen.training.train_chat import train_chat
from modeling_sen.training.train_settings import TrainSettings
from modeling_sen.training.trainer import SENTrainingArguments

HOW = {
    "align": {"preset": "align"},
    "lora": {"preset": "instruct"},
    "full": {"preset": "instruct", "llm_training": "full"},
}
HOWS = [
    "align",
    pytest.param("lora", marks=pytest.mark.skipif(find_spec("peft") is None, reason="without peft")),
    "full",
]


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    """Drawing takes longer than a run of these."""
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: picture.touch())


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def start(make_sen, llm, tmp_path):
    """A chat model that was not trained yet."""
    model = SENForConditionalGeneration.from_llm(llm, make_sen(), window_frames=2, tokens_per_frame=4)
    model.save_pretrained(tmp_path / "start")
    SENChatProcessor.from_llm(llm, model.config).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def source(clips, tmp_path):
    return write_conversations(tmp_path / "chat.json", clips)


def arguments(output, steps=4, **changes):
    short = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "learning_rate": 1e-2}
    short |= {"logging_steps": 1, "save_steps": 2, "disable_tqdm": True}
    return SENTrainingArguments(str(output), max_steps=steps, **{**short, **changes})


def settings(start, source, **changes):
    return TrainSettings(**{"task": "chat", "train": source, "model": str(start), **changes})


def log(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def every_weight(model):
    of_language_model = {
        f"language_model.{name.replace('.base_layer', '')}": weight
        for name, weight in model.language_model.state_dict().items()
    }
    return {**model.state_dict(), **of_language_model}


def logits_of(folder, source):
    model, processor = SENForConditionalGeneration.from_pretrained(folder), SENChatProcessor.from_pretrained(folder)
    dataset = ConversationDataset(open_conversations(source), processor, end_tokens_of(model, processor))
    with torch.no_grad():
        return model(**dataset.model_inputs(dataset.collate([dataset[row] for row in range(4)]))).logits


@pytest.mark.parametrize("how", HOWS)
def test_each_preset_trains_its_part_and_loads_as_it_was(how, start, source, tmp_path, monkeypatch):
    trained, run_and_save = [], module.run_and_save
    monkeypatch.setattr(module, "run_and_save", lambda run, *rest: trained.append(run) or run_and_save(run, *rest))
    rates = {} if how == "align" else {"llm_learning_rate": 1e-2}
    last = train_chat(settings(start, source, **HOW[how], **rates), arguments(tmp_path / "run"))
    assert last == tmp_path / "run" / "last"
    model = trained[0].model.eval()
    before = every_weight(SENForConditionalGeneration.from_pretrained(start))
    after = every_weight(model)
    changed = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    parts = {name.split(".")[0] for name in changed}
    assert parts == {"sen", "projector"} | ({"language_model"} if how != "align" else set())
    assert not any(name.startswith("sen.neurons") for name in changed)
    of_language_model = {name for name in changed if name.startswith("language_model.")}
    assert (how == "lora") == any(".lora_" in name for name in of_language_model)
    assert how != "lora" or all(".lora_" in name for name in of_language_model)
    assert (last / "language_model").is_dir() == (how == "full")
    assert (last / "language_model_adapter").is_dir() == (how == "lora")
    dataset = trained[0].datasets[0]
    with torch.no_grad():
        expected = model(**dataset.model_inputs(dataset.collate([dataset[row] for row in range(4)]))).logits
    assert torch.equal(logits_of(last, source), expected)
    assert (last / "chat_template.jinja").exists()


@pytest.mark.parametrize("how", HOWS)
def test_an_interrupted_run_resumes_bit_for_bit(how, start, source, tmp_path):
    whole, again, given = tmp_path / "whole", tmp_path / "again", settings(start, source, **HOW[how])
    train_chat(given, arguments(whole))
    shutil.copytree(whole, again)
    shutil.rmtree(again / "last")
    shutil.rmtree(again / "checkpoint-4")
    train_chat(given, arguments(again))
    files = [path.relative_to(whole) for path in (whole / "last").rglob("*.safetensors")]
    assert len(files) == {"align": 1, "lora": 2, "full": 2}[how]
    for file in files:
        expected, found = load_file(whole / file), load_file(again / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    losses = [[line["loss"] for line in log(folder) if "loss" in line] for folder in (whole, again)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"the run was started with preset = "):
        train_chat(settings(start, source, preset="align" if how != "align" else "instruct"), arguments(again))


def test_four_conversations_are_learned_and_answered(start, source, clips, tmp_path):
    """Two clips have one question and different answers: without a look at them the loss stays above 0.04."""
    given = settings(start, source, validation=source, cache=str(tmp_path / "cache"), **HOW["full"])
    given.llm_learning_rate = 1e-2
    changes = {"per_device_train_batch_size": 4, "eval_strategy": "steps", "eval_steps": 80, "save_steps": 80}
    changes |= {"learning_rate": 3e-2, "lr_scheduler_type": "constant"}  # what differs between clips is learned last
    best = train_chat(given, arguments(tmp_path / "run", 80, **changes))
    assert best.name == "best"
    measured = [line for line in log(tmp_path / "run") if "eval_loss" in line]
    assert measured[-1]["eval_loss"] < 0.03 < 2 < log(tmp_path / "run")[0]["loss"]
    assert measured[-1]["eval_answer_accuracy"] == 1
    model, processor = SENForConditionalGeneration.from_pretrained(best), SENChatProcessor.from_pretrained(best)
    for clip, turns in zip(clips, TURNS, strict=True):
        question, answer = turns[0]
        content = [{"type": "video", "video": str(clip)}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(new) == answer + processor.tokenizer.eos_token


@pytest.mark.parametrize("how", HOWS[1:])
def test_the_best_has_its_own_language_model(how, start, source, tmp_path):
    """The worst loss is taken for the best, so that it is not the last."""
    changes = {"metric_for_best_model": "loss", "greater_is_better": True, "eval_strategy": "steps", "eval_steps": 2}
    given = settings(start, source, validation=source, llm_learning_rate=1e-2, **HOW[how])
    best = train_chat(given, arguments(tmp_path / "run", save_total_limit=4, **changes))
    for name, step in (("best", 2), ("last", 4)):
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        assert torch.equal(logits_of(tmp_path / "run" / name, source), logits_of(checkpoint, source))
    assert not torch.equal(logits_of(best, source), logits_of(tmp_path / "run" / "last", source))


def test_accumulated_batches_give_the_loss_of_one(start, source, tmp_path):
    """The mean is over tokens, of which conversations have different numbers."""
    runs = []
    for size, parts in ((4, 1), (1, 4)):
        run = tmp_path / f"run{size}"
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        train_chat(settings(start, source), arguments(run, 2, **changes))
        runs.append([line["loss"] for line in log(run) if "loss" in line])
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_a_new_model_is_made_of_a_language_model_and_a_sen(make_sen, llm, source, tmp_path):
    make_sen().save_pretrained(tmp_path / "sen")
    given = TrainSettings(task="chat", train=source, llm=llm, sen=str(tmp_path / "sen"))
    last = train_chat(given, arguments(tmp_path / "run", 1))
    model = SENForConditionalGeneration.from_pretrained(last)
    expected = AutoModelForCausalLM.from_pretrained(llm).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.language_model.state_dict().items())


def test_the_language_model_has_its_own_learning_rate(start, source, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(module, "run_and_save", lambda run, *_: runs.append(run))
    for rate in (None, 3e-4):
        given = settings(start, source, llm_learning_rate=rate, **HOW["full"])
        train_chat(given, arguments(tmp_path / f"run{rate}", weight_decay=0.1))
        groups = runs[-1].create_optimizer().param_groups
        own = {id(parameter) for parameter in runs[-1].model.language_model.parameters()}
        found = {
            (group["lr"], group["weight_decay"], id(parameter) in own)
            for group in groups
            for parameter in group["params"]
        }
        expected = rate or 2e-5
        assert found == {(1e-2, 0.1, False), (1e-2, 0, False), (expected, 0.1, True), (expected, 0, True)}
        assert sum(len(group["params"]) for group in groups) == len(
            [each for each in runs[-1].model.parameters() if each.requires_grad]
        )


def test_existing_adapters_are_trained_further(start, source, tmp_path):
    pytest.importorskip("peft")
    first = train_chat(settings(start, source, **HOW["lora"]), arguments(tmp_path / "first", 1))
    second = train_chat(settings(first, source, **HOW["lora"]), arguments(tmp_path / "second", 2))
    names = [path / "language_model_adapter" / "adapter_model.safetensors" for path in (first, second)]
    before, after = map(load_file, names)
    assert before.keys() == after.keys()
    assert not all(torch.equal(before[name], after[name]) for name in before)
    aligned = train_chat(settings(first, source), arguments(tmp_path / "aligned", 1))
    kept = load_file(aligned / "language_model_adapter" / "adapter_model.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)
    with pytest.raises(ValueError, match="llm_training is 'full', but the language model has adapters"):
        train_chat(settings(first, source, **HOW["full"]), arguments(tmp_path / "third", 1))


def test_without_peft_the_extra_is_named(start, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"adapters need the extra `chat`: pip install 'modeling-sen\[chat\]'"):
        train_chat(settings(start, source, **HOW["lora"]), arguments(tmp_path / "run", 1))
