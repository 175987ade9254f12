"""`sen eval --task tracking`: a model that tracks points on presets, folders and pickles; one that does not is refused."""

import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_pretrained_sen import load_toy_head
from transformers import AutoConfig, AutoModel

from modeling_sen import SEN_TINY, SENModel
from modeling_sen.commands.evaluate import main
from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.evaluation.tracking_data import draw_tracked_clip, read_tapvid
from modeling_sen.evaluation.tracking_metrics import mean_over_clips
from modeling_sen.world.tracking_write import write_tracking_world


@pytest.fixture(scope="module")
def tracked():
    """First frame of each clip that was tracked."""
    return []


@pytest.fixture(scope="module")
def tracker_folder(sen_folder, tracked, tmp_path_factory):
    """A saved model whose points move by a quarter of a pixel a frame, and which is sure of them."""
    toy = load_toy_head()

    class TrackerConfig(toy.ToyConfig):
        model_type = "sen_toy_tracker"

    class Tracker(toy.ToyHead):
        config: TrackerConfig
        config_class = TrackerConfig

        def track(self, frames, query_points, progress=None):
            tracked.append(frames[0].copy())
            since = np.arange(len(frames))[:, None] - query_points[:, 0]
            tracks = query_points[:, 1:] + since[..., None] / 4
            seen = np.ones(since.shape, dtype=bool)
            return SimpleNamespace(tracks=tracks, visibility=seen, confidence=seen * 0.95)

    AutoConfig.register("sen_toy_tracker", TrackerConfig, exist_ok=True)
    AutoModel.register(TrackerConfig, Tracker, exist_ok=True)
    folder = tmp_path_factory.mktemp("checkpoints") / "tracker"
    sen = SENModel.from_pretrained(sen_folder)
    model = Tracker(TrackerConfig(sen_config=sen.config.to_dict()))
    model.sen = sen
    model.save_pretrained(folder, include_neurons=True)
    return folder


def results_of(output):
    return json.loads((output / "results.json").read_text(), parse_constant=pytest.fail)


def test_results_of_presets_state_all_settings(tracker_folder, tracked, tmp_path, capsys):
    options = {"task": "tracking", "num": 2, "seed": 40, "output": tmp_path}
    main(str(tracker_folder), ["base", "fast"], **options)
    table = capsys.readouterr().out.splitlines()
    results = results_of(tmp_path)
    model = AutoModel.from_pretrained(tracker_folder)
    assert results["model"]["sha1"] == model_sha1(model)
    assert results["model"]["name"] == str(tracker_folder)
    assert [results[name] for name in ("task", "query_mode", "num", "seed")] == ["tracking", "first", 2, 40]
    assert results["versions"].keys() >= {"torch", "modeling-sen"}
    expected = []
    for seed in (40, 41):
        clip = draw_tracked_clip("base", seed, "first")
        found = model.track(clip.read_frames(), clip.queries)
        expected.append(clip.metrics(found.tracks, found.visibility))
    base, fast = results["splits"]
    assert (base["source"], fast["source"], base["clips"]) == ("base", "fast", 2)
    for name, number in mean_over_clips(expected).items():
        assert base[name] == pytest.approx(number), name
    assert base["calibration_error"] == pytest.approx(0.95 - base_share(results, tmp_path))
    assert results["mean"]["average_jaccard"] == pytest.approx((base["average_jaccard"] + fast["average_jaccard"]) / 2)

    assert table[0].split("  ")[0].startswith("test set")
    for head in ("AJ", "delta", "<1 px", "<16 px", "OA", "TC", "AJ re-appeared", "calibration error", "seconds"):
        assert head in table[0]
    rows = [line.split() for line in table[1:4]]
    assert [row[:2] for row in rows] == [["base", "2"], ["fast", "2"], ["mean", "4"]]
    assert rows[0][2] == f"{100 * base['average_jaccard']:.1f}"
    assert table[-1] == str(tmp_path / "results.json")

    tracked.clear()
    main(str(tracker_folder), ["base"], as_json=True, **{**options, "num": 3})
    assert len(tracked) == 1, "two clips were there"
    assert json.loads(capsys.readouterr().out) == results_of(tmp_path)
    main(str(tracker_folder), ["base"], query_mode="strided", as_json=True, **{**options, "num": 1})
    assert len(tracked) == 2
    assert results_of(tmp_path)["query_mode"] == "strided"


def base_share(results, output):
    """Share of the frames of `base` in which the point is visible and near, of the bins kept."""
    (file,) = (output / "clips").iterdir()
    assert file.name == f"first-{results['model']['sha1'][:16]}.json"
    clips = json.loads(file.read_text())["clips"]
    bins = sum(np.array(row["calibration"]) for key, row in clips.items() if key.startswith("base"))
    return bins[9, 2] / bins[9, 0]


def test_folders_and_pickles_are_read(tracker_folder, tracked, tmp_path):
    write_tracking_world(tmp_path / "world", "base", 1, seed=5)
    draw = np.random.default_rng(0)
    clip = {
        "video": draw.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8),
        "points": draw.random((4, 3, 2)).astype(np.float32),
        "occluded": np.zeros((4, 3), dtype=bool),
    }
    (tmp_path / "tapvid.pkl").write_bytes(pickle.dumps({"one": clip}, 4))
    tracked.clear()
    main(
        str(tracker_folder),
        [str(tmp_path / "world"), str(tmp_path / "tapvid.pkl")],
        task="tracking",
        output=tmp_path,
        as_json=True,
    )
    assert [frame.shape for frame in tracked] == [(256, 256, 3), (20, 30, 3)]
    (truth,) = read_tapvid(tmp_path / "tapvid.pkl", "first")
    tracks = truth.queries[:, 1:] + np.arange(3)[:, None, None] / 4
    expected = truth.metrics(tracks, np.ones((3, 4), dtype=bool))
    found = results_of(tmp_path)["splits"][1]
    assert found["average_pts_within_thresh"] == pytest.approx(expected["average_pts_within_thresh"])
    assert found["average_jaccard_reappeared"] is None
    assert results_of(tmp_path)["data"][1] == {"source": str(tmp_path / "tapvid.pkl"), "clips": 1, "queries": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SEN_TINY, "base"], "sen_tiny: expected a model that tracks points, found one of type 'sen'"),
        ([SEN_TINY], "expected DATA: presets or output folders of `sen world`, or TAP-Vid pickles"),
        ([SEN_TINY, "nowhere"], "nowhere: expected a folder of `sen world`, a TAP-Vid pickle, or one of base,"),
        ([SEN_TINY, "base", "--query-mode", "last"], "query_mode is 'last', expected one of first, strided"),
        ([SEN_TINY, "base", "--plot"], "--task tracking does not support --protocol"),
        ([SEN_TINY, "base", "--protocol", "pe"], "--task tracking does not support --protocol"),
    ],
)
def test_user_errors_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    import sen_cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sen", "eval", *arguments, "--task", "tracking"])
    with pytest.raises(SystemExit) as exit:
        sen_cli.main()
    assert exit.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sen eval: ")]
    assert len(errors) == 1
    assert message in errors[0]
