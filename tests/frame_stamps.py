"""Media with known content for the media tests: each frame shows its number, and the pitch of the sound encodes the time."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

STAMP_BITS = 12
BLOCK = 12  # pixels per side of one bit
BITS_PER_ROW = 6


def stamped_image(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: a moving texture with the frame number as black and white blocks at the top left."""
    rows, columns = np.mgrid[0:height, 0:width]
    texture = 128 + 60 * np.sin((columns + 3 * number) / 7) + 40 * np.cos((rows - 2 * number) / 5)
    image = np.stack([texture, texture[::-1], 255 - texture], axis=2).astype(np.uint8)
    for bit in range(STAMP_BITS):
        top, left = bit // BITS_PER_ROW * BLOCK, bit % BITS_PER_ROW * BLOCK
        image[top : top + BLOCK, left : left + BLOCK] = 255 * (number >> bit & 1)
    return image


def read_stamp(frame: np.ndarray) -> int:
    """The number painted into a frame; ValueError if a block is neither black nor white."""
    number = 0
    for bit in range(STAMP_BITS):
        top, left = bit // BITS_PER_ROW * BLOCK, bit % BITS_PER_ROW * BLOCK
        level = frame[top + 3 : top + BLOCK - 3, left + 3 : left + BLOCK - 3].mean()
        if 80 < level < 175:
            raise ValueError(f"bit {bit} of the stamp is grey: {level}")
        number |= int(level > 127) << bit
    return number


def read_stamps(frames: np.ndarray) -> list[int]:
    return [read_stamp(frame) for frame in frames]


@dataclass(frozen=True)
class ClipKind:
    """How to write a clip: the container, the codec, and options that affect timing or frame order."""

    suffix: str
    codec: str
    pixel_format: str = "yuv420p"
    size: tuple[int, int] = (112, 80)
    keyframe_distance: int = 12
    b_frames: int | None = None
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


# One entry for each way in which frame numbers or times have been wrong.
CLIP_KINDS: dict[str, ClipKind] = {
    "mp4": ClipKind(".mp4", "libx264"),
    "mp4 without B-frames": ClipKind(".mp4", "libx264", b_frames=0),
    "mp4 with open GOPs": ClipKind(".mp4", "libx264", codec_options={"x264-params": "open-gop=1:bframes=3"}),
    "mp4 with intra refresh": ClipKind(".mp4", "libx264", codec_options={"x264-params": "intra-refresh=1"}),
    "mp4 in fragments": ClipKind(
        ".mp4", "libx264", container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    ),
    "mp4 with the index in front": ClipKind(".mp4", "libx264", container_options={"movflags": "faststart"}),
    "mp4 of MPEG-4 part 2": ClipKind(".mp4", "mpeg4", b_frames=2),
    "mp4 of HEVC": ClipKind(".mp4", "libx265", codec_options={"x265-params": "log-level=none:bframes=3"}),
    "mp4 of AV1": ClipKind(".mp4", "libsvtav1", codec_options={"preset": "12"}),
    "mkv": ClipKind(".mkv", "libx264"),
    "mkv of 10 bits": ClipKind(".mkv", "libx265", "yuv420p10le", codec_options={"x265-params": "log-level=none"}),
    "webm of VP8": ClipKind(".webm", "libvpx", codec_options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "webm of VP9": ClipKind(".webm", "libvpx-vp9", codec_options={"deadline": "realtime", "cpu-used": "8"}),
    "webm of VP9 with hidden frames": ClipKind(
        ".webm", "libvpx-vp9", codec_options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}
    ),
    "avi": ClipKind(".avi", "mpeg4"),
    "avi with B-frames": ClipKind(".avi", "mpeg4", b_frames=2),
    "avi of H.264 with B-frames": ClipKind(".avi", "libx264"),
    "transport stream": ClipKind(".ts", "libx264"),
    "program stream": ClipKind(".mpg", "mpeg2video", b_frames=2),
    "mov of ProRes": ClipKind(".mov", "prores_ks", "yuv422p10le"),
    "grey": ClipKind(".mkv", "ffv1", "gray"),
    "with alpha": ClipKind(".mov", "png", "rgba"),
    "odd size": ClipKind(".mp4", "libx264", "yuv444p", size=(113, 81)),
}


