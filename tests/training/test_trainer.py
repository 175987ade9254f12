"""The trainer: a resumed run is the same run, bit for bit; checkpoints appear whole; measures; Ctrl-C."""

import json
import os
import signal
import threading
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint

from modeling_sen.training import trainer as trainer_module
from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments

# What a garbage collection waits for each worker of a loader that ended in an error; 5 seconds by default.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    """Drawing takes longer than a run of these."""
    monkeypatch.setattr(trainer_module, "draw_curve", lambda log, picture: picture.touch())


class Regression(torch.nn.Module):
    """A small network with dropout, so that the random state matters, and one frozen weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.frozen = torch.nn.Linear(4, 8).requires_grad_(False)
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(0.2), torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 1)
        )

    def forward(self, x):
        error = self.head(self.frozen(x)) - x.sum(-1, keepdim=True)
        return {"loss": error.square().mean(), "absolute_error": error.detach().abs().mean()}


def batch_at(number):
    return {"x": torch.randn(16, 4, generator=torch.Generator().manual_seed(number))}


def collate(numbers, at=batch_at):
    """An item of the data set is the number of a batch."""
    return at(*numbers)


class Rows(torch.utils.data.Dataset):
    """40 samples, of which some may be the moment of Ctrl-C or of an error."""

    def __init__(self, when=lambda row: None):
        self.x, self.when = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)), when

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.when(row)
        return {"x": self.x[row]}


def interrupt(number, at):
    if number == at:
        os.kill(os.getpid(), signal.SIGINT)
    return batch_at(number)


def fail(number, at):
    if number == at:
        raise RuntimeError("power cut")
    return batch_at(number)


def arguments(folder, **changes):
    values = {
        "max_steps": 12,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
        "warmup_steps": 3,
        "logging_steps": 1,
        "save_steps": 5,
        "disable_tqdm": True,
    }
    return SENTrainingArguments(str(folder), **{**values, **changes})


def make(folder, at=batch_at, model=None, measure=None, callbacks=(), **changes):
    """A trainer whose data set is the numbers of batches."""
    return SENTrainer(
        model or Regression(),
        arguments(folder, **changes),
        train_dataset=range(18),
        data_collator=partial(collate, at=at),
        measure=measure,
        callbacks=list(callbacks),
    )


def log_of(trainer):
    """The log without what depends on the clock."""
    timed = ("runtime", "per_second", "preparation_time", "train_loss")
    return [
        {name: value for name, value in line.items() if not name.endswith(timed)}
        for line in trainer.state.log_history
        if "train_runtime" not in line
    ]


def checkpoint_of(folder):
    checkpoint = get_last_checkpoint(folder)
    return load_file(f"{checkpoint}/model.safetensors"), torch.load(f"{checkpoint}/optimizer.pt", weights_only=True)


def assert_same(first, second):
    (weights, optimizer), (others, other_optimizer) = checkpoint_of(first), checkpoint_of(second)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
    for index, moments in optimizer["state"].items():
        assert all(torch.equal(value, other_optimizer["state"][index][name]) for name, value in moments.items())


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, workers):
    """Batches by number, in order; Ctrl-C in the middle of a step, and an end without warning."""
    handler = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background
    whole = make(tmp_path / "whole", logging_steps=4)
    whole.train()
    with pytest.raises(KeyboardInterrupt, match="stopped after step 7; the same command resumes from"):
        make(tmp_path / "parts", partial(interrupt, at=7), logging_steps=4).resume()
    assert signal.getsignal(signal.SIGINT) is handler
    assert get_last_checkpoint(tmp_path / "parts").endswith("checkpoint-7")
    with pytest.raises(RuntimeError, match="power cut"):
        make(tmp_path / "parts", partial(fail, at=11), dataloader_num_workers=workers, logging_steps=4).resume()
    resumed = make(tmp_path / "parts", dataloader_num_workers=workers, logging_steps=4)
    resumed.resume()
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert log_of(resumed) == log_of(whole)


def test_the_order_of_samples_is_resumed_in_the_middle_of_a_later_epoch(tmp_path):
    def epochs(folder, when=lambda row: None):
        changes = {"per_device_train_batch_size": 8, "train_sampling_strategy": "random", "save_steps": 1}
        return SENTrainer(Regression(), arguments(folder, **changes), train_dataset=Rows(when))

    epochs(tmp_path / "whole").train()
    seen = []

    def stop(row):
        seen.append(row)
        if len(seen) == 8 * 9 + 3:  # of five batches an epoch, in the tenth: the loader is one batch ahead
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        epochs(tmp_path / "parts", stop).resume()
    assert sorted(seen[:40]) == list(range(40))
    assert seen[:40] != seen[40:]
    assert get_last_checkpoint(tmp_path / "parts").endswith("checkpoint-8")
    epochs(tmp_path / "parts").resume()
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path):
    first = make(tmp_path)
    assert first.resume().global_step == 12
    again = make(tmp_path, partial(fail, at=0))
    assert again.resume() is None
    assert again.state.global_step == 12
    for name, weight in first.model.named_parameters():
        assert torch.equal(weight, again.model.get_parameter(name))


def test_training_lowers_the_loss_and_leaves_frozen_weights_alone(tmp_path):
    def measure(model):
        return {"error": float(model(**batch_at(999))["loss"])}

    model = Regression()
    frozen = model.frozen.weight.clone()
    trainer = make(
        tmp_path,
        model=model,
        measure=measure,
        max_steps=60,
        learning_rate=2e-2,
        eval_strategy="steps",
        eval_steps=30,
        logging_steps=20,
    )
    before = trainer.evaluate()["eval_error"]
    trainer.train()
    assert torch.equal(frozen, model.frozen.weight)
    measured = [line["eval_error"] for line in trainer.state.log_history if "eval_error" in line]
    assert len(measured) == 2
    assert measured[1] < measured[0] < before
    assert measured[1] < 0.6 * before
    assert [line["step"] for line in trainer.state.log_history if "loss" in line] == [20, 40, 60]
    assert (tmp_path / "curve.png").exists()


def test_weight_decay_is_of_matrices_only(tmp_path):
    trainer = make(tmp_path)
    decayed, others = trainer.create_optimizer().param_groups
    assert decayed["weight_decay"] == 0.01
    assert others["weight_decay"] == 0
    assert {weight.ndim for weight in decayed["params"]} == {2}
    assert {weight.ndim for weight in others["params"]} == {1}
    assert all(weight.requires_grad for weight in (*decayed["params"], *others["params"]))


@pytest.mark.parametrize(("when", "step"), [({"logging_steps": 2}, 2), ({"logging_steps": 100}, 5)])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, when, step):
    trainer = make(tmp_path, lambda number: {"x": torch.full((16, 4), torch.nan)}, **when)
    with pytest.raises(ValueError, match=rf"{tmp_path}: the loss is nan at step {step}, expected a finite number"):
        trainer.train()
    assert get_last_checkpoint(tmp_path) is None


SCORES = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5, 15: 0.9, 18: 1.0}


def run_with_scores(folder, at=batch_at, **changes):
    """Measured every three steps, saved every four."""
    weights = {}

    def measure(model):
        weights[trainer.state.global_step] = model.head[1].weight.detach().clone()
        return {"score": SCORES[trainer.state.global_step]}

    trainer = make(
        folder,
        at,
        measure=measure,
        callbacks=[EarlyStoppingCallback(2)],
        max_steps=18,
        eval_strategy="steps",
        eval_steps=3,
        save_steps=4,
        metric_for_best_model="score",
        **changes,
    )
    trainer.resume()
    return trainer, weights


def test_training_stops_when_patience_runs_out_and_the_best_is_saved(tmp_path):
    trainer, weights = run_with_scores(tmp_path)
    assert max(weights) == 12  # best at 6, then two evaluations that were no better
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-6")
    assert torch.equal(load_file(tmp_path / "checkpoint-6" / "model.safetensors")["head.1.weight"], weights[6])
    assert torch.equal(checkpoint_of(tmp_path)[0]["head.1.weight"], weights[12])
    assert sorted(path.name for path in tmp_path.glob("*-*")) == ["checkpoint-12", "checkpoint-6"]
    saved = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == str(tmp_path / "checkpoint-6")
    assert run_with_scores(tmp_path)[1] == {}  # and stays stopped


def test_a_resumed_run_remembers_what_was_best_and_its_patience(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run_with_scores(tmp_path, partial(fail, at=11))
    trainer, weights = run_with_scores(tmp_path)
    assert set(weights) == {9, 12}
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-6")


def test_load_best_model_at_end_loads_it(tmp_path):
    trainer, weights = run_with_scores(tmp_path, save_strategy="best", load_best_model_at_end=True)
    assert torch.equal(trainer.model.head[1].weight, weights[6])


def test_a_checkpoint_that_was_cut_short_is_not_resumed_from_and_is_removed(tmp_path, monkeypatch):
    def killed(self, *args):
        raise RuntimeError("power cut")

    make(tmp_path / "whole").train()
    with monkeypatch.context() as patch:
        patch.setattr(SENTrainer, "_save_scaler", killed)  # weights and optimiser are written, the rest is not
        with pytest.raises(RuntimeError, match="power cut"):
            make(tmp_path / "parts").train()
    assert (tmp_path / "parts" / trainer_module.UNFINISHED / "checkpoint-5" / "optimizer.pt").exists()
    assert get_last_checkpoint(tmp_path / "parts") is None
    make(tmp_path / "parts").resume()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        "checkpoint-10",
        "checkpoint-12",
        "curve.png",
    ]
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_accumulated_gradients_are_those_of_the_batches_together(tmp_path):
    class WithoutDropout(Regression):
        def __init__(self):
            super().__init__()
            self.head[0].p = 0.0

    def half(number):
        step, part = divmod(number, 2)
        return {"x": batch_at(step)["x"][8 * part : 8 * part + 8]}

    whole, halves = WithoutDropout(), WithoutDropout()
    trained = make(tmp_path / "whole", model=whole, max_steps=6)
    trained.train()
    in_parts = make(tmp_path / "halves", half, model=halves, gradient_accumulation_steps=2, max_steps=6)
    in_parts.train()
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(halves.get_parameter(name), weight, atol=1e-6, rtol=1e-5)
    for first, second in zip(log_of(trained), log_of(in_parts), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_batch_keeps_its_message(tmp_path, workers):
    def broken(number):
        raise ValueError("clip.mp4: found no frames")

    with pytest.raises(ValueError, match=r"^clip\.mp4: found no frames$"):
        make(tmp_path, broken, dataloader_num_workers=workers).train()


def test_validation_has_all_samples_and_training_batches_of_one_size(tmp_path):
    trainer = SENTrainer(
        Regression(),
        arguments(tmp_path, per_device_train_batch_size=16, per_device_eval_batch_size=16),
        train_dataset=Rows(),
        eval_dataset=Rows(),
    )
    assert [len(batch["x"]) for batch in trainer.get_train_dataloader()] == [16, 16]
    assert [len(batch["x"]) for batch in trainer.get_eval_dataloader()] == [16, 16, 8]
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = 64
    with pytest.raises(ValueError, match="a batch has 64 clips, but there are only 40 to train on"):
        trainer.train()


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="Regression has no parameter that requires a gradient"):
        make(tmp_path, model=Regression().requires_grad_(False)).train()


def test_training_from_another_thread_works(tmp_path):
    thread = threading.Thread(target=make(tmp_path, max_steps=2).train)
    thread.start()
    thread.join()
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").exists()
