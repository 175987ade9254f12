"""Reading 8 frames of a minute of 720p video: `python benchmarks/video_reading.py [--clip FILE] [--runs 7]`.

Makes the clip (60 s of H.264, 30 frames per second, x264's default 250-frame groups and B-frames, moving textures, every
frame stamped with its number), then times `read_frames` against `load_video(backend="pyav")` of Transformers with the
same indices, in alternating runs, and checks both by the stamps. Then the peak memory of a process that reads those
8 frames, of the clip and of the clip's packets repeated to an hour.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from modeling_sen.video_io import read_frames, read_video

WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 60
BITS, BLOCK = 12, 40  # the stamp: black and white squares along the top
GRAIN = 8  # grey levels of noise, new in each frame
REPEATS = 60
NUM_FRAMES = 8


def write_clip(path: Path) -> None:
    """A slowly panning texture behind three textured squares that move each their own way, seen by a grainy camera."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 200, (HEIGHT // 16 + 40, WIDTH // 16 + 40, 3), dtype=np.uint8)
    background = coarse.repeat(16, axis=0).repeat(16, axis=1)
    background += rng.integers(0, 24, background.shape, dtype=np.uint8)
    sprites = [
        rng.integers(30, 225, (20, 20, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1) for _ in range(3)
    ]
    grain = rng.integers(0, 2 * GRAIN, (HEIGHT + 64, WIDTH + 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # PyAV's default, slices, would write an unusual file; this writes what the ffmpeg program writes.
        stream.codec_context.thread_type = "FRAME"
        stream.codec_context.gop_size = 250
        for number in range(RATE * SECONDS):
            image = _paint(number, background, sprites)
            x, y = rng.integers(0, 64, 2)
            image += grain[y : y + HEIGHT, x : x + WIDTH]
            for bit in range(BITS):
                image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _paint(number: int, background: np.ndarray, sprites: list[np.ndarray]) -> np.ndarray:
    left, top = int(300 + 280 * np.sin(number / 300)), int(300 + 280 * np.cos(number / 400))
    image = background[top : top + HEIGHT, left : left + WIDTH].copy()  # (height, width, 3)
    for place, sprite in enumerate(sprites):
        x = int((WIDTH - 160) * (0.5 + 0.5 * np.sin(number / 97 + 2 * place)))
        y = int(60 + (HEIGHT - 220) * (0.5 + 0.5 * np.cos(number / 131 + place)))
        image[y : y + 160, x : x + 160] = sprite
    return image


def share_of_b_frames(clip: Path) -> float:
    with av.open(str(clip)) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    return kinds.count(av.video.frame.PictureType.B) / len(kinds)


def read_stamps(frames: np.ndarray) -> list[int]:
    blocks = frames[:, 10 : BLOCK - 10].reshape(len(frames), BLOCK - 20, -1, BLOCK, 3)[:, :, :BITS, 10:-10]
    return [int(stamp) for stamp in (blocks.mean(axis=(1, 3, 4)) > 127) @ (1 << np.arange(BITS))]


def repeat_packets(source: Path, target: Path, times: int) -> None:
    """The same packets again and again, without decoding them."""
    with av.open(str(target), "w") as output:
        stream: Any = None
        for number in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                offset = number * video.duration  # type: ignore[operator]
                for packet in container.demux(video):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        packet.stream = stream
                        output.mux(packet)


def uniform(total: int) -> np.ndarray:
    return (2 * np.arange(NUM_FRAMES) + 1) * total // (2 * NUM_FRAMES)


def by_transformers(clip: Path) -> np.ndarray:
    from transformers.video_utils import load_video  # not in the processes whose memory is measured

    return load_video(
        str(clip), backend="pyav", sample_indices_fn=lambda metadata, **_: uniform(metadata.total_num_frames)
    )[0]


def by_sen(clip: Path) -> np.ndarray:
    return read_video(clip, NUM_FRAMES, "uniform").frames


def by_sen_index(clip: Path) -> np.ndarray:
    return read_frames(clip, uniform(RATE * SECONDS)).frames


def seconds_of(read: Callable[[Path], np.ndarray], clip: Path) -> float:
    start = time.perf_counter()
    frames = read(clip)
    seconds = time.perf_counter() - start
    expected = uniform(RATE * SECONDS).tolist()
    if read_stamps(frames) != expected:
        raise SystemExit(f"{read.__name__} returned frames {read_stamps(frames)}, expected {expected}")
    return seconds


def peak_memory(clip: Path) -> tuple[float, float]:
    """MiB held by a fresh process before it reads 8 frames, and at most while it does."""
    command = [sys.executable, __file__, "--peak-of", str(clip)]
    before, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(before), float(peak)


def _print_peak(clip: Path) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports (Linux)
    before = _memory("VmRSS")
    frames = by_sen(clip)
    peak = _memory("VmHWM")
    with av.open(str(clip)) as container:
        total = container.streams.video[0].frames
    expected = (uniform(total) % (RATE * SECONDS)).tolist()  # each repetition carries the same stamps
    if read_stamps(frames) != expected:
        raise SystemExit(f"read frames {read_stamps(frames)}, expected {expected}")
    print(before, peak)


def _memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--clip", type=Path, help="where the clip is, or is to be made (kept)")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        _print_peak(options.peak_of)
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or Path(folder) / "clip.mp4"
        if not clip.exists():
            print("writing the clip ...", flush=True)
            write_clip(clip)
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads; "
            f"PyAV {av.__version__}, Transformers {version('transformers')}, Python {platform.python_version()}; "
            f"load average {os.getloadavg()[0]:.1f}"
        )
        size, b_frames = clip.stat().st_size / 2**20, share_of_b_frames(clip)
        print(f"{WIDTH}x{HEIGHT}, {RATE * SECONDS} frames, {b_frames:.0%} B-frames, {size:.1f} MiB; 8 uniform frames")
        times: dict[str, list[float]] = {"Transformers": [], "SEN": []}
        for _ in range(options.runs):
            times["Transformers"].append(seconds_of(by_transformers, clip))
            times["SEN"].append(seconds_of(by_sen_index, clip))
        for name, seconds in times.items():
            print(f"{name:13} median {statistics.median(seconds):.3f} s of {[round(second, 2) for second in seconds]}")
        ratios = [slow / fast for slow, fast in zip(times["Transformers"], times["SEN"], strict=True)]
        print(f"ratio         median {statistics.median(ratios):.2f}x, {min(ratios):.2f}x to {max(ratios):.2f}x")
        hour = Path(folder) / "hour.mp4"
        repeat_packets(clip, hour, REPEATS)
        for name, path in (("60 s", clip), ("1 hour", hour)):
            before, peak = peak_memory(path)
            size = path.stat().st_size / 2**20
            print(
                f"memory, {name:6} ({size:4.0f} MiB file): {before:.0f} MiB before, at most {peak - before:.0f} more"
            )


if __name__ == "__main__":
    main()
