"""Tries each encoder type of the installed Transformers as a neuron, with tiny random weights.

One class of each type is built from its own configuration, reduced by `tiny_configurations.py`, saved, loaded by hub id as
the only neuron of a SEN, and run for two rounds and a backward pass. Each type has its own process, so that a crash or a
timeout does not stop the others. Without types on the command line, the table in docs/encoder_types.md is written.

    python -m benchmarks.every_encoder_type [TYPE ...] [--rows FILE.jsonl]
"""

import argparse
import importlib
import inspect
import json
import logging
import multiprocessing
import os
import re
import resource
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.tiny_configurations import plain_inputs, tiny_model
from modeling_sen import SENModel
from modeling_sen.neuron_by_rule import tokens_of
from modeling_sen.neuron_registry import NEURON_ADAPTERS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "encoder_types.md"
MARK = "<!-- the table, written by `python -m benchmarks.every_encoder_type` -->\n"
SECONDS, MEMORY, LONGEST = 300, 16 << 30, 200  # for one type; bytes; characters of a reason
SMALL = {"hidden_size": 8, "projection_dim": 4, "num_prompt_tokens": 2, "bottleneck_size": 4, "num_rounds": 2}

# First parameter of an encoder's forward -> kind of input; towers with packed patches also take a grid.
READS = {
    "pixel_values": "pixels",
    "pixel_values_videos": "pixel videos",
    "input_features": "spectrograms",
    "input_values": "waveforms",
    "input_ids": "text",
}
OF_GENERATORS = ("cache", "past_key_values", "cache_params", "past_buckets_states", "use_cache")
NO_ENCODER = re.compile(
    r"PreTrained|Pretrained|For[A-Z]|Decoder|LMHead|WithLM|DoubleHeads|Wrapper|WithProjection|Head$"
)

NOT_BUILT, REFUSED, AFTER, PROMPTED = "not built", "refused", "after the tower", "prompts"


@dataclass(frozen=True)
class Row:
    """The result for one type.

    Attributes:
        model_type: the configuration's model type.
        class_name: the class that was tried.
        reads: a value of `READS`.
        registered: whether the type has a registered adapter.
        how: `NOT_BUILT`, `REFUSED`, `AFTER`, or `PROMPTED` with the variant.
        grid: (t, h, w) of two frames, a clip, a sound or a text.
        why: the exception of a type that is refused or not built; after `alone`, that of the tower without a SEN.
    """

    model_type: str
    class_name: str
    reads: str
    registered: bool
    how: str
    grid: tuple[int, int, int] | None = None
    why: str = ""

    @property
    def line(self) -> str:
        how = f"{self.how} (registered)" if self.registered else self.how
        found = " x ".join(map(str, self.grid)) if self.grid else self.why.replace("|", "\\|")
        return f"| `{self.model_type}` | {self.class_name} | {self.reads} | {how} | {found} |"


def encoder_classes() -> list[type[PreTrainedModel]]:
    """One class for each model type and kind of input, by type; no decoders, heads, or models of several towers."""
    models = Path(transformers.__file__).parent / "models"
    classes: dict[type, list[type[PreTrainedModel]]] = {}
    for path in sorted(models.glob("*/modeling_*.py")):
        try:
            module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        except ImportError as error:
            print(f"{path.stem}: {error}", flush=True)
            continue
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, PreTrainedModel) and found.__module__ == module.__name__:
                config_class = found.config_class
                if isinstance(config_class, type) and config_class.model_type:
                    classes.setdefault(config_class, []).append(found)
    chosen: dict[tuple[str, str], type[PreTrainedModel]] = {}
    for config_class, candidates in classes.items():
        model_type = config_class.model_type
        candidates = [each for each in candidates if not NO_ENCODER.search(each.__name__)]
        first = modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
        # First the base class, then models and encoders by name, last backbones, which return feature maps for a head.
        candidates.sort(
            key=lambda each: (
                each.__name__ != first,
                not each.__name__.endswith("EncoderModel"),
                not each.__name__.endswith(("Model", "Encoder")),
            )
        )
        for candidate in candidates:
            reads = what_it_reads(candidate)
            if reads is not None:
                chosen.setdefault((model_type, reads), candidate)
    return [chosen[key] for key in sorted(chosen)]


def what_it_reads(model_class: type[PreTrainedModel]) -> str | None:
    """A value of `READS`; `None` for a class that is no encoder of one of them."""
    names = list(inspect.signature(model_class.forward).parameters)[1:]  # without self
    if not names or any(name.startswith("decoder_input") for name in names):
        return None
    masked = model_class.config_class.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    encodes = masked or model_class.__name__.endswith(("Encoder", "EncoderModel"))
    if names[0] == "input_ids" and not encodes and any(name in names for name in OF_GENERATORS):
        return None
    found = [name for name in names if name in READS]
    if any(name.endswith("grid_thw") for name in names) and "input_ids" not in found:
        return "packed patches"
    several = "input_ids" in found and len(found) > 1
    return READS[names[0]] if names[0] in READS and not several else None


