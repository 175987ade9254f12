"""Windows of a clip: the frames and the sound of each window, and how a video is divided."""

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, heard_time, read_stamps, repeat_clip, stamped_image, write_clip, write_sound

import modeling_sen
from modeling_sen import SENProcessor, clip_sound, frame_decoding, processing_sen, video_io
from modeling_sen.frame_decoding import UndecodableFrames
from modeling_sen.frame_sampling import FrameRequest, requested_indices
from modeling_sen.video_io import opened_video, read_video_requests
from modeling_sen.video_windows import WindowPlan, plan_windows, shared_budget, step_times


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """90 stamped frames at 30 per second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", CLIP_KINDS["mp4"], range(90))


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    """Six seconds of stamped frames with a tone whose pitch gives the time."""
    path = tmp_path_factory.mktemp("sounding") / "clip.mp4"
    write_sound(path, "aac", clip=CLIP_KINDS["mp4"])
    return path


@pytest.fixture
def processor(sen_folder) -> SENProcessor:
    return SENProcessor.from_pretrained(sen_folder)


# --- frames of a span ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "num_frames", "stretch", "expected"),
    [
        ("uniform", 3, (1.0, 2.0), [11, 15, 18]),
        ("linspace", 3, (0.0, 0.2), [0, 0, 1]),
        ("uniform", 2, (2.5, 99.0), [26, 28]),
        ("fps:5", 3, (1.0, 2.0), [10, 12, 14]),
        ("stride:2", 2, (1.0, 2.0), [13, 15]),
        ("uniform", 2, (1.01, 1.05), [10, 10]),  # no frame starts in this span: the one that is shown
        ("uniform", 1, (0.0, 0.001), [0]),
        ("uniform", 1, (50.0, 60.0), [29]),
        ("uniform", 3, None, [5, 15, 25]),
    ],
)
def test_a_sampling_rule_is_applied_to_the_frames_of_the_span(sampling, num_frames, stretch, expected):
    indices = requested_indices(FrameRequest(num_frames, sampling, stretch), np.arange(30) / 10)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


@pytest.mark.parametrize("stretch", [(2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (0.0, float("nan"))])
def test_an_empty_span_or_one_before_the_clip_is_refused(stretch):
    with pytest.raises(ValueError, match=r"stretch: expected \(start, end\) seconds with 0 <= start < end"):
        requested_indices(FrameRequest(2, "uniform", stretch), np.arange(30) / 10)


@pytest.mark.parametrize("count", [1, 3, 7, 13])
def test_windows_contain_every_frame_once(count):
    """Times are rounded to milliseconds, as in containers, so some frames start just before or after a window's edge."""
    times = np.round(np.arange(90) / 30, 3)
    requests = [FrameRequest(90, "linspace", window) for window in WindowPlan(0.0, 3.0, count).windows]
    windows = [np.unique(requested_indices(request, times)) for request in requests]
    assert np.concatenate(windows).tolist() == list(range(90))
    assert max(map(len, windows)) - min(map(len, windows)) <= 1


def test_frames_of_files_and_arrays_come_from_the_span(clip):
    requests = [FrameRequest(3, stretch=(2.0, 3.0)), FrameRequest(2), FrameRequest(1, stretch=(0.5, 1.0))]
    frames = np.stack([stamped_image(number, 112, 80) for number in range(90)])
    for video, times in ((clip, None), (frames, np.arange(90) / 30)):
        read = read_video_requests(video, requests, times)
        assert [read_stamps(each.frames) for each in read] == [[65, 75, 85], [22, 67], [22]]
        assert read[0].times == pytest.approx(np.array([65, 75, 85]) / 30)
        assert [each.span for each in read] == [(2.0, 3.0), (0.0, 3.0), (0.5, 1.0)]
        assert {each.duration for each in read} == {3.0}


