"""Costs of reading frozen encoders on the association task: `python -m benchmarks.association.association_cost ROOT`.

ROOT is the folder of `ablation.py`, with clips, towers and cached trunks. A training step of 64 clips and the reading of 250,
trunks given, on one thread, in processor time; rows take turns, medians of five.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.association.ablation import AblationRun, TrainedOnTask, fastest_attention
from benchmarks.association.association_task import AssociationTask
from benchmarks.association.association_towers import ClipBatches

ROWS = {
    **{
        f"SEN K={rounds}, tokens": AblationRun(towers="local", config={"num_rounds": rounds, "prompt": "tokens"})
        for rounds in (0, 1, 2, 3, 4)
    },
    "SEN K=3, queries": AblationRun(towers="local", config={"num_rounds": 3, "prompt": "queries"}),
    "SEN K=3, no second look": AblationRun(towers="local", config={"num_rounds": 3, "prompt": "none"}),
    "late fusion, 4 resampled trunk tokens": AblationRun(
        "late_fusion", "local", options={"source": "trunk", "num_resampled": 4}
    ),
    "late fusion, all trunk tokens": AblationRun("late_fusion", "local", options={"source": "trunk"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    modules, optimizers = {}, {}
    for name, run in ROWS.items():
        task = AssociationTask(arguments.root, run.towers, **run.config)
        for each in ("train", "test_5"):
            task.open(each)
        modules[name] = TrainedOnTask(task, run)
        trained = [parameter for parameter in modules[name].parameters() if parameter.requires_grad]
        optimizers[name] = torch.optim.AdamW(trained)
    rows = ClipBatches({"rows": np.arange(32_000)}, batch_size=64, seed=0)
    steps: dict[str, list[float]] = {name: [] for name in ROWS}
    looks: dict[str, list[float]] = {name: [] for name in ROWS}
    for repeat in range(arguments.repeats + 1):  # the first is a warm-up
        for name, module in modules.items():
            started = time.process_time()
            with fastest_attention(ROWS[name]), torch.autocast("cpu", torch.bfloat16):
                module.train()(**rows(repeat))["loss"].backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            middle = time.process_time()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                module.eval().embed(module.task.trunks("test_5", range(250)), module.task.targets["test_5"][:250])
            if repeat:
                steps[name].append((middle - started) / 64 * 1e3)
                looks[name].append((time.process_time() - middle) / 250 * 1e3)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, transformers {transformers.__version__}")
    print("| | trainable | training, ms a clip | reading, ms a clip |\n|---|---|---|---|")
    for name, module in modules.items():
        count = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        print(f"| {name} | {count:,} | {statistics.median(steps[name]):.2f} | {statistics.median(looks[name]):.2f} |")


if __name__ == "__main__":
    main()
