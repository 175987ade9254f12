"""Which packets are decoded for the requested frames, and how damaged packets are handled."""

import logging

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, ClipKind, flip_bits, read_stamps, repeat_clip, write_clip

import modeling_sen.frame_decoding as frame_decoding
from modeling_sen.frame_index import index_frames
from modeling_sen.frame_sampling import FrameRequest
from modeling_sen.media_source import open_media_source
from modeling_sen.video_io import read_frames, read_video, read_video_requests

NUM_FRAMES = 90


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", CLIP_KINDS["mp4"], range(NUM_FRAMES))


@pytest.fixture
def single_threaded(monkeypatch):
    """The runs that were decoded a second time without threads."""
    runs, decode = [], frame_decoding._decode_single_threaded
    monkeypatch.setattr(
        frame_decoding, "_decode_single_threaded", lambda *arguments: (runs.append(arguments[2]), decode(*arguments))
    )
    return runs


@pytest.fixture
def four_threads():
    granted = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(granted)


def test_each_requested_frame_is_decoded_and_converted_once(clip, monkeypatch):
    converted = []
    put = frame_decoding._FrameStore.put
    monkeypatch.setattr(
        frame_decoding._FrameStore, "put", lambda self, slot, frame: (converted.append(slot), put(self, slot, frame))
    )
    requests = [FrameRequest(8), FrameRequest(16, "linspace"), FrameRequest(8), FrameRequest(200, "linspace")]
    videos = read_video_requests(clip, requests)
    assert sorted(converted) == list(range(NUM_FRAMES))
    assert [len(video.frames) for video in videos] == [8, 16, 8, 200]


def test_only_the_necessary_packets_are_decoded(clip):
    """Two frames far apart need no more than their own groups of pictures."""
    with open_media_source(clip) as source:
        index = index_frames(source)
        runs = frame_decoding._plan_runs(index.packets, index.packets.of_frame[[5, 77]])
    assert [run.last - run.start + 1 <= 12 for run in runs] == [True, True]


def test_nearby_frames_are_decoded_in_one_run(clip):
    with open_media_source(clip) as source:
        index = index_frames(source)
        assert len(frame_decoding._plan_runs(index.packets, index.packets.of_frame)) == 1


@pytest.fixture(scope="module")
def hour(clip, tmp_path_factory):
    """The packets of a clip, repeated 1200 times."""
    return repeat_clip(clip, tmp_path_factory.mktemp("hour") / "hour.mp4", 1200)


def test_an_hour_is_sampled_by_decoding_a_few_groups_of_pictures(hour, monkeypatch):
    fed = []
    monkeypatch.setattr(frame_decoding, "packets_from", _counting(frame_decoding.packets_from, fed))
    video = read_video(hour, 8)
    assert video.num_frames_total == 108_000
    assert video.duration == pytest.approx(3600)
    assert read_stamps(video.frames) == [index % NUM_FRAMES for index in video.indices]
    assert len(fed) <= 8 * 13


def _counting(packets_from, fed):
    def counted(*arguments, **named):
        for packet in packets_from(*arguments, **named):
            fed.append(packet.pts)
            yield packet

    return counted


def test_decoding_starts_at_the_beginning_if_a_seek_lands_too_late(clip, monkeypatch):
    monkeypatch.setattr(frame_decoding, "packets_from", _only_from_the_beginning(frame_decoding.packets_from))
    assert read_stamps(read_frames(clip, [80, 30]).frames) == [80, 30]


def _only_from_the_beginning(packets_from):
    def restricted(container, stream, packets, start, last, fresh):
        return packets_from(container, stream, packets, start, last, fresh) if start == 0 else iter(())

    return restricted


