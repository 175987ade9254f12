"""Drawn clips as files have the size, times and sound of the original; they are read back with PyAV."""

from fractions import Fraction

import av
import numpy as np
import pytest
from frame_stamps import CLIP_KINDS, ClipKind, flip_bits, heard_time, read_stamps, write_clip, write_sound

from modeling_sen import SENTrackingOutput
from modeling_sen.audio_io import read_audio
from modeling_sen.media_source import open_media_source
from modeling_sen.tracking import clip_frames, render
from modeling_sen.tracking.clip_frames import read_all_frames
from modeling_sen.video_io import read_video
from modeling_sen.write_video import write_video


def tracked(num_frames: int, size: tuple[int, int] = (80, 112), num_points: int = 1) -> SENTrackingOutput:
    """Points at x = 100, y = 70, beside the stamps of the frames; N equal ones."""
    shape = (num_frames, num_points)
    return SENTrackingOutput(
        tracks=np.broadcast_to(np.float32([100, 70]), (*shape, 2)),
        visibility=np.ones(shape, dtype=bool),
        confidence=np.ones(shape, dtype=np.float32),
        query_points=np.tile(np.float32([0, 100, 70]), (num_points, 1)),
        frame_size=size,
    )


def streams(path) -> tuple[list, list]:
    with av.open(str(path)) as container:
        return list(container.streams.video), list(container.streams.audio)


