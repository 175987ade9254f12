# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Exact match of open answers as an `evaluate` metric."""

import datasets
import evaluate

from modeling_sen.evaluation.answer_metrics import accuracy_with_error, exact_match

_DESCRIPTION = (
    "Share of open answers that equal the true answer after normalisation by the rules of the VQA evaluation."
)

_KWARGS_DESCRIPTION = """
Args:
    predictions: (questions,) answers in free text.
    references: (questions,) true answers.
    clips: (questions,) clip of each question, for the standard error; by default all questions have different clips.
Returns:
    `exact_match` in 0..1 and its `standard_error` over clips.
Examples:
    >>> metric = AnswerExactMatch()
    >>> metric.compute(predictions=["A dog.", "two"], references=["dog", "2"])
    {'exact_match': 1.0, 'standard_error': 0.0}
    >>> metric.compute(predictions=["", "a brown dog"], references=["dog", "dog"])
    {'exact_match': 0.0, 'standard_error': 0.0}
"""

_CITATION = """@inproceedings{antol2015vqa, title={{VQA}: Visual Question Answering}, author={Antol, Stanislaw and others},
booktitle={ICCV}, year={2015}}"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class AnswerExactMatch(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, clips=None):
        right = [exact_match(answer, truth) for answer, truth in zip(predictions, references, strict=True)]
        accuracy, error = accuracy_with_error(right, clips)
        return {"exact_match": accuracy, "standard_error": error}