def test_an_opened_video_is_indexed_once_and_decoded_only_in_parts(clip, tmp_path, monkeypatch):
    hour = repeat_clip(clip, tmp_path / "hour.mp4", 1200)
    indexed, fed = [], []
    index_frames, packets_from = video_io.index_frames, frame_decoding.packets_from

    def counting(*arguments, **named):
        for packet in packets_from(*arguments, **named):
            fed.append(packet)
            yield packet

    monkeypatch.setattr(video_io, "index_frames", lambda source: indexed.append(source) or index_frames(source))
    monkeypatch.setattr(frame_decoding, "packets_from", counting)
    with opened_video(hour) as video:
        assert video.duration == pytest.approx(3600)
        for window in WindowPlan(0.0, video.duration, 3).windows:
            (read,) = video.read([FrameRequest(4, stretch=window)])
            assert read_stamps(read.frames) == [index % 90 for index in read.indices]
            assert window[0] < read.times[0] < read.times[-1] < window[1]
    assert len(indexed) == 1
    assert len(fed) <= 12 * 13  # a group of pictures has 12 frames


def test_windows_skip_frames_that_cannot_be_decoded(clip, monkeypatch):
    decode, failed = video_io.decode_frames, []

    def decode_frames(source, index, wanted):
        if not failed:
            failed.append(wanted)
            raise UndecodableFrames("broken")
        return decode(source, index, wanted)

    monkeypatch.setattr(video_io, "decode_frames", decode_frames)
    with opened_video(clip) as video:
        assert [read_stamps(video.read([FrameRequest(1, stretch=(1.0, 2.0))])[0].frames) for _ in range(2)] == [
            [45]
        ] * 2
        assert video._index.packets is None  # the index was built by decoding, and is kept


# --- inputs of a window ----------------------------------------------------------------------------------------------


def test_rows_of_windows_equal_those_of_the_frames_in_the_window(processor):
    frames = np.random.default_rng(0).integers(0, 256, (24, 20, 28, 3), dtype=np.uint8)
    times = np.arange(24) / 8
    rows = processor.read_clip({"video": frames, "times": times}, windows=[(0.0, 1.0), (2.0, 3.0)])
    assert [row["frame_times"].tolist() for row in rows] == [
        [0.125, 0.375, 0.625, 0.875],
        [2.125, 2.375, 2.625, 2.875],
    ]
    for row, part in zip(rows, (slice(0, 8), slice(16, 24)), strict=True):
        (single,) = processor.read_clip({"video": frames[part], "times": times[part]})
        for name in ("image_pixel_values", "video_pixel_values"):
            assert torch.equal(row[name], single[name])


def test_every_window_gets_its_own_sound(processor, sounding, monkeypatch):
    sounds, read_audio = [], clip_sound.read_audio

    def read(*arguments):
        sounds.append((arguments[2], read_audio(*arguments)))
        return sounds[-1][1]

    monkeypatch.setattr(clip_sound, "read_audio", read)
    rows = processor.read_clip(sounding, windows=[(0.0, 2.0), (2.0, 4.0), (4.0, 4.5)])
    # The tower takes 0.655 s: from the middle of a window, or all of a shorter window.
    spans = [(1 - 0.3275, 1 + 0.3275), (3 - 0.3275, 3 + 0.3275), (4.0, 4.5)]
    assert [span for span, _ in sounds] == [pytest.approx(span) for span in spans]
    assert [heard_time(sound.samples, 16_000) for _, sound in sounds] == pytest.approx([1, 3, 4.25], abs=0.02)
    assert not torch.equal(rows[0]["audio_input_features"], rows[1]["audio_input_features"])


def test_separate_sound_is_cut_at_the_same_windows(processor, sounding):
    frames = np.zeros((48, 16, 16, 3), dtype=np.uint8)
    samples = modeling_sen.read_audio(sounding, 16_000).samples
    (row,) = processor.read_clip({"video": frames, "audio": (samples, 16_000)}, windows=[(1.0, 2.0)])
    (cut,) = processor.read_clip({"audio": (samples[18_760:29_240], 16_000)})  # 0.655 s around 1.5 s
    torch.testing.assert_close(row["audio_input_features"], cut["audio_input_features"], atol=1e-5, rtol=0)


