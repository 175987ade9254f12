"""Memory and time of a stream of frames, and of a clip at 854 x 480; AJ of clips of 72 and of 512 frames.

    python benchmarks/tracking_stream.py [--frames 10000] [--points 16] [--long 3] [--model FOLDER]

The stream shows a clip of the world forwards and backwards for ever; points are added and dropped on the way.
"""

import argparse
import os
import time
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import AutoModel

import modeling_sen
from modeling_sen.evaluation.tracking_metrics import tracking_metrics
from modeling_sen.world.tracking_clips import draw_tracking_scene, tracking_clip
from modeling_sen.world.tracking_scene import TrackingKnobs, scene_with_knobs

REPORT = 500  # frames
SEED = 7000  # of the first long clip


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_stream(model, frames: np.ndarray, count: int, points: int) -> None:
    random = np.random.default_rng(0)
    stream = model.stream()
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    used, seconds = [], []
    for number in range(count):
        start = time.perf_counter()
        found = stream.step(frames[order[number % len(order)]])
        seconds.append(time.perf_counter() - start)
        if number % 50 == 0:
            if len(found.ids):
                stream.drop(found.ids[: points // 4])
            stream.add(random.uniform(0, 255, (points - len(stream.ids), 2)))
        if number % REPORT == REPORT - 1:
            used.append(resident())
            print(
                f"{number + 1} frames: {used[-1]:.1f} MB, {1000 * np.mean(seconds[-REPORT:]):.0f} ms a frame",
                flush=True,
            )
    half = used[len(used) // 2 :]
    print(f"memory of the last half: {min(half):.1f} to {max(half):.1f} MB; {1000 * np.mean(seconds):.0f} ms a frame")


def run_large_clip(model, frames: np.ndarray) -> None:
    large = np.stack([cv2.resize(frame, (854, 480)) for frame in np.concatenate([frames, frames[::-1], frames])[:50]])
    random = np.random.default_rng(0)
    queries = np.concatenate([np.zeros((100, 1)), random.uniform(0, (853, 479), (100, 2))], axis=1)
    before, start = resident(), time.perf_counter()
    model.track(large, queries)
    seconds, more = time.perf_counter() - start, resident() - before
    print(f"854 x 480, 50 frames, 100 queries: {seconds:.1f} s, {more:.0f} MB more are held after")


def run_long_clips(model, count: int) -> None:
    for num_frames in (72, 512):
        found = []
        for seed in range(SEED, SEED + count):
            clip = draw_tracking_scene(scene_with_knobs(TrackingKnobs(num_frames=num_frames), seed, "long"))
            start = time.perf_counter()
            output = model.track(clip.frames, clip.queries)
            seconds = time.perf_counter() - start
            truth = (clip.tracks, clip.visibility, clip.queries, (256, 256), "first")
            found.append(tracking_metrics(output.tracks, output.visibility, *truth)["average_jaccard"])
            print(f"{num_frames} frames, seed {seed}: AJ {100 * found[-1]:.1f}, {seconds:.0f} s", flush=True)
        print(f"{num_frames} frames: AJ {100 * np.mean(found):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--long", type=int, default=3, help="clips of each length")
    parser.add_argument("--model", default=modeling_sen.SEN_TINY_TRACKING)
    options = parser.parse_args()
    print(f"{date.today()}, torch {torch.__version__}, OpenCV {cv2.__version__}, {torch.get_num_threads()} threads")
    model = AutoModel.from_pretrained(options.model)
    frames = tracking_clip("base", 6000).frames
    if options.long:
        run_long_clips(model, options.long)
    run_large_clip(model, frames)
    if options.frames:
        run_stream(model, frames, options.frames, options.points)


if __name__ == "__main__":
    main()
