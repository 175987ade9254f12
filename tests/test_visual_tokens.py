"""Visual tokens compared with explicit loops: the lattice, padding, absent neurons, sound, and the fusion of neurons."""

import math

import pytest
import torch

from modeling_sen.configuration_sen import NeuronSpec
from modeling_sen.dense_features import DenseFeatures
from modeling_sen.visual_tokens import FUSION, VisualProjector, pool_to_lattice

LATTICE = (4, 2, 2)


def spec(name, modality, width):
    return NeuronSpec(name, modality, "a/b", width, "CLIPVisionModel")


SPECS = [spec("image", "image", 6), spec("video", "video", 5), spec("audio", "audio", 7)]


def bin_of(index, size, cells):
    """The positions of one cell, as in `torch.nn.AdaptiveAvgPool1d`."""
    return range(math.floor(index * size / cells), math.ceil((index + 1) * size / cells))


def pooled_by_loops(tokens, mask, grid, lattice):
    """Pools image or video tokens cell by cell."""
    t, h, w = grid
    means, present = [], []
    for sample in range(len(tokens)):
        for i in range(lattice[0]):
            for j in range(lattice[1]):
                for k in range(lattice[2]):
                    places = [
                        (a * h + b) * w + c
                        for a in bin_of(i, t, lattice[0])
                        for b in bin_of(j, h, lattice[1])
                        for c in bin_of(k, w, lattice[2])
                    ]
                    kept = [tokens[sample, place] for place in places if mask[sample, place]]
                    means.append(torch.stack(kept).mean(dim=0) if kept else torch.zeros(tokens.shape[-1]))
                    present.append(bool(kept))
    cells = math.prod(lattice)
    return torch.stack(means).view(len(tokens), cells, -1), torch.tensor(present).view(len(tokens), cells)


@pytest.mark.parametrize(
    ("grid", "lattice"),
    [
        ((4, 4, 4), LATTICE),
        ((2, 3, 5), LATTICE),  # fewer steps than the lattice; overlapping bins
        ((9, 3, 2), LATTICE),  # more steps
        ((1, 4, 4), LATTICE),  # one image
        ((4, 1, 1), LATTICE),  # one token for each frame
        ((3, 5, 5), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.6, 0.15])
def test_cells_are_means_of_their_tokens_without_padding(grid, lattice, share):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, math.prod(grid), 3, generator=generator)
    mask = torch.rand(tokens.shape[:2], generator=generator) <= share
    tokens[~mask] = torch.nan  # padding must have no effect
    pooled, present = pool_to_lattice(tokens, mask, "video", grid, lattice)
    expected, has_tokens = pooled_by_loops(tokens, mask, grid, lattice)
    torch.testing.assert_close(pooled, expected)
    assert torch.equal(present, has_tokens)


