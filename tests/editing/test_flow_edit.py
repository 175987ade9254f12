"""Editing without inversion: against FlowEdit in its own coordinates, on Gaussians whose edit is known."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler
from random_editing import gaussian_predictor

from modeling_sen.editing.flow_edit import flow_edit

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SETTINGS = {
    "epsilon": {**BETAS, "steps_offset": 1, "set_alpha_to_one": False},
    "zero_snr": {
        **BETAS,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}


@pytest.fixture(params=SETTINGS)
def scheduler(request):
    return DDIMScheduler(**SETTINGS[request.param])


def latents():
    return torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def rectified_flow_edit(source, means, variances, times, noise, noises):
    """FlowEdit's algorithm 1 with the exact velocity of a Gaussian, without a word of diffusion."""

    def velocity(state, time, mean, variance):
        spread = (1 - time) ** 2 * variance + time**2
        return ((time - (1 - time) * variance) * (state - (1 - time) * mean)) / spread - mean

    edit = source
    for time, later in pairwise(times):
        step = 0
        for _ in range(noises):
            noisy = (1 - time) * source + time * noise()
            target = edit + noisy - source
            step = (
                step + velocity(target, time, means[1], variances[1]) - velocity(noisy, time, means[0], variances[0])
            )
        edit = edit + (later - time) * step / noises
    return edit


@pytest.mark.parametrize(("skip", "noises"), [(0.0, 1), (0.3, 1), (0.5, 3)])
def test_it_equals_flow_edit_in_other_coordinates(scheduler, skip, noises):
    means, variances, steps = (0.2, 1.1), (0.5, 0.3), 10
    predict = [gaussian_predictor(scheduler, *each) for each in zip(means, variances, strict=True)]
    found = flow_edit(*predict, latents(), scheduler, steps, skip, noises, seed=5)
    scheduler.set_timesteps(steps)
    products = scheduler.alphas_cumprod[scheduler.timesteps].double()
    times = ((1 - products).sqrt() / (products.sqrt() + (1 - products).sqrt())).tolist()[int(skip * steps) :]
    generator = torch.Generator().manual_seed(5)

    def noise():
        return torch.randn(latents().shape, generator=generator).double()

    expected = rectified_flow_edit(latents(), means, variances, [*times, 0.0], noise, noises)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 13])
def test_it_moves_by_the_difference_of_two_points(scheduler, steps):
    """With all data at one place, the target's place is reached, whatever the noise."""
    source, target = (gaussian_predictor(scheduler, mean, 0.0) for mean in (0.4, -1.5))
    found = flow_edit(source, target, latents(), scheduler, steps, skip=0.0)
    assert torch.allclose(found, latents() - 1.9, atol=1e-4)


def test_equal_predictions_return_the_source_bit_for_bit(scheduler):
    predict = gaussian_predictor(scheduler, 0.4, 0.7)
    assert torch.equal(flow_edit(predict, predict, latents(), scheduler, 6), latents())


def test_skipped_steps_are_not_predicted(scheduler):
    asked = []

    def predict(sample, timestep):
        asked.append(timestep)
        return sample

    flow_edit(predict, lambda sample, timestep: sample, latents(), scheduler, 10, skip=0.35, num_noises=2)
    scheduler.set_timesteps(10)
    assert asked == [each for each in scheduler.timesteps.tolist()[3:] for _ in range(2)]


def test_the_seed_changes_the_result(scheduler):
    predict = [gaussian_predictor(scheduler, mean, variance) for mean, variance in ((0.1, 0.4), (0.9, 0.8))]
    found = [flow_edit(*predict, latents(), scheduler, 5, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_blending_gets_clean_latents_after_each_step(scheduler):
    predict, seen = [gaussian_predictor(scheduler, mean, 0.5) for mean in (0.1, 0.9)], []

    def blend(edit, level):
        seen.append(level)
        return torch.where(torch.arange(5) < 2, edit, latents())

    found = flow_edit(*predict, latents(), scheduler, 4, skip=0.0, blend=blend)
    assert seen == [3, 2, 1, 0]
    assert torch.equal(found[..., 2:], latents()[..., 2:])
    assert (found[..., :2] - latents()[..., :2]).abs().min() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skip": 1.0}, "skip: .*found 1.0"),
        ({"skip": -0.1}, "skip: .*found -0.1"),
        ({"num_noises": 0}, "num_noises: "),
    ],
)
def test_arguments_out_of_range(scheduler, arguments, message):
    with pytest.raises(ValueError, match=message):
        flow_edit(torch.sin, torch.sin, latents(), scheduler, 5, **arguments)


def test_noise_prediction_without_signal_is_refused():
    scheduler = DDIMScheduler(**{**SETTINGS["zero_snr"], "prediction_type": "epsilon"})
    with pytest.raises(ValueError, match=r"timestep 999 a sample is pure noise.*expected.*'v_prediction'"):
        flow_edit(torch.sin, torch.sin, latents(), scheduler, 5)
