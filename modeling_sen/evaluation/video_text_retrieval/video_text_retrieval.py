# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Recall and ranks of retrieval between videos and texts as an `evaluate` metric."""

import datasets
import evaluate

from modeling_sen.evaluation.recognition_metrics import retrieval_metrics

_DESCRIPTION = """Retrieval of videos by their texts and of texts by their videos: recall at 1, 5, 10, median rank (MdR), mean
rank (MnR); ties are scored as the mean over their possible orders."""

_KWARGS_DESCRIPTION = """
Args:
    predictions: (texts, videos) similarities, higher is better.
    references: (texts,) number of the video that each text describes.
Returns:
    `text_to_video_` and `video_to_text_` `R@1`, `R@5`, `R@10` in 0..1; `MdR`, `MnR` starting at 1.
Examples:
    >>> metric = VideoTextRetrieval()
    >>> found = metric.compute(predictions=[[0.9, 0.1, 0.3], [0.8, 0.5, 0.2], [0.1, 0.4, 0.7]], references=[0, 1, 2])
    >>> round(found["text_to_video_R@1"], 4), found["text_to_video_MdR"], round(found["text_to_video_MnR"], 4)
    (0.6667, 1.0, 1.3333)
    >>> found["video_to_text_R@1"], found["video_to_text_MnR"]
    (1.0, 1.0)
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VideoTextRetrieval(evaluate.Metric):
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

    def _compute(self, predictions, references):
        return retrieval_metrics(predictions, references)
