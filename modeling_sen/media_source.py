"""Open a video or sound file from wherever it is: a path, a URL, bytes or a file object.

Every failure to open or read becomes one exception that names the source; PyAV's own errors name no bytes or file object.
"""

import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

# FFmpeg "plays" any .txt file as terminal art.
NOT_MEDIA_FORMATS = {"tty"}
# Seconds for each of the two steps of opening: reading the header, and looking into the streams.
OPENING_STEP = 5.0
# Seconds until the next packet; a damaged file may hold nothing but padding for gigabytes.
NEXT_PACKET = 10.0
# Seconds without a byte from a server or a pipe.
WAIT = 30.0
# Bytes that a pipe may give, and bytes read from one at a time.
LARGEST_PIPE = 1 << 30
CHUNK = 1 << 20


@dataclass(frozen=True)
class MediaSource:
    """A media file that can be opened again and again.

    Attributes:
        name: what error messages call it: the path, the URL, or a description of the bytes or file object.
        concurrent: whether several containers may be open at the same time (not so for one shared file object).
    """

    name: str
    concurrent: bool
    _open: Callable[[], Any]

    @contextmanager
    def container(self) -> Iterator[InputContainer]:
        """Open the file from its beginning; whatever goes wrong with it inside the context names the file.

        Raises:
            ValueError: it is empty, not a media file, damaged beyond reading, or not opened within
                2 * `OPENING_STEP` seconds.
        """
        with media_errors(self.name), self._opened() as container:
            if container.format.name in NOT_MEDIA_FORMATS:
                raise ValueError(f"{self.name}: expected a video or sound file, found text")
            yield container

    def _opened(self) -> InputContainer:
        start, file = time.monotonic(), self._open()
        if not isinstance(file, str):
            file = _FileWithDeadline(file, start + OPENING_STEP)
        failure = None
        try:
            # Metadata need not be UTF-8 in old files; the tags are of no use here.
            container = av.open(file, mode="r", metadata_errors="replace", timeout=(OPENING_STEP, NEXT_PACKET))
        except Exception as error:
            failure = error
        # Some demuxers take an interruption for the end of the file.
        if time.monotonic() - start >= OPENING_STEP:
            if failure is None:
                container.close()
            raise ValueError(f"{self.name}: takes longer than {OPENING_STEP:g} s to open") from failure
        if failure is not None:
            reason = getattr(failure, "strerror", None) or f"{type(failure).__name__}: {failure}"
            raise ValueError(f"{self.name}: expected a video or sound file, found none ({reason})") from failure
        if not isinstance(file, str):
            file.deadline = math.inf
        return container


