"""The forms in which a video can be given, and the errors for media that cannot be read."""

import functools
import http.server
import io
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from frame_stamps import CLIP_KINDS, read_stamps, write_clip, write_flv_with_late_sound, write_sound
from PIL import Image

import modeling_sen.media_source as media_source
from modeling_sen.audio_io import read_audio
from modeling_sen.media_source import open_media_source
from modeling_sen.video_io import read_frames, read_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", CLIP_KINDS["mp4"], range(60))


@pytest.fixture(scope="module")
def server(clip):
    """The address of a local web server that serves the clip's folder, and an empty answer for /empty.mp4."""
    (clip.parent / "empty.mp4").touch()
    handler = functools.partial(_QuietHandler, directory=str(clip.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def _stamps(video):
    return read_stamps(read_frames(video, [59, 3]).frames)


def test_paths_bytes_file_objects_and_addresses_give_the_same_frames(clip, server):
    content = clip.read_bytes()
    with open(clip, "rb") as file:
        for video in (
            clip,
            str(clip),
            content,
            bytearray(content),
            io.BytesIO(content),
            file,
            f"{server}/clip.mp4?v=1",
        ):
            assert _stamps(video) == [59, 3]


def test_file_names_that_look_like_protocols_or_patterns_are_read(clip, tmp_path):
    odd = tmp_path / "http:x %03d ü.mp4"
    odd.write_bytes(clip.read_bytes())
    assert _stamps(odd) == [59, 3]


def test_home_folders_and_file_addresses_are_resolved(clip, tmp_path, monkeypatch):
    path = Path(shutil.copy(clip, tmp_path / "a clip #1.mp4"))
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = read_frames(path, [0]).frames
    for given in ("~/a clip #1.mp4", path.as_uri()):
        assert np.array_equal(read_frames(given, [0]).frames, expected)


def test_a_file_object_is_read_from_its_start_and_keeps_its_position(clip):
    file = io.BytesIO(clip.read_bytes())
    file.seek(123)
    assert _stamps(file) == [59, 3]
    assert file.tell() == 123
    assert not file.closed


def test_an_address_is_fetched_once_for_video_and_sound(clip, server, monkeypatch):
    fetched = []
    answer = _QuietHandler.do_GET
    monkeypatch.setattr(_QuietHandler, "do_GET", lambda self: (fetched.append(self.path), answer(self)))
    with open_media_source(f"{server}/clip.mp4") as source:
        read_video(source, 4)
        read_audio(source, 16000)
    assert fetched == ["/clip.mp4"]


def test_failed_addresses_give_the_reason(server):
    with pytest.raises(ConnectionError, match=r"/nothing.mp4: the server answered 404"):
        read_frames(f"{server}/nothing.mp4", [0])
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:1/a.mp4: cannot be fetched"):
        read_frames("http://127.0.0.1:1/a.mp4", [0])
    with pytest.raises(ValueError, match=r"/empty.mp4: expected a video or sound file, found an empty answer"):
        read_frames(f"{server}/empty.mp4", [0])


def _write(path, content):
    path.write_bytes(content)
    return path


def test_missing_files_and_folders_are_named_in_the_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.mp4: no such file"):
        read_frames(tmp_path / "nothing.mp4", [0])
    with pytest.raises(IsADirectoryError, match="found a folder"):
        read_frames(tmp_path, [0])


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("empty.mp4", b"", "found an empty file"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "found none"),
        ("text.txt", b"Dear reader,\n" * 50, "found text"),
        ("page.mp4", b"<html><body>404 not found</body></html>", "found none"),
    ],
)
def test_files_without_media_are_refused(tmp_path, name, content, found):
    for read in (lambda video: read_frames(video, [0]), lambda sound: read_audio(sound, 16000)):
        with pytest.raises(ValueError, match=f"{name}: expected a video or sound file, {found}"):
            read(_write(tmp_path / name, content))


def test_a_zip_file_is_refused_as_video(tmp_path, clip):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(clip)
    with pytest.raises(ValueError, match=r"clips.zip: expected a video"):
        read_frames(tmp_path / "clips.zip", [0])


def test_an_mp4_truncated_before_its_index_is_refused(tmp_path, clip):
    cut = _write(tmp_path / "cut.mp4", clip.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"cut.mp4: expected a video or sound file, found none"):
        read_frames(cut, [0])


def test_a_file_truncated_before_its_first_frame_is_refused(tmp_path):
    kind = CLIP_KINDS["mp4 with the index in front"]
    content = write_clip(tmp_path / "whole.mp4", kind, range(60)).read_bytes()
    cut = _write(tmp_path / "cut.mp4", content[: content.index(b"mdat") + 20])
    with pytest.raises(ValueError, match=r"cut.mp4: expected a video"):
        read_frames(cut, [0])


