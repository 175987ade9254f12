"""The trainer: a resumed run is the same run, bit for bit, and a run keeps its settings and its log."""

import json
import os
import signal
import threading
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from modeling_sen.training.trainer import TrainingSettings, train


class Regression(torch.nn.Module):
    """A small network with dropout, so that the random state matters, and one frozen weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.frozen = torch.nn.Linear(4, 8).requires_grad_(False)
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(0.2), torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 1)
        )

    def forward(self, batch):
        error = self.head(self.frozen(batch["x"])) - batch["x"].sum(-1, keepdim=True)
        return {"loss": error.square().mean(), "absolute_error": error.detach().abs().mean()}


def batch_at(step):
    return {"x": torch.randn(16, 4, generator=torch.Generator().manual_seed(step))}


def interrupting_batch_at(step, at):
    if step == at:
        os.kill(os.getpid(), signal.SIGINT)
    return batch_at(step)


def settings(folder, **changes):
    values = {"steps": 12, "batch_size": 16, "warmup_steps": 3, "log_every": 2, "checkpoint_every": 5, **changes}
    return TrainingSettings(output=str(folder), **values)


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("clips_per_second", None)
    return lines


def final_state(folder):
    (checkpoint,) = folder.glob("checkpoint-*")
    return load_file(checkpoint / "model.safetensors"), torch.load(checkpoint / "state.pt", weights_only=True)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_interrupted_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, num_workers):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(Regression(), batch_at, settings(whole))

    with pytest.raises(KeyboardInterrupt, match="resumes from"):
        train(Regression(), partial(interrupting_batch_at, at=6), settings(parts))
    assert [folder.name for folder in parts.glob("checkpoint-*")] == ["checkpoint-7"]
    resumed = Regression()
    train(resumed, batch_at, settings(parts, num_workers=num_workers))

    weights, state = final_state(whole)
    resumed_weights, resumed_state = final_state(parts)
    assert (
        weights.keys()
        == resumed_weights.keys()
        == dict(resumed.named_parameters()).keys() - {"frozen.weight", "frozen.bias"}
    )
    for name, weight in weights.items():
        assert torch.equal(weight, resumed_weights[name]), name
        assert torch.equal(weight, resumed.get_parameter(name)), name
    for index, moments in state["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, resumed_state["optimizer"]["state"][index][name])
    assert log_of(whole) == log_of(parts)


def test_a_run_that_died_without_warning_resumes_from_its_last_checkpoint(tmp_path):
    def dying_batch_at(step):
        if step == 8:
            raise RuntimeError("power cut")
        return batch_at(step)

    train(Regression(), batch_at, settings(tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="power cut"):
        train(Regression(), dying_batch_at, settings(tmp_path / "parts"))
    (tmp_path / "parts" / "checkpoint.tmp").mkdir()  # a checkpoint whose writing was cut short
    train(Regression(), batch_at, settings(tmp_path / "parts"))
    for name, weight in final_state(tmp_path / "whole")[0].items():
        assert torch.equal(weight, final_state(tmp_path / "parts")[0][name])
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_training_lowers_the_loss_leaves_frozen_weights_alone_and_logs(tmp_path):
    model = Regression()
    frozen = model.frozen.weight.clone()
    before = model.eval()(batch_at(999))["loss"]
    train(
        model,
        batch_at,
        settings(tmp_path, steps=60, learning_rate=1e-2, evaluate_every=30),
        evaluate=lambda model, step: {"held_out": float(model(batch_at(999))["loss"])},
    )
    assert model.eval()(batch_at(999))["loss"] < 0.6 * before
    assert torch.equal(frozen, model.frozen.weight)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    trained = [line for line in log if "loss" in line]
    assert [line["step"] for line in trained] == list(range(2, 61, 2))
    assert trained[0].keys() == {"step", "loss", "absolute_error", "learning_rate", "clips_per_second"}
    held_out = [line["validation"]["held_out"] for line in log if "validation" in line]
    assert len(held_out) == 2
    assert held_out[1] < held_out[0] < float(before)
    assert json.loads((tmp_path / "settings.json").read_text())["steps"] == 60


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path):
    train(Regression(), batch_at, settings(tmp_path))

    def no_batch(step):
        raise AssertionError("a finished run asked for a batch")

    again = Regression()
    train(again, no_batch, settings(tmp_path))
    for name, weight in final_state(tmp_path)[0].items():
        assert torch.equal(weight, again.get_parameter(name))


def test_resuming_with_other_settings_or_another_model_raises(tmp_path):
    train(Regression(), batch_at, settings(tmp_path))
    with pytest.raises(ValueError, match=r"settings.json.*learning_rate = 0.001.*0.002"):
        train(Regression(), batch_at, settings(tmp_path, learning_rate=2e-3))
    other = Regression()
    other.head[1] = torch.nn.Linear(8, 9)
    with pytest.raises(ValueError, match=r"checkpoint-12.*head.1.bias"):
        train(other, batch_at, settings(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"the loss is nan at step 2"):
        train(Regression(), lambda step: {"x": torch.full((16, 4), torch.nan)}, settings(tmp_path))


def test_learning_rate_warms_up_linearly_and_falls_as_a_cosine(tmp_path):
    schedule = settings(tmp_path, steps=13, learning_rate=1.0)
    assert [schedule.learning_rate_at(step) for step in range(3)] == [1 / 3, 2 / 3, 1.0]
    assert schedule.learning_rate_at(3) == 1.0
    assert schedule.learning_rate_at(8) == pytest.approx(0.5)
    assert schedule.learning_rate_at(13) == 0.0


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="batch_size is 0"):
        settings(tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="dtype is 'half'"):
        settings(tmp_path, dtype="half")
    with pytest.raises(ValueError, match="patience needs a metric"):
        settings(tmp_path, patience=3)


def test_accumulated_gradients_are_those_of_the_batches_together(tmp_path):
    class WithoutDropout(Regression):
        def __init__(self):
            super().__init__()
            self.head[0].p = 0.0

    def half(number):
        step, part = divmod(number, 2)
        return {"x": batch_at(step)["x"][8 * part : 8 * part + 8]}

    whole, halves = WithoutDropout(), WithoutDropout()
    train(whole, batch_at, settings(tmp_path / "whole"))
    train(halves, half, settings(tmp_path / "halves", gradient_accumulation=2))
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(halves.get_parameter(name), weight, atol=1e-6, rtol=1e-5)
    for first, second in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "halves"), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)


class Saved:
    """Stands for a model's own saving: keeps the steps at which each folder was written."""

    def __init__(self, model):
        self.model, self.weights, self.folders = model, {}, []

    def __call__(self, folder):
        self.folders.append(folder.name)
        self.weights[folder.name] = self.model.head[1].weight.detach().clone()


