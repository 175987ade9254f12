"""The ablation runner: grids, runs on cached trunks, results that are kept, tables; on a few clips and untrained towers."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.association import ablation, association_clips, association_task, train_association_towers
from benchmarks.association.ablation import AblationRun, _seconds_of, ablate, read_grid, run_one
from benchmarks.association.association_towers import AssociationTowers, save_towers
from modeling_sen.training import trainer

FEW = {
    "train": ("train", 200, 4, None),
    "test_3": ("test", 3, 4, 3),
    "test_5": ("test", 5, 4, 5),
    "test_8": ("test", 8, 4, 8),
    "fresh_5": ("test", 15, 4, 5),
    "unseen_pairs": ("unseen_pairs", 0, 4, 5),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A study of few clips with towers as they begin."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(association_clips, "SHARD", 4)
        patch.setattr(association_task, "CLIP_SETS", FEW)
        patch.setattr(train_association_towers, "CLIP_SETS", FEW)
        train_association_towers.draw_clips(folder, workers=1)
        torch.manual_seed(0)
        towers = AssociationTowers(local=True).eval()
        for kind in ("local", "global"):
            save_towers(towers, folder / kind)
        yield folder


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    """Drawing takes longer than a run of these."""
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: None)


SHORT = {"steps": 2, "batch_size": 4, "clips": 4}


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "sen", "config": {"num_rounds": 2, "num_prompt_tokens": 2}, "supervised": "last"},
        {"model": "sen", "neurons": ("image", "audio"), "distractor": "legend"},
        {"model": "frozen_mean"},
        {"model": "late_fusion", "options": {"source": "trunk", "num_resampled": 2}},
        pytest.param({"model": "hop_alone", "options": {"source": "round0", "hop": 3}}, marks=pytest.mark.slow),
        {"model": "hop_prompted", "neurons": ("video",), "options": {"hop": 2}, "config": {"num_rounds": 1}},
    ],
    ids=lambda settings: settings["model"],
)
def test_every_model_is_trained_and_measured(root, tmp_path, settings):
    result = run_one(root, AblationRun(towers="local", **SHORT, **settings), tmp_path)
    assert set(result["accuracy"]) == {"test_3", "test_5", "test_8", "fresh_5", "unseen_pairs"}
    for shares in result["accuracy"].values():
        assert all(0 <= share <= 1 for share in shares.values())
        assert all(shares[f"hops_{hops}"] >= shares[f"hops_{hops}_raw"] for hops in range(4))
    assert (result["parameters"] == 0) == (settings["model"] == "frozen_mean")
    expected = (
        []
        if settings["model"].startswith("hop_")
        else [*settings.get("neurons", ("image", "video", "audio", "legend"))]
    )
    assert list(result["missing"]) == expected + (["distractor"] if "distractor" in settings else [])
    assert [path.name for path in tmp_path.iterdir()] == [
        f"{AblationRun(towers='local', **SHORT, **settings).digest}.json"
    ]


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit(root, tmp_path):
    run = AblationRun(**SHORT, neurons=("image", "audio"), config={"num_rounds": 1})
    first, second = (
        run_one(root, run, tmp_path / name)["accuracy"] for name in ("a", "b") if not (tmp_path / name).mkdir()
    )
    assert first == second


def test_done_runs_are_kept_and_the_estimate_is_said(root, tmp_path, capsys):
    runs = [AblationRun(model="frozen_mean", towers="local", seed=seed, **SHORT) for seed in (0, 1)]
    ablate(root, runs[:1], tmp_path, workers=1)
    assert "| local |  | 1 |" in (tmp_path / "table.md").read_text()  # as far as it is
    path = tmp_path / "runs" / f"{runs[0].digest}.json"
    assert json.loads(path.read_text())["model"] == "frozen_mean"
    stamp = path.stat().st_mtime_ns
    results = ablate(root, runs, tmp_path, workers=1)
    assert [result["seed"] for result in results] == [0, 1]
    assert path.stat().st_mtime_ns == stamp
    assert "1 of 2 runs to do: about" in capsys.readouterr().out


def test_the_estimate_is_said_before_anything_is_made(root, tmp_path, capsys, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "draw_clips", stop)
    sen = AblationRun(towers="local", steps=1000, config={"prompt": "tokens"})
    fusion = AblationRun(model="late_fusion", towers="local", steps=1000)
    with pytest.raises(KeyboardInterrupt):
        ablate(root, [sen, fusion], tmp_path, workers=1)
    assert capsys.readouterr().out == "2 of 2 runs to do: about 16 minutes\n"  # 64,000 clips at 6 and at 9 ms
    with pytest.raises(KeyboardInterrupt):
        ablate(tmp_path / "nowhere", [sen, fusion], tmp_path, workers=2)
    assert "about 8 minutes, after clips and towers (local), about an hour" in capsys.readouterr().out
    (tmp_path / "runs" / f"{sen.digest}.json").write_text(json.dumps({"train_seconds": 2 * 64 * 6.0}))
    with pytest.raises(KeyboardInterrupt):
        ablate(root, [sen, fusion], tmp_path, workers=1)
    assert capsys.readouterr().out == "1 of 2 runs to do: about 19 minutes\n"  # twice as slow


def test_an_interrupted_runs_seconds_are_those_of_all_its_steps(tmp_path):
    last = {"train_runtime": 10.0, "train_steps_per_second": 2.0}  # of 20 steps after an interruption
    (tmp_path / "state.json").write_text(json.dumps({"global_step": 50, "log_history": [{"loss": 1.0}, last]}))
    assert _seconds_of(tmp_path / "state.json") == 25


def test_the_distractor_sees_another_clip(root):
    task = association_task.AssociationTask(root, "local", ("image", "audio"), distractor="audio")
    task.open("test_3")
    trunks = task.trunks("test_3", [0, 1, 3])
    audio = task.trunks("test_3", [1, 2, 0])["audio"].state.pooler_output
    assert torch.equal(trunks["distractor"].state.pooler_output, audio)


def test_accuracy_of_the_truth_is_one_and_of_nothing_chance(root):
    task = association_task.AssociationTask(root, "local")
    task.open("test_5")
    words = task.words.view(4, 8, -1)

    def truth(trunks, place=[0]):  # noqa: B006 (counts the clips)
        rows = next(iter(trunks.values())).batch_size
        targets = task.targets["test_5"][place[0] : place[0] + rows]
        place[0] += rows
        return sum(words[part, targets[:, part]] for part in range(4))

    task.words = torch.nn.functional.one_hot(torch.arange(32)).float()
    words = task.words.view(4, 8, -1)
    assert set(task.accuracy(truth, "test_5", batch_size=3).values()) == {1.0}


def test_the_answer_prior_is_chance_where_all_pairs_are_alike(root):
    task = association_task.AssociationTask(root, "local")
    for name in ("train", "test_5"):
        task.open(name)
    task.targets["train"] = torch.cartesian_prod(*[torch.arange(8)] * 4)
    assert task.answer_prior("test_5") == pytest.approx({"hops_1": 0.2, "hops_2": 0.2, "hops_3": 0.2})


GRID = """
defaults: {steps: 10, towers: local}
runs:
  - row: "SEN K={num_rounds}"
    config: {num_prompt_tokens: 2}
    grid: {config.num_rounds: [1, 2], seed: [0, 1]}
  - {model: late_fusion, row: "all {source} tokens", options: {source: trunk}}
