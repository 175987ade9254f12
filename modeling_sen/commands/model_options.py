# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Options shared by commands that run a model: device and precision."""

from typing import Annotated, Any

import typer

DTYPES = ("float32", "bfloat16", "float16")

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...; by default the first GPU, or the CPU.")]
Dtype = Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; by default as the checkpoint was saved.")]


def model_arguments(device: str | None, dtype: str | None) -> dict[str, Any]:
    """Checks the options and returns them as arguments of [`SENEncoder.from_pretrained`].

    Raises:
        ValueError: an unknown precision, or a device that does not exist.
    """
    import torch

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    if device is not None:
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: a build without CUDA
            reason = str(error).splitlines()[0]
            raise ValueError(f"--device {device!r}: expected a device of this machine ({reason})") from error
    return {"device": device, "dtype": dtype}


__all__ = ["Device", "Dtype", "model_arguments"]
