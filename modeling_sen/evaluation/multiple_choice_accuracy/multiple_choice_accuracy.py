# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Accuracy of free answers to multiple-choice questions as an `evaluate` metric."""

import datasets
import evaluate

from modeling_sen.evaluation.answer_metrics import accuracy_with_error, read_choice

_DESCRIPTION = (
    "Share of free-text answers that name the correct option by its letter or its text; an answer that is empty, or names "
    "no option or several options, is wrong."
)

_KWARGS_DESCRIPTION = """
Args:
    predictions: (questions,) answers in free text.
    references: a dict for each question, with `options` (texts) and `answer` (index of the correct one).
    clips: (questions,) clip of each question, for the standard error; by default all questions have different clips.
    letters: whether the prompt listed the options with letters (default); otherwise only their texts are read.
Returns:
    `accuracy` in 0..1, its `standard_error` over clips, and `unreadable`, the number of answers that name no option.
Examples:
    >>> metric = MultipleChoiceAccuracy()
    >>> questions = [{"options": ["red", "blue"], "answer": 1}] * 3
    >>> metric.compute(predictions=["(B)", "It is blue.", "A or B"], references=questions)["unreadable"]
    1
    >>> found = metric.compute(predictions=["(B)", "It is blue.", "A or B"], references=questions)
    >>> round(found["accuracy"], 3), round(found["standard_error"], 3)
    (0.667, 0.333)
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MultipleChoiceAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": {
                        "options": datasets.Sequence(datasets.Value("string")),
                        "answer": datasets.Value("int64"),
                    },
                }
            ),
        )

    def _compute(self, predictions, references, clips=None, letters=True):
        for number, reference in enumerate(references):
            if not 0 <= reference["answer"] < len(reference["options"]):
                raise ValueError(
                    f"references[{number}]: answer is {reference['answer']}, expected a number below "
                    f"{len(reference['options'])}, that of the options"
                )
        read = [
            read_choice(answer, reference["options"], letters)
            for answer, reference in zip(predictions, references, strict=True)
        ]
        right = [number == reference["answer"] for number, reference in zip(read, references, strict=True)]
        accuracy, error = accuracy_with_error(right, clips)
        return {"accuracy": accuracy, "standard_error": error, "unreadable": read.count(None)}
