"""Scores of clips: the pipeline's with one view, the protocol's average with several; clips drawn by a seed."""

import numpy as np
import pytest
from transformers import pipeline

from modeling_sen import SENEncoder
from modeling_sen.evaluation.clip_embeddings import embed_clips
from modeling_sen.evaluation.dataset_lists import open_test_sets
from modeling_sen.evaluation.measure import class_scores, draw_clips, measure_recognition
from modeling_sen.evaluation.protocols import PROTOCOLS
from modeling_sen.training.data import LabelledClips, open_clips

LABELS = ("dog", "cat", "bird")


def test_scores_are_the_pipelines(sen_folder, clips, tmp_path):
    """One view in the SEN's own sampling: softmax of these scores is what the pipeline says."""
    encoder = SENEncoder.from_pretrained(sen_folder)
    classify = pipeline("zero-shot-video-classification", model=str(sen_folder))
    folder = tmp_path / "data" / "some"
    folder.mkdir(parents=True)
    for clip in clips:
        (folder / clip.name).symlink_to(clip)
    data = open_clips(str(folder.parent), "label")
    embeddings = embed_clips(encoder, PROTOCOLS["own"], data, tmp_path / "embeddings")
    texts = classify.embed_labels(LABELS).numpy()
    scores = class_scores(embeddings, texts, encoder.model.logit_scale.exp().item(), "probabilities")
    for row, ranked in zip(scores, classify([str(clip) for clip in clips], candidate_labels=LABELS), strict=True):
        expected = {entry["label"]: entry["score"] for entry in ranked}
        assert dict(zip(LABELS, row, strict=True)) == pytest.approx(expected, abs=1e-5)


def test_views_are_averaged_as_the_protocol_says():
    embeddings = np.eye(2, dtype=np.float32)[None]  # one clip, one view for each class
    texts = np.array([[1.0, 0.0], [0.0, 0.5]], dtype=np.float32)
    assert class_scores(embeddings, texts, 4.0, "logits") == pytest.approx(np.array([[2.0, 1.0]]))
    first, second = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(2))
    assert class_scores(embeddings, texts, 4.0, "probabilities")[0, 0] == pytest.approx((first + second) / 2)


def test_draws_keep_the_order_and_each_clips_target():
    clips = LabelledClips(
        "here", [f"label {row}" for row in range(20)], [str(row) for row in range(20)], lambda row: row
    )
    drawn = draw_clips(clips, 5, seed=3)
    rows = [int(key) for key in drawn.keys]
    assert rows == sorted(set(rows))
    assert len(rows) == 5
    assert drawn.targets == [f"label {row}" for row in rows]
    assert [drawn.read(number) for number in range(5)] == rows
    assert draw_clips(clips, None, seed=3) is draw_clips(clips, 20, seed=3) is clips
    assert [int(key) for key in draw_clips(clips, 5, seed=4).keys] != rows


def test_a_template_without_a_place_for_the_label_is_refused(sen_folder, clips, tmp_path):
    folder = tmp_path / "data" / "some"
    folder.mkdir(parents=True)
    (folder / clips[0].name).symlink_to(clips[0])
    encoder, sets = SENEncoder.from_pretrained(sen_folder), open_test_sets([str(folder.parent)])
    with pytest.raises(ValueError, match=r"template 'a video': expected \{\} where the label goes"):
        measure_recognition(encoder, PROTOCOLS["own"], sets, ["a video"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
