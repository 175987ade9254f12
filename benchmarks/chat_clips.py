"""Every video below a folder, asked about by a chat model, with its sound; and a generated clip of an hour.

It shows that files are read and answered, and what that takes; it does not judge answers. The clip of an hour has the packets
of one of ten seconds 360 times, so that an hour need not be encoded; the clip of ten seconds is read as the same number of
steps, for comparison. Peak memory is of the whole process while a clip is read and answered (Linux).

    python benchmarks/chat_clips.py FOLDER [--model CHECKPOINT] [--num-frames 8] [--hour-frames 64] [--threads 1]
"""

import argparse
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
from preset_cost import peak_memory

from modeling_sen import ChatSession, SENChatProcessor, SENForConditionalGeneration
from modeling_sen.presets import SEN_TINY_CHAT

SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm"}
HEADS = ("clip", "seconds", "steps in time", "sound", "visual tokens", "answer", "processor s", "peak memory")
QUESTION = "What happens in the video?"
SECONDS, RATE, SAMPLES, COPIES = 10, 30, 48_000, 360


def write_segment(target: Path) -> Path:
    """Ten seconds of 320 x 240 at 30 frames a second, a square that moves, with a tone. Both streams end together."""
    with av.open(str(target), "w") as output:
        video = output.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": "60", "bf": "0"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        sound = output.add_stream("flac", rate=SAMPLES, layout="mono")
        for number in range(SECONDS):
            for frame in range(RATE):
                image = np.full((240, 320, 3), 60, dtype=np.uint8)
                left = number * RATE + frame
                image[100:140, left % 280 : left % 280 + 40] = (250, 200, 40)
                output.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            times = np.arange(number * SAMPLES, (number + 1) * SAMPLES) / SAMPLES
            tone = (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)[None]
            samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            samples.sample_rate, samples.pts = SAMPLES, number * SAMPLES
            output.mux(sound.encode(samples))
        for stream in (video, sound):
            output.mux(stream.encode(None))
    return target


def repeat_segment(segment: Path, target: Path, copies: int) -> Path:
    """The packets of both streams, so many times over."""
    with av.open(str(segment)) as container, av.open(str(target), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in container.streams}
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe, packet.time_base, packet.stream.index)
            for packet in container.demux()
            if packet.size
        ]
        for number in range(copies):
            for content, pts, dts, is_keyframe, time_base, index in packets:
                packet, offset = av.Packet(content), round(number * SECONDS / time_base)
                packet.pts, packet.dts, packet.time_base = pts + offset, dts + offset, time_base
                packet.stream, packet.is_keyframe = streams[index], is_keyframe
                output.mux(packet)
    return target


def forget_peak() -> None:
    """The peak memory of this process begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def seconds_of(path: Path) -> float:
    with av.open(str(path)) as container:
        return (container.duration or 0) / av.time_base


def row(model: Any, processor: Any, path: Path, name: str, num_frames: int) -> str:
    """One clip, answered."""
    forget_peak()
    start = time.process_time()
    session = ChatSession(model, processor, max_new_tokens=32)
    read = session.add_video(str(path), num_frames=num_frames)
    result = session.ask(QUESTION)
    spent, [times] = time.process_time() - start, result["frame_times"]
    shown = " ".join(f"{second:.1f}" for second in times)
    cells = (
        name,
        f"{seconds_of(path):.1f}",
        shown if len(times) <= 8 else f"{len(times)}, {times[0]:.1f} to {times[-1]:.1f}",
        "yes" if read.has_sound else "no",
        str(result["visual_tokens"]),
        f"{len(result['answer'])} characters, {result['finish_reason']}",
        f"{spent:.1f}",
        f"{peak_memory() / 1e6:,.0f} MB",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=SEN_TINY_CHAT, help="a chat checkpoint, by default that of sen-tiny")
    parser.add_argument("--num-frames", type=int, default=8, help="steps in time of a clip")
    parser.add_argument("--hour-frames", type=int, default=64, help="of the clip of an hour")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    files = sorted(file for file in options.folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        sys.exit(f"{options.folder}: expected videos ({', '.join(sorted(SUFFIXES))}), found none")
    torch.set_num_threads(options.threads)
    model = SENForConditionalGeneration.from_pretrained(options.model)
    processor = SENChatProcessor.from_pretrained(options.model)
    forget_peak()
    print(
        f"{date.today()}, {options.threads} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{peak_memory() / 1e6:,.0f} MB with the model loaded\n\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}",
        flush=True,
    )
    for file in files:
        name = str(file.relative_to(options.folder))
        print(row(model, processor, file, name, options.num_frames), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        segment = write_segment(Path(folder, "segment.mkv"))
        print(row(model, processor, segment, "generated, ten seconds", options.hour_frames), flush=True)
        hour = repeat_segment(segment, Path(folder, "hour.mkv"), COPIES)
        print(row(model, processor, hour, "generated, an hour", options.hour_frames), flush=True)


if __name__ == "__main__":
    main()
