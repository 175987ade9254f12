# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Conversations about videos to train on: LLaVA's json, Transformers' `messages`, and tables of questions and answers.

column | what a row is
--- | ---
`messages` | Transformers' chat layout: `{"role", "content": text or parts}`; clips in the parts, or in `videos` or `video`
`conversations` | LLaVA's: `{"from": "human" or "gpt", "value": "<video>\\n..."}`; `video` or `image` has a path or several
`question`, `answer` | one question about the clip of the row
`questions` | the turns of one conversation about the clip of the row, `{"question", "answer"}`, as `sen world` writes them

Opening reads texts only; an image is a clip of one frame.
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
MARKER = re.compile(r"<(?:video|image)>")  # of LLaVA; some of its lists write <image> for a video too

Message = dict[str, Any]
Media = list[Any] | None  # clips of a row; `None` where they are read later, and their number is not known before


@dataclass(frozen=True)
class Conversations:
    """A data set of conversations.

    Attributes:
        source: what errors call it.
        messages: of each conversation, in the chat layout of Transformers: `{"role": "system" | "user" | "assistant",
            "content": parts}`, a part being `{"type": "text", "text": ...}` or `{"type": "video"}`, its clip left out. Users
            and assistant take turns, and the assistant is the last.
        video_keys: what identifies the clips of each conversation, e.g. for a cache: a changed file is another clip.
        read_videos: row -> the clips of the conversation, in the order of its parts of type video, as
            [`SENChatProcessor`] takes them.
    """

    source: str
    messages: Sequence[list[Message]]
    video_keys: Sequence[tuple[str, ...]]
    read_videos: Callable[[int], list[Any]]

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def keys(self) -> list[str]:
        """What identifies the clips of each conversation, as one string."""
        return ["|".join(each) for each in self.video_keys]

    @property
    def targets(self) -> list[str]:
        """The texts of each conversation, as one string."""
        return [json.dumps(each) for each in self.messages]


def open_conversations(
    source: str, split: str = "train", video_column: str | None = None, target_column: str | None = None
) -> Conversations:
    """Opens a data set.

    Args:
        source: a file (json, jsonl, csv or parquet; paths relative to it), a folder with `metadata.jsonl`, `.csv` or
            `.parquet` or one that `datasets` saved, or a data set's id on the Hub.
        split: of a Hub data set; of a folder the sub-folder of this name, where there is one.
        video_column: by default the first that has a usual name.
        target_column: of the answers in a table of questions; by default `answer`.

    Raises:
        FileNotFoundError: no such source, or a file that it names does not exist.
        ValueError: a row that is no conversation, naming file and row; no rows; no such column.
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
    """Columns of videos and images, which hold files themselves, are read when a row is."""
    names = MEDIA_COLUMNS if video_column is None else (video_column,)
    held = [name for name in names if name in data.column_names and not _is_text(data.features[name])]
    if not held:
        return _from_rows(source, list(data), Path(), video_column, target_column)
    for name in held:
        data = data.cast_column(name, _undecoded(data.features[name]))
    files, texts = data.select_columns(held), data.remove_columns(held)
    messages = [_parse(f"{source}, row {number}", row, None, target_column)[0] for number, row in enumerate(texts)]
    keys = [
        tuple(f"{source}:{data._fingerprint}:{row}:{number}" for number in range(_count_videos(messages[row])))
        for row in range(len(data))
    ]

    def read_videos(row: int) -> list[Any]:
        found = _media_of(files[row], held)
        _check_count(f"{source}, row {row}", messages[row], found)
        return [each if isinstance(each, str) else {"video": each} for each in found]

    return Conversations(source, messages, keys, read_videos)


def _is_text(feature: Any) -> bool:
    while hasattr(feature, "feature"):
        feature = feature.feature
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _undecoded(feature: Any) -> Any:
    """The processor decodes, and only what it samples."""
    if hasattr(feature, "feature"):
        return type(feature)(_undecoded(feature.feature))
    return type(feature)(decode=False)


def _media_of(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The clips in the first column that has any."""
    for name in names:
        value = row.get(name)
        if value not in (None, "", []):
            return list(value) if isinstance(value, (list, tuple)) else [value]
    return []


def _parse(where: str, row: Mapping[str, Any], media: Media, target_column: str | None) -> tuple[list[Message], Media]:
    """Messages of a row, each with a list of parts, and the clips of its parts of type video."""
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


def _from_messages(where: str, given: Any, media: Media) -> tuple[list[Message], Media]:
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ValueError(f"{where}: expected messages to be a list of objects, found {_kind(given)}")
    messages, inside, bare = [], [], 0
    for message in given:
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


def _from_llava(where: str, given: Any) -> list[Message]:
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ValueError(f"{where}: expected conversations to be a list of objects, found {_kind(given)}")
    messages = []
    for turn in given:
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
    """Clips come before the first question: one, where their number is not known."""
    messages: list[Message] = []
    for turn in turns:
        videos = [] if messages else [{"type": "video"}] * (1 if media is None else len(media))
        messages += [
            {"role": "user", "content": [*videos, {"type": "text", "text": turn.get("question")}]},
            {"role": "assistant", "content": [{"type": "text", "text": turn.get(answer)}]},
        ]
    return messages


def _kind(value: Any) -> str:
    """What a cell is that should be a list of objects."""
    return f"a list with {value[0]!r}" if isinstance(value, list) and value else type(value).__name__


def _check_messages(where: str, messages: list[Message]) -> None:
    """User and assistant take turns, and each has something to say; texts are stripped."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            f"{where}: expected turns of user and assistant, the last of the assistant, after at most one of system; "
            f"found {', '.join(map(str, roles)) or 'none'}"
        )
    for message in messages:
        for part in message["content"]:
            if part["type"] == "video" and message["role"] != "user":
                raise ValueError(f"{where}: expected videos in turns of the user, found one of the {message['role']}")
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
