# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Opens questions about videos with true answers, from files of public data sets or from the generated world.

A data set is a table (csv, json, jsonl, parquet) and a [`QuestionMapping`] of its columns. The package contains no data sets.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeling_sen.evaluation.measure import draw_rows
from modeling_sen.evaluation.prompt_formats import PromptFormat, find_prompt_format
from modeling_sen.evaluation.question_mapping import QuestionMapping, fill_pattern, read_mapping
from modeling_sen.evaluation.question_rows import Row, read_question_rows
from modeling_sen.training.data import file_key, world_clips, world_input

# Version of the world's questions. Version 2: clips have depth.
WORLD_VERSION = 2
WORLD_PROMPT = "question"
MOST_OPTIONS = 26  # one per letter


@dataclass(frozen=True)
class AskedClip:
    """A video, or a part of it.

    Attributes:
        video: path, or any clip that [`SENProcessor`] accepts.
        start, end: start and end in seconds; `None` for those of the whole video.
    """

    video: Any
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class VideoQuestion:
    """A question about one clip.

    Attributes:
        clip: key of the clip, shared by all questions about it.
        question: the question as written in the data set.
        options: texts of the options; empty for an open question.
        answer: the correct option, or the correct text.
        types: name -> value by which accuracy is split.
        place: file and row, for error messages.
    """

    clip: str
    question: str
    options: tuple[str, ...]
    answer: str
    types: Mapping[str, str]
    place: str


@dataclass(frozen=True)
class QuestionSet:
    """Questions of one source.

    Attributes:
        source: name in error messages.
        mapping: name and version of the mapping, or of the world's questions.
        prompt: the prompt format.
        questions: all questions, in the order of the source.
        read: row of a question -> its clip.
        listed: `file` and `sha1` of each table; no sha1 for the world.
        missing: number of questions left out because their video does not exist.
    """

    source: str
    mapping: tuple[str, int]
    prompt: PromptFormat
    questions: tuple[VideoQuestion, ...]
    read: Callable[[int], AskedClip]
    listed: tuple[dict[str, str | None], ...]
    missing: int = 0


def open_question_set(
    source: str,
    mapping: str = "plain",
    root: Path | None = None,
    prompt: str | None = None,
    num: int | None = None,
    seed: int = 0,
    skip_missing: bool = False,
) -> QuestionSet:
    """Opens a data set of questions; videos are not decoded.

    Args:
        source: a table (csv, json, jsonl, parquet), a folder of json tables, or the generated world
            (`world:SPLIT?num=100&num_objects=1-3`), which generates its questions.
        mapping: name of a mapping of the package, or a JSON file; not used for the world.
        root: folder of the videos, by default that of the table.
        prompt: name of a prompt format, by default the mapping's.
        num, seed: number of questions drawn with this seed; by default all.
        skip_missing: whether to leave out, and count, questions whose video does not exist.

    Raises:
        FileNotFoundError: no such table, mapping, folder or video.
        ValueError: a missing column, an answer that is not an option, an index or letter out of range, or another invalid
            cell, naming file and row; no questions; an unknown prompt format.
        ImportError: a parquet table without the extra `train`.
    """
    if source.startswith("world:"):
        found = _open_world(source, find_prompt_format(prompt or WORLD_PROMPT))
    else:
        used = read_mapping(mapping)
        form = find_prompt_format(prompt or used.prompt)
        found = _open_tables(Path(source), used, root, form, skip_missing)
    if num is None or num >= len(found.questions):
        return found
    rows, read = draw_rows(len(found.questions), num, seed), found.read
    questions = tuple(found.questions[row] for row in rows)
    return replace(found, questions=questions, read=lambda row: read(rows[row]))


def _open_world(source: str, prompt: PromptFormat) -> QuestionSet:
    from modeling_sen.world.chat_questions import chat_questions

    clips = world_clips(source)
    rows, found = [], []
    for row in range(len(clips)):
        for one in chat_questions(clips.scene(row)):
            rows.append(row)
            types = {"kind": one.kind, "needs": " and ".join(sorted(one.modalities))}
            place = f"{source}, clip {row}"
            found.append(VideoQuestion(f"{source}:{row}", one.question, one.options, one.answer, types, place))

    def read(row: int) -> AskedClip:
        sample = clips[rows[row]]
        return AskedClip({**world_input(sample), "depth": sample["depth"]})  # which some questions need

    return QuestionSet(
        source=source,
        mapping=("world", WORLD_VERSION),
        prompt=prompt,
        questions=tuple(found),
        read=read,
        listed=({"file": source, "sha1": None},),
    )


