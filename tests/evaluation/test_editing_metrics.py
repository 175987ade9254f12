"""Measures of edited videos against references that are written another way, or by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from modeling_sen.evaluation.editing_alignment import ImageTextEncoder, alignment_metrics
from modeling_sen.evaluation.editing_fidelity import (
    grid_queries,
    motion_fidelity,
    psnr_outside_mask,
    ssim_outside_mask,
)
from modeling_sen.evaluation.editing_metrics import NUMBERS, editing_metrics, mean_over_edits

NAN = float("nan")


def frames_of(*numbers):
    """A frame of 2 x 2 pixels for each number."""
    return np.stack([np.full((2, 2, 3), number, dtype=np.uint8) for number in numbers])


def encoder_of(images, texts, name="toy"):
    """An encoder that looks embeddings up: of frames by their first value, of texts by their words."""
    return ImageTextEncoder(
        name,
        lambda frames, words: ([images[int(frame[0, 0, 0])] for frame in frames], [texts[word] for word in words]),
    )


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def still(frames, queries):
    tracks = np.tile(queries[:, 1:], (len(frames), 1, 1))
    return SimpleNamespace(tracks=tracks, visibility=np.ones(tracks.shape[:2], dtype=bool))


# --- alignment ---------------------------------------------------------------------------------------------------------


def test_alignment_by_hand():
    """Three edited frames at 0, 60 and 90 degrees, the edit prompt at 90, the source prompt at 0."""
    half = np.sqrt(3) / 2
    images = {0: [5, 0], 1: [1, half * 2], 2: [0, 3]}  # of any length
    encoder = encoder_of(images, {"before": [2, 0], "after": [0, 1]})
    found = alignment_metrics(frames_of(0, 0, 0), frames_of(0, 1, 2), "before", "after", encoder)
    assert found["loveu_text_alignment"] == pytest.approx(100 * (0 + half + 1) / 3)
    assert found["loveu_frame_consistency"] == pytest.approx((0.5 + 0 + half) / 3)  # 0-1, 0-2, 1-2
    assert found["fatezero_temporal_consistency"] == pytest.approx((0.5 + half) / 2)  # 0-1, 1-2
    assert found["fatezero_frame_accuracy"] == pytest.approx(2 / 3)
    # changes: none; (-0.5, half), at 120 degrees; (-1, 1), at 135, as the prompts'
    assert found["directional_similarity"] == pytest.approx((0 + np.cos(np.radians(15)) + 1) / 3)


def test_a_tie_counts_as_the_edit_as_in_fatezero():
    encoder = encoder_of({0: [1, 1]}, {"before": [1, 0], "after": [0, 1]})
    found = alignment_metrics(frames_of(0), frames_of(0), "before", "after", encoder)
    assert found["fatezero_frame_accuracy"] == 1


def test_numbers_that_are_not_defined_are_nan():
    encoder = encoder_of({0: [1, 0], 1: [0, 1]}, {"same": [1, 0]})
    found = alignment_metrics(frames_of(0), frames_of(1), "same", "same", encoder)
    undefined = {name for name, number in found.items() if np.isnan(number)}
    assert undefined == {"loveu_frame_consistency", "fatezero_temporal_consistency", "directional_similarity"}


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (
            lambda images, texts: (np.ones((2, 3)), np.ones((1, 3))),
            r"text embeddings of shape \(2, 3\), found \(1, 3\)",
        ),
        (
            lambda images, texts: (np.ones((2, 3)), np.ones((2, 4))),
            r"text embeddings of shape \(2, 3\), found \(2, 4\)",
        ),
        (lambda images, texts: (np.zeros((2, 3)), np.ones((2, 3))), "finite image embeddings that are not zero"),
        (lambda images, texts: (np.ones((2, 3)), np.full((2, 3), NAN)), "finite text embeddings that are not zero"),
    ],
)
def test_an_encoder_that_returns_something_else_is_named(encode, message):
    with pytest.raises(ValueError, match=f"encoder odd: expected {message}"):
        alignment_metrics(frames_of(0), frames_of(1), "before", "after", ImageTextEncoder("odd", encode))


@pytest.mark.parametrize(
    ("source", "edited", "prompt", "message"),
    [
        (frames_of(0, 1), frames_of(0), "after", r"edited: expected frames like those of the source, .*\(2, 2, 2\)"),
        (frames_of(0).astype(float), frames_of(0), "after", r"source: .* found \(1, 2, 2, 3\) float64"),
        (frames_of(0), frames_of(0)[:0], "after", "edited: expected at least one frame"),
        (frames_of(0), frames_of(0), "  ", "edit_prompt: expected text, found '  '"),
    ],
)
def test_invalid_inputs_are_refused(source, edited, prompt, message):
    encoder = encoder_of({0: [1, 0]}, {"before": [1, 0], "after": [0, 1]})
    with pytest.raises(ValueError, match=message):
        alignment_metrics(source, edited, "before", prompt, encoder)


# --- pixels ------------------------------------------------------------------------------------------------------------


def test_psnr_by_hand():
    source = np.zeros((2, 2, 2, 3), dtype=np.uint8)
    edited, mask = source.copy(), np.zeros((2, 2, 2), dtype=bool)
    edited[0, 0, 0], edited[1, 1, 1] = 200, 10
    mask[0, 0, 0] = True
    assert psnr_outside_mask(source, edited, mask) == pytest.approx(
        10 * np.log10(255**2 / (100 / 7))
    )  # 7 pixels are left
    assert psnr_outside_mask(edited, source) == pytest.approx(10 * np.log10(255**2 / ((200**2 + 100) / 8)))
    assert psnr_outside_mask(source, source) == 100
    assert np.isnan(psnr_outside_mask(source, edited, np.ones_like(mask)))


def reference_ssim(source, edited, mask):
    """Window by window, as the paper's equations have it."""
    place = np.arange(-5, 6)
    weights = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    weights /= weights.sum()
    numbers = []
    for time, top, left, channel in np.ndindex(*(np.array(source.shape) - (0, 10, 10, 0))):
        window = (time, slice(top, top + 11), slice(left, left + 11))
        if mask[window].any():
            continue
        x, y = (frames[(*window, channel)].astype(float) for frames in (source, edited))
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        variance_x, variance_y = ((weights * (one - mean) ** 2).sum() for one, mean in ((x, mean_x), (y, mean_y)))
        covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        numbers.append(
            (2 * mean_x * mean_y + c1)
            * (2 * covariance + c2)
            / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
        )
    return np.mean(numbers)