def test_a_file_without_frames_is_refused(tmp_path):
    with av.open(str(tmp_path / "none.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"none.mkv: expected a video"):
        read_frames(tmp_path / "none.mkv", [0])


def test_a_file_with_only_sound_is_refused_as_video(tmp_path):
    write_sound(tmp_path / "sound.wav", "pcm_s16le", seconds=1)
    with pytest.raises(ValueError, match=r"sound.wav: expected a video stream, found only sound"):
        read_frames(tmp_path / "sound.wav", [0])


def test_a_cover_picture_does_not_count_as_video(tmp_path):
    write_sound(tmp_path / "song.mp3", "libmp3lame", seconds=1)
    cover = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(cover, "JPEG")
    frame = b"\x00image/jpeg\x00\x03\x00" + cover.getvalue()
    frame = b"APIC" + len(frame).to_bytes(4, "big") + b"\x00\x00" + frame
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    song = (tmp_path / "song.mp3").read_bytes()
    song = song[10 + int.from_bytes(song[6:10], "big") :] if song[:3] == b"ID3" else song
    covered = _write(tmp_path / "covered.mp3", b"ID3\x03\x00\x00" + size + frame + song)
    with av.open(str(covered)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(ValueError, match=r"covered.mp3: expected a video stream, found only sound"):
        read_frames(covered, [0])
    assert read_audio(covered, 16000).present


def test_metadata_in_another_encoding_than_utf_8_is_accepted(tmp_path, clip):
    path = tmp_path / "clip.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        output.metadata["title"] = "a title to spoil"
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    content = path.read_bytes()
    assert content.count(b"a title to spoil") == 1
    path.write_bytes(content.replace(b"a title to spoil", b"\xff\xfe\xe9 title \x80spoil"))
    assert _stamps(path) == [59, 3]


def test_empty_bytes_and_wrong_file_objects_are_refused(clip, tmp_path):
    with pytest.raises(ValueError, match="bytes given as media are empty"):
        read_frames(b"", [0])
    with pytest.raises(ValueError, match="found an empty file"):
        read_frames(io.BytesIO(), [0])
    with open(clip, encoding="latin-1") as text, pytest.raises(ValueError, match=r"clip.mp4.*binary mode, found text"):
        read_frames(text, [0])

    with pytest.raises(ValueError, match=r"<16 bytes>: expected a video"):
        read_frames(b"not a video file", [0])


def test_reading_prints_and_logs_nothing(clip, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        _stamps(clip)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def _feed(pipe, chunks):
    with open(pipe, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            file.flush()


@pytest.fixture
def named_pipe(tmp_path):
    """Creates a pipe and a thread that writes chunks to it as soon as it is read; returns its path."""
    writers = []

    def make(*chunks):
        path = tmp_path / f"pipe{len(writers)}"
        os.mkfifo(path)
        writers.append(threading.Thread(target=_feed, args=(path, chunks), daemon=True))
        writers[-1].start()
        return path

    yield make
    for writer in writers:
        writer.join(10)
        assert not writer.is_alive()


def test_a_pipe_is_read_once_for_video_and_sound(tmp_path, named_pipe):
    write_sound(tmp_path / "clip.mp4", "aac", seconds=2, clip=CLIP_KINDS["mp4"])
    content = (tmp_path / "clip.mp4").read_bytes()
    pipe = named_pipe(content[:1000], content[1000:])
    with open_media_source(pipe) as source:
        assert read_stamps(read_frames(source, [59, 3]).frames) == [59, 3]
        assert read_audio(source, 16000).present


def test_a_process_substitution_is_read(clip):
    reader, writer = os.pipe()
    threading.Thread(target=lambda: _feed(writer, [clip.read_bytes()]), daemon=True).start()
    assert _stamps(f"/dev/fd/{reader}") == [59, 3]
    os.close(reader)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["/dev/stdin from a pipe", "/dev/stdin from a file", "file object", "process substitution"]
)
def test_pipes_of_the_shell_are_read(clip, form):
    """In a separate process that gets the pipe as its standard input or as a path."""
    reading = "read_frames(sys.stdin.buffer" if form == "file object" else "read_frames(sys.argv[1]"
    program = f"import sys; from modeling_sen.video_io import read_frames; print({reading}, [5]).num_frames_total)"
    python = f"'{sys.executable}' -c '{program}'"
    commands = {
        "/dev/stdin from a pipe": f"cat '{clip}' | {python} /dev/stdin",
        "/dev/stdin from a file": f"{python} /dev/stdin < '{clip}'",
        "file object": f"cat '{clip}' | {python}",
        "process substitution": f"{python} <(cat '{clip}')",
    }
    run = subprocess.run(["bash", "-c", commands[form]], capture_output=True, text=True, timeout=60)
    assert run.stdout == "60\n", run.stderr


def test_file_objects_without_seek_are_read_once(clip):
    reader, writer = os.pipe()
    threading.Thread(target=lambda: _feed(writer, [clip.read_bytes()]), daemon=True).start()
    with open(reader, "rb") as file:
        assert _stamps(file) == [59, 3]


def test_a_pipe_without_data_raises_after_a_time_limit(tmp_path, monkeypatch, named_pipe):
    monkeypatch.setattr(media_source, "WAIT", 0.2)
    os.mkfifo(tmp_path / "silent")
    with pytest.raises(TimeoutError, match=r"silent: expected a video .*, found a pipe that gives nothing for 0.2 s"):
        read_frames(tmp_path / "silent", [0])
    with pytest.raises(ValueError, match=r"pipe0: expected a video or sound file, found an empty file"):
        read_frames(named_pipe(), [0])
    with pytest.raises(ValueError, match=r"/dev/null: expected a video or sound file, found an empty file"):
        read_frames("/dev/null", [0])


def test_a_writer_that_stops_halfway_raises_after_a_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(media_source, "WAIT", 0.2)
    os.mkfifo(tmp_path / "stuck")
    done = threading.Event()
    writer = threading.Thread(target=_feed, args=(tmp_path / "stuck", _then_wait(b"begun", done)), daemon=True)
    writer.start()
    with pytest.raises(TimeoutError, match=r"stuck: .* gives nothing"):
        read_frames(tmp_path / "stuck", [0])
    done.set()
    writer.join(10)


def _then_wait(chunk, done):
    yield chunk
    done.wait(10)


def test_the_size_of_a_pipe_is_limited(monkeypatch, clip, named_pipe):
    size = clip.stat().st_size
    monkeypatch.setattr(media_source, "LARGEST_PIPE", size)
    assert _stamps(io.BufferedReader(_Unseekable(clip.read_bytes()))) == [59, 3]
    with pytest.raises(ValueError, match=rf"_Unseekable.*: gives more than {size} bytes"):
        _stamps(_Unseekable(clip.read_bytes() + b"x"))
    with pytest.raises(ValueError, match=rf"/dev/zero: gives more than {size} bytes"):
        read_frames("/dev/zero", [0])


class _Unseekable(io.BytesIO):
    def seekable(self):
        return False


@pytest.mark.parametrize("given", ["path", "file object", "bytes"])
def test_the_time_for_opening_is_limited(tmp_path, monkeypatch, given):
    """The padding after the header looks like empty chunks."""
    monkeypatch.setattr(media_source, "OPENING_STEP", 0.2)
    padded = tmp_path / "padded.wav"
    write_sound(padded, "pcm_s16le", seconds=1)
    os.truncate(padded, 1 << 28)
    with open(padded, "rb") as file:
        audio = {"path": padded, "file object": file, "bytes": padded.read_bytes() if given == "bytes" else b""}[given]
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"(padded.wav|bytes)>?: takes longer than 0.2 s to open"):
            read_audio(audio, 16000)
    assert time.monotonic() - start < 2


@pytest.mark.slow
def test_opening_a_padded_file_takes_at_most_ten_seconds(tmp_path):
    padded = tmp_path / "padded.wav"
    write_sound(padded, "pcm_s16le", seconds=1)
    os.truncate(padded, 1 << 31)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"padded.wav: takes longer than 5 s to open"):
        read_audio(padded, 16000)
    assert time.monotonic() - start < 12


def test_the_time_for_finding_the_next_packet_is_limited(tmp_path, monkeypatch, clip):
    monkeypatch.setattr(media_source, "NEXT_PACKET", 0.2)
    padded = write_clip(tmp_path / "padded.mkv", CLIP_KINDS["mkv"], range(30))
    os.truncate(padded, 1 << 31)
    with pytest.raises(ValueError, match=r"padded.mkv: cannot be read \(TimeoutError: no packet found within 0.2 s"):
        read_frames(padded, [0])


def test_streams_that_start_late_do_not_change_the_frames(tmp_path):
    """At the end of such a file PyAV reads past its list of streams and usually raises an IndexError."""
    late = write_flv_with_late_sound(tmp_path / "late.flv", tmp_path)
    with av.open(str(late)) as container:
        assert len(container.streams) == 1
    assert read_stamps(read_frames(late, [0, 250, 399]).frames) == [0, 250, 399]


@pytest.mark.parametrize(
    "error", [IndexError("list index"), MemoryError(), OverflowError("int too large"), av.error.ExitError(1, "exit")]
)
def test_any_error_inside_a_container_is_raised_with_the_file_name(clip, error):
    message = rf"clip.mp4: cannot be read.*{type(error).__name__}"
    with open_media_source(clip) as source, pytest.raises(ValueError, match=message), source.container():
        raise error


def test_errors_that_name_the_file_are_raised_unchanged(clip):
    error = FileNotFoundError(f"{clip}: told already")
    with open_media_source(clip) as source, pytest.raises(FileNotFoundError) as caught, source.container():
        raise error
    assert caught.value is error
