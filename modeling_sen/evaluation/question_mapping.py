# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where a table of questions has its video, question, options and answer: a JSON file for each public data set."""

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
# Columns that are made for each row, beside those of the table.
MADE_COLUMNS = ("@file", "@folder", "@name", "@first_word")


@dataclass(frozen=True)
class QuestionMapping:
    """How the rows of a table become questions.

    Attributes:
        name, version: stand in each result.
        source: where the layout was read.
        prompt: name of the [`PromptFormat`] that its published numbers use.
        video: paths relative to the folder of videos, with `{column}`; the first that is a file is taken, and those whose
            columns a row lacks are left out.
        question, answer: columns.
        answer_form: "letter", "index" (from 0) or "text" of the right option; "text or letter": a letter where no option has
            this text. Of questions without options "text".
        options: the column of the list, or the columns of one option each; `None`: open questions.
        types: name -> column, by which accuracy is split.
        type_names: value in a column of `types` -> what it is called.
        start, end: columns of seconds.
        optional: columns that a table or a cell may lack.
        renamed: what a column is called in another release of the data set -> its name here.
        nested: column with a list of questions, where a row is a video; the row's other columns belong to each question.
        folders: stem of the table's file -> folder of its videos, for `{@folder}`.
        names: `file`, beside the table or among the videos, that names the video (`{@name}`) for each `key`: a JSON object,
            or lines "name key".
        answers: a table called `questions_end` has its answers in a table called `answers_end`, joined `on` a column.
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
        """The columns that every row needs, those in `video` aside."""
        options = (self.options,) if isinstance(self.options, str) else self.options or ()
        found = [self.question, *options, self.answer, *self.types.values(), self.start, self.end]
        return tuple(name for name in found if name is not None and name not in (*self.optional, *MADE_COLUMNS))


def list_mappings() -> list[str]:
    """Names of the mappings that the package has."""
    return sorted(path.stem for path in MAPPINGS.glob("*.json"))


def read_mapping(name: str) -> QuestionMapping:
    """A mapping of the package, or from a JSON file.

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
    """`"{video}.mp4"` with the row's cells; `None` where it lacks one."""
    names = re.findall(r"\{(@?\w+)\}", pattern)
    if any(row.get(name) in (None, "") for name in names):
        return None
    return re.sub(r"\{(@?\w+)\}", lambda match: str(row[match[1]]), pattern)


__all__ = ["MADE_COLUMNS", "QuestionMapping", "fill_pattern", "list_mappings", "read_mapping"]
