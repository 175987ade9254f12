# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads the rows of a table of questions, including nested questions and columns of other files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_sen.evaluation.question_mapping import QuestionMapping, fill_pattern
from modeling_sen.text_tables import read_text
from modeling_sen.training.data import TABLE_SUFFIXES, read_table

Row = dict[str, Any]


def read_question_rows(table: Path, mapping: QuestionMapping, root: Path) -> tuple[list[tuple[str, Row]], list[Path]]:
    """Reads a table of questions.

    Args:
        table: csv, json (a list of objects), jsonl or parquet file.
        mapping: the mapping of its columns.
        root: folder of the videos, which may also contain the file of video names.

    Returns:
        (place, cells) of each question, and the files read. A place states file and row, counted from 0. The cells have all
        columns that the mapping needs, and `MADE_COLUMNS`.

    Raises:
        FileNotFoundError: the table of answers does not exist.
        ValueError: an unsupported kind of table, or a row without a needed column or answer.
        ImportError: a parquet table without the extra `train`.
    """
    rows, files = _read_rows(table), [table]
    places = [f"{table}, row {number}" for number in range(len(rows))]
    if mapping.nested is not None and any(mapping.nested in row for row in rows):
        places, rows = _unnested(places, rows, mapping.nested)
    if mapping.answers is not None and not any(mapping.answer in row for row in rows):
        files.append(_join_answers(places, rows, table, mapping))
    names: dict[str, str] = {}
    if mapping.names is not None:
        for file in (folder / mapping.names["file"] for folder in (table.parent, root)):
            if file.is_file():
                names = _read_names(file)
                files.append(file)
                break
    for place, row in zip(places, rows, strict=True):
        for other, column in mapping.renamed.items():
            if other in row:
                row.setdefault(column, row[other])
        if lacking := [name for name in mapping.columns if name not in row]:
            raise ValueError(f"{place}: no column {lacking[0]!r}, only {', '.join(row)}")
        key = None if mapping.names is None else fill_pattern(mapping.names["key"], row)
        words = str(row[mapping.question]).split()
        row["@file"] = table.stem
        row["@folder"] = mapping.folders.get(table.stem)
        row["@name"] = names.get(key or "")
        row["@first_word"] = words[0].lower() if words else None
    return list(zip(places, rows, strict=True)), files


def _read_rows(table: Path) -> list[Row]:
    if table.suffix == ".json":
        try:
            return _checked_objects(str(table), json.loads(read_text(table, "a table")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{table}: expected a table in JSON ({error})") from error
    if table.suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{table}: expected a table that ends in .json, {', '.join(TABLE_SUFFIXES)}")
    columns = read_table(table)
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _checked_objects(place: str, rows: Any) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{place}: expected a list of objects")
    return rows


def _unnested(places: Sequence[str], rows: Sequence[Row], column: str) -> tuple[list[str], list[Row]]:
    """Splits rows of videos into a row per question, with the columns of both."""
    found_places, found = [], []
    for place, row in zip(places, rows, strict=True):
        outer = {name: cell for name, cell in row.items() if name != column}
        for number, inner in enumerate(_checked_objects(f"{place}, column {column!r}", row.get(column))):
            found_places.append(f"{place}, question {number}")
            found.append(outer | inner)
    return found_places, found


def _join_answers(places: Sequence[str], rows: Sequence[Row], table: Path, mapping: QuestionMapping) -> Path:
    """Adds the columns of the table of answers to the rows, and returns the table's path."""
    assert mapping.answers is not None
    end, on = mapping.answers["questions_end"], mapping.answers["on"]
    answers = table.with_name(table.name.removesuffix(end) + mapping.answers["answers_end"])
    if not answers.is_file():
        raise FileNotFoundError(f"{table}: it has no column {mapping.answer!r}, and there is no table {answers}")
    row_of = {row.get(on): row for row in _read_rows(answers)}
    for place, row in zip(places, rows, strict=True):
        if on not in row:
            raise ValueError(f"{place}: no column {on!r}, only {', '.join(row)}")
        if row[on] not in row_of:
            raise ValueError(f"{place}: {on} {row[on]!r} is not in {answers}")
        row |= row_of[row[on]]
    return answers


def _read_names(file: Path) -> dict[str, str]:
    """Reads key -> name of a video from a JSON object, or from lines "name key"."""
    text = read_text(file, "names of videos")
    if file.suffix == ".json":
        try:
            return {str(key): str(name) for key, name in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{file}: expected a JSON object, key to name ({error})") from error
    lines = [line.split() for line in text.splitlines()]
    if wrong := [number for number, line in enumerate(lines, 1) if len(line) not in (0, 2)]:
        raise ValueError(f"{file}, line {wrong[0]}: expected a name and a key")
    return {line[1]: line[0] for line in lines if line}


__all__ = ["Row", "read_question_rows"]
