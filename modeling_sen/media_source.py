"""Opens a video or sound file from a path, a URL, bytes or a file object.

Every failure to open or read it raises an exception that names the source, which PyAV's errors do not for bytes and file
objects.
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
from urllib.parse import unquote, urlsplit

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

# FFmpeg opens any .txt file as terminal art.
NOT_MEDIA_FORMATS = {"tty"}
# Time limit in seconds for each of the two steps of opening: reading the header, and probing the streams.
OPENING_STEP = 5.0
# Time limit in seconds for the next packet; a damaged file may contain gigabytes of padding.
NEXT_PACKET = 10.0
# Time limit in seconds to wait for data from a server or a pipe.
WAIT = 30.0
# Largest number of bytes read from a pipe, in total and at a time.
LARGEST_PIPE = 1 << 30
CHUNK = 1 << 20


@dataclass(frozen=True)
class MediaSource:
    """A media file that can be opened repeatedly.

    Attributes:
        name: name in error messages: the path, the URL, or a description of the bytes or file object.
        concurrent: whether several containers may be open at the same time; false for a file object.
    """

    name: str
    concurrent: bool
    _open: Callable[[], Any]

    @contextmanager
    def container(self) -> Iterator[InputContainer]:
        """Opens the file at its beginning. Errors inside the context are converted to a ValueError that names the file.

        Raises:
            ValueError: it is empty, not a media file, too damaged to read, or not opened within 2 * `OPENING_STEP` seconds.
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
            # Metadata of old files may not be UTF-8; the tags are not used.
            container = av.open(file, mode="r", metadata_errors="replace", timeout=(OPENING_STEP, NEXT_PACKET))
        except Exception as error:
            failure = error
        # Some demuxers treat an interruption as the end of the file.
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
    """Converts any exception inside the context to a ValueError that names the file, unless its message already does.

    For damaged files PyAV raises FFmpegError, IndexError, UnicodeDecodeError, MemoryError, OverflowError and more.
    """
    try:
        yield
    except Exception as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def stored_packets(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """A stream's packets in decoding order, without empty ones; a damaged file may end early.

    Raises:
        TimeoutError: no packet is found within `NEXT_PACKET` seconds.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.ExitError as error:
            raise TimeoutError(f"no packet found within {NEXT_PACKET:g} s") from error
        except (
            av.FFmpegError,
            IndexError,
        ):  # PyAV raises IndexError at the end if the header does not list all streams
            return
        if packet is None:
            return
        if packet.size:  # skips the flush packet and AVI's empty packets, which repeat a frame
            yield packet


def local_path(path: Any) -> Any:
    """A `file://` URL or a path that begins with `~` as a path; others are unchanged."""
    if not isinstance(path, str):
        return path
    url = urlsplit(path) if path.startswith("file:") else None
    return os.path.expanduser(path) if url is None else unquote(url.path)


@contextmanager
def open_media_source(media: Any) -> Iterator[MediaSource]:
    """A source for a path, an http(s) URL, bytes, a binary file object, or a source, which is returned unchanged.

    URLs and pipes (named pipes, `/dev/stdin`, a shell's `<(...)`, file objects that cannot seek) are read once, to a
    temporary file that exists until the context ends. Other file objects are read from their beginning; their position is
    restored at the end.

    Raises:
        FileNotFoundError, IsADirectoryError: the path is not a file.
        ConnectionError: the URL cannot be fetched.
        TimeoutError: a pipe sends nothing for `WAIT` seconds.
        TypeError: the object is none of the above.
        ValueError: the bytes or file are empty, a pipe sends more than `LARGEST_PIPE` bytes, or the file object is in text
            mode.
    """
    if isinstance(media, MediaSource):
        yield media
    elif isinstance(media, str | os.PathLike):
        text = local_path(os.fspath(media))
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
    """FFmpeg's choice of a stream of a kind ("video" or "audio"), except cover pictures; `None` if there is none."""
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
    # With an explicit protocol, FFmpeg does not read a colon in the name as one.
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
    """A source for data that can be read only once, copied to a temporary file."""
    with tempfile.NamedTemporaryFile() as file:
        for chunk in chunks:
            if file.tell() + len(chunk) > LARGEST_PIPE:
                raise ValueError(f"{name}: gives more than {LARGEST_PIPE} bytes; store it in a file first")
            file.write(chunk)
        file.flush()
        yield _file_source(Path(file.name), name)


def _pipe_chunks(path: Path, name: str) -> Iterator[bytes]:
    """Content of a pipe until its writers close it."""
    import select

    # Blocking, `open` would wait for a writer without a time limit.
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll, begun = select.poll(), False
        poll.register(pipe, select.POLLIN)
        while True:
            try:
                chunk = os.read(pipe, CHUNK)
            except BlockingIOError:  # a writer exists but has written nothing
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
    """A file object that ends at a deadline, because PyAV's timeout only works for paths."""

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
