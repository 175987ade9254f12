"""Entries of a model card made from the JSON of `sen eval`, and which of the existing entries are kept."""

import copy
import json

import pytest
from test_model_card import RESULTS

from modeling_sen.card_results import eval_results, is_of_checkpoint, merged, read_results, results_table, shown_source

SHA1 = RESULTS["model"]["sha1"]


def entries(**changes):
    return eval_results(
        {**copy.deepcopy(RESULTS), **changes}, "zero-shot-video-classification", "video-classification"
    )


def test_each_metric_gives_an_entry_with_all_settings_of_the_measurement():
    top1, rank = entries()
    assert (top1.metric_type, top1.metric_name, top1.metric_value) == ("accuracy", "top1", 2 / 7)
    assert (rank.metric_type, rank.metric_value) == ("text_to_video_MdR", 1.5)
    assert (top1.task_type, top1.task_name) == ("video-classification", "zero-shot-video-classification")
    assert (top1.dataset_name, top1.dataset_split, top1.metric_args) == ("val1.txt", "test", None)
    assert top1.dataset_args == {
        "protocol": "own",
        "protocol_version": 1,
        "clips": 7,
        "classes": 3,
        "model_sha1": SHA1,
        "modeling_sen": "0.1.0",
        "lists_sha1": ["a" * 40],
    }


def test_several_splits_give_one_entry_with_mean_and_standard_deviation():
    splits = [{"source": f"world:test?num=4&seed={seed}", "clips": 4} for seed in (1, 2)]
    (entry,) = entries(splits=splits, mean={"top1": 0.5}, std={"top1": 0.25}, data=[{"classes": 2}, {"classes": 3}])
    assert entry.dataset_name == "world:test?num=4&seed=1, world:test?num=4&seed=2"
    assert (entry.dataset_type, entry.dataset_split) == ("world", "test")
    assert entry.metric_args == {"splits": 2, "std": 0.25}
    assert (entry.dataset_args["clips"], entry.dataset_args["classes"]) == (8, 3)
    assert results_table([entry]).endswith("| 8 | 3 | own, version 1 | top1 | 50.00 ± 25.00 % over 2 splits |")


def test_a_data_set_of_the_hub_is_listed_with_id_and_commit():
    listed = [{"listed": [{"id": "org/clips", "revision": "c" * 40}], "classes": 3}]
    top1, _ = entries(data=listed, dataset="hmdb51", num=5, seed=3)
    assert (top1.dataset_type, top1.dataset_name, top1.dataset_revision) == ("org/clips", "hmdb51", "c" * 40)
    assert (top1.dataset_args["drawn"], top1.dataset_args["seed"]) == (5, 3)


def test_results_of_the_same_weights_are_kept_unless_they_were_measured_again():
    there = [*entries(), *entries(dataset="ucf101"), *entries(dataset="old", model={"sha1": "0" * 40})]
    again = entries(mean={"top1": 1.0}, std={"top1": None})
    kept = merged(again, there, SHA1)
    found = {(entry.dataset_name, entry.metric_name): entry.metric_value for entry in kept}
    assert found == {
        ("val1.txt", "top1"): 1.0,
        ("val1.txt", "text_to_video_MdR"): 1.5,
        ("ucf101", "top1"): 2 / 7,
        ("ucf101", "text_to_video_MdR"): 1.5,
    }


def test_results_of_a_fitted_head_do_not_count_as_results_of_the_checkpoint():
    assert is_of_checkpoint(RESULTS)
    assert not is_of_checkpoint({**RESULTS, "head": {"kind": "linear"}})


def test_results_are_found_in_the_folder_of_the_checkpoint(tmp_path):
    assert read_results(tmp_path) == {}
    for place in ("evaluation", "evaluation/hmdb51"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "results.json").write_text(json.dumps(RESULTS))
    assert [file.parent.name for file in read_results(tmp_path)] == ["hmdb51", "evaluation"]


@pytest.mark.parametrize("content", ["{", "[]", '{"mean": {}}', '{"model": null}'])
def test_a_file_without_results_is_named_in_the_error(tmp_path, content):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation/results.json: expected the results of `sen eval`"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("world:test?num=4", "world:test?num=4"),
        ("org/clips", "org/clips"),
        ("org/clips@abc", "org/clips@abc"),
        ("/home/me/clips", "clips"),
        ("../clips.csv", "clips.csv"),
        ("data/of/me.csv", "me.csv"),
    ],
)
def test_local_paths_are_reduced_to_file_names(source, shown):
    assert shown_source(source) == shown