def _open_tables(
    source: Path, mapping: QuestionMapping, root: Path | None, prompt: PromptFormat, skip_missing: bool
) -> QuestionSet:
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such table of questions")
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    tables = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not tables:
        raise FileNotFoundError(f"{source}: expected json tables in it, found none")
    read: list[Path] = []
    questions: list[VideoQuestion] = []
    clips: list[AskedClip] = []
    missing: list[str] = []
    for table in tables:
        rows, files = read_question_rows(table, mapping, root or table.parent)
        read += [file for file in files if file not in read]
        for place, row in rows:
            asked, (start, end) = _question(place, row, mapping), _span(place, row, mapping)
            places = [(root or table.parent) / name for name in _video_names(place, row, mapping)]
            video = next((path for path in places if path.is_file()), None)
            if video is None:
                missing.append(f"{place}: no such video {places[0]}")
                continue
            key = file_key(video) + ("" if start is None and end is None else f":{start}-{end}")
            questions.append(replace(asked, clip=key))
            clips.append(AskedClip(str(video), start, end))
    if missing and (not skip_missing or not questions):
        total = len(questions) + len(missing)
        raise FileNotFoundError(f"{missing[0]} ({len(missing)} of {total} questions have no video)")
    if not questions:
        raise ValueError(f"{source}: expected at least one question, found none")
    return QuestionSet(
        source=str(source),
        mapping=(mapping.name, mapping.version),
        prompt=prompt,
        questions=tuple(questions),
        read=clips.__getitem__,
        listed=tuple({"file": str(path), "sha1": hashlib.sha1(path.read_bytes()).hexdigest()} for path in read),
        missing=len(missing),
    )


def _video_names(place: str, row: Row, mapping: QuestionMapping) -> list[str]:
    """The possible paths of a video, relative to the folder of videos."""
    names = [name for pattern in mapping.video if (name := fill_pattern(pattern, row)) is not None]
    if not names:
        raise ValueError(f"{place}: expected the video as {' or '.join(mapping.video)}, found no such cell")
    return names


def _question(place: str, row: Row, mapping: QuestionMapping) -> VideoQuestion:
    """The question of a row, without the key of its clip."""
    options = _options(place, row, mapping)
    types = {}
    for name, column in mapping.types.items():
        if (value := row.get(column)) not in (None, ""):
            types[name] = mapping.type_names.get(str(value), str(value))
    question = _text(place, row, mapping.question)
    return VideoQuestion("", question, options, _answer(place, row, mapping, options), types, place)


def _options(place: str, row: Row, mapping: QuestionMapping) -> tuple[str, ...]:
    if isinstance(mapping.options, tuple):
        return tuple(_text(place, row, column) for column in mapping.options)
    cell = None if mapping.options is None else row.get(mapping.options)
    if mapping.options is None or (mapping.options in mapping.optional and cell in (None, "")):
        return ()
    found = cell
    if isinstance(cell, str):
        try:
            found = json.loads(cell)
        except json.JSONDecodeError:
            found = None
    if (
        not isinstance(found, list)
        or not 2 <= len(found) <= MOST_OPTIONS
        or not all(isinstance(option, str) and option.strip() for option in found)
    ):
        raise ValueError(
            f"{place}, column {mapping.options!r}: expected a list of 2 to {MOST_OPTIONS} texts, found {cell!r}"
        )
    matches = [re.fullmatch(r"\(?([A-Z])[.):]\s*(.+)", option.strip(), re.DOTALL) for option in found]
    if all(match and ord(match[1]) == ord("A") + number for number, match in enumerate(matches)):
        return tuple(match[2] for match in matches if match)  # the prompt format adds letters again
    return tuple(option.strip() for option in found)


def _answer(place: str, row: Row, mapping: QuestionMapping, options: tuple[str, ...]) -> str:
    """The text of the correct option, or of the answer to an open question."""
    cell = row[mapping.answer]
    text = str(cell).strip() if isinstance(cell, str | int | float) and cell == cell else ""
    wrong = f"{place}, column {mapping.answer!r}: "
    if not text:
        raise ValueError(f"{wrong}expected an answer, found {cell!r}")
    if not options:
        return text
    if mapping.answer_form == "index":
        if not re.fullmatch(r"\d+", text) or int(text) >= len(options):
            raise ValueError(f"{wrong}expected an index in 0..{len(options) - 1}, found {cell!r}")
        return options[int(text)]
    if mapping.answer_form.startswith("text") and text in options:
        return text
    if mapping.answer_form.endswith("letter"):
        number = ord(text.strip("().").upper()) - ord("A") if len(text.strip("().")) == 1 else -1
        if 0 <= number < len(options):
            return options[number]
        expected = f"a letter in A..{chr(ord('A') + len(options) - 1)}"
        if mapping.answer_form == "letter":
            raise ValueError(f"{wrong}expected {expected}, found {cell!r}")
    raise ValueError(f"{wrong}expected one of the options {', '.join(map(repr, options))}, found {cell!r}")


def _text(place: str, row: Row, column: str) -> str:
    cell = row[column]
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError(f"{place}, column {column!r}: expected text, found {cell!r}")
    return cell.strip()


def _span(place: str, row: Row, mapping: QuestionMapping) -> tuple[float | None, float | None]:
    start, end = (None if column is None else _seconds(place, row, column) for column in (mapping.start, mapping.end))
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{place}: expected an end after the start, found {start} and {end} seconds")
    return start, end


def _seconds(place: str, row: Row, column: str) -> float | None:
    cell = row.get(column)
    if cell in (None, ""):
        return None
    try:
        seconds = float(cell)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{place}, column {column!r}: expected seconds, found {cell!r}")
    return seconds


__all__ = ["AskedClip", "QuestionSet", "VideoQuestion", "open_question_set"]