def write_clip(
    path: Path, kind: ClipKind, numbers: Sequence[int], times: Sequence[float] | None = None, rate: int = 30
) -> Path:
    """Write a clip of stamped frames.

    Args:
        numbers: what to stamp on each frame.
        times: presentation times in seconds, at a resolution of 1/1000; 1 / rate apart where not given.
    """
    width, height = kind.size
    with av.open(str(path), "w", options=kind.container_options) as container:
        stream: Any = container.add_stream(kind.codec, rate=rate, options=kind.codec_options)
        stream.width, stream.height, stream.pix_fmt = width, height, kind.pixel_format
        stream.codec_context.gop_size = kind.keyframe_distance
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if kind.b_frames is not None:
            stream.codec_context.max_b_frames = kind.b_frames
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(stamped_image(number, width, height), format="rgb24")
            frame.time_base = Fraction(1, rate if times is None else 1000)
            frame.pts = place if times is None else round(times[place] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def repeat_clip(clip: Path, target: Path, times: int) -> Path:
    """Write the packets of a clip `times` times in a row: a long clip without encoding one."""
    with av.open(str(clip)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux() if packet.size]
        contents = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for number in range(times):
            for content, pts, dts, is_keyframe in contents:
                packet = av.Packet(content)
                offset = number * (container.streams.video[0].duration or 0)
                packet.pts, packet.dts, packet.time_base = pts + offset, dts + offset, packets[0].time_base
                packet.stream, packet.is_keyframe = stream, is_keyframe
                output.mux(packet)
    return target


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into an mp4: a stored point (x, y) is shown at (a x + c y, b x + d y), as for phone videos."""
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], dtype=">i4")
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows after 40 bytes
    content[start : start + 36] = matrix.tobytes()
    path.write_bytes(content)


def flip_bits(path: Path, target: Path, packets: Sequence[int], seed: int = 0, flips: int = 6) -> Path:
    """Copy a file and flip bits in the given packets of its video; the first 20 bytes of each packet stay."""
    generator, content = np.random.default_rng(seed), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        stored = [packet for packet in container.demux(video=0) if packet.size]
    for number in packets:
        for place in generator.integers(20, stored[number].size, flips):
            content[stored[number].pos + place] ^= 1 << generator.integers(8)
    target.write_bytes(content)
    return target


def move_times(clip: Path, target: Path, pts: dict[int, int]) -> Path:
    """Copy the video packets of a clip and change the timestamps of some (key: position in decoding order)."""
    with av.open(str(clip)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            if number in pts:
                packet.pts = packet.dts = pts[number]
            packet.stream = stream
            output.mux(packet)
    return target


def write_flv_with_late_sound(path: Path, folder: Path) -> Path:
    """Write 13 s of stamped frames; the header announces no sound, but a sound stream starts after 10 s."""
    clip = write_clip(folder / "clip.flv", ClipKind(".flv", "flv1"), range(400)).read_bytes()
    write_sound(folder / "sound.flv", "libmp3lame", seconds=1, rate=44100)
    pictures = [tag for tag in _flv_tags(clip) if tag[0] == 9]
    sound = [tag for tag in _flv_tags((folder / "sound.flv").read_bytes()) if tag[0] == 8]
    late = [tag[:4] + (10_000 + 26 * n).to_bytes(3, "big") + tag[7:] for n, tag in enumerate(sound)]
    path.write_bytes(clip[:4] + b"\x01" + clip[5:13] + b"".join([*pictures[:300], *late, *pictures[300:]]))
    return path


def _flv_tags(content: bytes) -> list[bytes]:
    tags, start = [], 13
    while start < len(content):
        end = start + 11 + int.from_bytes(content[start + 1 : start + 4], "big") + 4
        tags.append(content[start:end])
        start = end
    return tags


def delay_by_edit_list(path: Path, ticks: int) -> None:
    """Shift the start of an mp4's only edit by some ticks, so that the video begins later in its media."""
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, count, segment duration
    moved = int.from_bytes(content[start : start + 4], "big") + ticks
    content[start : start + 4] = moved.to_bytes(4, "big")
    path.write_bytes(content)


def rising_pitch(times: np.ndarray) -> np.ndarray:
    """A tone with a pitch of 300 + 200 t Hz at time t (s): the pitch of an excerpt gives its time."""
    return 0.5 * np.sin(2 * np.pi * (300 * times + 100 * times**2))


def heard_time(samples: np.ndarray, sampling_rate: int) -> float:
    """The time in seconds at the middle of an excerpt of `rising_pitch`, computed from its mean pitch."""
    size = 1 << len(samples).bit_length()
    spectrum = np.fft.rfft(samples * np.hanning(len(samples)), n=size)
    middle = np.average(np.arange(len(spectrum)), weights=np.abs(spectrum) ** 2)
    return float((middle * sampling_rate / size - 300) / 200)


def write_sound(
    target: Path | io.BytesIO,
    codec: str,
    seconds: float = 6.0,
    rate: int = 48000,
    layout: str = "stereo",
    container_format: str | None = None,
    clip: ClipKind | None = None,
    video_start: float = 0.0,
    sound_start: float = 0.0,
    loudness: float = 1.0,
) -> None:
    """Write `rising_pitch` as sound, with or without a stamped 30 fps clip; each stream starts at its own start time."""
    with av.open(str(target) if isinstance(target, Path) else target, "w", format=container_format) as container:
        sound: Any = container.add_stream(codec, rate=rate, layout=layout)
        video: Any = None
        if clip is not None:
            video = container.add_stream(clip.codec, rate=30, options=clip.codec_options)
            (video.width, video.height), video.pix_fmt = clip.size, clip.pixel_format
        channels = len(av.AudioLayout(layout).channels)
        samples = (loudness * rising_pitch(np.arange(round(seconds * rate)) / rate)).astype(np.float32)
        resampler = av.AudioResampler(format=sound.codec_context.format, layout=layout, rate=rate)
        for start in range(0, len(samples), 1024):
            block = np.tile(samples[start : start + 1024], (channels, 1))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(sound_start * rate)
            for piece in resampler.resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
        if clip is not None:
            for number in range(round(seconds * 30)):
                image = av.VideoFrame.from_ndarray(stamped_image(number, *clip.size), format="rgb24")
                image.time_base, image.pts = Fraction(1, 30), number + round(video_start * 30)
                container.mux(video.encode(image))
            container.mux(video.encode(None))