SCORES = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5, 15: 0.9, 18: 1.0}


def run_with_scores(folder, at=batch_at):
    model = Regression()
    saved = Saved(model)
    weights = {}

    def evaluate(model, step):
        weights[step] = model.head[1].weight.detach().clone()
        return {"score": SCORES[step]}

    changes = {"steps": 18, "evaluate_every": 3, "checkpoint_every": 4, "metric": "score", "patience": 2}
    train(model, at, settings(folder, **changes), evaluate, saved)
    return saved, weights


def test_training_stops_when_patience_runs_out_and_the_best_is_saved(tmp_path):
    saved, weights = run_with_scores(tmp_path)
    assert max(weights) == 12  # best at 6, then two evaluations that were no better
    assert saved.folders == ["best", "last", "best", "last", "last"]
    assert torch.equal(saved.weights["best"], weights[6])
    assert torch.equal(saved.weights["last"], weights[12])
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]
    assert run_with_scores(tmp_path)[1] == {}  # and stays stopped


def test_a_resumed_run_remembers_what_was_best(tmp_path):
    def dying_batch_at(step):
        if step == 10:
            raise RuntimeError("power cut")
        return batch_at(step)

    with pytest.raises(RuntimeError, match="power cut"):
        run_with_scores(tmp_path, dying_batch_at)
    saved, weights = run_with_scores(tmp_path)
    assert set(weights) == {9, 12}
    assert saved.folders == ["last"]


def test_a_metric_that_the_validation_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match="no 'top1', only score"):
        train(
            Regression(),
            batch_at,
            settings(tmp_path, metric="top1", evaluate_every=1),
            lambda model, step: {"score": 1},
        )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_a_batch_is_raised_as_it_is(tmp_path, num_workers):
    def broken(step):
        raise ValueError("clip.mp4: found no frames")

    with pytest.raises(ValueError, match=r"^clip\.mp4: found no frames$"):
        train(Regression(), broken, settings(tmp_path, num_workers=num_workers))


def test_a_log_line_that_was_cut_short_is_dropped_on_resuming(tmp_path):
    train(Regression(), batch_at, settings(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(Regression(), partial(interrupting_batch_at, at=6), settings(tmp_path / "parts"))
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "lo')
    train(Regression(), batch_at, settings(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_a_run_from_before_a_setting_existed_resumes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Regression(), partial(interrupting_batch_at, at=6), settings(tmp_path))
    path = tmp_path / "settings.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({name: found[name] for name in found if name != "gradient_accumulation"}))
    train(Regression(), batch_at, settings(tmp_path))
    path.write_text(path.read_text().replace('"gradient_accumulation": 1', '"gradient_accumulation": 2'))
    with pytest.raises(ValueError, match="gradient_accumulation = 2"):
        train(Regression(), batch_at, settings(tmp_path))


def test_numbers_reach_a_tracker_of_accelerate(tmp_path):
    from accelerate.tracking import GeneralTracker, on_main_process

    class Notebook(GeneralTracker):
        name, requires_logging_directory = "notebook", False

        def __init__(self):
            super().__init__()
            self.lines, self.config = [], None

        @property
        def tracker(self):
            return self.lines

        @on_main_process
        def store_init_configuration(self, values):
            self.config = values

        @on_main_process
        def log(self, values, step=None, **kwargs):
            self.lines.append((step, values))

    notebook = Notebook()
    train(Regression(), batch_at, settings(tmp_path), lambda model, step: {"score": 0.5}, trackers=[notebook])
    assert notebook.config["learning_rate"] == 1e-3
    trained = [(step, values["loss"]) for step, values in notebook.lines if "loss" in values]
    assert trained == [(line["step"], line["loss"]) for line in log_of(tmp_path) if "loss" in line]
    assert (12, {"validation/score": 0.5}) in notebook.lines


@pytest.mark.filterwarnings("ignore:.log_with=:UserWarning")
def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"trackers: of \['comet_ml'\] only \[\] are installed"):
        train(Regression(), batch_at, settings(tmp_path), trackers=["comet_ml"])


def test_training_from_another_thread_works(tmp_path):
    thread = threading.Thread(target=train, args=(Regression(), batch_at, settings(tmp_path)))
    thread.start()
    thread.join()
    assert (tmp_path / "checkpoint-12" / "state.pt").exists()
