"""Unusual sound: many channels, timestamps that jump, damaged packets, streams that start late."""

import logging
import math
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from frame_stamps import ClipKind, heard_time, rising_pitch, write_clip, write_sound

from modeling_sen.audio_io import _Clock, _Track, read_audio


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, mask: int | None = None) -> Path:
    """Writes (channels, S) float samples as float32. No layout is stored if the channel mask is 0 or None."""
    channels = len(samples)
    form = struct.pack("<HHIIHH", 3, channels, rate, rate * channels * 4, channels * 4, 32)
    if mask is not None:
        guid = bytes.fromhex("0300000000001000800000aa00389b71")
        form = struct.pack("<H", 0xFFFE) + form[2:] + struct.pack("<HHI", 22, 32, mask) + guid
    data = samples.T.astype("<f4").tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def loudnesses(channels: int, seconds: float = 0.5, rate: int = 16000) -> np.ndarray:
    """(channels, S): the same tone in every channel, each with its own amplitude."""
    return np.outer(
        np.linspace(0.2, 1.8, channels) if channels > 1 else [1.0], rising_pitch(np.arange(seconds * rate) / rate)
    )


def write_channels(path: Path, samples: np.ndarray, codec: str, layout: str, rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for start in range(0, samples.shape[1], 1024):
            # Packed format, since PyAV's conversion crashes on planar sound with eight or more channels.
            block = np.ascontiguousarray(samples[:, start : start + 1024].T.reshape(1, -1), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
            for piece in resampler.resample(frame):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def retime(source: Path, target: Path, new_time) -> Path:
    """Copies a sound file and moves packets from second t to new_time(t); packets with None are dropped."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.audio[0])
        for packet in container.demux(container.streams.audio[0]):
            time = new_time(float(packet.pts * packet.time_base)) if packet.size else None
            if time is not None:
                packet.pts = packet.dts = round(time / packet.time_base)
                packet.stream = stream
                output.mux(packet)
    return target


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Six seconds of rising pitch."""
    path = tmp_path_factory.mktemp("sound") / "sound.mkv"
    write_sound(path, "aac", rate=32000)
    return path


# --- channels and rates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, 0, 0x63F])
@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 9, 12, 16, 24, 64])
def test_channels_of_wav_files_are_averaged_for_any_layout(tmp_path, channels, mask):
    samples = loudnesses(channels)
    path = write_wav(tmp_path / "sound.wav", samples, mask=mask)
    np.testing.assert_allclose(read_audio(path, 16000).samples, samples.mean(axis=0), atol=1e-6)
    resampled = read_audio(path, 48000).samples
    np.testing.assert_allclose(resampled[30:-600:3], samples.mean(axis=0)[10:-200], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate", "tolerance"),
    [
        ("sound.flac", "flac", "7.1", 16000, 1e-3),
        ("sound.mkv", "flac", "6.1", 16000, 1e-3),
        ("sound.mkv", "pcm_s16le", "7.1", 16000, 1e-3),
        ("sound.mkv", "pcm_f32le", "hexadecagonal", 16000, 1e-6),
        ("sound.mkv", "aac", "7.1", 48000, 0.05),
        ("sound.m4a", "aac", "7.1", 48000, 0.05),
    ],
)
def test_eight_and_more_channels_of_planar_codecs_are_averaged(tmp_path, name, codec, layout, rate, tolerance):
    samples = 0.5 * loudnesses(len(av.AudioLayout(layout).channels), rate=rate)
    path = write_channels(tmp_path / name, samples, codec, layout, rate)
    found = read_audio(path, rate).samples
    assert len(found) == pytest.approx(samples.shape[1], abs=2048)
    inner = slice(2048, samples.shape[1] - 4096) if codec == "aac" else slice(None)
    np.testing.assert_allclose(found[: samples.shape[1]][inner], samples.mean(axis=0)[inner], atol=tolerance)


@pytest.mark.parametrize(("layout", "order"), [("3.0", 0x720003), ("5.1", 0x7B0006)])
def test_channels_in_the_order_of_quicktime_are_averaged(tmp_path, layout, order):
    """The centre channel is first, or between left and right."""
    samples = 0.5 * loudnesses(len(av.AudioLayout(layout).channels))
    path = write_channels(tmp_path / "film.mov", samples, "pcm_s16le", layout, 16000)
    content = bytearray(path.read_bytes())
    start = content.index(b"chan") + 8
    content[start : start + 4] = order.to_bytes(4, "big")
    path.write_bytes(content)
    for _ in range(3):
        np.testing.assert_allclose(read_audio(path, 16000).samples, samples.mean(axis=0), atol=1e-3)


