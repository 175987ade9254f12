"""What trackers without a model reach on the world's presets for tracking.

Three of them: `static`, a point that stays where it was queried; `lk` and `dis`, pyramidal Lucas-Kanade and DIS optical flow
(OpenCV) chained from frame to frame, forwards and backwards from the query. A chained point is lost, and hidden from then on,
where the flow back misses it by a pixel or more, or it leaves the picture.

    pip install opencv-python-headless; python benchmarks/tracking_floors.py [PRESET ...] [--num 10] [--query-mode first]
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable
from datetime import date

import cv2
import numpy as np

from modeling_sen.evaluation.tracking_data import draw_tracked_clip
from modeling_sen.evaluation.tracking_metrics import QUERY_MODES, mean_over_clips
from modeling_sen.world.tracking_scene import TRACKING_PRESETS

MISS = 1.0  # pixels
SHOWN = (
    "average_jaccard",
    "average_pts_within_thresh",
    "occlusion_accuracy",
    "temporal_coherence",
    "average_jaccard_reappeared",
)
# Moves points (N, 2) x, y from one grey frame to another: (N, 2).
Flow = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def lucas_kanade(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points[:, None].astype(np.float32), None)
    return np.where(found == 1, moved[:, 0], np.inf)


class DenseFlow:
    """DIS flow between two frames, computed once for each pair."""

    def __init__(self) -> None:
        self.dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.flows: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
        pair = (first.ctypes.data, second.ctypes.data)
        if pair not in self.flows:
            self.flows[pair] = self.dis.calc(first, second, None)
        x, y = (points[:, axis, None].astype(np.float32) for axis in (0, 1))
        return points + cv2.remap(self.flows[pair], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]


def chain(frames: np.ndarray, queries: np.ndarray, flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Tracks (T, N, 2) and visibility (T, N) of queries (N, 3) t, x, y."""
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    starts, high = queries[:, 0].astype(int), np.array(grey.shape[:0:-1]) - 1  # x, y of the last pixel
    tracks = np.repeat(queries[None, :, 1:], len(frames), axis=0).astype(np.float32)
    visible = np.zeros(tracks.shape[:2], dtype=bool)
    visible[starts, np.arange(len(queries))] = True
    for order in (range(len(frames)), range(len(frames) - 1, -1, -1)):
        for now, then in itertools.pairwise(order):
            chosen = np.flatnonzero(starts <= now if then > now else starts >= now)
            if not len(chosen):
                continue
            points = tracks[now, chosen]
            moved = flow(grey[now], grey[then], points)
            known = np.isfinite(moved).all(axis=1)
            moved = np.where(known[:, None], moved, points)
            missed = np.linalg.norm(flow(grey[then], grey[now], moved) - points, axis=1)
            inside = ((moved >= 0) & (moved <= high)).all(axis=1)
            tracks[then, chosen] = moved
            visible[then, chosen] = visible[now, chosen] & known & inside & (missed < MISS)
    return tracks, visible


def track(name: str, frames: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if name == "static":
        tracks = np.repeat(queries[None, :, 1:], len(frames), axis=0)
        return tracks, np.ones(tracks.shape[:2], dtype=bool)
    return chain(frames, queries, lucas_kanade if name == "lk" else DenseFlow())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "presets", nargs="*", metavar="PRESET", help=f"of {', '.join(TRACKING_PRESETS)}; by default all"
    )
    parser.add_argument("--num", type=int, default=10, help="clips of each preset")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip")
    parser.add_argument("--query-mode", choices=QUERY_MODES, default="first")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{date.today()}, OpenCV {cv2.__version__}, 1 of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}")
    print(
        f"{options.num} clips of each preset from seed {options.seed}, queries {options.query_mode}; per cent, pixels\n"
    )
    print("| preset | tracker | AJ | delta | OA | TC | AJ after re-appearance | processor s a clip |")
    print("|---|---|---|---|---|---|---|---|")
    for preset in options.presets or TRACKING_PRESETS:
        seeds = range(options.seed, options.seed + options.num)
        clips = [draw_tracked_clip(preset, seed, options.query_mode) for seed in seeds]
        for name in ("static", "lk", "dis"):
            start = time.process_time()
            found = [clip.metrics(*track(name, clip.read_frames(), clip.queries)) for clip in clips]
            seconds = (time.process_time() - start) / len(clips)
            mean = mean_over_clips(found)
            cells = [f"{mean[key]:.2f}" if key == "temporal_coherence" else f"{100 * mean[key]:.1f}" for key in SHOWN]
            print(f"| {preset} | {name} | {' | '.join(cells)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
