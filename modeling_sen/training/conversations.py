# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads conversations about videos for training: LLaVA's json, Transformers' `messages`, tables of questions and answers.

column | content of a row
--- | ---
`messages` | Transformers' chat layout: `{"role", "content": text or parts}`; clips in the parts, or in `videos` or `video`
`conversations` | LLaVA's layout: `{"from": "human" or "gpt", "value": "<video>\\n..."}`; one or several paths in `video` or
`image` `question`, `answer` | one question about the clip of the row
`questions` | turns of a conversation about the clip of the row, `{"question", "answer"}`, as written by `sen world`

Opening a data set only reads texts; an image is a clip of one frame.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_sen.text_tables import read_text
from modeling_sen.training.data import (
    TABLE_SUFFIXES,
    VIDEO_COLUMNS,
    file_key,
    is_saved_dataset,
    load_rows,
    read_table,
)

SUFFIXES = (".json", *TABLE_SUFFIXES)
MEDIA_COLUMNS = (*VIDEO_COLUMNS, "videos", "image", "images")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MARKER = re.compile(r"<(?:video|image)>")  # LLaVA's markers; some of its lists use <image> for videos

Message = dict[str, Any]
Media = list[Any] | None  # clips of a row; `None` if they are read later, so that their number is still unknown


@dataclass(frozen=True)
class Conversations:
    """A data set of conversations.

    Attributes:
        source: name in error messages.
        messages: messages of each conversation in Transformers' chat layout: `{"role": "system" | "user" | "assistant",
            "content": parts}`; a part is `{"type": "text", "text": ...}` or `{"type": "video"}`, without the clip. User and
            assistant alternate, and the assistant is last.
        video_keys: identifiers of the clips of each conversation, e.g. for a cache; a key changes when its file changes.
        read_videos: row -> the clips of the conversation, inputs of [`SENChatProcessor`], in the order of the video parts.
    """

    source: str
    messages: Sequence[list[Message]]
    video_keys: Sequence[tuple[str, ...]]
    read_videos: Callable[[int], list[Any]]

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def keys(self) -> list[str]:
        """Identifiers of each conversation's clips, joined to one string."""
        return ["|".join(each) for each in self.video_keys]

    @property
    def targets(self) -> list[str]:
        """The messages of each conversation as JSON."""
        return [json.dumps(each) for each in self.messages]


