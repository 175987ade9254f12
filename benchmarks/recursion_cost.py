"""What recursion costs at full size: SEN with three rounds against one pass of the same frozen encoders.

CLIP-B/16 on 8 frames, VideoMAE-B on 16 frames and AST on 10 s of sound, real configurations with random weights, one clip.
Naive re-encoding, the reference, runs each whole tower again in each round, with the prompts at the same site. Ways take
turns, so that what else the machine does hits all of them; ratios are taken within a turn. A training step is a forward and a
backward pass, on the inputs (trunks run without gradients) or on stored outputs of the trunks.

    python benchmarks/recursion_cost.py [--threads 1] [--repeats 5] [--training]
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from preset_cost import peak_memory
from torch import Tensor
from transformers import ASTConfig, ASTModel, CLIPVisionConfig, CLIPVisionModel, VideoMAEConfig, VideoMAEModel

from modeling_sen import SENModel, SENOutput
from modeling_sen.first_look import FirstLook, NeuronState
from modeling_sen.neuron import Neuron
from modeling_sen.prompting import QueryPrompts, TokenPrompts

transformers.utils.logging.disable_progress_bar()

# Way -> fields of the SEN's configuration, and the aim for its time over one pass.
SENS: dict[str, tuple[dict[str, Any], float | None]] = {
    "none": ({"prompt": "none"}, None),
    "queries, a quarter": ({"prompt": "queries", "prompt_depth": 3}, 1.04),
    "queries, whole tower": ({"prompt": "queries", "prompt_depth": "all"}, 1.12),
    "tokens, 1 layer": ({"prompt": "tokens", "prompt_depth": 1}, 1.35),
    "tokens, a quarter": ({"prompt": "tokens", "prompt_depth": 3}, 1.8),
    "tokens, whole tower": ({"prompt": "tokens", "prompt_depth": "all"}, None),
}
INFERENCE = [name for name in SENS if name != "tokens, whole tower"]
TRAINING_AIM = 0.4  # of `tokens` at the same depth
MEMORY_AIM = 1.15
DIFFERENCE_AIM = 1e-5


def save_towers(folder: Path) -> None:
    """Base-size towers with random weights, whose tokens differ as trained towers' do."""
    torch.manual_seed(0)
    clip = CLIPVisionModel(CLIPVisionConfig(patch_size=16))
    videomae = VideoMAEModel(VideoMAEConfig(use_mean_pooling=False))
    for name, tower in (("image", clip), ("video", videomae), ("audio", ASTModel(ASTConfig()))):
        tower.save_pretrained(folder / name)


def make_sen(folder: Path, **config: Any) -> SENModel:
    torch.manual_seed(1)
    neurons = [{"hub_id": str(folder / "image"), "num_frames": 8}, str(folder / "video"), str(folder / "audio")]
    model = SENModel.from_neurons(neurons, num_rounds=3, **config)
    model.add_dense_modulation(*model.specs)
    for module in model.modules():  # as after training: prompts of the size of tokens, open gates
        if isinstance(module, TokenPrompts):
            torch.nn.init.normal_(module.tokens)
            torch.nn.init.normal_(module.up.weight, std=0.2)
        if isinstance(module, QueryPrompts):
            torch.nn.init.ones_(module.gate)
    return model


def make_clip() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "image_pixel_values": torch.randn(1, 8, 3, 224, 224, generator=generator),
        "video_pixel_values": torch.randn(1, 16, 3, 224, 224, generator=generator),
        "audio_input_features": torch.randn(1, 1024, 128, generator=generator),
    }


