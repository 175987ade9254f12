# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads CSV tables and lists of labels, in the variants that spreadsheets write."""

import csv
import io
from pathlib import Path
from typing import Any

# Names of label columns, by priority.
LABEL_COLUMNS = ("name", "label", "class")
DELIMITERS = ",;\t"


def read_labels(path: Path) -> list[str]:
    """Labels from a text file with one per line, or from the column `name`, `label` or `class` of a CSV table.

    A file is a table if it has such a column, or the extension .csv or .tsv. A table without a header must have one column.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has no label or is not text; a table without such a column, or with a row without a label.
    """
    text = read_text(path, "labels")
    columns = csv_columns(text)
    column = next((name for wanted in LABEL_COLUMNS for name in columns if name.casefold() == wanted), None)
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
    """Text of a UTF-8 file, with its newlines unchanged and without a byte order mark.

    Args:
        path: the file.
        what: the expected content, for the error message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected {what} in UTF-8 text ({error})") from error


def csv_columns(text: str) -> list[str]:
    """Columns of a CSV table: the first row that is not empty, split by the delimiter that gives the most cells.

    Empty for an empty text, or if the first row is not CSV.
    """
    return max((_first_row(text, delimiter) for delimiter in DELIMITERS), key=len)


def read_csv(path: Path, text: str) -> tuple[list[str], list[dict[str, str | None]]]:
    """Columns and rows of a CSV table with a header, delimited by commas, semicolons or tabs.

    Quoted cells may contain delimiters and newlines. Empty rows are left out; missing cells are `None`.

    Args:
        path: name of the table in error messages.
        text: its content, see [`read_text`].

    Raises:
        ValueError: a row has more cells than there are columns, or a quote is not closed.
    """
    columns = csv_columns(text)
    delimiter = next(delimiter for delimiter in DELIMITERS if len(_first_row(text, delimiter)) == len(columns))
    reader = _reader(text, delimiter)
    found: list[dict[str, str | None]] = []
    try:
        for row in reader:
            while len(row) > len(columns) and not row[-1].strip():  # spreadsheets may end rows with delimiters
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
