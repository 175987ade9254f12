"""The `evaluate` metrics load by folder, offline; the examples in their cards and docstrings print what they say."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import modeling_sen
from modeling_sen.evaluation.tracking_metrics import mean_over_clips, tracking_metrics

evaluate = pytest.importorskip("evaluate")

FOLDER = Path(modeling_sen.__file__).parent / "evaluation"
METRICS = sorted(card.parent.name for card in FOLDER.glob("*/README.md"))


def test_there_are_seven():
    assert METRICS == [
        "answer_exact_match",
        "mean_class_accuracy",
        "multiple_choice_accuracy",
        "point_tracking",
        "top_k_accuracy",
        "video_editing",
        "video_text_retrieval",
    ]


@pytest.mark.parametrize("name", METRICS)
def test_examples_print_what_they_say(name, monkeypatch):
    module = importlib.import_module(f"modeling_sen.evaluation.{name}.{name}")
    (metric,) = (
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, evaluate.Metric)
    )
    examples = doctest.DocTestParser().get_doctest(
        module._KWARGS_DESCRIPTION, {metric.__name__: metric}, name, None, 0
    )
    card = (FOLDER / name / "README.md").read_text().replace("```", "")
    for heading in ("## How to use", "## Inputs", "## Output", "## Limitations"):
        assert heading in card
    monkeypatch.chdir(FOLDER.parents[1])  # the card names the folder from there
    shown = doctest.DocTestParser().get_doctest(card, {}, f"{name}/README.md", None, 0)
    runner = doctest.DocTestRunner()
    assert len(examples.examples) >= 2
    assert len(shown.examples) == 3
    for test in (examples, shown):
        assert runner.run(test).failed == 0


def test_batches_add_up():
    metric = evaluate.load(str(FOLDER / "top_k_accuracy"))
    scores, labels = np.eye(4) + np.arange(4) / 100, [0, 1, 2, 0]
    for rows in (slice(0, 3), slice(3, 4)):
        metric.add_batch(predictions=scores[rows], references=labels[rows])
    assert metric.compute(k=[1]) == {"top1": 0.75}


def test_clips_of_different_length_are_averaged_and_errors_are_those_of_the_function():
    metric, draw = evaluate.load(str(FOLDER / "point_tracking")), np.random.default_rng(0)
    predictions, references = [], []
    for frames, points in ((5, 2), (9, 4)):
        tracks, visibility = draw.random((2, frames, points, 2)) * 20, draw.random((2, frames, points)) < 0.6
        queries = np.zeros((points, 3))
        predictions.append({"tracks": tracks[0], "visibility": visibility[0]})
        references.append(
            {"tracks": tracks[1], "visibility": visibility[1], "queries": queries, "frame_size": (64, 96)}
        )
    found = metric.compute(predictions=predictions, references=references, query_mode="first")
    expected = [
        tracking_metrics(*one.values(), *other.values(), query_mode="first")
        for one, other in zip(predictions, references, strict=True)
    ]
    assert found == pytest.approx(mean_over_clips(expected), nan_ok=True)
    assert found["average_jaccard"] > 0
    references[1]["queries"] = np.ones((4, 3)) * 9
    with pytest.raises(ValueError, match=r"whole frame numbers t in 0..8, found 9"):
        metric.compute(predictions=predictions, references=references, query_mode="first")
