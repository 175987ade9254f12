"""Open a video or sound file from wherever it is: a path, a URL, bytes or a file object.

Every failure to open or read becomes one exception that names the source; PyAV's own errors name no bytes or file object.
"""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
from av.container import InputContainer
from av.stream import Stream

# FFmpeg "plays" any .txt file as terminal art.
NOT_MEDIA_FORMATS = {"tty"}


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
        """Open the file from its beginning.

        Raises:
            ValueError: it is empty, not a media file, or damaged beyond reading.
        """
        try:
            # Metadata need not be UTF-8 in old files; the tags are of no use here.
            container = av.open(self._open(), mode="r", metadata_errors="replace")
        except av.FFmpegError as error:
            raise ValueError(f"{self.name}: expected a video or sound file, found none ({error.strerror})") from error
        with container:
            if container.format.name in NOT_MEDIA_FORMATS:
                raise ValueError(f"{self.name}: expected a video or sound file, found text")
            yield container


@contextmanager
def open_media_source(media: Any) -> Iterator[MediaSource]:
    """Make a source of a path, an http(s) URL, bytes, a seekable binary file object, or a source (returned as it is).

    A URL is downloaded once, to a temporary file that lives as long as the context. A file object is read from its
    beginning and given back at the position it had.

    Raises:
        FileNotFoundError, IsADirectoryError: the path is not a file.
        ConnectionError: the URL cannot be fetched.
        TypeError: the object is none of the above.
        ValueError: the bytes or file are empty, or the file object is in text mode or cannot seek.
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
            yield _file_source(Path(os.fsdecode(text)), os.fsdecode(text))
    elif isinstance(media, bytes | bytearray | memoryview):
        content = bytes(media)
        if not content:
            raise ValueError("the bytes given as media are empty: expected the content of a video or sound file")
        yield MediaSource(f"<{len(content)} bytes>", True, lambda: io.BytesIO(content))
    elif hasattr(media, "read"):
        with _whole_file_object(media) as source:
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
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{name}: expected a video or sound file, found an empty file")
    # With the protocol spelled out, a colon in the name is not taken for one.
    return MediaSource(name, True, lambda: f"file:{path}")


@contextmanager
def _whole_file_object(file: IO[bytes]) -> Iterator[MediaSource]:
    name = f"<file object {getattr(file, 'name', type(file).__name__)}>"
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"{name}: expected a file opened in binary mode, found text mode")
    if not (hasattr(file, "seekable") and file.seekable()):
        raise ValueError(f"{name}: expected a file object that can seek; read it into bytes first")
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


def _download(url: str, file: Any) -> None:
    from huggingface_hub.utils import httpx

    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30.0) as response:
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