def test_arrays_with_more_than_16_channels_are_refused():
    samples = loudnesses(16)
    np.testing.assert_allclose(read_audio((samples, 16000), 16000).samples, samples.mean(axis=0), atol=1e-6)
    with pytest.raises(ValueError, match=r"audio: expected samples .* at most 16 channels, found \(17, 8000\)"):
        read_audio((loudnesses(17), 16000), 16000)


def test_a_file_with_more_channels_than_ffmpeg_converts_is_named_in_the_error(tmp_path):
    path = write_wav(tmp_path / "crowd.wav", loudnesses(65), 8000)
    with pytest.raises(ValueError, match=r"crowd\.wav: cannot be read \(ArgumentError: .*Invalid argument"):
        read_audio(path, 16000)


def test_rates_below_1000_are_refused_and_768_thousand_is_read(tmp_path):
    tone = rising_pitch(np.arange(768000) / 768000)[None]
    fast = read_audio(write_wav(tmp_path / "fast.wav", tone, 768000), 16000, (0.25, 0.75)).samples
    assert heard_time(fast, 16000) == pytest.approx(0.5, abs=0.01)
    for rate in (1, 999):
        path = write_wav(tmp_path / "slow.wav", tone[:, :4000], rate)
        for audio, name in ((path, r"slow\.wav"), ((tone[:, :4000], rate), "audio")):
            with pytest.raises(ValueError, match=f"{name}: expected at least 1000 samples per second, found {rate}"):
                read_audio(audio, 16000)


def test_files_without_channels_are_refused_and_without_samples_silent(tmp_path):
    content = write_wav(tmp_path / "sound.wav", loudnesses(1)).read_bytes()
    (tmp_path / "none.wav").write_bytes(content[:22] + bytes(2) + content[24:])
    with pytest.raises(ValueError, match=r"none\.wav: "):
        read_audio(tmp_path / "none.wav", 16000)
    empty = write_wav(tmp_path / "empty.wav", np.zeros((1, 0)))
    for span, length in ((None, 0), ((0.0, 1.0), 16000)):
        found = read_audio(empty, 16000, span)
        assert len(found.samples) == length
        assert not found.present