def packets(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_a_file_has_the_frames_size_and_times_of_the_clip(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(20), rate=25)
    assert tracked(20).render(clip, tmp_path / "drawn.mp4") is None
    (video,), sound = streams(tmp_path / "drawn.mp4")
    assert not sound
    assert (video.codec_context.name, video.width, video.height, video.frames) == ("h264", 112, 80, 20)
    assert video.average_rate == 25
    drawn = read_video(tmp_path / "drawn.mp4", 20)
    assert drawn.times.tolist() == pytest.approx(np.arange(20) / 25, abs=1e-9)
    assert drawn.duration == pytest.approx(0.8, abs=1e-9)
    assert read_stamps(drawn.frames) == list(range(20))
    expected = render.query_colours(np.float32([[0, 100, 70]]), 80)[0]
    # H.264 stores colours at half resolution.
    assert drawn.frames[:, 70, 100].mean(axis=0) == pytest.approx(expected, abs=25)


def test_uneven_times_are_kept(tmp_path):
    times = np.cumsum([0, 0.02, 0.5, 0.03, 0.03, 0.2])
    clip = write_clip(tmp_path / "clip.mkv", CLIP_KINDS["mkv"], range(6), times)
    tracked(6).render(clip, tmp_path / "drawn.mp4")
    assert read_video(tmp_path / "drawn.mp4", 6).times.tolist() == pytest.approx(times, abs=1e-6)


@pytest.mark.parametrize("rate", ["30000/1001", "24000/1001"])
def test_television_frame_rates_are_exact(tmp_path, rate):
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 112, 80, "yuv420p"
        for _ in range(7):
            frame = av.VideoFrame.from_ndarray(np.zeros((80, 112, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    tracked(7).render(clip, tmp_path / "drawn.mp4")
    (video,), _ = streams(tmp_path / "drawn.mp4")
    assert video.average_rate == Fraction(rate)


def test_frames_of_odd_size_are_padded_by_a_row_and_a_column(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["odd size"], range(4))
    frames = read_all_frames(clip)
    assert frames.shape == (4, 81, 113, 3)
    tracked(4, (81, 113)).render(clip, tmp_path / "drawn.mp4")
    drawn = read_all_frames(tmp_path / "drawn.mp4").astype(int)
    assert drawn.shape == (4, 82, 114, 3)
    assert np.abs(drawn[:, :60, :113] - frames[:, :60]).mean() < 6
    assert np.abs(drawn[:, :60, 113] - frames[:, :60, 112]).mean() < 10


@pytest.mark.parametrize("fps", [None, 12.5])
def test_arrays_are_written_at_the_given_rate(tmp_path, fps):
    frames = np.random.default_rng(0).integers(0, 256, (5, 80, 112, 3), dtype=np.uint8)
    tracked(5).render(frames, tmp_path / "drawn.mp4", fps=fps)
    (video,), sound = streams(tmp_path / "drawn.mp4")
    assert video.average_rate == (fps or 24)
    assert not sound
    assert read_video(tmp_path / "drawn.mp4").num_frames_total == 5


@pytest.mark.parametrize("num_points", [0, 3])
def test_a_clip_of_one_frame_is_written(tmp_path, num_points):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], [9])
    tracked(1, num_points=num_points).render(clip, tmp_path / "drawn.mp4")
    assert read_stamps(read_all_frames(tmp_path / "drawn.mp4")) == [9]
    tracked(1, num_points=num_points).render(np.zeros((80, 112, 3), dtype=np.uint8), tmp_path / "black.mp4")
    assert read_video(tmp_path / "black.mp4").num_frames_total == 1


# --- sound -----------------------------------------------------------------------------------------------------------

# suffix, codec of the sound, clip, whether its packets are copied
SOUNDS = {
    "mp4": (".mp4", "aac", CLIP_KINDS["mp4"], True),
    "mp4 of mp3": (".mp4", "libmp3lame", CLIP_KINDS["mp4"], True),
    "mkv": (".mkv", "aac", CLIP_KINDS["mkv"], True),
    # Re-encoded, since a copy would lack headers.
    "transport stream": (".ts", "aac", CLIP_KINDS["transport stream"], False),
    "flv": (".flv", "libmp3lame", ClipKind(".flv", "flv1"), True),
    "webm": (".webm", "libopus", CLIP_KINDS["webm of VP8"], False),
    "mov": (".mov", "pcm_s16le", CLIP_KINDS["mp4"], False),
    "flac": (".mkv", "flac", CLIP_KINDS["mkv"], False),
}


LATE = [
    ("mp4", (0.5, 0.0)),
    ("mp4", (0.0, 0.5)),
    ("transport stream", (0.5, 0.0)),
    ("webm", (0.5, 0.0)),
    ("webm", (0.0, 0.5)),
]


@pytest.mark.parametrize(("name", "starts"), [*((name, (0.0, 0.0)) for name in SOUNDS), *LATE])
def test_sound_keeps_its_time(tmp_path, name, starts):
    suffix, codec, kind, copied = SOUNDS[name]
    clip, drawn = tmp_path / f"clip{suffix}", tmp_path / "drawn.mp4"
    rate = 44_100 if "mp3" in codec else 48_000
    write_sound(clip, codec, seconds=1.6, rate=rate, clip=kind, video_start=starts[0], sound_start=starts[1])
    total = len(read_all_frames(clip))
    tracked(total).render(clip, drawn)
    _, (sound,) = streams(drawn)
    assert sound.codec_context.name in ("aac", "mp3", "mp3float")
    assert sound.channels == 2
    assert sound.rate == rate
    assert read_stamps(read_all_frames(drawn)) == read_stamps(read_all_frames(clip))
    for start in (0.7, 0.9):
        before, after = (read_audio(path, span=(start, start + 0.3)) for path in (clip, drawn))
        assert heard_time(after.samples, 16_000) == pytest.approx(heard_time(before.samples, 16_000), abs=0.005)
        assert after.samples.std() == pytest.approx(before.samples.std(), rel=0.05)
    if copied:
        assert packets(drawn) == packets(clip)


@pytest.mark.parametrize(
    ("layout", "rate", "expected"), [("5.1", 48_000, 48_000), ("mono", 192_000, 96_000), ("mono", 6_000, 7_350)]
)
def test_channels_and_rates_are_converted_to_those_of_aac(tmp_path, layout, rate, expected):
    clip, drawn = tmp_path / "clip.mkv", tmp_path / "drawn.mp4"
    write_sound(clip, "pcm_s16le", seconds=1, rate=rate, layout=layout, clip=CLIP_KINDS["mkv"])
    tracked(30).render(clip, drawn)
    _, (sound,) = streams(drawn)
    assert (sound.rate, sound.channels) == (expected, 1 if layout == "mono" else 2)
    before, after = (read_audio(path, span=(0.3, 0.8)).samples for path in (clip, drawn))
    assert heard_time(after, 16_000) == pytest.approx(heard_time(before, 16_000), abs=0.005)
    assert np.abs(after).max() < 0.6  # no louder than the original, which has amplitude 0.5


@pytest.mark.parametrize(
    ("name", "starts"),
    [("mp4", (0.5, 0.0)), ("mp4 of mp3", (0.0, 0.0)), ("webm", (0.0, 0.5)), ("mov", (0.0, 0.0))],
)
def test_a_span_is_written_with_its_sound(tmp_path, name, starts):
    suffix, codec, kind, _ = SOUNDS[name]
    clip, written = tmp_path / f"clip{suffix}", tmp_path / "written.mp4"
    rate = 44_100 if "mp3" in codec else 48_000
    write_sound(clip, codec, seconds=3, rate=rate, clip=kind, video_start=starts[0], sound_start=starts[1])
    frames = read_all_frames(clip)[30:60]
    with open_media_source(str(clip)) as source:
        write_video(written, frames, (80, 112), range(31), Fraction(1, 30), source, stretch=(1.0, 2.0))
    assert read_stamps(read_all_frames(written)) == list(range(30, 60))
    for start in (0.1, 0.6):
        before = read_audio(clip, span=(1 + start, 1.3 + start))
        after = read_audio(written, span=(start, start + 0.3))
        assert heard_time(after.samples, 16_000) == pytest.approx(heard_time(before.samples, 16_000), abs=0.005)
    with av.open(str(written)) as container:
        assert container.duration / av.time_base == pytest.approx(1.0, abs=0.12)


def test_a_clip_with_damaged_sound_is_drawn(tmp_path):
    clip, damaged = tmp_path / "clip.mkv", tmp_path / "damaged.mkv"
    write_sound(clip, "flac", seconds=2, clip=CLIP_KINDS["mkv"])
    content, draws = bytearray(clip.read_bytes()), np.random.default_rng(0)
    with av.open(str(clip)) as container:
        places = [packet.pos for packet in container.demux(audio=0) if packet.size]
    for place in places[10:20]:
        content[place + 6 : place + 60] = draws.bytes(54)
    damaged.write_bytes(content)
    total = len(read_all_frames(damaged))
    tracked(total).render(damaged, tmp_path / "drawn.mp4")
    assert len(read_all_frames(tmp_path / "drawn.mp4")) == total
    assert read_audio(tmp_path / "drawn.mp4").present


# --- failures --------------------------------------------------------------------------------------------------------


def test_wrong_suffixes_and_missing_folders_are_refused_before_anything_is_drawn(tmp_path):
    for name in ("drawn.avi", "drawn"):
        with pytest.raises(ValueError, match=rf"{name}: expected a file ending in \.mp4, found"):
            tracked(2).render("gone.mp4", tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no folder"):
        tracked(2).render("gone.mp4", tmp_path / "nowhere" / "drawn.mp4")


def test_a_failure_leaves_no_partial_file(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(6))
    (tmp_path / "drawn.mp4").write_text("old")

    def fail(*arguments):
        raise RuntimeError("no more")

    monkeypatch.setattr(render, "draw_points", fail)
    with pytest.raises(RuntimeError, match="no more"):
        tracked(6).render(clip, tmp_path / "drawn.mp4")
    with pytest.raises(ValueError, match="expected the clip that was tracked"):
        tracked(5).render(clip, tmp_path / "drawn.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "drawn.mp4"]
    assert (tmp_path / "drawn.mp4").read_text() == "old"


def test_each_frame_is_drawn_before_the_next_is_decoded(tmp_path, monkeypatch):
    """So the memory does not grow with the length of the clip."""
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(12))
    events, decode, draw = [], clip_frames._decoded, render.draw_points

    def decoded(*arguments):
        for frame in decode(*arguments):
            events.append("decoded")
            yield frame

    monkeypatch.setattr(clip_frames, "_decoded", decoded)
    monkeypatch.setattr(render, "draw_points", lambda *arguments: events.append("drawn") or draw(*arguments))
    tracked(12).render(clip, tmp_path / "drawn.mp4")
    assert events == ["decoded", "drawn"] * 12


def test_a_damaged_video_is_drawn(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(40))
    damaged = flip_bits(clip, tmp_path / "damaged.mp4", [3, 17], seed=3)
    total = len(read_all_frames(damaged))
    tracked(total).render(damaged, tmp_path / "drawn.mp4")
    assert len(read_all_frames(tmp_path / "drawn.mp4")) == total
