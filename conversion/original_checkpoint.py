# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Steps of every conversion: read an original file, rename its weights, fill a model, save and verify it.

Reading a file runs no code in it. The new folder replaces an old one only when it is complete.
"""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from modeling_sen.hub_files import quiet_transformers
from modeling_sen.whole_file import replaced_folder

TOLERANCE = 1e-5  # largest difference of an output after a correct conversion
_ZIP = b"PK\x03\x04"

Rules = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint that is not saved yet.

    Attributes:
        model: filled with the original's weights.
        processor: anything with `save_pretrained`; `None` for a model that is saved without one.
        card: text of its README.md.
        outputs: `outputs(model, inputs) -> {name: tensor}`, where `inputs` are the `input.NAME` of a file of references, and
            the outputs have the names of its `output.NAME`.
        notes: lines to print when it is saved.
    """

    model: PreTrainedModel
    processor: Any
    card: str
    outputs: Callable[[PreTrainedModel, Mapping[str, Tensor]], dict[str, Tensor]]
    notes: tuple[str, ...] = ()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by name, memory-mapped if the format allows it.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ValueError: the file is empty, truncated or of another format, or holds code or objects other than tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: found a folder, expected a PyTorch file")
    with open(path, "rb") as file:
        start = file.read(len(_ZIP))
    if not start:
        raise ValueError(f"{path}: the file is empty, expected a PyTorch file")
    is_zip = zipfile.is_zipfile(path)
    if start == _ZIP and not is_zip:  # a zip file has its table of contents at the end
        raise ValueError(f"{path}: the file is truncated ({path.stat().st_size:,} bytes); download it again")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except Exception as error:  # the reader's errors on bytes of another format are of many kinds
        if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise ValueError(f"{path}: it holds code ({code[1]}), which is not run; expected tensors only") from error
        raise ValueError(f"{path}: found no PyTorch file, or a damaged one ({type(error).__name__})") from error
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path}: found {type(weights).__name__}, expected a dict of tensors by name")
    if strangers := [name for name, weight in weights.items() if not isinstance(weight, Tensor)]:
        raise ValueError(f"{path}: {strangers[0]!r} is {type(weights[strangers[0]]).__name__}, expected tensors only")
    return dict(weights)


def rename(weights: Mapping[str, Tensor], rules: Rules, unread: Sequence[str], family: str) -> dict[str, Tensor]:
    """Renames each weight by the first rule whose expression matches its name.

    Args:
        weights: of the original.
        rules: (regular expression of a whole name, replacement).
        unread: expressions of names to leave out.
        family: for errors.

    Raises:
        ValueError: no rule matches a name.
    """
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if any(re.fullmatch(pattern, name) for pattern in unread):
            continue
        found = next(((pattern, to) for pattern, to in rules if re.fullmatch(pattern, name)), None)
        if found is None:
            raise ValueError(f"not a checkpoint of {family}: found weight {name!r}, which {family} does not have")
        renamed[re.sub(*found, name)] = weight
    return renamed


def fill(model: PreTrainedModel, weights: Mapping[str, Tensor], hint: str) -> None:
    """Replaces the weights of a model, which may be on the meta device.

    Args:
        hint: for the error, what to do about weights that do not fit.

    Raises:
        ValueError: weights are missing, left over, or of another shape.
    """
    own = model.state_dict()
    wrong = [f"{name!r} is missing" for name in own if name not in weights]
    wrong += [f"{name!r} is left over" for name in weights if name not in own]
    wrong += [
        f"{name!r} has shape {tuple(weights[name].shape)}, expected {tuple(weight.shape)}"
        for name, weight in own.items()
        if name in weights and weights[name].shape != weight.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"the weights do not fit: {wrong[0]}{more}; {hint}")
    model.load_state_dict(dict(weights), assign=True)


def save(
    conversion: Conversion, folder: str | Path, verify: str | Path | None = None, shard_size: str = "2GB"
) -> dict[str, float]:
    """Writes weights (safetensors), configuration, processor and card: all of them or nothing.

    Args:
        folder: to write; files of the same names are replaced.
        verify: a safetensors file of `input.NAME` and `output.NAME`, see [`Conversion`]; the new files are loaded again and
            compared before they replace the folder.
        shard_size: of the largest file of weights.

    Returns:
        Output -> its largest difference; empty without `verify`.

    Raises:
        ValueError: `verify` is unreadable or has no outputs.
        DifferentOutputs: a difference is larger than `TOLERANCE`; nothing is written.
    """
    reference = {} if verify is None else read_reference(verify)
    with replaced_folder(folder) as staging:
        with quiet_transformers():
            conversion.model.save_pretrained(staging, max_shard_size=shard_size)
        if conversion.processor is not None:
            conversion.processor.save_pretrained(staging)
        (staging / "README.md").write_text(conversion.card, encoding="utf-8")
        differences: dict[str, float] = {}
        if reference:
            with quiet_transformers():
                model = type(conversion.model).from_pretrained(staging).eval()
            differences = compare(conversion.outputs, model, reference)
            if not all(difference <= TOLERANCE for difference in differences.values()):  # NaN, too
                raise DifferentOutputs(differences)
    return differences


class DifferentOutputs(Exception):
    """The converted model's outputs differ from the original's.

    Attributes:
        differences: output -> its largest difference.
    """

    def __init__(self, differences: dict[str, float]):
        super().__init__(f"largest difference {max(differences.values()):.1e}, expected at most {TOLERANCE:.0e}")
        self.differences = differences


def read_reference(path: str | Path) -> dict[str, Tensor]:
    """A safetensors file with `input.NAME` and `output.NAME`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, or one without inputs or outputs.
    """
    try:
        found = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: found no safetensors file, or a damaged one ({error})") from error
    for kind in ("input", "output"):
        if not any(name.startswith(f"{kind}.") for name in found):
            raise ValueError(f"{path}: found {', '.join(found) or 'nothing'}, expected tensors named {kind}.NAME")
    return found


def compare(
    outputs: Callable[[PreTrainedModel, Mapping[str, Tensor]], dict[str, Tensor]],
    model: PreTrainedModel,
    reference: Mapping[str, Tensor],
) -> dict[str, float]:
    """Output -> its largest difference from the reference.

    Raises:
        ValueError: an output that the model does not have, or has in another shape.
    """
    inputs = {name.removeprefix("input."): value for name, value in reference.items() if name.startswith("input.")}
    wanted = {name.removeprefix("output."): value for name, value in reference.items() if name.startswith("output.")}
    with torch.no_grad():
        given = outputs(model, inputs)
    differences = {}
    for name, expected in wanted.items():
        if name not in given or given[name].shape != expected.shape:
            found = f"one of shape {tuple(given[name].shape)}" if name in given else "none"
            raise ValueError(f"output.{name}: the converted model gives {found}, expected {tuple(expected.shape)}")
        differences[name] = float((given[name].float() - expected.float()).abs().max())
    return differences


__all__ = [
    "TOLERANCE",
    "Conversion",
    "DifferentOutputs",
    "compare",
    "fill",
    "read_reference",
    "read_weights",
    "rename",
    "save",
]