def test_samples_that_are_not_finite_become_silence(tmp_path, caplog):
    samples = loudnesses(2, 1.0)
    expected = samples.mean(axis=0)
    samples[0, 8000], samples[1, 8001] = np.nan, np.inf
    path = write_wav(tmp_path / "broken.wav", samples)
    expected[8000:8002] = 0.0
    np.testing.assert_allclose(read_audio(path, 16000).samples, expected, atol=1e-6)
    assert [record.message for record in caplog.records] == [
        f"{path}: 2 samples of its sound are not finite; they become silence"
    ]
    resampled = read_audio(path, 8000).samples
    assert np.isfinite(resampled).all()
    np.testing.assert_allclose(resampled[4100:4900], expected[8200:9800:2], atol=2e-3)


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mkv", ".m4a", ".ts"])
def test_a_pause_of_hours_is_not_filled_with_silence(sound, tmp_path, suffix, caplog):
    path = retime(sound, tmp_path / f"pause{suffix}", lambda t: t if t < 1 else t + 36000 if t > 4 else None)
    tracemalloc.start()
    try:
        whole = read_audio(path, 16000).samples
        late = read_audio(path, 16000, (36004.2, 36005.2)).samples
        early = read_audio(path, 16000, (0.1, 60.0)).samples
        limited = read_audio(path, 16000, longest=30.0).samples
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # bytes; samples for the whole pause would take 2.3 GB
    assert len(whole) == pytest.approx(16000, abs=1600)
    messages = [record.message for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith(f"{path}: its sound pauses at 1.")
    assert heard_time(late, 16000) == pytest.approx(4.7, abs=0.04)
    for stretch in (early, limited):
        assert np.abs(stretch[20000:]).max() < 1e-3
    assert len(limited) == 30 * 16000


def test_pauses_below_an_hour_are_filled_with_silence(sound, tmp_path):
    path = retime(sound, tmp_path / "pause.mkv", lambda t: t if t < 1 else t + 60 if t > 4 else None)
    samples = read_audio(path, 8000).samples
    assert heard_time(samples[round(64.5 * 8000) : round(65.5 * 8000)], 8000) == pytest.approx(5.0, abs=0.01)
    assert np.abs(samples[10000 : 63 * 8000]).max() < 1e-3


def test_implausible_timestamps_are_replaced_by_counting_with_one_warning(sound, tmp_path, caplog):
    path = retime(sound, tmp_path / "absurd.mkv", lambda t: t if t < 3 else t + 1e9)
    for span in (None, (0.0, 6.0)):
        caplog.clear()
        samples = read_audio(path, 16000, span).samples
        assert len(samples) == pytest.approx(6 * 16000, abs=1000)
        assert heard_time(samples[64000:80000], 16000) == pytest.approx(4.5, abs=0.01)
        assert [record.message for record in caplog.records] == [
            f"{path}: 1 timestamps of its sound are implausible; samples are counted instead"
        ]


def test_recordings_joined_in_one_file_are_read_in_sequence(tmp_path):
    """Also if they differ in rate and channels."""
    write_sound(tmp_path / "one.ts", "mp2", 4, rate=48000)
    write_sound(tmp_path / "two.ts", "mp2", 4, rate=44100, layout="mono")
    path = tmp_path / "joined.ts"
    path.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    samples = read_audio(path, 16000).samples
    assert len(samples) == pytest.approx(8 * 16000, abs=1600)
    for start, expected in ((1.0, 1.5), (5.0, 1.5), (6.0, 2.5)):
        stretch = samples[round(start * 16000) : round((start + 1) * 16000)]
        assert heard_time(stretch, 16000) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("stamps", "placed", "faults"),
    [
        ([7.0, 7.5, 8.0], [0.0, 0.5, 1.0], 0),
        ([7.0, 7.52, 7.98], [0.0, 0.5, 1.0], 0),  # within GAP
        ([None, None, 8.0], [0.0, 0.5, 1.0], 0),
        ([7.0, 7.3, 7.8], [0.0, 0.3, 0.8], 0),  # drift
        ([-13.0, -12.5, 7.0], [-20.0, -19.5, 0.0], 0),  # sound before the first frame
        ([7.0, 7207.0, 7207.5], [0.0, 7200.0, 7200.5], 0),  # a pause
        ([7.0, 7207.0, 8.0], [0.0, 0.5, 1.0], 1),  # a single wrong stamp
        ([7.0, 2.0, 8.0], [0.0, 0.5, 1.0], 1),
        ([7207.0, 7.5, 8.0], [0.0, 0.5, 1.0], 1),
        ([7.0, 1e15, 1e15 + 0.5, 1e15 + 1], [0.0, 0.5, 1.0, 1.5], 1),
        ([7.0, -1e15, 8.0, 8.5], [0.0, 0.5, 1.0, 1.5], 1),
        ([1e15, 7.5, 8.0], [0.0, 0.5, 1.0], 1),
        ([7.0, math.nan, 8.0, 8.5], [0.0, 0.5, 1.0, 1.5], 1),
        ([math.nan, math.inf, 8.0], [0.0, 0.5, 1.0], 2),
        ([27.0, 27.5, 7.0, 7.5, 10.0], [20.0, 20.5, 21.0, 21.5, 24.0], 1),  # the clock restarts
    ],
)
def test_implausible_timestamps_are_replaced_by_the_sample_count(stamps, placed, faults):
    frames = [SimpleNamespace(time=stamp, samples=8000, sample_rate=16000) for stamp in stamps]
    clock = _Clock(7.0, 0.0)
    assert [time for time, _ in clock.timed(iter(frames), math.inf)] == pytest.approx(placed)
    assert clock.faults == faults


def test_reading_stops_after_two_frames_in_a_row_beyond_the_end():
    frames = [SimpleNamespace(time=time, samples=8000, sample_rate=16000) for time in (0, 50, 1, 1.5, 2, 2.5, 3, 3.5)]
    assert [time for time, _ in _Clock(0.0, 0.0).timed(iter(frames), 2.0)] == pytest.approx([0, 0.5, 1, 1.5, 2])


