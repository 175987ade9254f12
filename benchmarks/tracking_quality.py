"""Trackers on the world's presets for tracking, with exact frames: queries at the first frame, and strided.

Means over clips with their standard errors; shares in per cent, TC in pixels of 256. The calibration error is that of the
confidence that a point is visible and less than 4 pixels away. A tracker is a name of `trackers.py` or a checkpoint. Results
of clips are kept: the same command goes on after an interruption.

    python benchmarks/tracking_quality.py OUT [--trackers lk dis] [--presets base fast] [--num 10] [--seed 5000]

`lk` and `dis` need OpenCV: pip install opencv-python-headless.
"""

import argparse
import os
import time
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
from trackers import make_tracker

from modeling_sen.evaluation.clip_results import ClipResults
from modeling_sen.evaluation.measure_tracking import measure_tracking
from modeling_sen.evaluation.tracking_metrics import QUERY_MODES
from modeling_sen.evaluation.tracking_sets import open_tracking_set
from modeling_sen.world.tracking_scene import TRACKING_PRESETS

HEADS = ("AJ", "delta", "OA", "TC", "AJ after re-appearance", "calibration error", "processor s a clip")
NUMBERS = (
    "average_jaccard",
    "average_pts_within_thresh",
    "occlusion_accuracy",
    "temporal_coherence",
    "average_jaccard_reappeared",
    "calibration_error",
    "seconds",
)
PIXELS_OR_SECONDS = ("temporal_coherence", "seconds")


def cell(split: dict, name: str) -> str:
    factor, digits = (1, 2) if name in PIXELS_OR_SECONDS else (100, 1)
    number, error = split[name], split.get("standard_errors", {}).get(name, float("nan"))
    if np.isnan(number):
        return ""
    spread = "" if np.isnan(error) or name == "seconds" else f" ± {factor * error:.{digits}f}"
    return f"{factor * number:.{digits}f}{spread}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the results of clips")
    parser.add_argument("--trackers", nargs="+", default=["static", "lk", "dis"], metavar="NAME_OR_CHECKPOINT")
    parser.add_argument("--presets", nargs="+", default=list(TRACKING_PRESETS), metavar="PRESET")
    parser.add_argument("--query-modes", nargs="+", choices=QUERY_MODES, default=list(QUERY_MODES))
    parser.add_argument("--num", type=int, default=10, help="clips of each preset")
    parser.add_argument("--seed", type=int, default=5000, help="of the first clip")
    options = parser.parse_args(arguments)
    trackers = {name: make_tracker(name) for name in options.trackers}
    print(f"{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for mode in options.query_modes:
        print(f"\n{options.num} clips of each preset from seed {options.seed}, queries {mode}\n")
        print(f"| preset | tracker | {' | '.join(HEADS)} |")
        print(f"|{'---|' * (2 + len(HEADS))}")
        splits: dict[str, list[dict]] = {name: [] for name in trackers}
        for preset in options.presets:
            part = open_tracking_set(preset, mode, options.num, options.seed)
            part = replace(part, read=cache(part.read))  # drawn once for all trackers
            for name, (track, label) in trackers.items():
                results = ClipResults(options.out / f"{label}-{mode}.json")
                splits[name] += measure_tracking(track, [part], results, clock=time.process_time)["splits"]
                cells = [cell(splits[name][-1], number) for number in NUMBERS]
                print(f"| {preset} | {name} | {' | '.join(cells)} |", flush=True)
        for name, some in splits.items():
            mean = {number: float(np.nanmean([split[number] for split in some])) for number in NUMBERS}
            cells = [cell(mean, number) for number in NUMBERS]
            print(f"| mean of {len(some)} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
