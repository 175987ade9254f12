# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Csv tables and lists of labels, as people and spreadsheets write them."""

import csv
import io
from pathlib import Path
from typing import Any

# Columns that labels stand in, in the order in which they are looked for.
LABEL_COLUMNS = ("name", "label", "class")
DELIMITERS = ",;\t"


def read_labels(path: Path) -> list[str]:
    """Labels from a file: one a line, or of a csv table the column `name`, `label` or `class`, the first that it has.

    A table is what has such a column, or is called .csv or .tsv; without a header it may have one column only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no label, or is not text; a table without such a column, or with a row that has no label.
    """
    text = read_text(path, "labels")
    columns = csv_columns(text)
    column = next((name for usual in LABEL_COLUMNS for name in columns if name.casefold() == usual), None)
    if column is not None:
        labels = [(row[column] or "").strip() for row in read_csv(path, text)[1]]
        if "" in labels:
            raise ValueError(f"{path}, row {labels.index('')}, column {column!r}: expected a label, found none")
    elif path.suffix.lower() in (".csv", ".tsv"):
        if len(columns) > 1:
            raise ValueError(f"{path}: expected a column {' or '.join(LABEL_COLUMNS)}, found {', '.join(columns)}")
        labels = [*columns, *(str(cell).strip() for row in read_csv(path, text)[1] for cell in row.values())]
    else:
        labels = [line.strip() for line in text.splitlines() if line.strip()]
    if not labels:
        raise ValueError(f"{path}: expected at least one label, found none")
    return labels


def read_text(path: Path, what: str) -> str:
    """A file in UTF-8, its newlines as they are, without a byte order mark.

    Args:
        what: what the error says that it should be.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected {what} in UTF-8 text ({error})") from error


def csv_columns(text: str) -> list[str]:
    """The columns of a csv table: its first row that is not empty, at the delimiter that makes the most cells of it.

    No columns for an empty text, or one whose first row is no csv.
    """
    return max((_first_row(text, delimiter) for delimiter in DELIMITERS), key=len)


def read_csv(path: Path, text: str) -> tuple[list[str], list[dict[str, str | None]]]:
    """Columns and rows of a csv table with a header that is delimited by commas, semicolons or tabs.

    Cells may be quoted, and then hold delimiters and newlines. Empty rows are left out; a cell that a row lacks is `None`.

    Args:
        path: what errors call the table.
        text: its content, see [`read_text`].

    Raises:
        ValueError: a row of more cells than columns, or quotes that do not close.
    """
    columns = csv_columns(text)
    delimiter = next(delimiter for delimiter in DELIMITERS if len(_first_row(text, delimiter)) == len(columns))
    reader = _reader(text, delimiter)
    found: list[dict[str, str | None]] = []
    try:
        for row in reader:
            while len(row) > len(columns) and not row[-1].strip():  # spreadsheets may end rows in delimiters
                row.pop()
            if len(row) > len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected {len(columns)} cells, found {len(row)}; "
                    "cells with a delimiter in them need quotes"
                )
            if any(cell.strip() for cell in row):
                found.append(dict(zip(columns, [*row, *[None] * (len(columns) - len(row))], strict=True)))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: expected rows of a csv table ({error})") from error
    return columns, found[1:]


def _first_row(text: str, delimiter: str) -> list[str]:
    try:
        row: list[str] = next((row for row in _reader(text, delimiter) if any(cell.strip() for cell in row)), [])
    except csv.Error:
        return []
    while row and not row[-1].strip():
        row.pop()
    return [cell.strip() for cell in row]


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)


__all__ = ["csv_columns", "read_csv", "read_labels", "read_text"]
