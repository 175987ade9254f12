"""Accuracies, confusion, recall and ranks: equal to scikit-learn's, to numbers worked out by hand, and fair to ties."""

import itertools

import numpy as np
import pytest

from modeling_sen.evaluation.recognition_metrics import (
    confusion_matrix,
    mean_and_spread,
    mean_class_accuracy,
    retrieval_metrics,
    top_k_accuracy,
)


@pytest.fixture
def answers():
    """60 clips of 7 classes, one of which has no clip; no two scores are equal."""
    draw = np.random.default_rng(0)
    return draw.random((60, 7)), draw.integers(0, 6, 60)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_scikit_learn(answers, k):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = answers
    assert top_k_accuracy(scores, labels, k) == pytest.approx(
        metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(7)), abs=1e-12
    )


def test_mean_class_accuracy_and_confusion_equal_scikit_learn(answers):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = answers
    predicted = scores.argmax(1)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = metrics.balanced_accuracy_score(labels, predicted)
    assert mean_class_accuracy(predicted, labels) == pytest.approx(expected, abs=1e-12)
    counts = confusion_matrix(predicted, labels, 7)
    assert (counts == metrics.confusion_matrix(labels, predicted, labels=range(7))).all()
    assert counts.sum() == 60


def test_ties_are_the_mean_over_all_orders():
    scores = np.array([[0.5, 0.9, 0.5, 0.5, 0.1]])
    for k in range(1, 6):
        places = [order.index(0) for order in itertools.permutations([0, 2, 3])]  # behind class 1, one of three
        assert top_k_accuracy(scores, [0], k) == pytest.approx(np.mean([place + 2 <= k for place in places]))
    assert top_k_accuracy(np.zeros((10, 4)), [1] * 10) == 0.25


def test_retrieval_worked_out_by_hand():
    similarity = np.array(
        [
            [0.9, 0.1, 0.2, 0.3],  # video 0 first
            [0.8, 0.5, 0.6, 0.1],  # video 1 third
            [0.3, 0.2, 0.7, 0.9],  # video 2 second
            [0.4, 0.3, 0.1, 0.2],  # video 3 third
        ]
    )
    found = retrieval_metrics(similarity)
    assert found["text_to_video_R@1"] == 0.25
    assert found["text_to_video_R@5"] == found["text_to_video_R@10"] == 1.0
    assert found["text_to_video_MdR"] == 2.5  # of 1, 3, 2, 3
    assert found["text_to_video_MnR"] == 2.25
    assert found["video_to_text_R@1"] == 0.75  # ranks 1, 1, 1, 3
    assert found["video_to_text_MdR"] == 1.0
    assert found["video_to_text_MnR"] == 1.5


def test_a_tie_ranks_in_the_middle():
    found = retrieval_metrics(np.zeros((11, 11)))
    assert found["text_to_video_MdR"] == found["video_to_text_MnR"] == 6.0
    assert found["text_to_video_R@1"] == pytest.approx(1 / 11)
    assert found["video_to_text_R@10"] == pytest.approx(10 / 11)


def test_several_texts_of_a_video():
    similarity = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])  # texts 0 and 1 are of video 0
    found = retrieval_metrics(similarity, [0, 0, 1])
    assert found["text_to_video_R@1"] == pytest.approx(1 / 3)
    assert found["text_to_video_MnR"] == pytest.approx(5 / 3)
    assert found["video_to_text_R@1"] == 0.5  # video 1: text 1 of video 0 stands before its own
    assert found["video_to_text_MnR"] == 1.5


def test_the_spread_over_splits():
    mean, spread = mean_and_spread([{"top1": 0.5}, {"top1": 0.7}, {"top1": 0.6}])
    assert mean == {"top1": pytest.approx(0.6)}
    assert spread == {"top1": pytest.approx(0.1)}  # n - 1
    assert mean_and_spread([{"top1": 0.5}])[1] == {"top1": None}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_accuracy(np.zeros((2, 3)), [0, 3]), "labels: expected numbers in 0..2, found 3"),
        (lambda: top_k_accuracy(np.zeros((2, 3)), [0]), "expected 2, one for each row, found 1"),
        (lambda: top_k_accuracy(np.zeros((2, 3)), [0.5, 1.0]), "expected a list of whole numbers"),
        (lambda: top_k_accuracy(np.zeros((0, 3)), []), r"found shape \(0, 3\)"),
        (lambda: top_k_accuracy(np.full((1, 2), np.nan), [0]), "found NaN"),
        (lambda: top_k_accuracy(np.zeros((1, 2)), [0], 0), "k is 0"),
        (lambda: mean_class_accuracy([0], [0, 1]), "found 1 and 2"),
        (lambda: mean_class_accuracy([], []), "found 0 and 0"),
        (lambda: confusion_matrix([0], [4], 3), "labels: expected numbers in 0..2, found 4"),
        (lambda: retrieval_metrics(np.zeros((3, 2))), "expected it for 3 texts of 2 videos"),
        (lambda: retrieval_metrics(np.zeros((2, 2)), [0, 2]), "video_of_text: expected numbers in 0..1, found 2"),
        (lambda: retrieval_metrics(np.zeros(3)), r"found shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
