"""Deterministic sampling and inversion: against Diffusers' schedulers, and there and back on a known data distribution."""

import math

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DDIMInverseScheduler, DDIMScheduler
from random_editing import gaussian_predictor

from modeling_sen.editing.ddim import invert, sample
from modeling_sen.editing.noise_levels import NoiseLevels

SD1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
ZERO_SNR = {
    **SD1,
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SETTINGS = {"epsilon": SD1, "velocity": {**SD1, "prediction_type": "v_prediction"}, "zero_snr": ZERO_SNR}


@pytest.fixture(params=SETTINGS)
def settings(request):
    return SETTINGS[request.param]


def latents(seed=0):
    return torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wavy(sample, timestep):
    """Any function of both."""
    return torch.sin(3 * sample) * (0.2 + timestep / 1000) + 0.1 * sample


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_sampling_equals_that_of_diffusers(settings, steps):
    scheduler = DDIMScheduler(**settings)
    expected = latents()
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps.tolist():
        expected = scheduler.step(wavy(expected, timestep), timestep, expected).prev_sample
    assert torch.allclose(sample(wavy, latents(), DDIMScheduler(**settings), steps), expected, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_inversion_equals_that_of_diffusers(settings, steps):
    inverse = DDIMInverseScheduler(**settings)
    expected = [latents()]
    inverse.set_timesteps(steps)
    for timestep in inverse.timesteps.tolist():
        expected.append(inverse.step(wavy(expected[-1], timestep), timestep, expected[-1]).prev_sample)
    found = invert(wavy, latents(), DDIMScheduler(**settings), steps, keep=True)
    assert len(found) == steps + 1
    for own, theirs in zip(found, expected, strict=True):
        assert torch.allclose(own, theirs, atol=1e-5)
    (noise,) = invert(wavy, latents(), DDIMScheduler(**settings), steps)
    assert torch.equal(noise, found[-1])


@pytest.mark.parametrize("steps", [7, 61])
def test_each_step_ends_where_the_next_one_starts(settings, steps):
    """61 trailing steps are 62 of Diffusers', the last one at timestep -1."""
    levels = NoiseLevels.of(DDIMScheduler(**settings), steps)
    assert len(levels) == steps
    assert levels.timesteps[0] >= 0
    assert list(levels.alphas) == sorted(levels.alphas, reverse=True)
    asked = []
    sample(lambda x, timestep: asked.append(timestep) or 0 * x, latents(), DDIMScheduler(**settings), steps)
    assert asked == list(levels.timesteps[::-1])
    clean, noise = latents(1), latents(2)

    def exact(sample, timestep):
        alpha = levels.alphas[1 + levels.timesteps.index(timestep)]
        return alpha * noise - math.sqrt(1 - alpha**2) * clean if levels.velocity else noise

    start = levels.alphas[-1] * clean + levels.sigmas[-1] * noise
    end = levels.alphas[0] * clean + levels.sigmas[0] * noise
    assert torch.allclose(sample(exact, start, DDIMScheduler(**settings), steps), end, atol=1e-9)


def test_more_refinements_reconstruct_the_start_more_closely(settings):
    scheduler = DDIMScheduler(**settings)
    predict, clean = gaussian_predictor(scheduler, mean=0.5, variance=0.6), latents() * 0.7
    errors = []
    for refinements in (0, 1, 3, 30):
        (noise,) = invert(predict, clean, scheduler, 20, refinements)
        errors.append((sample(predict, noise, scheduler, 20) - clean).abs().max().item())
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[2] < errors[0] / 10
    assert errors[3] < 1e-5


def test_many_steps_of_inversion_find_the_noise_of_a_gaussian():
    """The flow of a Gaussian is known: it scales the distance from the mean by the ratio of standard deviations."""
    scheduler = DDIMScheduler(**{**ZERO_SNR, "set_alpha_to_one": False})
    predict, clean = gaussian_predictor(scheduler, mean=0.5, variance=0.25), latents()
    (noise,) = invert(predict, clean, scheduler, 1000)
    first = scheduler.alphas_cumprod[0].item()
    deviation = math.sqrt(first * 0.25 + 1 - first)
    expected = (clean - math.sqrt(first) * 0.5) / deviation
    assert torch.allclose(noise, expected, atol=0.02)


def test_blending_is_called_once_per_level():
    scheduler, seen = DDIMScheduler(**ZERO_SNR), []

    def blend(values, level):
        seen.append(level)
        return values if level else values + 1

    plain = sample(wavy, latents(), scheduler, 5)
    assert torch.equal(sample(wavy, latents(), scheduler, 5, blend), plain + 1)
    assert seen == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("changes", "steps", "message"),
    [
        ({}, 0, "num_steps: expected 1 to 1000.*found 0"),
        ({}, 1001, "num_steps: expected 1 to 1000.*found 1001"),
        ({"prediction_type": "sample"}, 5, "prediction_type is 'sample', expected epsilon or v_prediction"),
        ({"prediction_type": "epsilon"}, 5, "timestep 999 a sample is pure noise.*expected.*'v_prediction'"),
    ],
)
def test_schedulers_and_steps_that_do_not_fit(changes, steps, message):
    with pytest.raises(ValueError, match=message):
        sample(wavy, latents(), DDIMScheduler(**{**ZERO_SNR, **changes}), steps)


def test_negative_refinements():
    with pytest.raises(ValueError, match="refinements: expected at least 0, found -1"):
        invert(wavy, latents(), DDIMScheduler(**SD1), 5, refinements=-1)