def check(model_class: type[PreTrainedModel]) -> Row:
    """Builds a tiny model of a class and makes a neuron of it.

    Raises:
        ValueError: the class is no encoder.
    """
    reads = what_it_reads(model_class)
    if reads is None:
        raise ValueError(f"{model_class.__name__}: found no encoder of pixels, sound or text")
    model_type = model_class.config_class.model_type
    start = (model_type, model_class.__name__, reads, model_type in NEURON_ADAPTERS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            tower, inputs, failure = tiny_model(model_class)
            tower.save_pretrained(folder)
        except Exception as error:
            return Row(*start, NOT_BUILT, why=_one_line(error, folder))
        if model_type not in CONFIG_MAPPING:  # a part of larger checkpoints, tried alone
            AutoConfig.register(model_type, model_class.config_class)
        if inputs is None and model_type not in NEURON_ADAPTERS:
            return Row(*start, REFUSED, why=f"alone, {_one_line(failure, folder)}")
        try:
            if model_type not in NEURON_ADAPTERS:
                with torch.no_grad():
                    tokens_of(tower, tower(**inputs))  # if it raises, this is the reason, not a missing hidden_size
            # A registered adapter may make the tower's inputs of frames.
            how, grid = make_neuron(model_class, folder, inputs or list(plain_inputs(tower))[-1])
        except Exception as error:
            return Row(*start, REFUSED, why=_one_line(error, folder))
    return Row(*start, how, grid)


def make_neuron(
    model_class: type[PreTrainedModel], folder: str, inputs: Mapping[str, Tensor]
) -> tuple[str, tuple[int, int, int]]:
    """A SEN with the saved tower as its only neuron, two rounds and a backward pass.

    Args:
        inputs: two samples, in a shape that the tower takes without a SEN.

    Returns:
        A value of [`Row`]'s `how`, and the neuron's grid.

    Raises:
        Exception: any exception of making or running the SEN.
        RuntimeError: the loss has no gradient in the neuron's part of the association.
    """
    torch.manual_seed(0)
    dotted = f"{model_class.__module__.removeprefix('transformers.')}.{model_class.__name__}"
    model = SENModel.from_neurons([{"hub_id": folder, "class_name": dotted}], **SMALL)
    spec = model.config.neuron_specs[0]
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)  # gates start at zero, and would stop gradients
    ((_, given),) = inputs.items()
    if spec.input_name == "pixel_values" and given.ndim == 4:
        frames = spec.num_frames if spec.modality == "video" else 2
        given = given[:, None].expand(-1, frames, -1, -1, -1)  # the same frame
    output = model.train()(
        **{f"{spec.name}_{spec.input_name}": given}, text_embeds=torch.eye(2, 4), labels=torch.tensor([0, 1])
    )
    if not output.fused_embeds.isfinite().all():
        raise RuntimeError("the fused embedding is not finite")
    output.loss.backward()
    prompting = [weight for name, weight in model.blocks[0].named_parameters() if name.startswith("prompting")]
    if not all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in prompting):
        raise RuntimeError("the loss has no gradient in the neuron's prompts")
    variant = model.config.prompt_of(spec)
    return (AFTER if variant == "after" else f"{PROMPTED}, {variant}"), output.neuron_states[spec.name].grid


def _one_line(error: Exception, folder: str) -> str:
    message = " ".join(str(error).replace(folder, "FOLDER").split())
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]} ..."
    return f"{type(error).__name__}: {message}"


def _child(model_class: type[PreTrainedModel], connection: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    connection.send(asdict(check(model_class)))


def check_apart(model_class: type[PreTrainedModel], seconds: float = SECONDS) -> Row:
    """[`check`] in a process of its own, which is killed after `seconds`."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_class, theirs))
    process.start()
    theirs.close()
    why = f"took longer than {seconds:g} s"
    try:
        if ours.poll(seconds):
            return Row(**ours.recv())
    except EOFError:
        process.join()
        why = f"its process ended with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
    model_type = model_class.config_class.model_type
    reads = what_it_reads(model_class) or ""
    return Row(model_type, model_class.__name__, reads, model_type in NEURON_ADAPTERS, REFUSED, why=why)


def table(rows: list[Row]) -> str:
    """Counts and the rows, as Markdown."""
    counts = Counter(row.how.split(",")[0] for row in rows)
    found = ", ".join(f"{counts[how]} {how}" for how in (PROMPTED, AFTER, REFUSED, NOT_BUILT))
    head = (
        f"Transformers {transformers.__version__}, {len(rows)} types: {found}.\n\n"
        "| type | class | reads | as a neuron | grid (t x h x w), or why not |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(row.line for row in rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="Model types; all where none is given.")
    parser.add_argument(
        "--rows", type=Path, help="A file to which each row is added as JSON; rows in it are not run again."
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    classes = encoder_classes()
    if unknown := sorted(set(options.types) - {each.config_class.model_type for each in classes}):
        parser.error(f"no encoder types: {', '.join(unknown)}")
    done: dict[str, Row] = {}
    if options.rows and options.rows.exists():
        rows = [Row(**json.loads(line)) for line in options.rows.read_text().splitlines()]
        done = {row.class_name: row for row in rows}
    chosen = [each for each in classes if not options.types or each.config_class.model_type in options.types]
    for number, model_class in enumerate(chosen):
        row = done.get(model_class.__name__)
        if row is None:
            row = done[model_class.__name__] = check_apart(model_class)
            print(f"{number + 1}/{len(chosen)} {row.line}", flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    print(json.dumps(asdict(row)), file=file)
    if not options.types:
        text, mark, _ = PAGE.read_text().partition(MARK)
        PAGE.write_text(text + mark + table([done[each.__name__] for each in classes]))


if __name__ == "__main__":
    main()
