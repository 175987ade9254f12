"""What recursion costs at full size: SEN with three rounds against one pass of the same frozen encoders.

CLIP-B/16 on 8 frames, VideoMAE-B on 16 frames and AST on 10 s of sound, real configurations with random weights, one clip.
Naive re-encoding, the reference, runs each whole tower again in each round, with the prompts at the same site. Ways take
turns, so that what else the machine does hits all of them; ratios are taken within a turn.

    python benchmarks/recursion_cost.py [--threads 1] [--repeats 5] [--depths 3 1 0]
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

import torch
import transformers
from preset_cost import peak_memory
from torch import Tensor
from transformers import ASTConfig, ASTModel, CLIPVisionConfig, CLIPVisionModel, VideoMAEConfig, VideoMAEModel

from modeling_sen import SENModel, SENOutput
from modeling_sen.first_look import FirstLook, NeuronState
from modeling_sen.neuron import Neuron

transformers.utils.logging.disable_progress_bar()

AIMS = {3: 1.8, 1: 1.35}  # prompt depth -> time over one pass
MEMORY_AIM = 1.15
DIFFERENCE_AIM = 1e-5


def save_towers(folder: Path) -> None:
    """Base-size towers with random weights, whose tokens differ as trained towers' do."""
    torch.manual_seed(0)
    clip = CLIPVisionModel(CLIPVisionConfig(patch_size=16))
    videomae = VideoMAEModel(VideoMAEConfig(use_mean_pooling=False))
    for name, tower in (("image", clip), ("video", videomae), ("audio", ASTModel(ASTConfig()))):
        tower.save_pretrained(folder / name)


def make_sen(folder: Path, depth: int) -> SENModel:
    torch.manual_seed(1)
    neurons = [{"hub_id": str(folder / "image"), "num_frames": 8}, str(folder / "video"), str(folder / "audio")]
    prompts = {"prompt_depth": depth} if depth else {"prompt": "none"}
    model = SENModel.from_neurons(neurons, num_rounds=3, **prompts)
    for block in model.blocks if depth else ():  # as after training: prompts of the size of tokens
        for prompting in block.prompting.values():
            torch.nn.init.normal_(prompting.tokens)
            torch.nn.init.normal_(prompting.up.weight, std=0.2)
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
    return neuron._state(outputs, look.inputs, inputs)


WAYS = {"once": encode_once, "naive": associate_naively, "sen": associate}


def seconds(way: Callable, model: SENModel, clip: dict[str, Tensor]) -> tuple[float, float]:
    """(wall, processor) seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    way(model, clip)
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


def peak_megabytes(way: str, depth: int, towers: Path, threads: int) -> float:
    """Peak memory of a process that loads the model and runs one clip."""
    command = [sys.executable, __file__, "--only", way, "--towers", str(towers), "--threads", str(threads)]
    result = subprocess.run([*command, "--depths", str(depth)], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def measure(towers: Path, depths: list[int], repeats: int, threads: int) -> None:
    clip, base = make_clip(), depths[0]
    models = {depth: make_sen(towers, depth) for depth in depths}
    for depth, model in models.items():
        largest = difference(associate(model, clip), associate_naively(model, clip))
        print(f"depth {depth}: largest difference to naive re-encoding {largest:.1e} (aim {DIFFERENCE_AIM:.0e})")
    turns: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        ways = [("once", encode_once, base)]
        if base:
            ways.append((f"naive, depth {base}", associate_naively, base))
        for name, way, depth in [*ways, *((f"SEN, depth {depth}", associate, depth) for depth in depths)]:
            turns.setdefault(name, []).append(seconds(way, models[depth], clip))
    for name, times in turns.items():
        wall, processor = (
            statistics.median(time[kind] / once[kind] for time, once in zip(times, turns["once"], strict=True))
            for kind in (0, 1)
        )
        median = statistics.median(time[0] for time in times)
        print(f"{name:18} {median:7.2f} s   {wall:5.2f}x by the clock   {processor:5.2f}x of processor time")
    print("aims: " + ", ".join(f"depth {depth}: {AIMS[depth]}x" for depth in depths if depth in AIMS))
    once = peak_megabytes("once", base, towers, threads)
    for way, depth in [*([("naive", base)] if base else []), *(("sen", depth) for depth in depths)]:
        peak = peak_megabytes(way, depth, towers, threads)
        print(f"peak memory, {way}, depth {depth}: {peak:.0f} MB, {peak / once:.2f}x of one pass (aim {MEMORY_AIM}x)")


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    return found.group(1) if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--depths", type=int, nargs="+", default=[*AIMS, 0], help="layers of the crown; 0: no second look"
    )
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--towers", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    if options.only:
        WAYS[options.only](make_sen(options.towers, options.depths[0]), make_clip())
        print(peak_memory() / 2**20)
        return
    print(
        f"{date.today()}, {_processor()}, {options.threads} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, median of {options.repeats} turns")
    with tempfile.TemporaryDirectory() as folder:
        save_towers(Path(folder))
        measure(Path(folder), options.depths, options.repeats, options.threads)


if __name__ == "__main__":
    main()
