"""The fusion study in miniature: what rows read, paired training, resuming, results and tables."""

import json

import pytest
import torch

pytest.importorskip("accelerate")

from benchmarks import chat_fusion as study
from benchmarks.chat_fusion import Group, PairedTrainer, Study, train_group
from benchmarks.chat_fusion_report import mean_share, report, share
from benchmarks.chat_fusion_rows import (
    FUSED,
    ROWS,
    SINGLE,
    PairedRows,
    StudyBatches,
    answers_of,
    names_of,
    parameter_counts,
    reference_config,
)
from modeling_sen.training import trainer
from recipes.sen_tiny.chat_texts import TRAINED_KINDS

TINY = Study(steps=2, batch_size=2, num_questions=2, clips=2)


@pytest.fixture(scope="module")
def paired():
    return PairedRows(tuple(ROWS), 0).eval()


@pytest.fixture(scope="module")
def batch(paired):
    return StudyBatches(reference_config(paired), 5, 2, num_windows=1)(0)


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: None)


def visual_tokens(paired, name, batch):
    inputs = paired.inputs_of(name, batch, paired.first_looks(batch))
    with torch.no_grad():
        model = paired.model_of(name)
        return model.get_video_features(inputs["trunks"], inputs["neuron_mask"]).pooler_output


def test_all_rows_have_the_same_language_model_and_as_many_visual_tokens(paired, batch):
    first = paired.rows["image"].language_model.state_dict()
    for name, row in paired.rows.items():
        assert visual_tokens(paired, name, batch).shape == (2, 36, 192), name
        for key, weight in row.language_model.state_dict().items():
            assert torch.equal(weight, first[key]), (name, key)
    placeholders = batch["input_ids"] == reference_config(paired).video_token_id
    assert placeholders.sum(1).tolist() == [36, 36]


@pytest.mark.parametrize(("name", "reads"), [("image", False), ("video", True), ("mean", True), ("sen_1", True)])
def test_a_row_reads_its_neurons_only(paired, batch, name, reads):
    other = batch | {"video_pixel_values": batch["video_pixel_values"].flip(0)}
    same = torch.equal(visual_tokens(paired, name, batch), visual_tokens(paired, name, other))
    assert same is not reads


def test_a_row_without_association_reads_quarters_in_the_place_of_answers(paired, batch):
    given = []
    model = paired.model_of("mean")
    handle = model.projector.answers.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    visual_tokens(paired, "mean", batch)
    handle.remove()
    looks = paired.first_looks(batch)
    image, sound = looks["image"].state, looks["audio"].state
    tokens = image.last_hidden_state.unflatten(1, image.grid)[:, 0]  # (batch, rows, columns, width)
    rows, columns = (size // 2 for size in tokens.shape[1:3])
    torch.testing.assert_close(given[0]["image"][0][:, 1], tokens[:, :rows, columns:].mean((1, 2)))
    torch.testing.assert_close(given[0]["image"][0][:, 2], tokens[:, rows:, :columns].mean((1, 2)))
    moments = sound.last_hidden_state.unflatten(1, sound.grid)[:, 0].mean(1)  # (batch, time, width)
    first = -(-moments.shape[1] // 4)
    torch.testing.assert_close(given[0]["audio"][0][:, 0], moments[:, :first].mean(1))


def test_only_what_the_loss_reaches_is_counted(paired, batch):
    counts = parameter_counts(paired, batch)
    language = sum(each.numel() for each in paired.rows["mean"].language_model.parameters())
    projector = sum(each.numel() for each in paired.model_of("mean").projector.parameters())
    assert counts["mean"] == (projector, language)
    assert counts["image"][0] < counts["mean"][0] < counts["sen_1"][0] < counts["sen_3"][0]
    assert counts["sen_3"] == counts["sen_3_trained"]
    assert all(parameter.grad is None for parameter in paired.parameters())


def test_one_row_starts_from_association_that_was_trained(paired):
    trained, untrained = (paired.model_of(name).sen.gate for name in ("sen_3_trained", "sen_3"))
    assert untrained == 0
    assert trained != 0


def test_questions_carry_the_modalities_they_need(batch):
    assert [names_of(each) for each in (1, 2, 5, 10)] == ["image", "video", "image+audio", "video+depth"]
    assert bool(batch["neuron_mask"].all())
    asked = batch["kinds"] >= 0
    assert torch.equal(batch["needed"] > 0, asked)
    descriptions = batch["kinds"] == TRAINED_KINDS.index("description")
    assert {names_of(each) for each in batch["needed"][descriptions].tolist()} == {"image+video"}
    counts = batch["kinds"] == TRAINED_KINDS.index("count")
    assert {names_of(each) for each in batch["needed"][counts].tolist()} <= {"image"}


def test_a_row_is_trained_with_others_as_it_is_alone(tmp_path):
    together, _ = train_group(TINY, Group(3, ("image", "sen_2")), tmp_path / "together")
    single, log = train_group(TINY, Group(3, ("sen_2",)), tmp_path / "single")
    before = PairedRows(("sen_2",), 3).rows["sen_2"].state_dict()
    theirs = together.rows["sen_2"].state_dict()
    for name, weight in single.rows["sen_2"].state_dict().items():
        torch.testing.assert_close(theirs[name], weight, rtol=0, atol=1e-6, msg=name)
    assert any(not torch.equal(before[name], weight) for name, weight in theirs.items())
    assert "train_loss" in log[-1]


def test_an_interrupted_group_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    longer = Study(steps=4, batch_size=2, num_questions=2)
    group = Group(0, ("sen_1",))
    whole, _ = train_group(longer, group, tmp_path / "whole")
    step = PairedTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise RuntimeError("the machine stops")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PairedTrainer, "training_step", interrupted)
    with pytest.raises(RuntimeError, match="the machine stops"):
        train_group(longer, group, tmp_path / "parts")
    monkeypatch.setattr(PairedTrainer, "training_step", step)
    assert (tmp_path / "parts" / "checkpoint-2").is_dir()
    parts, _ = train_group(longer, group, tmp_path / "parts")
    for name, weight in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], weight), name


