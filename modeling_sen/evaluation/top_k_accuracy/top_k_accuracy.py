# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Top-k accuracy as an `evaluate` metric."""

import datasets
import evaluate

from modeling_sen.evaluation.recognition_metrics import top_k_accuracy

_DESCRIPTION = (
    "Share of clips whose label is among the k highest scores; ties are scored as the mean over their possible orders."
)

_KWARGS_DESCRIPTION = """
Args:
    predictions: (clips, classes) scores, higher is better.
    references: (clips,) class numbers.
    k: one or several numbers of classes, by default 1 and 5.
Returns:
    `top{k}` for each k, in 0..1.
Examples:
    >>> metric = TopKAccuracy()
    >>> metric.compute(predictions=[[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]], references=[0, 2], k=[1, 2])
    {'top1': 0.5, 'top2': 1.0}
    >>> metric.compute(predictions=[[1.0, 1.0, 1.0, 1.0]], references=[2], k=[1])  # equal scores for all classes
    {'top1': 0.25}
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class TopKAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, k=(1, 5)):
        return {f"top{number}": top_k_accuracy(predictions, references, number) for number in k}
