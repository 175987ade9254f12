"""Sizes, inputs and weights of the small random SEN that tests share, and a gradient check."""

import torch

import modeling_sen

SMALL = {"hidden_size": 24, "num_prompt_tokens": 2, "bottleneck_size": 4}


def random_inputs(batch_size: int = 2, seed: int = 0, frames: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image_pixel_values": torch.randn(batch_size, frames, 3, 16, 16, generator=generator),
        "video_pixel_values": torch.randn(batch_size, 4, 3, 16, 16, generator=generator),
        "audio_input_features": torch.randn(batch_size, 64, 16, generator=generator),
    }


def random_weights(model: "modeling_sen.SENModel", gate: float = 0.7) -> "modeling_sen.SENModel":
    """As after training: no association weight is zero, and the gate is open."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.gate.fill_(gate)
        model.logit_scale.fill_(2.0)
    return model


def assert_gradient_is_that_of_finite_differences(parameter: torch.Tensor, loss, message: str | None = None) -> None:
    """Checks one element in the middle of a float64 parameter; the gradient of `loss()` must be in `parameter.grad`."""
    index, step, values = tuple(size // 2 for size in parameter.shape), 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):
            parameter[index] += sign * step
            values.append(loss())
        parameter[index] += step
    expected = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(parameter.grad[index], expected, rtol=1e-4, atol=1e-8, msg=message)