def tower_inputs(model: SENModel, clip: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """neuron -> what its tower is called with."""
    return {
        name: neuron.tower_inputs({neuron.spec.input_name: clip[f"{name}_{neuron.spec.input_name}"]})
        for name, neuron in ((name, model.neurons[name]) for name in model.specs)
    }


def encode_once(model: SENModel, clip: dict[str, Tensor]) -> None:
    """One pass of the same encoders, nothing else."""
    for name, inputs in tower_inputs(model, clip).items():
        model.neurons[name].tower(**inputs)


def associate(model: SENModel, clip: dict[str, Tensor]) -> SENOutput:
    return model(**clip)


def associate_naively(model: SENModel, clip: dict[str, Tensor]) -> SENOutput:
    """The same recursion, with every tower run again from its raw inputs in each round."""
    inputs = tower_inputs(model, clip)
    for name in model.specs:
        neuron = model.neurons[name]
        neuron.look_again = partial(look_again_naively, neuron, inputs[name])
    try:
        return model(**clip)
    finally:
        for name in model.specs:
            del model.neurons[name].look_again


def look_again_naively(neuron: Neuron, inputs: dict[str, Tensor], look: FirstLook, prompts: Tensor) -> NeuronState:
    frames = next(iter(inputs.values())).shape[0] // look.batch_size
    folded = prompts.repeat_interleave(frames, dim=0)

    def join(layer, args):
        return torch.cat([folded, args[0]], dim=1), *args[1:]

    def leave(layer, args, output):
        return output[:, folded.shape[1] :]

    crown = neuron.prompted_tower.crown
    hooks = [crown[0].register_forward_pre_hook(join), crown[-1].register_forward_hook(leave)]
    outputs = neuron.tower(**inputs)
    for hook in hooks:
        hook.remove()
    return neuron.state_of(outputs, look.inputs, inputs)


def read_densely(model: SENModel, output: SENOutput) -> list[Tensor]:
    return [model.dense_features(name, output).tokens for name in model.specs]


def seconds(way: Callable, *given: Any) -> tuple[float, float]:
    """(wall, processor) seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    way(*given)
    return time.perf_counter() - wall, time.process_time() - processor


def difference(first: SENOutput, second: SENOutput) -> float:
    """Largest absolute difference of anything the two models say."""
    pairs = [(first.fused_embeds, second.fused_embeds), (first.knowledge, second.knowledge)]
    for name, state in first.neuron_states.items():
        other = second.neuron_states[name]
        pairs += [
            (getattr(state, field), getattr(other, field))
            for field in ("last_hidden_state", "pooler_output", "answers")
        ]
    return max((one - two).abs().max().item() for one, two in pairs)


def peak_megabytes(way: str, towers: Path, threads: int) -> float:
    """Peak memory of a process that loads the model and runs one clip."""
    command = [sys.executable, __file__, "--only", way, "--towers", str(towers), "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def run_once(way: str, towers: Path) -> None:
    """For `peak_megabytes`."""
    config, _ = SENS.get(way, SENS["tokens, a quarter"])
    model = make_sen(towers, **config)
    run = {"once": encode_once, "naive": associate_naively}.get(way, associate)
    run(model, make_clip())
    print(peak_memory() / 2**20)


def print_turns(turns: dict[str, list[tuple[float, float]]], base: str, aims: dict[str, float | None]) -> None:
    for name, times in turns.items():
        wall, processor = (
            statistics.median(time[kind] / first[kind] for time, first in zip(times, turns[base], strict=True))
            for kind in (0, 1)
        )
        aim = f"   aim {aims[name]}x" if aims.get(name) else ""
        median = statistics.median(time[0] for time in times)
        print(f"{name:32} {median:7.3f} s   {wall:6.3f}x by the clock   {processor:6.3f}x of processor time{aim}")


@torch.no_grad()
def measure_inference(towers: Path, repeats: int, threads: int) -> None:
    clip = make_clip()
    models = {name: make_sen(towers, **SENS[name][0]) for name in INFERENCE}
    for name, model in models.items():
        if name.startswith("tokens"):
            largest = difference(associate(model, clip), associate_naively(model, clip))
            print(f"{name}: largest difference to naive re-encoding {largest:.1e} (aim {DIFFERENCE_AIM:.0e})")
    turns: dict[str, list[tuple[float, float]]] = {}
    quarter = models["tokens, a quarter"]
    output = associate(models["none"], clip)
    read_densely(models["none"], output)
    for _ in range(repeats):
        turns.setdefault("once", []).append(seconds(encode_once, quarter, clip))
        for name, model in models.items():
            turns.setdefault(name, []).append(seconds(associate, model, clip))
        turns.setdefault("naive, a quarter", []).append(seconds(associate_naively, quarter, clip))
        turns.setdefault("dense features of all", []).append(seconds(read_densely, models["none"], output))
    print_turns(turns, "once", {name: aim for name, (_, aim) in SENS.items()} | {"dense features of all": 0.01})
    del models, quarter
    peaks: dict[str, list[float]] = {}
    for _ in range(2):  # they differ by up to a tenth from process to process
        for way in ("once", *INFERENCE, "naive"):
            peaks.setdefault(way, []).append(peak_megabytes(way, towers, threads))
    for way, found in peaks.items():
        mean, once = statistics.mean(found), statistics.mean(peaks["once"])
        both = " and ".join(f"{peak:.0f}" for peak in found)
        print(f"peak memory, {way}: {both} MB, {mean / once:.2f}x of one pass (aim {MEMORY_AIM}x)")


def train_step(model: SENModel, given: dict[str, Any]) -> None:
    output = model(**given)
    output.association_embeds.square().flatten(0, 1)[:, 0].sum().backward()
    model.zero_grad()


def stored(model: SENModel, clip: dict[str, Tensor]) -> dict[str, Any]:
    """Stored first looks in the place of inputs, as the feature cache gives them; unpacked anew in each step."""
    packed = {}
    for name in model.specs:
        neuron = model.neurons[name]
        look = neuron.first_look({neuron.spec.input_name: clip[f"{name}_{neuron.spec.input_name}"]})
        packed[name] = (neuron, look.pack())
    return packed


def train_step_stored(model: SENModel, packed: dict[str, Any]) -> None:
    train_step(model, {"trunks": {name: neuron.unpack(tensors) for name, (neuron, tensors) in packed.items()}})


def measure_training(towers: Path, repeats: int) -> None:
    clip = make_clip()
    models = {name: make_sen(towers, **config).train() for name, (config, _) in SENS.items()}
    for kind, step in (("on inputs", train_step), ("on stored trunks", train_step_stored)):
        given = {name: clip if step is train_step else stored(model, clip) for name, model in models.items()}
        turns: dict[str, list[tuple[float, float]]] = {}
        for _ in range(repeats):
            for name, model in models.items():
                turns.setdefault(name, []).append(seconds(step, model, given[name]))
        print(f"training step {kind}; aim {TRAINING_AIM}x of tokens at the same depth")
        for depth in ("a quarter", "whole tower"):
            print_turns(
                {name: turns[name] for name in turns if depth in name or name == "none"}, f"tokens, {depth}", {}
            )


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    return found.group(1) if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--training", action="store_true", help="measure training steps instead")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--towers", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        with torch.no_grad():
            run_once(options.only, options.towers)
        return
    print(
        f"{date.today()}, {_processor()}, {options.threads} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, median of {options.repeats} turns")
    with tempfile.TemporaryDirectory() as folder:
        save_towers(Path(folder))
        if options.training:
            measure_training(Path(folder), options.repeats)
        else:
            measure_inference(Path(folder), options.repeats, options.threads)


if __name__ == "__main__":
    main()
