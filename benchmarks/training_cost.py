"""What a training step costs at full size: a SEN against LoRA on the same encoders.

CLIP-B/16 on 8 frames, VideoMAE-B on 16 frames and AST on 10 s of sound, real configurations with random weights, one clip a
step, its label one of 400 classes. Four ways take turns: `lora`, peft's adapters of rank 8 on queries and values; `naive`, a
SEN whose rounds run whole towers again; `no_grad`, a SEN as it is, whose trunks run once without gradients; `cached`, a SEN
on stored trunks. Peak memory is that of a process of its own, from after loading on.

    pip install peft; python benchmarks/training_cost.py [--threads 1] [--repeats 3] [--depths 3 1]
"""

import argparse
import os
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
from recursion_cost import associate_naively, make_clip, make_sen, save_towers
from torch import Tensor, nn

from modeling_sen import SENModel, SENOutput
from modeling_sen.training.feature_cache import FeatureCache

transformers.utils.logging.disable_progress_bar()

NUM_CLASSES = 400
SPEED_AIM, MEMORY_AIM = 5.0, 0.3  # of cached trunks against LoRA
Step = Callable[[], None]


class AdaptedTowers(nn.Module):
    """The same encoders with adapters inside, and a linear classifier on their pooled outputs."""

    def __init__(self, model: SENModel):
        super().__init__()
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(r=8, lora_alpha=16, target_modules=r".*\.(q_proj|v_proj|query|value)")
        self.neurons = [model.neurons[name] for name in model.specs]
        self.towers = nn.ModuleList(get_peft_model(neuron.tower, settings) for neuron in self.neurons)
        self.classify = nn.ModuleList(nn.Linear(neuron.spec.hidden_size, NUM_CLASSES) for neuron in self.neurons)

    def forward(self, clip: dict[str, Tensor], labels: Tensor) -> SENOutput:
        logits = []
        for neuron, tower, classify in zip(self.neurons, self.towers, self.classify, strict=True):
            inputs = neuron.tower_inputs(
                {neuron.spec.input_name: clip[f"{neuron.spec.name}_{neuron.spec.input_name}"]}
            )
            output = tower(**inputs)
            pooled = getattr(output, "pooler_output", None)
            pooled = output.last_hidden_state.mean(1) if pooled is None else pooled
            logits.append(classify(pooled.mean(0, keepdim=True)))  # over frames
        return SENOutput(loss=nn.functional.cross_entropy(torch.stack(logits).mean(0), labels))


def make_step(way: str, towers: Path, depth: int) -> Step:
    """A training step: forward, backward, AdamW."""
    model, clip = make_sen(towers, prompt="tokens", prompt_depth=depth), make_clip()
    texts = nn.functional.normalize(torch.randn(NUM_CLASSES, model.config.projection_dim), dim=-1)
    asked = {"text_embeds": texts, "labels": torch.tensor([7])}
    trained: nn.Module = model
    run: Callable[[], SENOutput] = partial(model, **clip, **asked)
    if way == "lora":
        trained = AdaptedTowers(model)
        run = partial(trained, clip, asked["labels"])
    elif way == "naive":
        run = partial(associate_naively, model, {**clip, **asked})
    elif way == "cached":
        cache = FeatureCache(model, towers / "trunks", ["clip"], dtype=torch.float32)
        cache.build(lambda rows: clip, batch_size=1)
        cache.drop_trunks()
        run = partial(run_on_cache, model, cache, asked)
    weights = [weight for weight in trained.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)

    def step() -> None:
        run().loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def run_on_cache(model: SENModel, cache: FeatureCache, asked: dict[str, Tensor]) -> SENOutput:
    return model(trunks=cache.trunks([0]), **asked)


def seconds(step: Step) -> tuple[float, float]:
    """(wall, processor) seconds of one step."""
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - processor


def peak_megabytes(way: str, towers: Path, depth: int, threads: int) -> float:
    """Of a process of its own: the most it holds during two steps."""
    command = [sys.executable, __file__, "--only", way, "--towers", str(towers), "--threads", str(threads)]
    result = subprocess.run([*command, "--depths", str(depth)], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def two_steps(way: str, towers: Path, depth: int) -> None:
    step = make_step(way, towers, depth)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step()
    step()
    print(peak_memory() / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 1], help="layers of the crown")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--towers", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        two_steps(options.only, options.towers, options.depths[0])
        return
    print(f"{date.today()}, {options.threads} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, median of {options.repeats} turns")
    with tempfile.TemporaryDirectory() as folder:
        towers = Path(folder)
        save_towers(towers)
        ways = [("lora", options.depths[0]), ("naive", options.depths[0])]
        ways += [(way, depth) for depth in options.depths for way in ("no_grad", "cached")]
        steps = {each: make_step(*(each[0], towers, each[1])) for each in ways}
        turns: dict[tuple[str, int], list[tuple[float, float]]] = {each: [] for each in ways}
        for _ in range(options.repeats):
            for each, step in steps.items():
                turns[each].append(seconds(step))
        del steps
        peaks = {each: peak_megabytes(each[0], towers, each[1], options.threads) for each in ways}
        for each, times in turns.items():
            wall, processor = (
                statistics.median(lora[kind] / time[kind] for time, lora in zip(times, turns[ways[0]], strict=True))
                for kind in (0, 1)
            )
            median = statistics.median(time[0] for time in times)
            name = each[0] if each[0] == "lora" else f"{each[0]}, depth {each[1]}"
            speed = f"{wall:5.2f}x as fast by the clock, {processor:5.2f}x of processor time"
            print(f"{name:18} {median:7.2f} s   {speed}   {peaks[each]:6.0f} MB, {peaks[each] / peaks[ways[0]]:.2f}x")
    print(f"aims for cached trunks: {SPEED_AIM}x the speed, {MEMORY_AIM}x the memory")


if __name__ == "__main__":
    main()
