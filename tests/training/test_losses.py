"""Losses of paired embeddings against references written out in numpy."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_sen.training.losses import contrastive_loss, gramian_loss, gramian_volumes, sigmoid_loss

SCALE = torch.tensor(7.0)


def unit_rows(count, seed, size=6):
    return normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def both_ways(logits):
    return -(np.diag(log_softmax(logits)).mean() + np.diag(log_softmax(logits.T)).mean()) / 2


def volume(*vectors):
    """By definition: the root of the determinant of the matrix of inner products, in double precision."""
    rows = np.stack([vector.numpy().astype(np.float64) for vector in vectors])
    return np.sqrt(np.linalg.det(rows @ rows.T))


def test_contrastive_loss_equals_its_definition():
    videos, texts = unit_rows(5, 0), unit_rows(5, 1)
    expected = both_ways(7.0 * videos.numpy() @ texts.numpy().T)
    assert contrastive_loss(videos, texts, SCALE).item() == pytest.approx(expected, rel=1e-5)


def test_contrastive_loss_is_that_of_the_model(make_sen):
    from random_sen import random_inputs, random_weights

    model, texts = random_weights(make_sen(association_loss=0.0)), unit_rows(3, 1, 12)
    output = model(**random_inputs(3), text_embeds=texts, return_loss=True)
    loss = contrastive_loss(output.fused_embeds, texts, model.logit_scale.exp())
    torch.testing.assert_close(loss, output.loss)


def test_sigmoid_loss_equals_its_definition():
    videos, texts = unit_rows(4, 0), unit_rows(4, 1)
    logits = 7.0 * videos.numpy() @ texts.numpy().T - 3.0
    each = [-np.log(1 / (1 + np.exp(-logits[i, j] if i == j else logits[i, j]))) for i in range(4) for j in range(4)]
    assert sigmoid_loss(videos, texts, SCALE, torch.tensor(-3.0)).item() == pytest.approx(sum(each) / 4, rel=1e-5)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_volumes_equal_plain_determinants(modalities):
    anchors, others = unit_rows(3, 0), [unit_rows(4, seed) for seed in range(1, modalities + 1)]
    found = gramian_volumes(anchors, others)
    for i in range(3):
        for j in range(4):
            assert found[i, j].item() == pytest.approx(volume(anchors[i], *(m[j] for m in others)), abs=1e-4)


def test_volumes_of_known_bodies():
    axes = torch.eye(3)
    assert gramian_volumes(axes[:1], [axes[1:2], axes[2:]]).item() == pytest.approx(1.0)
    assert gramian_volumes(axes[:1], [axes[:1], axes[2:]]).item() == pytest.approx(0.0, abs=2e-3)
    slanted = torch.tensor([[0.0, 0.6, 0.8]])  # base 1 x 1, height 0.8
    assert gramian_volumes(axes[:1], [axes[1:2], slanted]).item() == pytest.approx(0.8)


def test_an_absent_modality_leaves_the_volume_of_the_rest():
    anchors, others = unit_rows(3, 0), [unit_rows(2, seed) for seed in (1, 2, 3)]
    present = torch.tensor([[True, False, True], [True, True, False]])
    found = gramian_volumes(anchors, others, present)
    for i in range(3):
        assert found[i, 0].item() == pytest.approx(volume(anchors[i], others[0][0], others[2][0]), abs=1e-4)
        assert found[i, 1].item() == pytest.approx(volume(anchors[i], others[0][1], others[1][1]), abs=1e-4)


def test_gramian_loss_equals_its_definition():
    texts, others = unit_rows(4, 0), [unit_rows(4, 1), unit_rows(4, 2)]
    volumes = np.array([[volume(texts[i], *(m[j] for m in others)) for j in range(4)] for i in range(4)])
    found = gramian_loss(texts, others, SCALE)
    assert found.item() == pytest.approx(both_ways(-7.0 * volumes), abs=1e-3)


def test_gramian_loss_needs_three_modalities():
    with pytest.raises(ValueError, match="at least two other modalities, found 1"):
        gramian_loss(unit_rows(2, 0), [unit_rows(2, 1)], SCALE)


@pytest.mark.parametrize("loss", ["contrastive", "sigmoid", "gram"])
def test_descending_a_loss_brings_pairs_together(loss):
    texts = unit_rows(6, 0, 16)
    free = [torch.nn.Parameter(torch.randn(6, 16, generator=torch.Generator().manual_seed(seed))) for seed in (1, 2)]
    optimizer = torch.optim.Adam(free, lr=0.05)
    for _ in range(150):
        first, second = (normalize(each, dim=-1) for each in free)
        value = {
            "contrastive": lambda a, b: contrastive_loss(a, texts, SCALE) + contrastive_loss(b, texts, SCALE),
            "sigmoid": lambda a, b: sum(sigmoid_loss(each, texts, SCALE, torch.tensor(-3.0)) for each in (a, b)),
            "gram": lambda a, b: gramian_loss(texts, [a, b], SCALE),
        }[loss](first, second)
        optimizer.zero_grad()
        value.backward()
        assert all(bool(each.grad.isfinite().all()) for each in free)
        optimizer.step()
    # A volume does not tell a vector from its opposite: it is itself what GRAM finds the pairs by.
    found = (
        [each @ texts.T for each in (first, second)] if loss != "gram" else [-gramian_volumes(texts, [first, second])]
    )
    assert all(torch.equal(each.argmax(dim=1), torch.arange(6)) for each in found)


def test_gradients_stay_finite_where_all_vectors_are_one():
    texts = unit_rows(3, 0)
    others = [texts.clone().requires_grad_(), texts.clone().requires_grad_()]
    gramian_loss(texts, others, SCALE).backward()
    assert all(bool(each.grad.isfinite().all()) for each in others)