def test_without_padding_cells_equal_adaptive_average_pooling():
    tokens = torch.randn(2, 3 * 5 * 7, 4, generator=torch.Generator().manual_seed(0))
    pooled, present = pool_to_lattice(tokens, torch.ones(2, 105, dtype=torch.bool), "image", (3, 5, 7), (4, 2, 2))
    volume = tokens.unflatten(1, (3, 5, 7)).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.adaptive_avg_pool3d(volume, (4, 2, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled, expected)
    assert present.all()


@pytest.mark.parametrize("grid", [(1, 3, 10), (1, 1, 6), (1, 2, 2), (5, 1, 1), (2, 3, 4)])
def test_sound_is_repeated_over_the_cells_of_its_time_step(grid):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, math.prod(grid), 3, generator=generator)
    mask = torch.rand(tokens.shape[:2], generator=generator) < 0.7
    pooled, present = pool_to_lattice(tokens, mask, "audio", grid, LATTICE)
    pooled, present = pooled.unflatten(1, LATTICE), present.unflatten(1, LATTICE)
    t, frequencies, w = grid
    moments = t * w
    for sample in range(2):
        for step in range(LATTICE[0]):
            places = [
                (moment // w * frequencies + frequency) * w + moment % w
                for moment in bin_of(step, moments, LATTICE[0])
                for frequency in range(frequencies)
            ]
            kept = [tokens[sample, place] for place in places if mask[sample, place]]
            expected = torch.stack(kept).mean(dim=0) if kept else torch.zeros(3)
            torch.testing.assert_close(pooled[sample, step], expected.expand(2, 2, 3))
            assert (present[sample, step] == bool(kept)).all()


# --- fusion and projection -------------------------------------------------------------------------------------------


def random_features(batch=3, seed=0, answers=True):
    generator = torch.Generator().manual_seed(seed)
    grids = {"image": (2, 4, 4), "video": (4, 2, 2), "audio": (1, 2, 6)}
    features = {}
    for each in SPECS:
        tokens = torch.randn(batch, math.prod(grids[each.name]), each.hidden_size, generator=generator)
        read = torch.randn(batch, 2, each.hidden_size, generator=generator) if answers else None
        features[each.name] = DenseFeatures(tokens, read, grids[each.name], None)
    return features, {name: torch.ones(batch, dtype=torch.bool) for name in features}


def random_projector(fusion="weights", answers=True, specs=SPECS, seed=1):
    torch.manual_seed(seed)
    projector = VisualProjector(specs, LATTICE, hidden_size=8, out_size=10, fusion=fusion, reads_answers=answers)
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return projector


def fused_by_hand(projector, vectors):
    """Fuses one cell, `{neuron: vector}` of the present neurons, through the maps of a [`FeatureProjector`]."""
    entered = {}
    for name, (vector, _) in vectors.items():
        norm, enter = projector.norms[name], projector.enter[name]
        standard = (vector - vector.mean()) / (vector.var(unbiased=False) + norm.eps).sqrt()
        entered[name] = (standard * norm.weight + norm.bias) @ enter.weight.T + enter.bias
    return entered


@pytest.mark.parametrize("fusion", list(FUSION))
@pytest.mark.parametrize("part", ["tokens", "answers"])
def test_visual_tokens_equal_a_computation_cell_by_cell(fusion, part):
    features, present = random_features()
    present["image"][1] = False
    present["audio"][2] = False
    projector = random_projector(fusion)
    with torch.no_grad():
        visual = projector(features, present)
        assert visual.shape == (3, 4 * 2 * 2 + 2, 10)
        maps = getattr(projector, part)
        found = visual[:, :16] if part == "tokens" else visual[:, 16:]
        for sample in range(3):
            here = [name for name in features if present[name][sample]]
            vectors = {}
            for name in here:
                each = features[name]
                ones = torch.ones(each.tokens.shape[:2], dtype=torch.bool)
                cells, _ = pool_to_lattice(each.tokens, ones, projector.modalities[name], each.grid, LATTICE)
                vectors[name] = cells[sample] if part == "tokens" else each.answers[sample]
            count = len(next(iter(vectors.values())))
            entered = [fused_by_hand(maps, {name: (vectors[name][i], 0) for name in here}) for i in range(count)]
            if fusion == "mean":
                scores = dict.fromkeys(here, 0.0)
            elif fusion == "weights":
                scores = {name: float(maps.fusion.logits[list(features).index(name)]) for name in here}
            else:
                means = {name: sum(cell[name] for cell in entered) / count for name in here}
                scores = {
                    name: float((maps.fusion.key.weight @ mean + maps.fusion.key.bias) @ maps.fusion.query) / 8**0.5
                    for name, mean in means.items()
                }
            total = sum(math.exp(score) for score in scores.values())
            for i in range(count):
                fused = sum(math.exp(scores[name]) / total * entered[i][name] for name in here)
                expected = torch.nn.functional.gelu(fused) @ maps.leave.weight.T + maps.leave.bias
                torch.testing.assert_close(found[sample, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", list(FUSION))
def test_absent_neurons_have_no_effect_and_no_gradient(fusion):
    features, present = random_features()
    present["image"][1] = False
    projector = random_projector(fusion)
    before = projector(features, present)
    for each in (features["image"].tokens, features["image"].answers):
        each[1] = torch.nan
    after = projector(features, present)
    assert torch.equal(before, after)
    after.sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in projector.parameters() if weight.grad is not None)


@pytest.mark.parametrize("fusion", list(FUSION))
def test_a_neuron_without_features_equals_an_absent_one(fusion):
    features, present = random_features()
    projector = random_projector(fusion)
    missing = projector({name: features[name] for name in ("image", "audio")}, present)
    present["video"][:] = False
    torch.testing.assert_close(missing, projector(features, present))


@pytest.mark.parametrize("fusion", list(FUSION))
def test_a_single_neuron_is_not_weighted(fusion):
    features, present = random_features()
    projector = random_projector(fusion, specs=SPECS[:1])
    unpadded = projector({"image": features["image"]}, present)
    single = random_projector("mean", specs=SPECS[:1])
    single.load_state_dict(projector.state_dict(), strict=False)
    torch.testing.assert_close(unpadded, single({"image": features["image"]}, present))


def test_a_window_with_only_padding_has_finite_and_equal_tokens():
    features, present = random_features(batch=1)
    features["audio"].token_mask = torch.zeros(1, 12, dtype=torch.bool)
    visual = random_projector("weights", specs=SPECS[2:])({"audio": features["audio"]}, {"audio": present["audio"]})
    assert visual.isfinite().all()
    assert torch.equal(visual[:, :16], visual[:, :1].expand(-1, 16, -1))


def test_without_answers_there_are_only_cell_tokens():
    features, present = random_features(answers=False)
    assert random_projector(answers=False)(features, present).shape == (3, 16, 10)


def test_new_fusion_weights_are_equal():
    """`init_own_weights` is called when Transformers initialises modules."""
    fusion = FUSION["weights"](8, 3)
    fusion.logits.data.fill_(3.0)
    fusion.init_own_weights(0.02)
    features, present = torch.randn(2, 3, 5, 8), torch.ones(2, 3, 5, dtype=torch.bool)
    torch.testing.assert_close(fusion(features, present), features.mean(dim=1))
