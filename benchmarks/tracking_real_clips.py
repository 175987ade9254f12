"""Trackers on real clips, by what is known of them (`real_clips.py`).

- inside: of the positions that are predicted visible, those on the object where the point started (mask), or in its box.
- seen: of the frames where the object is present, or the point truly visible, those where it is predicted visible.
- joints: BADJA's joints less than 0.2 sqrt(area of the object) from the position.
- reprojected: less than 4 pixels from the position by depth and poses, where that is visible.
- cycle: to the last frame and back, of points predicted visible there (share: kept): median distance in pixels, and the share
  less than 4 pixels from the start.

Pixels are those of a 256 x 256 frame, shares per cent. A tracker is a name of `trackers.py` or a checkpoint. Results of clips
are kept in OUT: the same command goes on after an interruption.

    python benchmarks/tracking_real_clips.py OUT [--trackers lk dis] [--data ../shared/data/tracking]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from real_clips import CLIPS, RealClip
from trackers import make_tracker

from modeling_sen.evaluation.clip_results import ClipResults
from modeling_sen.evaluation.measure_tracking import Tracker
from modeling_sen.evaluation.tracking_partial_truth import cycle_metrics

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "tracking"
SHARES = {
    "inside": "inside",
    "seen": "predicted_visible",
    "joints": "joints",
    "reprojected": "reprojected_within_4",
    "cycle < 4": "cycle_within_4",
    "kept": "cycle_seen",
}
OTHERS = {"cycle median": "cycle_median", "processor s": "seconds"}


def measure_real_clip(
    track: Tracker, clip: RealClip, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """What the clip measures, the cycle of the points that start in its first frame, and seconds of one way."""
    start = clock()
    found = track(clip.frames, clip.queries)
    seconds = clock() - start
    numbers = clip.measure(found.tracks, found.visibility)
    from_first = clip.queries[:, 0] == 0
    seen = found.visibility[-1, from_first]
    returned = found.tracks[-1, from_first].astype(np.float64)
    if seen.any():
        last = np.full((int(seen.sum()), 1), len(clip.frames) - 1)
        back = track(clip.frames, np.concatenate([last, returned[seen]], axis=1).astype(np.float32))
        returned[seen] = back.tracks[0]
    cycle = cycle_metrics(clip.queries[from_first], returned, seen, clip.frame_size)
    return {"points": len(clip.queries), **numbers, **cycle, "seconds": seconds}


def table_row(clip: str, tracker: str, numbers: dict[str, float | None]) -> str:
    def shown(name: str, factor: int, digits: int) -> str:
        number = numbers.get(name)
        return "" if number is None else f"{factor * number:.{digits}f}"

    shares = [shown(name, 100, 1) for name in SHARES.values()]
    others = [shown(name, 1, 2) for name in OTHERS.values()]
    return f"| {' | '.join([clip, tracker, str(numbers['points']), *shares, *others])} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the results of clips")
    parser.add_argument("--trackers", nargs="+", default=["static", "lk", "dis"], metavar="NAME_OR_CHECKPOINT")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the clips")
    options = parser.parse_args(arguments)
    present = [name for name in CLIPS if (options.data / name).is_dir()]
    if not present:
        sys.exit(f"{options.data}: expected folders of clips ({', '.join(CLIPS)}), found none")
    trackers = {name: make_tracker(name) for name in options.trackers}
    print(
        f"{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; absent: {len(CLIPS) - len(present)}\n"
    )
    heads = ["clip", "tracker", "points", *SHARES, *OTHERS]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for clip_name in present:
        clip = None
        for name, (track, label) in trackers.items():
            results = ClipResults(options.out / f"{label}-real.json")
            if clip_name not in results.rows:
                clip = clip or CLIPS[clip_name](options.data / clip_name)
                results.add(clip_name, measure_real_clip(track, clip))
            print(table_row(clip_name, name, results.rows[clip_name]), flush=True)


if __name__ == "__main__":
    main()