def test_answers_are_counted_once_a_question(paired):
    answers = answers_of(paired, "test", 1, 2, num_questions=4)
    assert set(answers) == set(ROWS)
    batch = StudyBatches(reference_config(paired), 1, 2, 0, 4, "test", num_windows=1)(0)
    for each in answers.values():
        asked = sum(count[1] for kinds in each.values() for count in kinds.values())
        assert asked == int((batch["kinds"] >= 0).sum())
        assert all(0 <= right <= number for kinds in each.values() for right, number in kinds.values())


def test_the_study_is_kept_and_written_as_lines_and_tables(tmp_path, monkeypatch):
    for name, rows in (("SINGLE", SINGLE), ("FUSED", FUSED), ("ROWS", ROWS)):
        monkeypatch.setattr(
            study, name, {each: row for each, row in rows.items() if each in ("image", "mean", "sen_3")}
        )
    monkeypatch.setattr(study, "FURTHER_SEEDS", (1,))
    tables = study.run_study(TINY, tmp_path, workers=1)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(each["row"], each["seed"]) for each in results] == [
        (name, seed) for seed in (0, 1) for name in ("image", "mean", "sen_3")
    ]
    assert set(results[0]["answers"]) == {"validation", "test", "unseen_pairs"}
    assert not any((tmp_path / "training").iterdir())
    assert tables == (tmp_path / "table.md").read_text()
    assert tables.count("| SEN, K = 3 | 2 |") == 2

    monkeypatch.setattr(study, "train_group", None)  # not called again
    assert study.run_study(TINY, tmp_path, workers=1) == tables
    with pytest.raises(ValueError, match="settings of this call"):
        study.run_study(Study(steps=3), tmp_path, workers=1)


def test_groups_cost_about_the_same():
    first, second = study.balanced_groups(0, tuple(ROWS), 2)
    assert sorted((*first.rows, *second.rows)) == sorted(ROWS)
    assert abs(first.step_seconds - second.step_seconds) < 0.2


def test_shares_and_tables_of_known_answers():
    answers = {
        "colour": {"image": [3, 4], "image+video": [1, 4]},
        "count": {"image": [1, 2]},
        "description": {"image+video": [0, 9]},
    }
    assert share(answers) == 5 / 10
    assert share(answers, fits=lambda needed: "+" in needed) == 1 / 4
    assert mean_share(answers) == (4 / 8 + 1 / 2) / 2
    common = {"parameters": 10, "language_model_parameters": 2000}
    results = [
        {"row": name, "seed": seed, "answers": {"test": each, "unseen_pairs": each}, **common}
        for name, each in (("mean", answers), ("sen_3", answers | {"count": {"image": [2, 2]}}))
        for seed in (0, 1)
    ]
    tables = report(results)
    assert "6 questions that need one modality, 4 that need more" in tables
    assert "| mean of all neurons | 2 | 10 | 50.0 ± 0.0 | 66.7 ± 0.0 | 25.0 ± 0.0 | 50.0 ± 0.0 |" in tables
    found = "mean of kinds 25.0 ± 0.0, one modality 16.7 ± 0.0, two or more 0.0 ± 0.0"
    assert f"SEN, K = 3, minus mean of all neurons, over 2 seeds: {found}" in tables
