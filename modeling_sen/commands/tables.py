# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Formats numbers and tables for the output of commands."""

from collections.abc import Sequence


def short_number(number: int | None, unit: str = "") -> str:
    """`86192640` -> `"86.2 M"`; `None` -> `"?"`."""
    if number is None:
        return "?"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}{unit}"
    return f"{number} {unit}".rstrip()


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with column headings; 200 columns wide if the output is not a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head == "Hub id")  # ids must stay copyable
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


__all__ = ["print_table", "short_number"]
