"""Reading of sound: samples belong to the requested time. The test tone rises in pitch, so the pitch gives the time."""

import csv
import io

import av
import numpy as np
import pytest
from frame_stamps import (
    CLIP_KINDS,
    heard_time,
    read_stamp,
    rising_pitch,
    write_clip,
    write_sound,
)

from modeling_sen.audio_io import read_audio
from modeling_sen.video_io import read_frames, read_video

# File name -> codec, sampling rate, channels.
SOUND_FILES = {
    "pcm.wav": ("pcm_s16le", 44100, "stereo"),
    "low.wav": ("pcm_s16le", 8000, "mono"),
    "float.wav": ("pcm_f32le", 96000, "mono"),
    "lossless.flac": ("flac", 44100, "stereo"),
    "song.mp3": ("libmp3lame", 44100, "stereo"),
    "song.m4a": ("aac", 44100, "stereo"),
    "surround.m4a": ("aac", 48000, "5.1"),
    "three.wav": ("pcm_s16le", 22050, "2.1"),
    "voice.ogg": ("libopus", 48000, "mono"),
    "voice.webm": ("libopus", 48000, "stereo"),
    "sound.mkv": ("aac", 32000, "stereo"),
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """File name -> a file with six seconds of rising pitch, the same signal in all channels."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, (codec, rate, layout) in SOUND_FILES.items():
        write_sound(folder / name, codec, rate=rate, layout=layout)
    return folder


def rates_of(name):
    """16 kHz and a rate that is not a multiple of the file's rate; for two files also the file's own rate."""
    own = SOUND_FILES[name][1]
    rates = {16000, 48000 if own % 11025 == 0 or own == 8000 else 44100}
    return rates | ({own} if name in ("pcm.wav", "surround.m4a") else set())


@pytest.mark.parametrize(
    ("name", "sampling_rate"),
    [
        pytest.param(name, rate, marks=[] if rate in rates_of(name) else [pytest.mark.slow])
        for name in SOUND_FILES
        for rate in (16000, 44100, 48000)
    ],
)
def test_every_excerpt_contains_the_sound_of_its_time(sounds, name, sampling_rate):
    whole = read_audio(sounds / name, sampling_rate)
    assert whole.present
    assert whole.sampling_rate == sampling_rate
    assert whole.samples.dtype == np.float32
    assert len(whole.samples) == pytest.approx(6 * sampling_rate, abs=0.05 * sampling_rate)
    for start in (0.0, 0.3, 2.0, 4.05):
        cut = read_audio(sounds / name, sampling_rate, (start, start + 1.2)).samples
        assert len(cut) == round(1.2 * sampling_rate)
        # The pitch rises by 200 Hz per second: 2 Hz are 10 ms.
        assert heard_time(cut, sampling_rate) == pytest.approx(start + 0.6, abs=0.01)
        place = round(start * sampling_rate)
        assert heard_time(whole.samples[place : place + len(cut)], sampling_rate) == pytest.approx(
            start + 0.6, abs=0.01
        )


@pytest.mark.parametrize("name", ["pcm.wav", "lossless.flac", "three.wav", "float.wav"])
def test_lossless_sound_is_resampled_to_the_exact_samples(sounds, name):
    for span in (None, (1.5, 2.5)):
        samples = read_audio(sounds / name, 16000, span).samples
        times = (span[0] if span else 0.0) + np.arange(len(samples)) / 16000
        # If the excerpt starts between two samples of 16 kHz, the two grids differ by up to half a sample.
        np.testing.assert_allclose(samples[20:-200], rising_pitch(times)[20:-200], atol=2e-3 if span is None else 0.1)


def test_channels_are_averaged_and_clipped_to_full_scale(tmp_path):
    left, right = 0.9 * np.ones(8000), 0.3 * np.ones(8000)
    assert read_audio((np.stack([left, right]), 16000), 16000).samples == pytest.approx(0.6)
    write_sound(tmp_path / "loud.wav", "pcm_f32le", seconds=1, layout="5.1", loudness=3.0)
    loud = read_audio(tmp_path / "loud.wav", 48000).samples
    assert np.abs(loud).max() == 1.0
    write_sound(tmp_path / "full.wav", "pcm_f32le", seconds=1, layout="stereo", loudness=2.0)
    full = read_audio(tmp_path / "full.wav", 48000).samples
    np.testing.assert_allclose(full, np.clip(2 * rising_pitch(np.arange(48000) / 48000), -1, 1), atol=1e-6)


def test_parts_of_the_span_outside_of_the_sound_are_silent(sounds):
    around = read_audio(sounds / "pcm.wav", 16000, (-1.0, 8.0)).samples
    assert len(around) == 9 * 16000
    assert not around[: 16000 - 10].any()
    assert not around[7 * 16000 + 10 :].any()
    assert heard_time(around[3 * 16000 : 4 * 16000], 16000) == pytest.approx(2.5, abs=0.01)
    beyond = read_audio(sounds / "song.m4a", 16000, (50.0, 51.0))
    assert beyond.present
    assert not beyond.samples.any()
    assert len(beyond.samples) == 16000


CONTAINERS = [("mp4", "aac"), ("mkv", "libopus"), ("webm of VP9", "libopus"), ("mp4 without B-frames", "libmp3lame")]


@pytest.mark.parametrize(("kind", "codec"), CONTAINERS)
@pytest.mark.parametrize(("video_start", "sound_start"), [(0.0, 0.0), (0.0, 0.8), (0.8, 0.0), (2.0, 2.0)])
def test_time_0_is_the_first_frame_even_if_the_sound_starts_earlier(tmp_path, kind, codec, video_start, sound_start):
    clip = tmp_path / f"clip{CLIP_KINDS[kind].suffix}"
    write_sound(clip, codec, 4, clip=CLIP_KINDS[kind], video_start=video_start, sound_start=sound_start)
    video = read_video(clip, 1, "fps:1")
    assert read_stamp(video.frames[0]) == 0
    late = sound_start - video_start  # the pitch of second s occurs at time s + late
    for start in (1.0, 2.1):
        cut = read_audio(clip, 16000, (start, start + 1.0)).samples
        assert heard_time(cut, 16000) == pytest.approx(start + 0.5 - late, abs=0.01)
    whole = read_audio(clip, 16000).samples
    assert heard_time(whole[32000:48000], 16000) == pytest.approx(2.5 - late, abs=0.01)
    if late > 0:
        assert np.abs(whole[: round((late - 0.05) * 16000)]).max() < 1e-3


@pytest.mark.parametrize("kind", ["transport stream", "avi"])
def test_in_containers_that_drop_the_encoder_delay_times_are_off_by_at_most_that_delay(tmp_path, kind):
    clip = tmp_path / f"clip{CLIP_KINDS[kind].suffix}"
    write_sound(clip, "libmp3lame" if kind == "avi" else "aac", clip=CLIP_KINDS[kind])
    cut = read_audio(clip, 16000, (2.0, 3.0)).samples
    assert heard_time(cut, 16000) == pytest.approx(2.5, abs=0.035)


def test_the_span_of_sampled_frames_selects_the_sound_of_these_frames(tmp_path):
    clip = tmp_path / "clip.mp4"
    write_sound(clip, "aac", clip=CLIP_KINDS["mp4"])
    video = read_video(clip, 4, "stride:10")
    middle = sum(video.span) / 2
    assert read_frames(clip, video.indices).span == video.span
    assert heard_time(read_audio(clip, 16000, video.span).samples, 16000) == pytest.approx(middle, abs=0.01)


def test_only_the_requested_span_is_decoded(sounds, monkeypatch):
    resampled, resampler_class = [], av.AudioResampler

    class Counting:
        def __init__(self, **options):
            self.resampler = resampler_class(**options)

        def resample(self, frame):
            resampled.append(0 if frame is None else frame.samples)
            return self.resampler.resample(frame)

    monkeypatch.setattr(av, "AudioResampler", Counting)
    read_audio(sounds / "song.m4a", 16000, (4.0, 4.5))
    assert 0.5 * 44100 < sum(resampled) < 1.5 * 44100


def test_a_video_without_sound_gives_silence_and_is_marked_as_not_present(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(45))
    whole, cut = read_audio(clip, 16000), read_audio(clip, 16000, (0.5, 1.0))
    assert not whole.present
    assert not cut.present
    assert len(whole.samples) == 24000
    assert len(cut.samples) == 8000
    assert not whole.samples.any()
    frames = read_frames(clip, range(45)).frames
    for video in (frames, list(frames)):
        assert not read_audio(video, 16000, (0, 1)).present
        assert len(read_audio(video, 16000).samples) == 45 / 24 * 16000
    day = write_clip(tmp_path / "day.mkv", CLIP_KINDS["mkv"], range(2), [0.0, 86400.0])
    assert len(read_audio(day, 1000).samples) == 3600 * 1000  # silence is limited to an hour


def test_a_silent_track_is_marked_as_present(tmp_path):
    write_sound(tmp_path / "silent.wav", "pcm_s16le", seconds=1, loudness=0.0)
    clip = read_audio(tmp_path / "silent.wav", 16000)
    assert clip.present
    assert not clip.samples.any()


def test_bytes_and_file_objects_are_read(sounds):
    content = (sounds / "song.m4a").read_bytes()
    expected = read_audio(sounds / "song.m4a", 16000, (1, 2)).samples
    file = io.BytesIO(content)
    file.seek(50)
    for audio in (content, file):
        assert np.array_equal(read_audio(audio, 16000, (1, 2)).samples, expected)
    assert file.tell() == 50


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_arrays_of_samples_are_read(dtype):
    tone = rising_pitch(np.arange(3 * 44100) / 44100)
    samples = tone.astype(dtype) if dtype in (np.float32, np.float64) else (tone * np.iinfo(dtype).max).astype(dtype)
    clip = read_audio((samples, 44100), 16000)
    assert clip.present
    assert len(clip.samples) == 48000
    np.testing.assert_allclose(clip.samples[20:-200], rising_pitch(np.arange(48000) / 16000)[20:-200], atol=1e-3)
    assert heard_time(read_audio((samples, 44100), 16000, (1, 2)).samples, 16000) == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ((np.zeros((100, 2)), 16000), r"samples \(S,\) or \(channels, S\).*found \(100, 2\)"),
        ((np.zeros(0), 16000), r"found \(1, 0\)"),
        ((np.zeros((1, 2, 3)), 16000), r"found \(1, 2, 3\)"),
        ((np.full(10, np.nan), 16000), "far outside"),
        ((np.full(10, 20000.0), 16000), "far outside"),
        ((np.zeros(10, np.uint8), 16000), "found uint8"),
        ((np.zeros(10), 0), "whole number of samples per second, found 0"),
    ],
)
def test_ambiguous_arrays_raise(audio, message):
    with pytest.raises(ValueError, match=f"audio: expected .*{message}"):
        read_audio(audio, 16000)


def test_impossible_spans_and_rates_raise(sounds):
    for span in ((2.0, 2.0), (3.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="span: expected"):
            read_audio(sounds / "pcm.wav", 16000, span)
    with pytest.raises(ValueError, match="sampling_rate: expected"):
        read_audio(sounds / "pcm.wav", 0)


def _with_damage(path, target, share):
    """Copies a file; this share of the sound packets is replaced by noise."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
    for packet in packets[: round(share * len(packets))]:
        content[packet.pos : packet.pos + packet.size] = rng.bytes(packet.size)
    target.write_bytes(content)
    return target


def test_a_corrupt_sound_track_raises_an_error_that_names_the_file(tmp_path):
    clip = tmp_path / "clip.mp4"
    write_sound(clip, "aac", clip=CLIP_KINDS["mp4"])
    broken = _with_damage(clip, tmp_path / "broken.mp4", 1.0)
    for span in (None, (2.0, 3.0)):
        with pytest.raises(ValueError, match=r"broken.mp4: its sound track cannot be decoded"):
            read_audio(broken, 16000, span)
    assert read_frames(broken, [5]).num_frames_total == 180  # the video stream is intact


def test_a_few_damaged_packets_are_reported_and_the_other_sound_keeps_its_time(tmp_path, caplog):
    write_sound(tmp_path / "song.m4a", "aac")
    damaged = _with_damage(tmp_path / "song.m4a", tmp_path / "damaged.m4a", 0.1)
    samples = read_audio(damaged, 16000).samples
    assert "damaged packets in its sound track" in caplog.text
    assert heard_time(samples[32000:48000], 16000) == pytest.approx(2.5, abs=0.01)


def test_sound_after_a_gap_keeps_its_time(tmp_path, sounds):
    with av.open(str(sounds / "sound.mkv")) as source, av.open(str(tmp_path / "gap.mkv"), "w") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.size and not 1.0 < packet.pts * packet.time_base < 3.0:
                packet.stream = stream
                output.mux(packet)
    samples = read_audio(tmp_path / "gap.mkv", 16000).samples
    assert heard_time(samples[64000:80000], 16000) == pytest.approx(4.5, abs=0.01)
    assert np.abs(samples[20000:46000]).max() < 1e-3


def test_real_clips_have_sound_where_the_manifest_lists_it(shared_data):
    with open(shared_data / "MANIFEST.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] in ("video", "audio")]
    rows = [row for row in rows if "/recognition/" in row["path"] or "/multimodal/" in row["path"]]
    assert len(rows) > 20
    for row in rows:
        clip = read_audio(shared_data / row["path"].removeprefix("shared/"), 48000)
        assert clip.present == (row["has_audio"] == "yes"), row["path"]
        assert np.isfinite(clip.samples).all()
        if clip.present and row["path"].rsplit("/")[-1] != "nasa_13013.mp4":
            # The manifest gives the duration of the whole file; the longest sound ends 0.1 s before the video.
            assert len(clip.samples) / 48000 == pytest.approx(float(row["duration_s"]), abs=0.11), row["path"]
        if clip.present and row["audio_channels"] == "1":
            assert np.abs(clip.samples).max() == pytest.approx(min(1, float(row["audio_peak"])), abs=0.05), row["path"]
