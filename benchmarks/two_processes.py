"""Training throughput of two processes against one: `sen train` of sen-tiny on clips of the world, one thread a process.

Clips are read from mp4, with their sound, by the processes themselves; batches are the same. Turns alternate; throughput is
the median over a run's log after its first lines. Loss curves are compared too.

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
LOG_EVERY = 4


def run(processes: int, clips: Path, output: Path, steps: int) -> list[dict]:
    """The log of a run."""
    flags = {"train": clips, "output": output, "task": "retrieval", "steps": steps, "batch_size": 32, "seed": 0}
    flags |= {"log_every": LOG_EVERY, "checkpoint_every": steps, "evaluate_every": steps}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", "modeling_sen.commands.train"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


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
            logs = {n: run(n, clips, Path(folder) / f"run-{n}-{turn}", options.steps) for n in (1, 2)}
            speeds = {n: statistics.median(line["clips_per_second"] for line in log[2:]) for n, log in logs.items()}
            ratios.append(speeds[2] / speeds[1])
            both = zip(logs[1], logs[2], strict=True)
            difference = max(difference, *(abs(one["loss"] - two["loss"]) / one["loss"] for one, two in both))
            print(f"one process {speeds[1]:.1f} clips/s, two {speeds[2]:.1f}: {ratios[-1]:.2f}x")
    print(f"median {statistics.median(ratios):.2f}x (aim {AIM}x); losses differ by {100 * difference:.3f} % at most")


if __name__ == "__main__":
    main()
