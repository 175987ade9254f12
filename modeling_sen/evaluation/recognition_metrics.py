# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How well clips are named, and found: accuracies, confusion, recall and ranks, as plain functions of arrays.

Ties are not decided by the order in which classes or clips happen to stand: what is reported is the mean over all orders of
those that score the same, so that a model which says the same of everything is at chance.
"""

from collections.abc import Mapping, Sequence

import numpy as np

RECALL_AT = (1, 5, 10)


def top_k_accuracy(scores: np.ndarray, labels: Sequence[int] | np.ndarray, k: int = 1) -> float:
    """Share of clips whose label is among the k best scored classes.

    Args:
        scores: (clips, classes) real numbers, higher is better.
        labels: (clips,) class numbers in 0..classes-1.
        k: at least 1; from `classes` on the accuracy is 1.

    Returns:
        In 0..1. Equals `sklearn.metrics.top_k_accuracy_score` where no class ties with the label; where some do, the
        probability that the label comes in under a random order of them.

    Raises:
        ValueError: shapes do not fit, labels out of range, scores that are not finite, no clips.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    better, equal = _competitors(*_checked_scores(scores, labels))
    return float(_hits(better, equal, k).mean())


def mean_class_accuracy(predictions: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Accuracy of each class that has clips, averaged over these classes, so that rare ones count as much as frequent ones.

    Args:
        predictions, labels: (clips,) class numbers.

    Returns:
        In 0..1; equals `sklearn.metrics.balanced_accuracy_score`.

    Raises:
        ValueError: different numbers of them, none at all, or numbers that are not whole.
    """
    predicted, wanted = _checked_classes(predictions, labels)
    right = predicted == wanted
    return float(np.mean([right[wanted == number].mean() for number in np.unique(wanted)]))


def confusion_matrix(
    predictions: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray, num_classes: int
) -> np.ndarray:
    """(num_classes, num_classes) int64: how many clips of the row's class were given the column's.

    Raises:
        ValueError: as of `mean_class_accuracy`, or a class number outside 0..num_classes-1.
    """
    predicted, wanted = _checked_classes(predictions, labels)
    for name, numbers in (("predictions", predicted), ("labels", wanted)):
        _check_range(name, numbers, num_classes)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (wanted, predicted), 1)
    return counts


def retrieval_metrics(
    similarity: np.ndarray, video_of_text: Sequence[int] | np.ndarray | None = None
) -> dict[str, float]:
    """How well videos are found by their texts, and texts by their videos.

    Args:
        similarity: (texts, videos) real numbers, higher is better.
        video_of_text: (texts,) number of the video that each text describes; by default text i is of video i. A video with
            several texts is found by each of them; of its texts the best ranked counts. Videos without a text are only in
            the way.

    Returns:
        For `text_to_video_` and `video_to_text_`: `R@1`, `R@5`, `R@10` in 0..1; `MdR` and `MnR`, the median and mean rank
        from 1 on. A tie counts as the mean over its orders: recall as a probability, a rank as the middle of the tied.

    Raises:
        ValueError: shapes do not fit, a video number out of range, similarities that are not finite.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(f"similarity: expected (texts, videos) with some of both, found shape {similarity.shape}")
    texts, videos = similarity.shape
    if video_of_text is None:
        if texts != videos:
            raise ValueError(f"video_of_text: expected it for {texts} texts of {videos} videos")
        video_of_text = np.arange(texts)
    similarity, of = _checked_scores(similarity, video_of_text, "similarity", "video_of_text")
    found = _directional("text_to_video_", *_competitors(similarity, of))
    described = np.unique(of)
    best, others = [], []
    for video in described:  # the best of its own texts against those of other videos
        own = of == video
        best.append(similarity[own, video].max())
        others.append(similarity[~own, video])
    better = np.array([(rest > score).sum() for rest, score in zip(others, best, strict=True)])
    equal = np.array([(rest == score).sum() for rest, score in zip(others, best, strict=True)])
    return {**found, **_directional("video_to_text_", better, equal)}


def mean_and_spread(values: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Mean and standard deviation (n - 1; `None` of one) of each number over several splits, which name the same numbers."""
    numbers = {name: np.array([value[name] for value in values], dtype=np.float64) for name in values[0]}
    mean = {name: float(row.mean()) for name, row in numbers.items()}
    return mean, {name: float(row.std(ddof=1)) if len(row) > 1 else None for name, row in numbers.items()}


def _competitors(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many others score higher than the label of each row, and how many the same."""
    own = scores[np.arange(len(labels)), labels][:, None]
    return (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1


def _hits(better: np.ndarray, equal: np.ndarray, k: int) -> np.ndarray:
    """The probability of being among the first k, when those that score the same come in random order."""
    return np.clip((k - better) / (equal + 1), 0.0, 1.0)


def _directional(prefix: str, better: np.ndarray, equal: np.ndarray) -> dict[str, float]:
    ranks = 1 + better + equal / 2
    recall = {f"{prefix}R@{k}": float(_hits(better, equal, k).mean()) for k in RECALL_AT}
    return {**recall, f"{prefix}MdR": float(np.median(ranks)), f"{prefix}MnR": float(ranks.mean())}


def _checked_scores(
    scores: np.ndarray, labels: Sequence[int] | np.ndarray, scores_name: str = "scores", labels_name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"{scores_name}: expected rows and columns of numbers, found shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{scores_name}: expected finite numbers, found NaN or infinity")
    numbers = _whole(labels_name, labels)
    if len(numbers) != len(scores):
        raise ValueError(f"{labels_name}: expected {len(scores)}, one for each row, found {len(numbers)}")
    _check_range(labels_name, numbers, scores.shape[1])
    return scores, numbers


def _checked_classes(
    predictions: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    predicted, wanted = _whole("predictions", predictions), _whole("labels", labels)
    if len(predicted) != len(wanted) or not len(wanted):
        raise ValueError(f"expected as many predictions as labels, and some, found {len(predicted)} and {len(wanted)}")
    return predicted, wanted


def _whole(name: str, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(numbers)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: expected a list of whole numbers, found {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _check_range(name: str, numbers: np.ndarray, count: int) -> None:
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if len(outside):
        raise ValueError(f"{name}: expected numbers in 0..{count - 1}, found {int(outside[0])}")
