"""Heads on embeddings: the cache model's formula, the probe's equality with scikit-learn, files that last."""

import numpy as np
import pytest

from modeling_sen.evaluation.few_shot import CacheHead, fit_linear_probe, load_head, save_head, take_shots


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def embeddings():
    """12 clips of 3 classes, apart."""
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 4)
    return unit(np.eye(8)[labels] + 0.2 * draw.standard_normal((12, 8))), labels


def test_the_cache_adds_what_similar_clips_are(embeddings):
    cached, labels = embeddings
    texts = unit(np.random.default_rng(1).standard_normal((3, 8)))
    head = CacheHead(("a", "b", "c"), cached, labels, texts, logit_scale=20.0, residual=2.0, sharpness=3.0)
    clip = unit(np.random.default_rng(2).standard_normal((1, 8)))
    by_hand = 20.0 * texts @ clip[0]
    for other, label in zip(cached, labels, strict=True):
        by_hand[label] += 2.0 * np.exp(-3.0 * (1 - clip[0] @ other))
    assert head.scores(clip)[0] == pytest.approx(by_hand, rel=1e-5)
    without_texts = CacheHead(("a", "b", "c"), cached, labels, texts, 0.0)
    assert (without_texts.scores(cached).argmax(1) == labels).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_probe_is_scikit_learns(embeddings, classes):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, labels = embeddings
    rows, labels = rows[labels < classes], labels[labels < classes]
    probe = fit_linear_probe(rows, labels, ["a", "b", "c"][:classes], strength=2.0)
    scores = probe.scores(rows)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    expected = linear_model.LogisticRegression(C=2.0, max_iter=1000).fit(rows, labels).predict_proba(rows)
    assert powers / powers.sum(1, keepdims=True) == pytest.approx(expected, abs=1e-5)


def test_shots_are_drawn_by_the_seed():
    labels = [0] * 10 + [1] * 3
    rows = take_shots(labels, 4, seed=1)
    assert [labels[row] for row in rows] == [0] * 4 + [1] * 3
    assert rows == take_shots(labels, 4, seed=1) != take_shots(labels, 4, seed=2)
    with pytest.raises(ValueError, match="shots is 0"):
        take_shots(labels, 0, 0)


@pytest.mark.parametrize("kind", ["cache", "linear"])
def test_a_saved_head_scores_the_same(embeddings, tmp_path, kind):
    rows, labels = embeddings
    if kind == "linear":
        pytest.importorskip("sklearn")
        head = fit_linear_probe(rows, labels, ["a", "b", "c"])
    else:
        head = CacheHead(("a", "b", "c"), rows, labels, rows[:3], 14.0)
    save_head(head, tmp_path / "head", {"shots": 4, "model": {"name": "mine", "sha1": "0a"}})
    again, facts = load_head(tmp_path / "head", sha1="0a")
    assert facts["shots"] == 4
    with pytest.raises(ValueError, match="the head was fitted on another model, mine"):
        load_head(tmp_path / "head", sha1="0b")
    assert again.class_names == ("a", "b", "c")
    assert (again.scores(rows) == head.scores(rows)).all()
    (tmp_path / "head" / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="found a damaged one"):
        load_head(tmp_path / "head")
    with pytest.raises(FileNotFoundError, match=r"found no head.json"):
        load_head(tmp_path)


def test_invalid_fits_are_errors(embeddings):
    pytest.importorskip("sklearn")
    rows, labels = embeddings
    with pytest.raises(ValueError, match="found none of 'd'"):
        fit_linear_probe(rows, labels, ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match=r"labels: expected numbers in 0..1, found 0..2"):
        CacheHead(("a", "b"), rows, labels, rows[:2], 14.0)
