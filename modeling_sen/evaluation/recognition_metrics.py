# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of recognition and retrieval as functions of arrays: accuracies, confusion, recall and ranks.

With ties, a metric is its mean over all orders of the tied entries, so that a model with constant scores is at chance,
whatever the order of classes or clips.
"""

from collections.abc import Mapping, Sequence

import numpy as np

RECALL_AT = (1, 5, 10)


def top_k_accuracy(scores: np.ndarray, labels: Sequence[int] | np.ndarray, k: int = 1) -> float:
    """Fraction of clips whose label is among the k classes with the highest scores.

    Args:
        scores: (clips, classes) real numbers, higher is better.
        labels: (clips,) class numbers in 0..classes-1.
        k: at least 1; with k >= classes the accuracy is 1.

    Returns:
        In 0..1. Equals `sklearn.metrics.top_k_accuracy_score` if no class ties with the label; else the probability that
        the label is among the first k in a random order of the tied classes.

    Raises:
        ValueError: shapes do not fit, labels are out of range, scores are not finite, or there are no clips.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    better, equal = _competitors(*_checked_scores(scores, labels))
    return float(_hits(better, equal, k).mean())


def mean_class_accuracy(predictions: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Mean of the per-class accuracies over classes with clips, so that rare and frequent classes have equal weight.

    Args:
        predictions, labels: (clips,) class numbers.

    Returns:
        In 0..1; equals `sklearn.metrics.balanced_accuracy_score`.

    Raises:
        ValueError: different lengths, no clips, or numbers that are not integers.
    """
    predicted, truth = _checked_classes(predictions, labels)
    correct = predicted == truth
    return float(np.mean([correct[truth == number].mean() for number in np.unique(truth)]))


def confusion_matrix(
    predictions: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray, num_classes: int
) -> np.ndarray:
    """(num_classes, num_classes) int64, the number of clips of the row's class that were predicted as the column's class.

    Raises:
        ValueError: as for `mean_class_accuracy`, or a class number outside 0..num_classes-1.
    """
    predicted, truth = _checked_classes(predictions, labels)
    for name, numbers in (("predictions", predicted), ("labels", truth)):
        _check_range(name, numbers, num_classes)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts


def retrieval_metrics(
    similarity: np.ndarray, video_of_text: Sequence[int] | np.ndarray | None = None
) -> dict[str, float]:
    """Metrics of text-to-video and video-to-text retrieval.

    Args:
        similarity: (texts, videos) real numbers, higher is better.
        video_of_text: (texts,) index of the video that each text describes; default: text i describes video i. If a video
            has several texts, each is a query for it, and its own rank is that of its best text. Videos without a text are
            distractors.

    Returns:
        For `text_to_video_` and `video_to_text_`: `R@1`, `R@5`, `R@10` in 0..1; `MdR` and `MnR`, the median and mean rank,
        starting at 1. With ties, recall is a probability over all orders, and a rank is the middle of the tied ranks.

    Raises:
        ValueError: shapes do not fit, a video index is out of range, or similarities are not finite.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(f"similarity: expected (texts, videos) with some of both, found shape {similarity.shape}")
    texts, videos = similarity.shape
    if video_of_text is None:
        if texts != videos:
            raise ValueError(f"video_of_text: expected it for {texts} texts of {videos} videos")
        video_of_text = np.arange(texts)
    similarity, video_of = _checked_scores(similarity, video_of_text, "similarity", "video_of_text")
    text_to_video = _directional("text_to_video_", *_competitors(similarity, video_of))
    best, others = [], []
    for video in np.unique(video_of):  # the best of its texts against the texts of other videos
        is_own = video_of == video
        best.append(similarity[is_own, video].max())
        others.append(similarity[~is_own, video])
    better = np.array([(rest > score).sum() for rest, score in zip(others, best, strict=True)])
    equal = np.array([(rest == score).sum() for rest, score in zip(others, best, strict=True)])
    return {**text_to_video, **_directional("video_to_text_", better, equal)}


def mean_and_spread(values: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Mean and sample standard deviation (`None` for one split) of each metric over splits with the same metrics."""
    numbers = {name: np.array([value[name] for value in values], dtype=np.float64) for name in values[0]}
    mean = {name: float(row.mean()) for name, row in numbers.items()}
    return mean, {name: float(row.std(ddof=1)) if len(row) > 1 else None for name, row in numbers.items()}


def _competitors(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per row, the numbers of other entries with a higher score than the label's, and with an equal score."""
    label_scores = scores[np.arange(len(labels)), labels][:, None]
    return (scores > label_scores).sum(axis=1), (scores == label_scores).sum(axis=1) - 1


def _hits(better: np.ndarray, equal: np.ndarray, k: int) -> np.ndarray:
    """The probability of a rank of at most k, with tied entries in random order."""
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
    predicted, truth = _whole("predictions", predictions), _whole("labels", labels)
    if len(predicted) != len(truth) or not len(truth):
        raise ValueError(f"expected as many predictions as labels, and some, found {len(predicted)} and {len(truth)}")
    return predicted, truth


def _whole(name: str, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(numbers)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: expected a list of whole numbers, found {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _check_range(name: str, numbers: np.ndarray, count: int) -> None:
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if len(outside):
        raise ValueError(f"{name}: expected numbers in 0..{count - 1}, found {int(outside[0])}")
