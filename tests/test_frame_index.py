"""Frame number i is the i-th frame in presentation order, for every container, codec and storage order."""

import logging

import av
import numpy as np
import pytest
import torch
from frame_stamps import (
    CLIP_KINDS,
    ClipKind,
    delay_by_edit_list,
    move_times,
    read_stamps,
    write_clip,
)
from PIL import Image

from modeling_sen.frame_index import SMALL_PACKET, first_frame_time
from modeling_sen.frame_sampling import FrameRequest
from modeling_sen.video_io import read_frames, read_video, read_video_requests

NUM_FRAMES = 90
SAMPLINGS = ["uniform", "linspace", "stride:7", "fps:4"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Name of a clip kind -> a clip of 90 frames at 30 per second with the stamps 0..89."""
    folder, written = tmp_path_factory.mktemp("clips"), {}

    def clip(name):
        if name not in written:
            kind = CLIP_KINDS[name]
            written[name] = write_clip(folder / f"{len(written)}{kind.suffix}", kind, range(NUM_FRAMES))
        return written[name]

    return clip


@pytest.mark.parametrize("name", CLIP_KINDS)
def test_frames_are_found_in_any_order(clips, name):
    order = np.random.default_rng(0).permutation(NUM_FRAMES)
    video = read_frames(clips(name), order)
    assert read_stamps(video.frames) == order.tolist()
    assert video.num_frames_total == NUM_FRAMES
    # Matroska rounds times to milliseconds.
    np.testing.assert_allclose(video.times, order / 30, atol=0.6e-3)
    assert video.duration == pytest.approx(NUM_FRAMES / 30, abs=2e-3)


@pytest.mark.parametrize("name", CLIP_KINDS)
def test_every_sampling_rule_returns_the_frames_of_its_indices(clips, name):
    requests = [FrameRequest(8, sampling) for sampling in SAMPLINGS]
    for video in read_video_requests(clips(name), requests):
        assert read_stamps(video.frames) == video.indices.tolist()


@pytest.mark.parametrize("name", ["mp4", "mp4 with open GOPs", "mkv", "transport stream", "webm of VP9"])
def test_a_single_frame_does_not_depend_on_the_start_of_decoding(clips, name):
    whole = read_frames(clips(name), range(NUM_FRAMES)).frames
    for number in (0, 1, 11, 12, 13, 40, 88, 89):
        assert np.array_equal(read_frames(clips(name), [number]).frames[0], whole[number])


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_frames_do_not_depend_on_the_number_of_threads(clips, threads):
    granted = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert read_stamps(read_frames(clips("mp4"), range(0, NUM_FRAMES, 20)).frames) == [0, 20, 40, 60, 80]
    finally:
        torch.set_num_threads(granted)


@pytest.mark.parametrize("name", ["mp4", "mkv", "transport stream", "webm of VP8"])
def test_times_are_right_with_a_variable_rate_and_a_late_start(tmp_path, name):
    # Irregular times that start at 2 s; the expected times are relative to the first frame.
    times = 2 + np.cumsum(np.random.default_rng(1).integers(10, 200, 40)) / 1000
    clip = write_clip(tmp_path / f"clip{CLIP_KINDS[name].suffix}", CLIP_KINDS[name], range(40), times)
    video = read_frames(clip, [39, 0, 20, 7])
    assert read_stamps(video.frames) == [39, 0, 20, 7]
    np.testing.assert_allclose(video.times, (times - times[0])[[39, 0, 20, 7]], atol=1.1e-3)


def test_sampling_by_rate_uses_times_instead_of_frame_numbers(tmp_path):
    times = np.concatenate([np.arange(20) * 0.04, 0.8 + np.arange(20) * 0.2])
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(40), times)
    video = read_video(clip, 6, "fps:1.25")
    np.testing.assert_allclose(video.times, np.arange(6) * 0.8, atol=1e-6)
    assert read_stamps(video.frames) == [0, 20, 24, 28, 32, 36]


def test_frames_before_the_start_of_the_edit_list_are_not_counted(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4 without B-frames"], range(NUM_FRAMES))
    with av.open(str(clip)) as container:
        frame_ticks = round(1 / 30 / container.streams.video[0].time_base)
    delay_by_edit_list(clip, 17 * frame_ticks)
    video = read_frames(clip, [0, 30, 72])
    assert video.num_frames_total == NUM_FRAMES - 17
    assert read_stamps(video.frames) == [17, 47, 89]
    np.testing.assert_allclose(video.times, [0, 1, 2.4], atol=1e-6)


def test_packets_of_hidden_frames_are_not_counted(tmp_path):
    kind = ClipKind(".webm", "libvpx")
    source, clip = write_clip(tmp_path / "source.webm", kind, range(40)), tmp_path / "clip.webm"
    hidden = [number for number in range(40) if number % 12 == 5]
    with av.open(str(source)) as container, av.open(str(clip), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packet for packet in container.demux() if packet.size):
            content = bytearray(bytes(packet))
            if number in hidden:
                content[0] &= ~0x10
            changed = av.Packet(bytes(content))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.stream, changed.is_keyframe = stream, packet.is_keyframe
            output.mux(changed)
    shown = [number for number in range(40) if number not in hidden]
    assert read_stamps(read_frames(clip, range(len(shown))).frames) == shown


def test_frames_are_resized_to_the_first_requested_frame_if_the_stream_changes_its_size(tmp_path):
    small, large = (
        write_clip(tmp_path / f"{width}.h264", ClipKind(".h264", "libx264", size=(width, 80), b_frames=0), range(20))
        for width in (112, 144)
    )
    clip = tmp_path / "clip.h264"
    clip.write_bytes(small.read_bytes() + large.read_bytes())
    video = read_frames(clip, [5, 25])
    assert video.frames.shape == (2, 80, 112, 3)
    assert video.num_frames_total == 40


def test_frames_of_a_raw_stream_without_timestamps_are_counted(tmp_path):
    clip = write_clip(tmp_path / "clip.h264", ClipKind(".h264", "libx264"), range(40))
    video = read_frames(clip, [33, 2])
    assert read_stamps(video.frames) == [33, 2]
    assert (np.diff(read_frames(clip, range(40)).times) > 0).all()


def test_an_undecodable_frame_is_skipped_by_sampling_and_refused_on_request(tmp_path, clips, caplog):
    content = bytearray(clips("mov of ProRes").read_bytes())
    with av.open(str(clips("mov of ProRes"))) as container:
        damaged = [packet for packet in container.demux() if packet.size][25]
        content[damaged.pos : damaged.pos + damaged.size] = bytes(damaged.size)
    clip = tmp_path / "clip.mov"
    clip.write_bytes(content)
    with pytest.raises(ValueError, match=r"clip.mov: 1 frames cannot be decoded \(numbers 25"):
        read_frames(clip, [24, 25, 26])
    with caplog.at_level(logging.WARNING):
        video = read_video(clip, 89)
    assert "numbers 25" in caplog.text
    assert read_stamps(video.frames) == [number for number in range(NUM_FRAMES) if number != 25]
    np.testing.assert_allclose(video.times * 30, read_stamps(video.frames), atol=1e-6)


def test_a_truncated_file_gives_its_remaining_frames(tmp_path, clips, caplog):
    whole = clips("mp4 with the index in front").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    with caplog.at_level(logging.WARNING):
        video = read_video(cut, 8)
    assert 20 < video.num_frames_total < 80
    assert read_stamps(video.frames)[:6] == video.indices[:6].tolist()
    # Near the cut some frames are missing, so numbers differ there; times still identify the frames.
    np.testing.assert_allclose(video.times * 30, read_stamps(video.frames), atol=1e-3)
    assert "its header counts 90 frames" in caplog.text


@pytest.mark.parametrize("name", ["mkv", "webm of VP9"])
def test_a_truncated_file_without_a_frame_count_is_detected_by_its_duration(tmp_path, clips, caplog, name):
    whole = clips(name).read_bytes()
    cut = tmp_path / f"cut{CLIP_KINDS[name].suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        video = read_video(cut, 4, "linspace")
    np.testing.assert_allclose(video.times * 30, read_stamps(video.frames), atol=0.02)
    assert "its header promises 3.0 s" in caplog.text


def test_a_too_large_frame_count_in_an_avi_header_is_corrected(tmp_path, clips, caplog):
    content = clips("avi").read_bytes()
    assert content.count((90).to_bytes(4, "little"), 0, 400) == 2  # the counts of the file and of the stream
    clip = tmp_path / "clip.avi"
    clip.write_bytes(content[:400].replace((90).to_bytes(4, "little"), (500).to_bytes(4, "little")) + content[400:])
    with caplog.at_level(logging.WARNING):
        video = read_video(clip, 5, "linspace")
    assert video.num_frames_total == NUM_FRAMES
    assert read_stamps(video.frames)[-1] == NUM_FRAMES - 1


@pytest.fixture(scope="module")
def mkv(tmp_path_factory):
    kind = ClipKind(".mkv", "libx264", b_frames=0)
    return write_clip(tmp_path_factory.mktemp("mkv") / "clip.mkv", kind, range(60))


@pytest.mark.parametrize(
    "pts",
    [
        {59: 10**18},
        {number: 10**18 + 33 * number for number in range(50, 60)},
        {number: 10**16 * number for number in range(60)},
    ],
    ids=["the last", "the tail", "all"],
)
def test_impossible_timestamps_are_replaced_by_the_frame_rate(tmp_path, mkv, caplog, pts):
    clip = move_times(mkv, tmp_path / "clip.mkv", pts)
    with caplog.at_level(logging.WARNING):
        video = read_frames(clip, range(60))
    assert read_stamps(video.frames) == list(range(60))
    np.testing.assert_allclose(video.times, np.arange(60) / 30, atol=5e-3)
    assert video.duration == pytest.approx(2, abs=0.04)
    assert len(caplog.records) == 1
    assert "clip.mkv: its timestamps are damaged" in caplog.text


def test_a_damaged_first_timestamp_is_not_the_start_of_the_clip(tmp_path, mkv):
    clip = move_times(mkv, tmp_path / "clip.mkv", {number: 2 * 10**9 + 33 * number for number in range(1, 60)})
    with av.open(str(clip)) as container:
        assert first_frame_time(container, container.streams.video[0]) == pytest.approx(2e6 + 0.033)


def write_with_last_packet(clip, target, content):
    """Copies a clip's video and replaces the content of the last packet; returns the frame number of that packet."""
    with av.open(str(clip)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        last = av.Packet(content)
        last.pts, last.dts, last.duration = packets[-1].pts, packets[-1].dts, packets[-1].duration
        last.time_base = packets[-1].time_base
        for packet in [*packets[:-1], last]:
            packet.stream = stream
            output.mux(packet)
    return sorted(packet.pts for packet in packets).index(last.pts)


@pytest.mark.parametrize("name", ["mp4", "mp4 without B-frames", "mkv", "avi"])
def test_a_last_packet_without_a_frame_is_not_counted(tmp_path, clips, caplog, name):
    delimiter = b"\x00\x00\x00\x02\x09\x10"  # access unit delimiter of H.264; no codec decodes a picture from it
    clip = tmp_path / f"clip{CLIP_KINDS[name].suffix}"
    lost = write_with_last_packet(clips(name), clip, delimiter)
    with caplog.at_level(logging.WARNING):
        first, whole = read_video(clip, 4), read_video(clip, NUM_FRAMES)
    assert first.num_frames_total == whole.num_frames_total == NUM_FRAMES - 1
    assert set(read_stamps(whole.frames)) == set(range(NUM_FRAMES)) - {lost}
    assert whole.duration == pytest.approx((NUM_FRAMES - (lost == NUM_FRAMES - 1)) / 30, abs=2e-3)
    assert not [record for record in caplog.records if "cannot be decoded" in record.getMessage()]


def test_a_last_frame_of_a_few_bytes_is_counted(tmp_path):
    image = np.zeros((64, 64, 3), np.uint8)
    clip = tmp_path / "black.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size = 250
        for _ in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(clip)) as container:
        assert [packet.size for packet in container.demux(video=0) if packet.size][-1] <= SMALL_PACKET
    assert read_video(clip, 4).num_frames_total == 60


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_bytes_after_a_still_image_do_not_count_as_a_frame(tmp_path, caplog, suffix):
    image = tmp_path / f"still.{suffix}"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(image)
    image.write_bytes(image.read_bytes() + bytes(5000))
    with caplog.at_level(logging.WARNING):
        assert read_video(image, 4).num_frames_total == 1
        assert read_video(image.read_bytes(), 4).num_frames_total == 1
    assert not caplog.records


@pytest.mark.parametrize("name", ["mkv", "webm of VP9"])
def test_a_clip_with_a_late_start_does_not_count_as_truncated(tmp_path, clips, caplog, name):
    late = tmp_path / f"late{CLIP_KINDS[name].suffix}"
    with av.open(str(clips(name))) as container, av.open(str(late), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.pts += 36_000_000
                packet.dts = None if packet.dts is None else packet.dts + 36_000_000
                packet.stream = stream
                output.mux(packet)
    with caplog.at_level(logging.WARNING):
        video = read_video(late, 4)
    assert video.duration == pytest.approx(NUM_FRAMES / 30, abs=2e-3)
    assert not caplog.records


def test_equal_times_are_spread_and_logged_once(tmp_path, mkv, caplog):
    clip = move_times(mkv, tmp_path / "clip.mkv", {10: 300})  # the time of frame 9
    with caplog.at_level(logging.WARNING):
        videos = [read_frames(clip, range(60)) for _ in range(2)]
    for video in videos:
        assert read_stamps(video.frames) == list(range(60))
        np.testing.assert_allclose(video.times, np.arange(60) / 30, atol=2e-3)
    assert len(caplog.records) == 1
    assert "clip.mkv: 1 of its 60 frame times do not increase" in caplog.text
