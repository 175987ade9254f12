"""Media files of all kinds, valid and broken, for test_media_corpus.py."""

import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from frame_stamps import (
    CLIP_KINDS,
    ClipKind,
    delay_by_edit_list,
    flip_bits,
    move_times,
    set_display_matrix,
    write_clip,
    write_flv_with_late_sound,
    write_sound,
)
from PIL import Image

ORIENTATIONS = [
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
]

MORE_KINDS = {
    "flv": ClipKind(".flv", "flv1"),
    "flv of H.264": ClipKind(".flv", "libx264"),
    "avi of MJPEG": ClipKind(".avi", "mjpeg", "yuvj420p"),
    "mov of H.264 in 10 bits": ClipKind(".mov", "libx264", "yuv420p10le"),
    "mp4 of 4:2:2": ClipKind(".mp4", "libx264", "yuv422p"),
    "mp4 of 4:4:4": ClipKind(".mp4", "libx264", "yuv444p"),
    "mkv of grey": ClipKind(".mkv", "libx264", "gray"),
    "mkv of RGB": ClipKind(".mkv", "ffv1", "bgr0"),
    "avi of huffyuv": ClipKind(".avi", "ffvhuff", "yuv420p"),
    "ts of MPEG-2": ClipKind(".ts", "mpeg2video", b_frames=2),
    "wide": ClipKind(".mp4", "libx264", size=(640, 16)),
    "tall": ClipKind(".mp4", "libx264", size=(18, 480)),
    "tiny": ClipKind(".mkv", "ffv1", "yuv444p", size=(1, 1)),
    "odd VP9": ClipKind(
        ".webm", "libvpx-vp9", size=(113, 81), codec_options={"cpu-used": "8", "deadline": "realtime"}
    ),
    "nut": ClipKind(".nut", "mpeg4"),
    "apng": ClipKind(".apng", "apng", "rgba"),
}

SOUND_CODECS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "ogg": "flac",
    "opus": "libopus",
    "m4a": "aac",
    "mka": "pcm_f32le",
    "aiff": "pcm_s16be",
    "ac3": "ac3",
    "au": "pcm_mulaw",
}


def valid_files(folder: Path, small: bool = False) -> Iterator[Path]:
    """Write clips of 24 frames and sounds of half a second; with `small` only a few of them."""
    kinds = {**CLIP_KINDS, **MORE_KINDS}
    for number, (name, kind) in enumerate(kinds.items()):
        if not small or name in ("mp4", "mkv", "webm of VP8", "avi", "transport stream", "flv"):
            yield write_clip(folder / f"{number}_{name.replace(' ', '_')}{kind.suffix}", kind, range(24))
    for suffix, codec in SOUND_CODECS.items():
        if not small or suffix in ("wav", "mp3"):
            path = folder / f"sound.{suffix}"
            write_sound(path, codec, seconds=0.5)
            yield path
    if small:
        return
    for number, matrix in enumerate(ORIENTATIONS):
        path = write_clip(folder / f"orientation{number}.mp4", CLIP_KINDS["mp4"], range(24))
        set_display_matrix(path, *matrix)
        yield path
    for channels in (8, 16):
        path = folder / f"sound_of_{channels}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((channels, 2, 16000, 0, "NONE", None))
            file.writeframes(
                np.random.default_rng(0).integers(-9999, 9999, (8000, channels), dtype=np.int16).tobytes()
            )
        yield path
    for layout in ("mono", "5.1"):
        path = folder / f"sound_{layout}.mkv"
        write_sound(path, "pcm_s16le", seconds=0.5, layout=layout)
        yield path
    for name, sound in (("mp4", "aac"), ("mkv", "flac"), ("avi", "libmp3lame"), ("transport stream", "aac")):
        path = folder / f"both{CLIP_KINDS[name].suffix}"
        write_sound(path, sound, seconds=1, clip=CLIP_KINDS[name])
        yield path
    yield write_clip(folder / "one_frame.mp4", CLIP_KINDS["mp4"], [0])
    jumps = write_clip(folder / "jumps.mp4", CLIP_KINDS["mp4"], range(24), np.cumsum(np.arange(24) % 5 + 1) / 30)
    yield jumps
    edited = write_clip(folder / "edited.mp4", CLIP_KINDS["mp4 without B-frames"], range(24))
    delay_by_edit_list(edited, 5 * 512)
    yield edited
    yield write_flv_with_late_sound(folder / "late.flv", folder)
    images = [Image.fromarray(np.full((20, 30, 3), 10 * number, np.uint8)) for number in range(5)]
    for suffix in ("gif", "webp", "png", "jpg", "tiff", "bmp"):
        path = folder / f"image.{suffix}"
        if suffix in ("gif", "png"):
            images[0].save(path, save_all=True, append_images=images[1:], duration=50)
        else:
            images[0].save(path)
        yield path


def broken_files(folder: Path, whole: list[Path], per_file: int) -> Iterator[Path]:
    """Write truncated and otherwise damaged copies of files; every run writes the same."""
    for number, path in enumerate(whole):
        content, generator = path.read_bytes(), np.random.default_rng(number)
        for variant in range(per_file):
            broken = bytearray(content)
            what = ("cut", "flips in the header", "flips", "zeros", "a piece lost", "doubled")[(number + variant) % 6]
            place = int(generator.integers(1, len(content)))
            length = int(generator.integers(1, max(2, len(content) // 8)))
            if what == "cut":
                broken = broken[:place]
            elif what == "flips in the header":
                for _ in range(8):
                    broken[generator.integers(min(len(content), 600))] = generator.integers(256)
            elif what == "flips":
                for _ in range(2 + len(content) // 500):
                    broken[generator.integers(len(content))] ^= 1 << generator.integers(8)
            elif what == "zeros":
                broken[place : place + length] = bytes(len(broken[place : place + length]))
            elif what == "a piece lost":
                del broken[place : place + length]
            else:
                broken[place:place] = content[:length]
            target = folder / f"{path.stem}_{variant}_{what.replace(' ', '_')}{path.suffix}"
            target.write_bytes(broken)
            yield target


def odd_files(folder: Path) -> Iterator[Path]:
    """Write files that are not media, or nearly empty media."""
    for name, content in {
        "empty.mp4": b"",
        "noise.mp4": np.random.default_rng(0).bytes(20_000),
        "text.mkv": b"Dear reader,\n" * 99,
        "page.webm": b"<html><body>404</body></html>",
        "zeros.ts": bytes(100_000),
        "sync_bytes.ts": b"\x47" * 100_000,
        "box.mp4": b"\x00\x00\x00\x08ftyp\xff\xff\xff\xffmoov",
        "riff.wav": b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00\x01\x00\xff\xff\x01\x00\x00\x00" + bytes(99),
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:1,\nsound.wav\n",
        "concat.txt": b"ffconcat version 1.0\nfile sound.wav\n",
    }.items():
        (folder / name).write_bytes(content)
        yield folder / name
    with av.open(str(folder / "no_frame.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    yield folder / "no_frame.mkv"
    clip = write_clip(folder / "plain.mkv", ClipKind(".mkv", "libx264", b_frames=0), range(24))
    yield move_times(clip, folder / "far_times.mkv", {number: 10**18 + number for number in range(20, 24)})
    long = write_clip(folder / "long.mp4", ClipKind(".mp4", "libx264", size=(160, 120)), range(48))
    yield flip_bits(long, folder / "flipped.mp4", [3, 9, 15])
