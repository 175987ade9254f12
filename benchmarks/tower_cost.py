"""Processor seconds and peak memory of a forward pass of a tower of ImageBind or LanguageBind, at full size, on a CPU.

Random weights, batch 1, float32, evaluation, no gradients: one pass to warm up, then the median of `--runs`. Seconds are
processor time summed over threads, which other programs on the machine change less than the clock's. Each tower is built in a
process of its own; peak memory is that of the process, libraries included.

    python benchmarks/tower_cost.py [TOWER ...] [--threads 1] [--runs 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date

import torch
import transformers
from preset_cost import peak_memory

from modeling_sen.hub_files import family_classes

# Tower -> its class with the sizes of the published checkpoint as defaults, and the shape of one input.
TOWERS = {
    "imagebind_huge, images and clips": ("ImageBindVisionModel", (1, 3, 2, 224, 224)),
    "LanguageBind-L, video": ("LanguageBindVideoTower", (1, 3, 8, 224, 224)),
}


def measure(tower: str, runs: int) -> dict[str, float]:
    """Parameters, median processor seconds of a pass, bytes of peak memory."""
    class_name, shape = TOWERS[tower]
    tower_class = family_classes()[class_name]
    torch.manual_seed(0)
    model = tower_class(tower_class.config_class()).eval()
    values, seconds = torch.randn(shape), []
    with torch.no_grad():
        model(values)
        for _ in range(runs):
            start = time.process_time()
            output = model(values)
            seconds.append(time.process_time() - start)
    if not output.pooler_output.isfinite().all():
        raise RuntimeError(f"{tower}: expected a finite output")
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "seconds": statistics.median(seconds), "peak_memory": peak_memory()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("towers", nargs="*", choices=[[], *TOWERS], metavar="TOWER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.here:
        print(json.dumps(measure(options.towers[0], options.runs)))
        return
    print(f"{date.today()}, {options.threads} of {os.cpu_count()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}", flush=True)
    settings = ["--threads", str(options.threads), "--runs", str(options.runs), "--here"]
    for tower in options.towers or TOWERS:
        command = [sys.executable, __file__, tower, *settings]
        found = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )
        print(
            f"{tower}: {found['parameters'] / 1e6:.1f} M parameters, {found['seconds']:.2f} processor s, "
            f"peak {found['peak_memory'] / 1e9:.2f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