def test_a_file_is_opened_once_and_each_frame_decoded_once(processor, clip, monkeypatch):
    decoded, opened = [], []
    decode, open_source = video_io.decode_frames, modeling_sen.clip_inputs.open_media_source

    def decode_frames(source, index, wanted):
        decoded.extend(wanted)
        return decode(source, index, wanted)

    monkeypatch.setattr(video_io, "decode_frames", decode_frames)
    monkeypatch.setattr(
        modeling_sen.clip_inputs, "open_media_source", lambda media: opened.append(media) or open_source(media)
    )
    windows = WindowPlan(0.0, 3.0, 3).windows
    rows = processor.read_clip(clip, windows=windows)
    assert opened == [clip]
    assert len(decoded) == len(set(decoded)) == 3 * (2 + 4)
    monkeypatch.setattr(processing_sen, "FRAMES_AT_ONCE", 1)  # one window at a time
    for row, apart in zip(rows, processor.read_clip(clip, windows=windows), strict=True):
        assert row.keys() == apart.keys()
        assert all(torch.equal(row[name], apart[name]) for name in row)


def test_a_clip_without_frames_has_no_windows(processor, sounding):
    with (
        processor.open_clip({"audio": sounding}) as clip,
        pytest.raises(ValueError, match="expected a video, found audio"),
    ):
        _ = clip.duration


# --- division into windows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [(0.0, 10.0)]),
        ({"num_frames": 1}, [(0.0, 10.0)]),
        ({"num_frames": 8}, [(0.0, 10.0)]),
        ({"num_frames": 9}, [(0.0, 5.0), (5.0, 10.0)]),
        ({"fps": 1.6}, [(0.0, 5.0), (5.0, 10.0)]),
        ({"fps": 2.0, "start": 2.0, "end": 6.0}, [(2.0, 6.0)]),
        ({"fps": 0.01}, [(0.0, 10.0)]),
        ({"num_frames": 24, "start": 4}, [(4.0, 6.0), (6.0, 8.0), (8.0, 10.0)]),
        ({"end": 10.09}, [(0.0, 10.0)]),
    ],
)
def test_the_number_of_frames_is_rounded_up_to_whole_windows(sampling, expected):
    plan = plan_windows(10.0, window_frames=8, **sampling)
    assert plan.windows == [pytest.approx(window) for window in expected]


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"start": -1.0}, r"^start: expected seconds .* at least 0, found -1.0"),
        ({"start": float("nan")}, r"^start: expected seconds"),
        ({"start": "1"}, r"^start: expected seconds .* found '1'"),
        ({"end": -2.0}, r"^end: expected seconds .* found -2.0"),
        ({"start": 5.0, "end": 5.0}, r"^start: expected less than end, which is 5.0 s, found 5.0 s"),
        ({"end": 0}, r"^start: expected less than end, which is 0 s, found 0.0 s"),
        ({"start": 10.0}, r"^start: expected less than the video's duration of 10.000 s, found 10.0 s"),
        ({"end": 11.0}, r"^end: expected at most the video's duration of 10.000 s, found 11.0 s"),
        ({"num_frames": 0}, r"^num_frames: expected a whole number of at least 1, found 0"),
        ({"num_frames": 2.5}, r"^num_frames: expected a whole number of at least 1, found 2.5"),
        ({"num_frames": True}, r"^num_frames: expected a whole number"),
        ({"fps": 0}, r"^fps: expected a positive number of frames per second, found 0"),
        ({"fps": float("inf")}, r"^fps: expected a positive number"),
        ({"fps": 1, "num_frames": 8}, r"^num_frames, fps: expected at most one of them, found num_frames=8 and fps=1"),
    ],
)
def test_impossible_divisions_are_refused(sampling, message):
    with pytest.raises(ValueError, match=message):
        plan_windows(10.0, window_frames=8, **sampling)


@pytest.mark.parametrize(
    ("wanted", "budget", "expected"),
    [
        ([5], 9, [5]),
        ([5], 3, [3]),
        ([1, 9, 4], 9, [1, 4, 4]),
        ([1, 9, 4], 8, [1, 3, 3]),
        ([2, 2], 0, [1, 1]),
        ([10**6, 3], 10, [7, 3]),
    ],
)
def test_the_longest_videos_lose_windows_first(wanted, budget, expected):
    assert shared_budget(wanted, budget) == expected


def test_the_time_of_a_step_is_the_mean_time_of_its_frames():
    times = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0], dtype=torch.float64)
    assert step_times(times, 4).tolist() == [0.5, 2.5, 4.5, 7.5]
    assert step_times(times[:2], 4).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert WindowPlan(2.0, 6.0, 2).step_times(2).tolist() == [[2.5, 3.5], [4.5, 5.5]]