"""


def test_a_grid_is_the_product_of_its_lists(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    runs = read_grid(tmp_path / "grid.yaml")
    assert [(run.row, run.seed, run.config.get("num_rounds")) for run in runs] == [
        ("SEN K=1", 0, 1),
        ("SEN K=1", 1, 1),
        ("SEN K=2", 0, 2),
        ("SEN K=2", 1, 2),
        ("all trunk tokens", 0, None),
    ]
    assert all(run.steps == 10 and run.towers == "local" for run in runs)
    assert runs[0].config["num_prompt_tokens"] == 2


@pytest.mark.parametrize("content", ["runs: 3", "runs: [3]", "- model: sen", "a: [", ""])
def test_what_is_no_grid_is_named(tmp_path, content):
    (tmp_path / "grid.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"grid\.yaml: (no YAML|expected a mapping with `runs`)"):
        read_grid(tmp_path / "grid.yaml")


def test_the_study_of_association_is_a_grid():
    runs = read_grid(Path(__file__).parents[2] / "benchmarks" / "association" / "grid.yaml")
    assert len({run.digest for run in runs}) == len(runs) > 200
    assert {run.towers for run in runs} == {"global", "local"}


def test_the_study_of_a_second_look_compares_its_variants_with_an_inner_layer():
    runs = read_grid(Path(__file__).parents[2] / "benchmarks" / "association" / "second_look.yaml")
    chains = [run for run in runs if run.model == "sen"]
    assert {(run.config["prompt"], run.config.get("prompt_depth"), len(run.output_layers)) for run in chains} == {
        *(("none", None, 0), ("none", None, 2)),
        *((prompt, depth, 0) for prompt in ("queries", "tokens") for depth in (None, "all")),
    }
    assert all(run.towers == "background" for run in chains)
    assert len(chains) == 18  # three seeds of each


def test_a_neuron_that_reads_an_inner_layer_is_not_aligned(root):
    task = association_task.AssociationTask(root, "local", output_layers={"image": 3})
    specs = {spec.name: spec for spec in task.config.neuron_specs}
    assert (specs["image"].output_layer, specs["image"].aligned) == (3, False)
    assert (specs["video"].output_layer, specs["video"].aligned) == (None, True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{rounds: 3}", r"grid.yaml: runs\[0\] has unknown fields \['rounds'\]"),
        ("{model: mean}", r"grid.yaml: runs\[0\]: model is 'mean', expected one of sen, frozen_mean"),
        ("{towers: big}", r"runs\[0\]: towers is 'big', expected one of global, local, background"),
        ("{neurons: [image, smell]}", r"neurons: unknown \['smell'\]"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, message):
    (tmp_path / "grid.yaml").write_text(f"runs:\n  - {entry}\n")
    with pytest.raises(ValueError, match=message):
        read_grid(tmp_path / "grid.yaml")