DAMAGED_KINDS = {
    "H.264": ClipKind(".mp4", "libx264", size=(320, 240)),
    "H.264 with open GOPs": ClipKind(
        ".mp4", "libx264", size=(320, 240), codec_options={"x264-params": "open-gop=1:bframes=3"}
    ),
    "H.264 in AVI": ClipKind(".avi", "libx264", size=(320, 240)),
    "MPEG-4 part 2": ClipKind(".mp4", "mpeg4", size=(320, 240)),
}
DAMAGED_PACKETS = [5, 12, 19, 26, 33]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Name of a kind -> (path of an intact clip of 48 frames, path of a damaged copy)."""
    folder, written = tmp_path_factory.mktemp("damaged"), {}

    def make(name):
        if name not in written:
            kind = DAMAGED_KINDS[name]
            whole = write_clip(folder / f"whole{len(written)}{kind.suffix}", kind, range(48))
            target = folder / f"damaged{len(written)}{kind.suffix}"
            written[name] = whole, flip_bits(whole, target, DAMAGED_PACKETS)
        return written[name]

    return make


def test_repeated_reads_of_a_damaged_file_give_the_same_frames(damaged, four_threads):
    _, path = damaged("H.264")
    assert len({read_frames(path, range(48)).frames.tobytes() for _ in range(5)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED_KINDS)
def test_a_hundred_reads_of_a_damaged_file_give_the_same_frames(damaged, four_threads, name):
    _, path = damaged(name)
    for numbers in (range(48), range(0, 48, 7)):
        assert len({read_frames(path, numbers).frames.tobytes() for _ in range(100)}) == 1


@pytest.mark.parametrize("name", DAMAGED_KINDS)
def test_damaged_frames_are_counted_in_one_warning(damaged, caplog, name):
    whole, path = damaged(name)
    good = read_frames(whole, range(48)).frames.astype(int)
    with caplog.at_level(logging.WARNING):
        frames = read_frames(path, range(48)).frames
    differ = int((np.abs(frames - good).mean(axis=(1, 2, 3)) > 0.5).sum())
    assert len(caplog.records) == 1
    counted = int(caplog.text.split(f"{path.name}: ")[1].split(" of the 48 frames read are damaged")[0])
    # Not counted: the few frames that refer to a damaged B-frame.
    assert 0.7 * differ <= counted <= 1.3 * differ
    assert 10 < differ < 48


@pytest.mark.parametrize("codec", ["libx264", pytest.param("libx265", marks=pytest.mark.slow)])
def test_lost_packets_of_a_transport_stream_are_reported(tmp_path, four_threads, caplog, codec):
    """The demuxer flags them; decoders conceal a lost frame without an error, and HEVC's conceals any damage."""
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    whole = write_clip(
        tmp_path / "whole.ts", ClipKind(".ts", codec, size=(320, 240), codec_options=options), range(48)
    )
    content = whole.read_bytes()
    pieces = [content[start : start + 188] for start in range(0, len(content), 188)]
    del pieces[len(pieces) // 3]
    lossy = tmp_path / "lossy.ts"
    lossy.write_bytes(b"".join(pieces))
    good = read_frames(whole, range(48)).frames.astype(int)
    with caplog.at_level(logging.WARNING):
        frames = read_frames(lossy, range(48)).frames
    differ = int((np.abs(frames - good).mean(axis=(1, 2, 3)) > 0.5).sum())
    counted = int(caplog.text.split("lossy.ts: ")[1].split(" of the 48 frames read are damaged")[0])
    assert 0 < differ <= counted < 24


def test_frames_outside_of_the_damage_are_intact_and_cause_no_warning(damaged, caplog):
    whole, path = damaged("H.264")
    with caplog.at_level(logging.WARNING):
        frames = read_frames(path, [0, 1, 37, 47]).frames
    assert np.array_equal(frames, read_frames(whole, [0, 1, 37, 47]).frames)
    assert caplog.text == ""


def test_a_request_for_only_damaged_frames_is_refused(damaged, tmp_path):
    whole, _ = damaged("H.264")
    # The encoder's output varies between runs, and with few flipped bits a packet may still decode without an error.
    path = flip_bits(whole, tmp_path / "damaged.mp4", DAMAGED_PACKETS, flips=200)
    with pytest.raises(ValueError, match=rf"{path.name}: all 3 frames wanted of it are damaged"):
        read_frames(path, [8, 9, 10])


@pytest.mark.parametrize("name", CLIP_KINDS)
def test_intact_files_are_decoded_once(tmp_path, single_threaded, name):
    kind = CLIP_KINDS[name]
    good = write_clip(tmp_path / f"clip{kind.suffix}", kind, range(40))
    read_frames(good, range(40))
    read_frames(good, [3, 20])
    # With intra refresh no keyframe is complete; this is detected only while decoding.
    assert name == "mp4 with intra refresh" or single_threaded == []