def open_conversations(
    source: str, split: str = "train", video_column: str | None = None, target_column: str | None = None
) -> Conversations:
    """Opens a data set.

    Args:
        source: a file (json, jsonl, csv or parquet; paths are relative to it), a folder (with `metadata.jsonl`, `.csv` or
            `.parquet`, or saved by `datasets`), or the id of a data set on the Hub.
        split: split of a Hub data set, or name of a sub-folder, if it exists.
        video_column: column of the clips; default: the first usual name.
        target_column: column of the answers in a table of questions; default: `answer`.

    Raises:
        FileNotFoundError: no such source, or a listed file does not exist.
        ValueError: a malformed row, no rows, or no such column; the message names file and row.
        ImportError: a data set of `datasets` or a parquet file without the extra `train`.
    """
    if source.startswith("world:"):
        raise ValueError(f"{source}: expected files; `sen world` writes generated clips, and questions about them")
    path = Path(source)
    if path.is_dir() and not is_saved_dataset(path):
        folder = path / split if (path / split).is_dir() else path
        tables = [file for suffix in TABLE_SUFFIXES if (file := folder / f"metadata{suffix}").exists()]
        if not tables:
            raise ValueError(f"{folder}: expected metadata{' or metadata'.join(TABLE_SUFFIXES)}, found none")
        path = tables[0]
    if path.is_file():
        return _from_rows(str(path), _read_rows(path), path.parent, video_column, target_column)
    if not path.is_dir() and (path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise FileNotFoundError(f"{source}: no such file or folder")
    return _from_dataset(source, load_rows(source, split, saved=path.is_dir()), video_column, target_column)


def _read_rows(path: Path) -> list[Any]:
    if path.suffix == ".json":
        try:
            rows = json.loads(read_text(path, "a list of conversations"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected json ({error})") from error
        if not isinstance(rows, list):
            raise ValueError(f"{path}: expected a list of conversations, found {type(rows).__name__}")
        return rows
    columns = read_table(path)
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _from_rows(
    source: str, rows: list[Any], folder: Path, video_column: str | None, target_column: str | None
) -> Conversations:
    if not rows:
        raise ValueError(f"{source}: expected at least one row, found none")
    every_message, every_video, every_key = [], [], []
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object, found {type(row).__name__}")
        if video_column is not None and video_column not in row:
            raise ValueError(f"{where}: no column {video_column!r}, only {', '.join(row)}")
        media = _media_of(row, MEDIA_COLUMNS if video_column is None else (video_column,))
        messages, videos = _parse(where, row, media, target_column)
        found = [_locate(where, each, folder) for each in videos or ()]
        every_message.append(messages)
        every_video.append([file for file, _ in found])
        every_key.append(tuple(key for _, key in found))
    return Conversations(source, every_message, every_key, every_video.__getitem__)


def _from_dataset(source: str, data: Any, video_column: str | None, target_column: str | None) -> Conversations:
    """Opens a `datasets.Dataset`. Columns that contain the files themselves are read later, row by row."""
    names = MEDIA_COLUMNS if video_column is None else (video_column,)
    file_columns = [name for name in names if name in data.column_names and not _is_text(data.features[name])]
    if not file_columns:
        return _from_rows(source, list(data), Path(), video_column, target_column)
    for name in file_columns:
        data = data.cast_column(name, _undecoded(data.features[name]))
    files, texts = data.select_columns(file_columns), data.remove_columns(file_columns)
    messages = [_parse(f"{source}, row {number}", row, None, target_column)[0] for number, row in enumerate(texts)]
    keys = [
        tuple(f"{source}:{data._fingerprint}:{row}:{number}" for number in range(_count_videos(messages[row])))
        for row in range(len(data))
    ]

    def read_videos(row: int) -> list[Any]:
        found = _media_of(files[row], file_columns)
        _check_count(f"{source}, row {row}", messages[row], found)
        return [each if isinstance(each, str) else {"video": each} for each in found]

    return Conversations(source, messages, keys, read_videos)


def _is_text(feature: Any) -> bool:
    while hasattr(feature, "feature"):
        feature = feature.feature
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _undecoded(feature: Any) -> Any:
    """A feature that returns files undecoded; the processor decodes them, and only the sampled frames."""
    if hasattr(feature, "feature"):
        return type(feature)(_undecoded(feature.feature))
    return type(feature)(decode=False)


def _media_of(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The clips in the first non-empty column."""
    for name in names:
        value = row.get(name)
        if value not in (None, "", []):
            return list(value) if isinstance(value, (list, tuple)) else [value]
    return []


def _parse(where: str, row: Mapping[str, Any], media: Media, target_column: str | None) -> tuple[list[Message], Media]:
    """Messages of a row with content as lists of parts, and the clips of its video parts."""
    answer = target_column or "answer"
    if row.get("messages") is not None:
        messages, media = _from_messages(where, row["messages"], media)
    elif row.get("conversations") is not None:
        messages = _from_llava(where, row["conversations"])
    elif row.get("questions") is not None:
        if not isinstance(row["questions"], list) or not all(isinstance(each, dict) for each in row["questions"]):
            raise ValueError(f"{where}: expected questions to be a list of objects, found {_kind(row['questions'])}")
        messages = _from_questions(row["questions"], media, answer)
    elif "question" in row and answer in row:
        messages = _from_questions([row], media, answer)
    else:
        raise ValueError(
            f"{where}: expected messages, conversations, questions, or question and {answer}; found {', '.join(row)}"
        )
    _check_messages(where, messages)
    if media is not None:
        _check_count(where, messages, media)
    return messages, media


def _from_messages(where: str, content: Any, media: Media) -> tuple[list[Message], Media]:
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ValueError(f"{where}: expected messages to be a list of objects, found {_kind(content)}")
    messages, inside, bare = [], [], 0
    for message in content:
        content = message.get("content")
        parts: list[Any] = content if isinstance(content, list) else [{"type": "text", "text": content}]
        found = []
        for part in parts:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                found.append({"type": "text", "text": part.get("text")})
            elif kind in ("video", "image"):
                clips = [part[name] for name in (kind, "path", "url") if part.get(name) is not None]
                inside += clips[:1]
                bare += not clips
                found.append({"type": "video"})
            else:
                raise ValueError(f"{where}: expected parts of type text, video or image, found {part!r}")
        messages.append({"role": message.get("role"), "content": found})
    if inside and bare:
        raise ValueError(f"{where}: expected a clip in each part of type video or in none, found {bare} without")
    return messages, inside or media


def _from_llava(where: str, turns: Any) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(each, dict) for each in turns):
        raise ValueError(f"{where}: expected conversations to be a list of objects, found {_kind(turns)}")
    messages = []
    for turn in turns:
        value = turn.get("value")
        if not isinstance(value, str):
            raise ValueError(f"{where}: expected a turn's value to be text, found {value!r}")
        role = ROLES.get(str(turn.get("from")), turn.get("from"))
        texts = MARKER.split(value) if role == "user" else [value]
        parts: list[dict[str, Any]] = []
        for number, text in enumerate(texts):
            parts += [{"type": "video"}] if number else []
            parts += [{"type": "text", "text": text.strip()}] if text.strip() else []
        messages.append({"role": role, "content": parts})
    return messages


def _from_questions(turns: Sequence[Mapping[str, Any]], media: Media, answer: str) -> list[Message]:
    """Messages of questions and answers, with the clips before the first question; one clip if their number is unknown."""
    messages: list[Message] = []
    for turn in turns:
        videos = [] if messages else [{"type": "video"}] * (1 if media is None else len(media))
        messages += [
            {"role": "user", "content": [*videos, {"type": "text", "text": turn.get("question")}]},
            {"role": "assistant", "content": [{"type": "text", "text": turn.get(answer)}]},
        ]
    return messages


def _kind(value: Any) -> str:
    """Describes a value that should have been a list of objects, for error messages."""
    return f"a list with {value[0]!r}" if isinstance(value, list) and value else type(value).__name__


def _check_messages(where: str, messages: list[Message]) -> None:
    """Checks that user and assistant alternate and no message is empty; strips texts."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            f"{where}: expected at most one system turn, then alternating user and assistant turns that end with assistant; "
            f"found {', '.join(map(str, roles)) or 'none'}"
        )
    for message in messages:
        for part in message["content"]:
            if part["type"] == "video" and message["role"] != "user":
                raise ValueError(
                    f"{where}: expected videos only in user turns, found one in a turn of {message['role']}"
                )
            if part["type"] == "text":
                if not isinstance(part["text"], str) or not part["text"].strip():
                    raise ValueError(f"{where}: expected text of the {message['role']}, found {part['text']!r}")
                part["text"] = part["text"].strip()
        if not message["content"]:
            raise ValueError(f"{where}: expected text of the {message['role']}, found none")


def _check_count(where: str, messages: list[Message], media: Sequence[Any]) -> None:
    expected = _count_videos(messages)
    if len(media) != expected:
        raise ValueError(f"{where}: expected as many clips as its turns mention, {expected}; found {len(media)}")


def _count_videos(messages: list[Message]) -> int:
    return sum(part["type"] == "video" for message in messages for part in message["content"])


def _locate(where: str, video: Any, folder: Path) -> tuple[str, str]:
    """Path or URL of a clip, and its key."""
    if not isinstance(video, str):
        raise ValueError(f"{where}: expected the path of a clip, found {type(video).__name__}")
    if video.startswith(("http://", "https://")):
        return video, video
    file = folder / video
    if not file.is_file():
        raise FileNotFoundError(f"{where}: no such file {file}")
    return str(file), file_key(file)


__all__ = ["Conversations", "open_conversations"]
