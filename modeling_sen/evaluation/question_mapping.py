# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Mappings from the columns of a table to video, question, options and answer: a JSON file for each public data set."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from modeling_sen.evaluation.prompt_formats import find_prompt_format
from modeling_sen.text_tables import read_text

MAPPINGS = Path(__file__).parent / "question_mappings"
ANSWER_FORMS = ("letter", "index", "text", "text or letter")
# Columns that are added to those of the table.
MADE_COLUMNS = ("@file", "@folder", "@name", "@first_word")


@dataclass(frozen=True)
class QuestionMapping:
    """Describes how rows of a table are converted to questions.

    Attributes:
        name, version: stored in each result.
        source: origin of the layout.
        prompt: name of the [`PromptFormat`] used for published scores.
        video: patterns of paths with `{column}`, relative to the folder of videos. The first existing file is used; patterns
            with a column that a row lacks are skipped.
        question, answer: names of columns.
        answer_form: form of the answer: "letter", "index" (from 0) or "text" of the correct option; "text or letter", where
            the answer is a letter if no option has its text. "text" for questions without options.
        options: the column with the list of options, or one column per option; `None` for open questions.
        types: name -> column by which accuracy is split.
        type_names: value in a column of `types` -> its displayed name.
        start, end: columns with seconds.
        optional: columns that may be missing or empty.
        renamed: name of a column in another release of the data set -> its name here.
        nested: column with a list of questions, if a row is a video; the row's other columns are copied to each question.
        folders: stem of the table's file -> folder of its videos, for `{@folder}`.
        names: `file`, in the folder of the table or of the videos, that maps each `key` to the name of its video
            (`{@name}`): a JSON object, or lines "name key".
        answers: the answers of a table whose name ends in `questions_end` are in a table whose name ends in `answers_end`;
            the tables are joined on the column `on`.
    """

    name: str
    version: int
    source: str
    prompt: str
    video: tuple[str, ...]
    question: str
    answer: str
    answer_form: str
    options: str | tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    type_names: Mapping[str, str] = field(default_factory=dict)
    start: str | None = None
    end: str | None = None
    optional: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    nested: str | None = None
    folders: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] | None = None
    answers: Mapping[str, str] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have, apart from those in `video`."""
        options = (self.options,) if isinstance(self.options, str) else self.options or ()
        found = [self.question, *options, self.answer, *self.types.values(), self.start, self.end]
        return tuple(name for name in found if name is not None and name not in (*self.optional, *MADE_COLUMNS))


def list_mappings() -> list[str]:
    """Names of the package's mappings."""
    return sorted(path.stem for path in MAPPINGS.glob("*.json"))


def read_mapping(name: str) -> QuestionMapping:
    """Reads a mapping of the package, or from a JSON file.

    Raises:
        FileNotFoundError: no such mapping or file.
        ValueError: not an object with the fields of [`QuestionMapping`].
    """
    path = MAPPINGS / f"{name}.json" if name in list_mappings() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"mapping {name!r}: expected a JSON file, or one of {', '.join(list_mappings())}")
    try:
        settings = json.loads(read_text(path, "a mapping"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a mapping in JSON ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    if unknown := sorted(set(settings) - {one.name for one in fields(QuestionMapping)}):
        raise ValueError(f"{path}: unknown field {unknown[0]!r}")
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    try:
        mapping = QuestionMapping(**found)
    except TypeError as error:
        raise ValueError(f"{path}: {str(error).split('__init__() ')[-1]}") from error
    if not isinstance(mapping.video, tuple):
        raise ValueError(f"{path}: video is {mapping.video!r}, expected a list of paths")
    if mapping.answer_form not in ANSWER_FORMS:
        raise ValueError(f"{path}: answer_form is {mapping.answer_form!r}, expected one of {', '.join(ANSWER_FORMS)}")
    find_prompt_format(mapping.prompt)
    return mapping


def fill_pattern(pattern: str, row: Mapping[str, Any]) -> str | None:
    """Fills a pattern such as `"{video}.mp4"` with the row's cells; `None` if a cell is missing or empty."""
    names = re.findall(r"\{(@?\w+)\}", pattern)
    if any(row.get(name) in (None, "") for name in names):
        return None
    return re.sub(r"\{(@?\w+)\}", lambda match: str(row[match[1]]), pattern)


__all__ = ["MADE_COLUMNS", "QuestionMapping", "fill_pattern", "list_mappings", "read_mapping"]