@contextmanager
def media_errors(name: str) -> Iterator[None]:
    """Turn any exception inside into a ValueError that names the file; one that does already passes as it is.

    Besides its FFmpegError PyAV raises IndexError, UnicodeDecodeError, MemoryError, OverflowError and more over damaged
    files.
    """
    try:
        yield
    except Exception as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def stored_packets(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """A stream's packets in decoding order, up to the end or to where a damaged file ends; none is empty.

    Raises:
        TimeoutError: the next one is not found within `NEXT_PACKET` seconds.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.ExitError as error:
            raise TimeoutError(f"no packet found within {NEXT_PACKET:g} s") from error
        except (av.FFmpegError, IndexError):  # PyAV's IndexError: at the end, if streams began on the way
            return
        if packet is None:
            return
        if packet.size:  # not the flush packet, nor AVI's empty "same frame again"
            yield packet


@contextmanager
def open_media_source(media: Any) -> Iterator[MediaSource]:
    """Make a source of a path, an http(s) URL, bytes, a binary file object, or a source (returned as it is).

    A URL and a pipe (a named one, `/dev/stdin`, a shell's `<(...)`, a file object that cannot seek) are read once, to a
    temporary file that lives as long as the context. Other file objects are read from their beginning and given back at
    the position they had.

    Raises:
        FileNotFoundError, IsADirectoryError: the path is not a file.
        ConnectionError: the URL cannot be fetched.
        TimeoutError: a pipe gives nothing for `WAIT` seconds.
        TypeError: the object is none of the above.
        ValueError: the bytes or file are empty, a pipe gives more than `LARGEST_PIPE` bytes, or the file object is in
            text mode.
    """
    if isinstance(media, MediaSource):
        yield media
    elif isinstance(media, str | os.PathLike):
        text = os.fspath(media)
        if isinstance(text, str) and text.startswith(("http://", "https://")):
            with tempfile.NamedTemporaryFile(suffix=Path(text.split("?")[0]).suffix) as file:
                _download(text, file)
                yield _file_source(Path(file.name), text)
        else:
            path, name = Path(os.fsdecode(text)), os.fsdecode(text)
            if path.exists() and not (path.is_file() or path.is_dir()):
                with _copied(name, _pipe_chunks(path, name)) as source:
                    yield source
            else:
                yield _file_source(path, name)
    elif isinstance(media, bytes | bytearray | memoryview):
        content = bytes(media)
        if not content:
            raise ValueError("the bytes given as media are empty: expected the content of a video or sound file")
        yield MediaSource(f"<{len(content)} bytes>", True, lambda: io.BytesIO(content))
    elif hasattr(media, "read"):
        name = f"<file object {getattr(media, 'name', type(media).__name__)}>"
        if isinstance(media, io.TextIOBase):
            raise ValueError(f"{name}: expected a file opened in binary mode, found text mode")
        if hasattr(media, "seekable") and media.seekable():
            with _whole_file_object(media, name) as source:
                yield source
        else:
            with _copied(name, iter(lambda: media.read(CHUNK), b"")) as source:
                yield source
    else:
        raise TypeError(f"expected a path, URL, bytes or binary file object, found {type(media).__name__}")


def best_stream(container: InputContainer, kind: str) -> Stream | None:
    """The stream FFmpeg itself would pick of a kind ("video" or "audio"), cover pictures left aside; None if none."""
    stream = container.streams.best(kind)  # type: ignore[arg-type]
    if stream is not None and kind == "video" and _is_picture(stream):
        return next((other for other in container.streams.video if not _is_picture(other)), None)
    return stream


def _is_picture(stream: Stream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _file_source(path: Path, name: str) -> MediaSource:
    if path.is_dir():
        raise IsADirectoryError(f"{name}: expected a video or sound file, found a folder")
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{name}: expected a video or sound file, found an empty file")
    # With the protocol spelled out, a colon in the name is not taken for one.
    return MediaSource(name, True, lambda: f"file:{path}")


@contextmanager
def _whole_file_object(file: IO[bytes], name: str) -> Iterator[MediaSource]:
    position = file.tell()
    if file.seek(0, io.SEEK_END) == 0:
        raise ValueError(f"{name}: expected a video or sound file, found an empty file")

    def rewound() -> IO[bytes]:
        file.seek(0)
        return file

    try:
        yield MediaSource(name, False, rewound)
    finally:
        file.seek(position)


@contextmanager
def _copied(name: str, chunks: Iterator[bytes]) -> Iterator[MediaSource]:
    """A source of what can be read only once."""
    with tempfile.NamedTemporaryFile() as file:
        for chunk in chunks:
            if file.tell() + len(chunk) > LARGEST_PIPE:
                raise ValueError(f"{name}: gives more than {LARGEST_PIPE} bytes; store it in a file first")
            file.write(chunk)
        file.flush()
        yield _file_source(Path(file.name), name)


def _pipe_chunks(path: Path, name: str) -> Iterator[bytes]:
    """What a pipe gives until its writers close it."""
    import select

    # An opening that blocks would wait for a writer forever.
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll, begun = select.poll(), False
        poll.register(pipe, select.POLLIN)
        while True:
            try:
                chunk = os.read(pipe, CHUNK)
            except BlockingIOError:  # there is a writer, and nothing written
                chunk = None
            if chunk:
                yield chunk
            elif chunk is not None and begun:
                return
            elif not poll.poll(WAIT * 1000):
                raise TimeoutError(
                    f"{name}: expected a video or sound file, found a pipe that gives nothing for {WAIT:g} s"
                )
            begun = True
    finally:
        os.close(pipe)


class _FileWithDeadline:
    """A file object for PyAV, whose own timeout works for paths alone: it ends at the deadline."""

    def __init__(self, file: IO[bytes], deadline: float):
        self.seek, self.tell, self._read, self.deadline = file.seek, file.tell, file.read, deadline

    def read(self, size: int) -> bytes:
        return self._read(size) if time.monotonic() < self.deadline else b""


def _download(url: str, file: Any) -> None:
    from huggingface_hub.utils import httpx

    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=WAIT) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                file.write(chunk)
    except httpx.HTTPStatusError as error:
        status = error.response
        raise ConnectionError(f"{url}: the server answered {status.status_code} {status.reason_phrase}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConnectionError(f"{url}: cannot be fetched ({error or type(error).__name__})") from error
    file.flush()
    if file.tell() == 0:
        raise ValueError(f"{url}: expected a video or sound file, found an empty answer")
