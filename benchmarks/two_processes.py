"""Training throughput of two processes against one: `sen train` of sen-tiny on clips of the world, one thread a process.

Clips are read from mp4, with their sound, by the processes themselves; batches are the same. Turns alternate; throughput is
that of the whole of training. Losses are compared too.

    python benchmarks/two_processes.py [--steps 40] [--repeats 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
import transformers

from modeling_sen.world.write import write_world

AIM = 1.6
LOG_EVERY, BATCH_SIZE = 4, 32


def run(processes: int, clips: Path, output: Path, steps: int) -> tuple[float, list[float]]:
    """Clips per second of a run, and its losses."""
    flags = {"train": clips, "output_dir": output, "task": "retrieval", "max_steps": steps, "logging_steps": LOG_EVERY}
    flags |= {"per_device_train_batch_size": BATCH_SIZE // processes, "save_strategy": "no"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", "modeling_sen.commands.train"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    *lines, end = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return end["train_samples_per_second"], [line["loss"] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, ", end=""
    )
    print(f"transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        clips, ratios, difference = Path(folder) / "clips", [], 0.0
        write_world(clips, "train", num=256, num_objects=1)
        for turn in range(options.repeats):
            runs = {n: run(n, clips, Path(folder) / f"run-{n}-{turn}", options.steps) for n in (1, 2)}
            (one, losses), (two, others) = runs[1], runs[2]
            ratios.append(two / one)
            both = zip(losses, others, strict=True)
            difference = max(difference, *(abs(first - second) / first for first, second in both))
            print(f"one process {one:.1f} clips/s, two {two:.1f}: {ratios[-1]:.2f}x")
    print(f"median {statistics.median(ratios):.2f}x (aim {AIM}x); losses differ by {100 * difference:.3f} % at most")


if __name__ == "__main__":
    main()
