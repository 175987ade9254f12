# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Mean class accuracy as an `evaluate` metric."""

import datasets
import evaluate

from modeling_sen.evaluation.recognition_metrics import mean_class_accuracy

_DESCRIPTION = "Mean accuracy over all classes with clips."

_KWARGS_DESCRIPTION = """
Args:
    predictions: (clips,) class numbers.
    references: (clips,) class numbers.
Returns:
    `mean_class_accuracy` in 0..1.
Examples:
    >>> metric = MeanClassAccuracy()
    >>> metric.compute(predictions=[0, 0, 0, 0], references=[0, 0, 0, 1])  # plain accuracy would be 0.75
    {'mean_class_accuracy': 0.5}
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MeanClassAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"mean_class_accuracy": mean_class_accuracy(predictions, references)}
