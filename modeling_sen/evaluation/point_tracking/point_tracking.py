# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of point tracking as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

from modeling_sen.evaluation.tracking_metrics import mean_over_clips, tracking_metrics

_DESCRIPTION = """Average Jaccard, positions within 1 to 16 pixels, occlusion accuracy (TAP-Vid), temporal coherence
(OmniMotion), and the first two after re-appearance, computed per clip and averaged over clips."""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one dict for each clip, `tracks` (T, N, 2) x, y in pixels and `visibility` (T, N) bool.
    references: one dict for each clip, the true `tracks` and `visibility`, `queries` (N, 3) t, x, y and `frame_size`
        (height, width).
    query_mode: "first" or "strided".
Returns:
    `average_jaccard`, `average_pts_within_thresh`, `occlusion_accuracy` in 0..1, `temporal_coherence` in pixels at
    256 x 256, and their parts.
Examples:
    >>> metric = PointTracking()
    >>> truth = {"tracks": [[[10, 5]], [[12, 5]], [[14, 5]]], "visibility": [[True], [True], [True]]}
    >>> reference = {**truth, "queries": [[0, 10, 5]], "frame_size": [256, 256]}
    >>> perfect = metric.compute(predictions=[truth], references=[reference], query_mode="first")
    >>> perfect["average_jaccard"], perfect["temporal_coherence"]
    (1.0, 0.0)
    >>> still = {"tracks": [[[10, 5]], [[10, 5]], [[10, 5]]], "visibility": [[True], [True], [True]]}
    >>> found = metric.compute(predictions=[still], references=[reference], query_mode="first")
    >>> found["pts_within_2"], found["pts_within_4"], found["average_pts_within_thresh"], found["occlusion_accuracy"]
    (0.0, 0.5, 0.5, 1.0)
"""

_CITATION = """@inproceedings{doersch2022tapvid, title={{TAP}-Vid: A Benchmark for Tracking Any Point in a Video},
author={Doersch, Carl and others}, booktitle={NeurIPS Datasets and Benchmarks}, year={2022}}"""

_POSITIONS = datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("float64"))))
_VISIBILITY = datasets.Sequence(datasets.Sequence(datasets.Value("bool")))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PointTracking(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {"tracks": _POSITIONS, "visibility": _VISIBILITY},
                    "references": {
                        "tracks": _POSITIONS,
                        "visibility": _VISIBILITY,
                        "queries": datasets.Sequence(datasets.Sequence(datasets.Value("float64"))),
                        "frame_size": datasets.Sequence(datasets.Value("int64")),
                    },
                }
            ),
        )

    def _compute(self, predictions, references, query_mode):
        return mean_over_clips(
            [
                tracking_metrics(
                    np.array(found["tracks"]),
                    np.array(found["visibility"]),
                    np.array(true["tracks"]),
                    np.array(true["visibility"]),
                    np.array(true["queries"]),
                    tuple(true["frame_size"]),
                    query_mode,
                )
                for found, true in zip(predictions, references, strict=True)
            ]
        )