# --- damage ----------------------------------------------------------------------------------------------------------


def test_streams_that_start_late_do_not_change_the_sound(tmp_path):
    """FLV adds streams when their packets appear: PyAV raises an IndexError at the end if one appeared after its probe."""
    write_sound(tmp_path / "sound.flv", "pcm_s16le", 36, rate=44100)
    write_clip(tmp_path / "late.flv", ClipKind(".flv", "flv1"), range(10))
    plain, late = (tmp_path / "sound.flv").read_bytes(), (tmp_path / "late.flv").read_bytes()[13:]
    pictures = b""
    while late:
        size = int.from_bytes(late[1:4], "big") + 15
        if late[0] == 9:
            pictures += late[:4] + (35000).to_bytes(3, "big") + late[7:size]
        late = late[size:]
    (tmp_path / "late.flv").write_bytes(plain + pictures)
    assert len(plain) > 6e6  # more than PyAV probes
    for span in ((34.0, 35.5), (0.0, 36.0)):
        found = read_audio(tmp_path / "late.flv", 8000, span).samples
        np.testing.assert_array_equal(found, read_audio(tmp_path / "sound.flv", 8000, span).samples)


def failing(*outcomes) -> _Track:
    """A track whose packets decode to the given outcomes or raise them; after the last one the demuxer always fails."""

    def decode(outcome):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    class Packets:
        def __init__(self):
            self.left = list(outcomes)

        def __next__(self):
            if not self.left:
                raise av.InvalidDataError(1, "gone")
            outcome = self.left.pop(0)
            if isinstance(outcome, OverflowError):
                raise outcome
            return SimpleNamespace(decode=lambda: decode(outcome))

    stream = SimpleNamespace(codec_context=SimpleNamespace(layout=av.AudioLayout("mono")))
    return _Track("film.ts", SimpleNamespace(demux=lambda stream: Packets()), stream)


def test_decoding_continues_after_a_damaged_packet_and_ends_if_the_demuxer_fails(caplog):
    track = failing([1, 2], av.InvalidDataError(1, "damaged"), [3])
    assert list(track.frames()) == [1, 2, 3]
    assert (track.decoded, track.failed) == (3, 2)
    track.report()
    assert caplog.record_tuples == [
        ("modeling_sen.audio_io", logging.WARNING, "film.ts: 2 damaged packets in its sound track")
    ]
    track = failing()
    assert list(track.frames()) == []
    with pytest.raises(ValueError, match=r"film\.ts: its sound track cannot be decoded \(1 damaged packets\)"):
        track.report()


@pytest.mark.parametrize("error", [OverflowError("too large"), RuntimeError("odd"), MemoryError("full")])
def test_other_errors_are_raised_with_the_file_name(error):
    with pytest.raises(ValueError, match=rf"film\.ts: cannot be read \({type(error).__name__}: {error}\)"):
        list(failing([1], error).frames())


# --- limits ----------------------------------------------------------------------------------------------------------


def test_longest_limits_the_length_without_a_span(sound, tmp_path):
    whole = read_audio(sound, 16000).samples
    assert np.array_equal(read_audio(sound, 16000, longest=2.0).samples, whole[:32000])
    assert np.array_equal(read_audio(sound, 16000, longest=60.0).samples, whole)
    samples = rising_pitch(np.arange(6 * 44100) / 44100)
    whole = read_audio((samples, 44100), 16000).samples
    assert np.array_equal(read_audio((samples, 44100), 16000, longest=2.0).samples, whole[:32000])
    assert len(read_audio(np.zeros((48, 8, 8, 3), np.uint8), 16000, longest=0.5).samples) == 8000
    for longest in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="longest: expected a positive number of seconds"):
            read_audio(sound, 16000, longest=longest)


def test_a_span_of_an_array_equals_that_of_the_whole_with_little_memory():
    samples = (32767 * rising_pitch(np.arange(60 * 44100) / 44100)).astype(np.int16)
    whole = read_audio((samples, 44100), 16000).samples
    tracemalloc.start()
    try:
        stretch = read_audio((samples, 44100), 16000, (30.3, 31.3)).samples
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(stretch, whole[round(30.3 * 16000) :][:16000], atol=1e-6)
    assert peak < 3e6
    assert not read_audio((samples, 44100), 16000, (100.0, 101.0)).samples.any()