def test_ssim_is_that_of_a_loop_over_windows():
    source = noise(2, 14, 17, 3)
    edited = (source // 2 + noise(2, 14, 17, 3, seed=1) // 3).astype(np.uint8)
    mask = np.zeros((2, 14, 17), dtype=bool)
    whole = ssim_outside_mask(source, edited)
    assert whole == pytest.approx(reference_ssim(source, edited, mask))
    mask[0, 12, 3] = mask[1, 0, 16] = True
    outside = ssim_outside_mask(source, edited, mask)
    assert outside == pytest.approx(reference_ssim(source, edited, mask))
    assert outside != pytest.approx(whole, abs=1e-4)
    assert ssim_outside_mask(source, source) == pytest.approx(1)
    mask[:, 7] = True
    assert np.isnan(ssim_outside_mask(source, edited, mask))


@pytest.mark.parametrize("measure", [psnr_outside_mask, ssim_outside_mask])
@pytest.mark.parametrize("mask", [np.zeros((1, 12, 13), dtype=bool), np.zeros((2, 12, 12), dtype=np.uint8)])
def test_a_mask_of_another_size_or_kind_is_refused(measure, mask):
    frames = noise(2, 12, 12, 3)
    with pytest.raises(
        ValueError, match=rf"mask: expected bool of shape \(T, H, W\) \(2, 12, 12\), found {mask.dtype}"
    ):
        measure(frames, frames, mask)


def test_frames_smaller_than_a_window_are_refused():
    frames = noise(1, 10, 20, 3)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        ssim_outside_mask(frames, frames)


# --- motion ------------------------------------------------------------------------------------------------------------


def test_grid_queries_are_the_centres_of_cells():
    queries = grid_queries((16, 32))
    assert queries.shape == (64, 3)
    assert queries[:9].tolist() == [[0, 1.5 + 4 * x, 0.5] for x in range(8)] + [[0, 1.5, 2.5]]


def test_motion_by_hand():
    """Points of the edit move 3 pixels of 128 a frame too far, 6 and 12 of 256; half the points are hidden in frame 1."""
    source, edited = np.zeros((2, 3, 128, 128, 3), dtype=np.uint8)
    edited[:] = 1

    def track(frames, queries):
        found = still(frames, queries)
        if frames[0, 0, 0, 0]:
            found.tracks[..., 0] += 3 * np.arange(3)[:, None]
            found.visibility[:] = False  # does not matter
        else:
            found.visibility[1, :32] = False
        return found

    found = motion_fidelity(source, edited, track)
    near = (2 / 5 * 32 + 1 / 5 * 64) / 96  # 6 pixels: within 8 and 16; 12 pixels: within 16
    assert found["motion_fidelity"] == pytest.approx(near)
    assert found["motion_distance"] == pytest.approx((6 * 32 + 12 * 64) / 96)
    assert motion_fidelity(source, source, track) == {"motion_fidelity": 1, "motion_distance": 0}


def test_motion_of_one_frame_is_nan():
    frames = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    assert all(np.isnan(number) for number in motion_fidelity(frames, frames, still).values())


# --- all together ------------------------------------------------------------------------------------------------------


def test_all_metrics_are_returned_with_the_encoders_name():
    pytest.importorskip("cv2")
    source, edited = np.zeros((2, 2, 16, 16, 3), dtype=np.uint8)
    edited[:] = 1
    mask = np.ones((2, 16, 16), dtype=bool)
    encoder = encoder_of({0: [1, 0], 1: [0, 1]}, {"before": [1, 0], "after": [0, 1]}, name="openai/clip")
    found = editing_metrics(source, edited, "before", "after", encoder, still, mask)
    assert list(found) == ["encoder", *NUMBERS]
    assert found["encoder"] == "openai/clip"
    assert found["loveu_text_alignment"] == 100
    assert np.isnan(found["psnr_outside_mask"])
    assert np.isnan(found["ssim_outside_mask"])
    assert found["motion_fidelity"] == 1
    assert editing_metrics(source, edited, "before", "after", encoder, still)["psnr_outside_mask"] == pytest.approx(
        48.13, abs=0.01
    )


def test_means_are_of_one_encoder():
    rows = [{"encoder": "one", **dict.fromkeys(NUMBERS, number)} for number in (1.0, 2.0)]
    rows[1]["warp_error"] = NAN
    mean = mean_over_edits(rows)
    assert mean["encoder"] == "one"
    assert (mean["loveu_text_alignment"], mean["warp_error"]) == (1.5, 1)
    with pytest.raises(ValueError, match="numbers of one encoder, found those of one, other"):
        mean_over_edits([*rows, {**rows[0], "encoder": "other"}])
    with pytest.raises(ValueError, match="at least one edited video, found none"):
        mean_over_edits([])
